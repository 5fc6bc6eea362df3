"""The space of a search: what is drawn satisfies bounds and conditions, and training accepts it."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyddl import models, options
from pyddl.errors import DataError, ParameterError
from pyddl.tune import Parameter, Search, Space

RATE = {"low": 1e-4, "high": 1e-1, "log": True}
AUTOENCODER = {"model": "autoencoder"}

# What a space may have, whatever else it has: by key of [space], what may stand there.
CATALOGUE = {
    "model": [["autoencoder", "vae"], ["autoencoder", "rbm"], ["gan", "dcgan", "wgan"]],
    "strategy": [["allreduce", "averaging"], ["gossip", "averaging", "server"], ["local"]],
    "optimizer": [["adam", "nesterov"], ["sgd", "momentum", "adamw"]],
    "learning_rate": [RATE, {"low": 0.001, "high": 0.01}, [0.1, 0.01], {"low": 0.1, "high": 0.5, "step": 0.1}],
    "batch_size": [{"low": 16, "high": 256, "log": True}, [32, 64], {"low": 10, "high": 100, "step": 7}],
    "hidden": [[[256, 64], [32]], {"low": 2, "high": 64}, {"choices": [[8], [9]], "when": {"batch_size": [32, 64]}}],
    "period": [{"low": 4, "high": 64, "log": True}, [2, 3], {"low": 1, "high": 2, "when": {"strategy": "averaging"}}],
    "momentum": [{"low": 0.1, "high": 0.9}, {"low": 0.0, "high": 0.9, "when": {"schedule": ["cosine", "linear"]}}],
    "schedule": [["constant", "cosine"], {"choices": ["linear", "step"], "when": {"warmup": [0, 1, 2]}}],
    "warmup": [{"low": 0, "high": 10}],
    "kl_weight": [{"low": 0, "high": 2}],
    "gibbs_steps": [[1, 5, 10]],
    "reproducible": [[True, False]],
}


@st.composite
def spaces(draw):
    """A space of the catalogue, without what no trial would have a use for, and what its table says."""
    names = draw(st.lists(st.sampled_from(sorted(CATALOGUE)), min_size=1, unique=True))
    said = {name: draw(st.sampled_from(CATALOGUE[name])) for name in names}
    fixed = {"model": draw(st.sampled_from(["autoencoder", "vae", "gan"])), "epochs": 3}
    while True:
        try:
            return Space(fixed, {**said, "seed": [0, 1]}), said
        except ParameterError as error:
            refused = next(name for name in said if f"[space] {name} is" in str(error))
            del said[refused]


def any_value(rng):
    """Draws a value as anybody might, without Optuna."""
    def suggest(parameter):
        if parameter.kind == "choice":
            return rng.choice(parameter.choices)
        if parameter.count() is not None:
            return rng.choice(list(parameter.values()))
        return rng.uniform(parameter.low, parameter.high)

    return suggest


@given(spaces(), st.integers(0, 2**32))
def test_draws_satisfy_bounds_and_conditions_and_training_accepts_them(made, seed):
    space, said = made
    drawn = space.draw(any_value(random.Random(seed)))
    settings = space.settings(drawn)
    resolved = options.resolve({name: value for name, value in settings.items() if name != "model"},
                               model=settings["model"], defaults=models.TABLE[settings["model"]].defaults)
    for name, what in said.items():
        if name not in drawn:
            continue
        what = {"choices": what} if isinstance(what, list) else what
        if "choices" in what:
            assert drawn[name] in [tuple(each) if isinstance(each, list) else each for each in what["choices"]]
        else:
            number, = drawn[name] if isinstance(drawn[name], tuple) else (drawn[name],)
            assert what["low"] <= number <= what["high"]
        for other, values in what.get("when", {}).items():
            assert resolved[other] in (values if isinstance(values, list) else [values])
        assert name != "momentum" or settings.get("optimizer") in ("momentum", "nesterov")


@given(spaces(), st.integers(0, 2**32))
def test_a_journal_keeps_every_value(made, seed):
    space, _ = made
    seen = []

    def suggest(parameter):
        value = any_value(random.Random(seed))(parameter)
        code = json.loads(json.dumps(parameter.code(value)))
        assert isinstance(code, bool | int | float | str)
        seen.append((value, parameter.value(code)))
        return value

    space.draw(suggest)
    assert all(kept == value and type(kept) is type(value) for value, kept in seen)


@given(spaces())
def test_combinations_are_as_many_as_there_are(made):
    space, _ = made
    counts = [parameter.count() for parameter in space.parameters]
    if None in counts or any(count > 12 for count in counts) or len(counts) > 4:
        return
    found, waiting = set(), [()]
    while waiting:  # every way to answer, one question after another
        way = waiting.pop()
        asked = []

        def suggest(parameter, way=way, asked=asked):
            asked.append(parameter)
            return way[len(asked) - 1] if len(asked) <= len(way) else next(parameter.values())

        drawn = space.draw(suggest)
        if len(asked) > len(way):
            waiting += [(*way, value) for value in asked[len(way)].values()]
        else:
            found.add(json.dumps(drawn))
    assert space.combinations() == len(found)


def test_lines_may_change_their_places():
    one = {"strategy": ["allreduce", "averaging"], "period": {"low": 2, "high": 90}, "learning_rate": RATE}
    other = dict(reversed(one.items()))
    spaces = [Space(AUTOENCODER, said) for said in (one, other)]
    assert spaces[0].fingerprint() == spaces[1].fingerprint()
    drawn = [space.draw(any_value(random.Random(3))) for space in spaces]
    assert drawn[0] == drawn[1]


def test_a_file_with_fixed_options_conditions_and_entries(tmp_path):
    (tmp_path / "space.toml").write_text("""
