"""The option table: checks, nearest names, one home."""

import inspect

import pytest

from pyddl import models, options, strategies
from pyddl.errors import ParameterError
from pyddl.models.autoencoder import ACTIVATIONS, DTYPES, LOSSES
from pyddl.models.initialisers import INITIALISERS
from pyddl.optim import OPTIMIZERS, schedule


def choices(name):
    return set(next(option.choices for option in options.TABLE if option.name == name))


def test_choices_are_those_that_exist():
    assert choices("strategy") == set(strategies.NAMES)
    assert choices("optimizer") == set(OPTIMIZERS)
    for name in choices("schedule"):
        assert schedule(name, 0.1, total_steps=10, step_every=5)(0) == 0.1
    assert choices("activation") == choices("code_activation") == set(ACTIVATIONS)
    assert choices("loss") == set(LOSSES)
    assert choices("dtype") == set(DTYPES)
    assert choices("initialiser") == {"auto", *INITIALISERS}
    assert set(models.NAMES) == {"autoencoder"}


def test_defaults_pass_their_own_checks():
    for option in options.TABLE:
        assert option.check(option.default) == option.default


@pytest.mark.parametrize(("given", "message"), [
    ({"epoch": 3}, "there is no option 'epoch'; did you mean 'epochs'"),
    ({"epochs": 0}, "epochs is 0; expected a whole number at least 1"),
    ({"epochs": 2.5}, "epochs is 2.5; expected a whole number"),
    ({"epochs": True}, "epochs is True"),
    ({"learning_rate": -1}, "learning_rate is -1; expected a number above 0"),
    ({"learning_rate": float("nan")}, "learning_rate is nan"),
    ({"learning_rate": "fast"}, "learning_rate is 'fast'; expected a number"),
    ({"learning_rate": "0.1"}, "learning_rate is '0.1'; expected a number"),
    ({"threads": 1025}, "threads is 1025; expected a whole number at least 1 and at most 1024"),
    ({"out": ""}, "out is ''; expected text"),
    ({"optimizer": "adm"}, "did you mean 'adam'"),
    ({"strategy": "alreduce"}, "did you mean 'allreduce'"),
    ({"hidden": "256,x"}, "expected whole numbers with commas"),
    ({"hidden": 64}, "hidden is 64; expected whole numbers, for example"),
    ({"hidden": (256, 0)}, "hidden is 0"),
    ({"reproducible": "yes"}, "expected true or false"),
    ({"data": 3}, "expected text"),
])
def test_bad_values_are_named(given, message):
    with pytest.raises(ParameterError, match=message):
        options.resolve(given)


def test_given_values_win_over_defaults():
    values = options.resolve({"epochs": 3, "hidden": "12,3"})
    assert (values["epochs"], values["hidden"], values["batch_size"]) == (3, (12, 3), 256)


@pytest.mark.parametrize("name", strategies.NAMES)
def test_a_strategy_has_its_options_in_the_table_with_its_defaults(name):
    """So each is a flag, a TOML key, and a keyword of the trainer and the estimators."""
    built = strategies.strategy(name)
    parameters = {} if "__init__" not in vars(type(built)) else inspect.signature(type(built)).parameters
    in_table = options.defaults_of(name)
    assert set(parameters) == set(in_table)
    for option, default in in_table.items():
        assert default is None or parameters[option].default == default, option
    strategies.strategy(name, **options.of_strategy(name, options.resolve({"strategy": name})))
