"""The option table: checks, nearest names, one home."""

import inspect
import re

import pytest

from pyddl import models, names, options, strategies
from pyddl.errors import ParameterError
from pyddl.models.initialisers import INITIALISERS
from pyddl.optim import OPTIMIZERS, schedule


def test_the_registries_have_the_names_that_may_be_chosen():
    assert tuple(strategies.NAMES) == names.STRATEGIES
    assert tuple(OPTIMIZERS) == names.RULES
    assert tuple(INITIALISERS) == names.INITIALISERS
    for name in names.SCHEDULES:
        assert schedule(name, 0.1, total_steps=10, step_every=5 if name == "step" else None)(0) == 0.1


def test_options_belong_to_models_and_strategies_that_exist():
    for option in options.TABLE:
        own = {*strategies.NAMES, "FILE.py:Class"}
        known = {"model": set(models.TABLE), "training": own}.get(option.section, set())
        assert set(option.of) <= known, option.name


@pytest.mark.parametrize("name", models.TABLE)
def test_a_model_has_its_options_in_the_table_with_its_defaults(name):
    """So each is a flag, a TOML key and a keyword of the estimator."""
    entry, cls = models.TABLE[name], models.class_of(name)
    assert cls.name == (entry.of or name) and entry.help.endswith(".") and "\n" not in entry.help
    for key, value in {**entry.defaults, **entry.simulated}.items():
        assert options.named(key).check(value) == value and options.stranger(key, model=name) is None
    taken = {**inspect.signature(cls).parameters, **inspect.signature(getattr(cls, "for_data", cls)).parameters}
    for option in options.of_model(name):
        assert option.name in taken, f"{name} does not take {option.name}"
        default = entry.defaults.get(option.name, option.default)
        if entry.of:  # whose class has its own, and `for_data` gives it these
            continue
        assert default is None or taken[option.name].default == default, option.name


def test_help_texts_make_sense_by_themselves():
    for option in options.TABLE:
        assert not re.match(r"(of|so|a|an|the) |[A-Z]", option.help) or option.help.startswith(("L2", "MPI"))
        assert not option.help.endswith(".")


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
    ({"hidden": 6.5}, "hidden is 6.5; expected whole numbers, for example"),
    ({"hidden": (256, 0)}, "hidden is 0"),
    ({"workers": ""}, "workers is ''; expected whole numbers with commas"),
    ({"workers": ()}, "workers is empty; expected at least one"),
    ({"labels": 3}, "labels is 3; expected text"),
    ({"encoder": ""}, "encoder is ''; expected the path of a run"),
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


@pytest.mark.parametrize("none", ["none", "", (), []])
def test_hidden_layers_may_be_none_at_all(none):
    assert options.resolve({"hidden": none})["hidden"] == ()


def of_models(option):
    return option.section == "model"


def test_another_model_s_option_is_refused_by_name():
    with pytest.raises(ParameterError, match=r"^c\.toml: encoder is an option of model classifier, linear and "
                                             r"stacked_gan; the model here is autoencoder: leave it out, or choose "
                                             r"model classifier$"):
        options.resolve({"encoder": "runs/ae"}, of_models, model="autoencoder", where="c.toml: ")
    mine = [option.name for option in options.of_model("autoencoder")]
    assert list(options.resolve({}, of_models, model="autoencoder")) == mine
    assert options.resolve({}, of_models, model="linear", defaults={"frozen_epochs": 3})["frozen_epochs"] == 3


def test_a_record_of_another_model_or_strategy_does_not_stand_in_the_way():
    record = {"hidden": [256, 64], "code_activation": "tanh", "tau": 10, "epochs": 3, "later": 1}
    left = options.fitting(record, {}, model="linear", strategy="local")
    assert left == {"code_activation": "tanh", "epochs": 3, "later": 1}
    assert options.fitting(record, {"hidden": (4,)}, model="linear")["hidden"] == [256, 64]
    assert options.fitting(record, {}) == record


@pytest.mark.parametrize(("option", "message"), [
    (options.Option("hidden", "int", 3, "model", "x"), "option hidden has the flag --hidden of another one"),
    (options.Option("rate", "int", 3, "model", "x", also=("--lr",)), "option rate has the flag --lr of another one"),
    (options.Option("depth", "int", 0, "model", "x", at_least=1), "depth is 0; expected a whole number at least 1"),
    (options.Option("depth", "int", 1, "modl", "x"), "section 'modl'; expected one of data, model, training"),
])
def test_an_option_is_not_added_where_it_clashes(option, message):
    before = list(options.TABLE)
    with pytest.raises(ParameterError, match=message):
        options.add(option)
    assert before == options.TABLE


def test_only_options_of_models_are_shared():
    with pytest.raises(ParameterError, match="epochs is an option of section training"):
        options.share("autoencoder", "epochs")
    with pytest.raises(ParameterError, match="did you mean 'hidden'"):
        options.share("autoencoder", "hiden")


def test_several_numbers_come_as_text_or_as_a_sequence():
    option = options.Option("rates", "floats", None, "model", "x", above=0)
    assert option.check("0.1,1e-2") == option.check([0.1, 0.01]) == (0.1, 0.01) and option.check(None) is None
    for value, message in (("0.1;2", "expected numbers with commas, for example 0.1,0.01"), ((), "at least one number"),
                           ("0.1,0", "rates is 0.0; expected a number above 0"), (0.1, "at least one number")):
        with pytest.raises(ParameterError, match=message):
            option.check(value)