model = "autoencoder"
epochs = 5
period = 8                      # of use with averaging only

[search]
trials = 40
goal = "test_accuracy"

[space]
strategy = ["allreduce", "averaging", "mine.py:Own"]
node_period = {low = 2, high = 4, when = {strategy = "averaging", epochs = [5, 6]}}
strategy_options.first = [1, 2]
strategy_options.share = {low = 0.25, high = 0.5}
""")
    space = Space.read(tmp_path / "space.toml")
    assert Search.of(space.search) == Search(trials=40, goal="test_accuracy", direction="maximize")
    by_strategy = {}
    rng = random.Random(0)
    while len(by_strategy) < 3:
        settings = space.settings(space.draw(any_value(rng)))
        by_strategy[settings["strategy"]] = settings
    assert set(by_strategy["allreduce"]) == {"model", "epochs", "strategy"}
    assert set(by_strategy["averaging"]) == {"model", "epochs", "strategy", "period", "node_period"}
    assert set(by_strategy["mine.py:Own"]["strategy_options"]) == {"first", "share"}
    assert space.table() == (
        "strategy                allreduce, averaging, mine.py:Own\n"
        "node_period             2 to 4                             if strategy is averaging and epochs is 5 or 6\n"
        "strategy_options.first  1, 2\n"
        "strategy_options.share  0.25 to 0.5")
    assert space.combinations() is None


def test_a_runs_own_config_can_be_pasted(tmp_path):
    (tmp_path / "config.toml").write_text("""
model = "autoencoder"
data = "digits"
hidden = [16]
strategy = "allreduce"
shard_optimizer = false
ranks = 4
out = "runs/mine"

[rows]
image_shape = [8, 8]

[space]
strategy = ["averaging", "gossip"]
""")
    space = Space.read(tmp_path / "config.toml")
    assert space.notes == [f"{tmp_path}/config.toml: left out, as trials have folders and ranks of the search: out, "
                           "ranks"]
    assert space.settings(space.draw(lambda parameter: "gossip")) == {
        "model": "autoencoder", "data": "digits", "hidden": (16,), "strategy": "gossip"}


@pytest.mark.parametrize(("fixed", "space", "words"), [
    ({}, {"learning_rate": RATE}, "which model? expected model = ..., one of autoencoder, "),
    (AUTOENCODER, {}, "there is nothing to search; expected a table [space]"),
    (AUTOENCODER, {"batch_size": [32]}, "there is nothing to search"),
    (AUTOENCODER, {"leaning_rate": RATE}, "[space] there is no option 'leaning_rate'; did you mean 'learning_rate'?"),
    ({"model": "torch"}, {"width": [4, 8]}, "an argument of what makes the module is arguments.width"),
    (AUTOENCODER, {"learning_rate": {"low": 0.1, "high": 0.1}}, "learning_rate has an empty range, from 0.1 to 0.1"),
    (AUTOENCODER, {"learning_rate": {"low": 0.1, "high": float("inf")}}, "learning_rate has an empty range"),
    (AUTOENCODER, {"weight_decay": {"low": 0, "high": 1, "log": True}}, "weight_decay is logarithmic from 0.0 on"),
    (AUTOENCODER, {"learning_rate": {"low": -1, "high": 1}}, "[space] learning_rate is -1; expected a number above 0"),
    (AUTOENCODER, {"batch_size": {"low": 1.5, "high": 3}}, "batch_size is 1.5; expected a whole number"),
    (AUTOENCODER, {"batch_size": {"low": 1}}, "batch_size lacks high"),
    (AUTOENCODER, {"batch_size": {"low": 1, "high": 2, "lag": True}}, "batch_size has no 'lag'; expected low, high"),
    (AUTOENCODER, {"batch_size": {"low": 1, "high": 9, "step": 0}}, "batch_size: step is 0; expected a whole number"),
    (AUTOENCODER, {"batch_size": {"low": 1, "high": 9, "step": 2, "log": True}}, "has log and step"),
    (AUTOENCODER, {"batch_size": {"low": 1, "high": 9, "step": 10}}, "a step of 10, longer than its range"),
    (AUTOENCODER, {"learning_rate": {"low": 0.1, "high": 1, "step": 1e-300}}, "a step of 1e-300, too short for its "),
    (AUTOENCODER, {"batch_size": []}, "batch_size has no choices"),
    (AUTOENCODER, {"batch_size": [32, "x"]}, "batch_size is 'x'; expected a whole number"),
    (AUTOENCODER, {"hidden": [[16], [16]]}, "hidden has the choice [16] twice"),
    (AUTOENCODER, {"batch_size": 32}, "batch_size is 32; expected choices, [...], or a range"),
    (AUTOENCODER, {"activation": {"low": 1, "high": 2}}, "activation has a range, and is no number"),
    (AUTOENCODER, {"strategy": ["allreduce", "averagin"]}, "did you mean 'averaging'?"),
    (AUTOENCODER, {"period": {"low": 2, "high": 5}}, "period is an option of strategy averaging and gossip; the "
     "strategy here is allreduce"),
    (AUTOENCODER, {"chain": ["cd", "pcd"]}, "chain is an option of model rbm, dbn and ssrbm; the model here is"),
    (AUTOENCODER, {"momentum": [0.5, 0.9]}, "momentum is an option of optimizer momentum and nesterov; the optimizer "
     "here is adam"),
    ({**AUTOENCODER, "period": 4}, {"learning_rate": RATE}, "period is an option of strategy averaging and gossip"),
    (AUTOENCODER, {"out": ["a", "b"]}, "[space] out has no place in a search: "),
    (AUTOENCODER, {"data": ["mnist", "digits"]}, "data has no place in a search: losses of other rows do not compare"),
    ({**AUTOENCODER, "resume": True}, {"learning_rate": RATE}, "resume has no place in a search"),
    ({**AUTOENCODER, "serach": {"trials": 3}}, {"learning_rate": RATE}, "no table [serach]; expected [search] and "
     "[space]; did you mean 'search'?"),
    ({**AUTOENCODER, "epohcs": 2}, {"learning_rate": RATE}, "there is no option 'epohcs'; did you mean 'epochs'?"),
    ({**AUTOENCODER, "epochs": 0}, {"learning_rate": RATE}, "epochs is 0; expected a whole number at least 1"),
    (AUTOENCODER, {"learning_rate": {**RATE, "when": {"strateg": "x"}}}, "when names 'strateg', which is no option; "
     "did you mean 'strategy'?"),
    (AUTOENCODER, {"learning_rate": {**RATE, "when": {"optimizer": []}}}, "when asks for optimizer to be one of no "
     "values; expected at least one"),
    (AUTOENCODER, {"learning_rate": {**RATE, "when": {"hidden": [64, 8]}}, "hidden": [[64], [8]]}, "never drawn: when "
     "asks for hidden [64, 8], and it is [64], [8]"),
    (AUTOENCODER, {"learning_rate": {**RATE, "when": "averaging"}}, "when is 'averaging'; expected a table of options"),
    (AUTOENCODER, {"learning_rate": {**RATE, "when": {"optimizer": "sgd"}}}, "learning_rate is never drawn: when asks "
     "for optimizer sgd, and it is adam"),
    (AUTOENCODER, {"warmup": {"low": 1, "high": 9, "when": {"batch_size": 50}}, "batch_size": {"low": 60, "high": 70}},
     "never drawn: when asks for batch_size 50, and it is 60 to 70"),
    (AUTOENCODER, {"warmup": {"low": 1, "high": 9, "when": {"batch_size": [3]}}, "batch_size": {
        "low": 2, "high": 7, "when": {"warmup": 5}}}, "conditions go round in a circle: batch_size, warmup"),
    (AUTOENCODER, {"strategy": ["allreduce", "averaging"], "period": {"low": 2, "high": 3, "when": {
        "strategy": "allreduce"}}}, "period is an option of strategy averaging and gossip; the strategy here is"),
    ({}, {"model": {"choices": ["vae", "rbm"], "when": {"epochs": 10}}}, "model has a condition"),
    (AUTOENCODER, {"learning_rate.first": RATE}, "learning_rate.first is an entry of learning_rate, which has none"),
])
def test_what_is_wrong_with_a_space_is_said_in_one_line(fixed, space, words):
    with pytest.raises(ParameterError) as caught:
        Space(fixed, space, where="space.toml: ")
    said = str(caught.value)
    assert said.startswith("space.toml: ") and words in said and "\n" not in said, said


@pytest.mark.parametrize(("when", "drawn"), [
    ([64, 16], {(64, 16)}), ([[64, 16]], {(64, 16)}), ([[64], [64, 16]], {(64,), (64, 16)}), (64, {(64,)}),
    (["64", "64,16"], {(64,), (64, 16)})])
def test_a_condition_on_an_option_that_is_a_list(when, drawn):
    space = Space(AUTOENCODER, {"hidden": [[64], [64, 16], [16]], "learning_rate": {**RATE, "when": {"hidden": when}}})
    for hidden in ((64,), (64, 16), (16,)):
        given = space.draw(lambda parameter, hidden=hidden: hidden if parameter.name == "hidden" else 0.01)
        assert ("learning_rate" in given) == (hidden in drawn)


def test_a_strategy_that_needs_more_ranks_than_a_trial_has(tmp_path):
    (tmp_path / "mine.py").write_text("from pyddl.strategies import Averaging\nclass Mine(Averaging): needs = 3\n")
    space = Space(AUTOENCODER, {"strategy": ["allreduce", "server", f"{tmp_path}/mine.py:Mine"]}, where="space.toml: ")
    for ranks, name in ((1, "server"), (2, f"{tmp_path}/mine.py:Mine")):
        with pytest.raises(ParameterError) as caught:
            space.check_ranks(ranks)
        assert str(caught.value) == (f"space.toml: [space] strategy {name} needs {ranks + 1} ranks, and a trial has "
                                     f"{ranks}: leave it out, or say --ranks-per-trial {ranks + 1}")
    space.check_ranks(3)
    with pytest.raises(ParameterError, match=r"^strategy gossip needs 2 ranks, and a trial has 1: "):
        Space({**AUTOENCODER, "strategy": "gossip"}, {"learning_rate": RATE}).check_ranks(1)


def test_files_that_are_none(tmp_path):
    with pytest.raises(DataError, match=r"none\.toml: no such file"):
        Space.read(tmp_path / "none.toml")
    (tmp_path / "deep.toml").write_text(f"space = {'[' * 5000}{']' * 5000}\n")
    with pytest.raises(DataError, match=r"deep\.toml: lists or tables within one another"):
        Space.read(tmp_path / "deep.toml")
    (tmp_path / "space.toml").write_text('model = "autoencoder"\nspace = 3\n')
    with pytest.raises(ParameterError, match=r"space is 3; expected a table \[space\]"):
        Space.read(tmp_path / "space.toml")


@pytest.mark.parametrize(("table", "words"), [
    ({"trials": 0}, "trials is 0; expected a whole number at least 1"),
    ({"smapler": "tpe"}, "there is no option 'smapler'; did you mean 'sampler'?"),
    ({"sampler": "tp"}, "sampler is 'tp'; expected one of random, tpe"),
    ({"factor": 1}, "factor is 1; expected a whole number at least 2"),
    ({"minutes": float("inf")}, "minutes is inf; expected a number above 0 and at most 1"),
])
def test_what_is_wrong_with_a_search(table, words):
    with pytest.raises(ParameterError) as caught:
        Search.of(table, where="space.toml: ")
    assert str(caught.value).startswith("space.toml: [search] ") and words in str(caught.value)


def test_flags_win_over_the_table_and_say_their_own_name():
    assert Search.of({"trials": 4, "seed": 3}, {"trials": 5, "seed": None}) == Search(trials=5, seed=3)
    with pytest.raises(ParameterError, match=r"^trials is 0"):
        Search.of({}, {"trials": 0}, where="space.toml: ")


def test_the_goal_is_a_column_and_its_name_says_which_way_is_better():
    line = {"epoch": 1, "train_loss": 3.0, "test_loss": None, "seconds": 0.5}
    assert Search().value(line) == 3.0 and Search().column(line) == "train_loss"
    assert Search().value({**line, "test_loss": 2.0}) == 2.0
    with pytest.raises(ParameterError, match=r"goal is 'tain_loss'; .* seconds, train_loss; did you mean 'train_loss'"):
        Search(goal="tain_loss").value(line)
    wanted = {"test_accuracy": "maximize", "test_elbo": "maximize", "test_log_likelihood": "maximize",
              "samples_per_second": "maximize", "test_squared_error": "minimize"}
    assert {goal: Search.of({"goal": goal}).direction for goal in wanted} == wanted
    assert Search.of({"goal": "test_accuracy", "direction": "minimize"}).direction == "minimize"


def test_a_value_that_is_none_of_a_parameters():
    with pytest.raises(ParameterError, match="batch_size is 65; expected 32, 64"):
        Parameter("batch_size", "choice", choices=(32, 64)).value(65)


def test_the_example_is_a_space():
    path = Path(__file__).parents[2] / "examples" / "space.toml"
    space = Space.read(path)
    assert space.fixed["hidden"] == (256, 64) and Search.of(space.search, {}, where="").minutes == 20
    assert "learning_rate" in space.table()
