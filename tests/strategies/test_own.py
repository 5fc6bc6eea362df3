"""Strategies of one's own: the example, by file and class, and what their mistakes say."""

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
from support import said_by_pyddl

import pyddl
from pyddl.comm.operations import (
    Average,
    BeginStep,
    Compute,
    Fetch,
    Lock,
    Push,
    StepDone,
    Sum,
    Unlock,
    Update,
)
from pyddl.errors import DataError, ParameterError, StrategyError
from pyddl.models import Autoencoder
from pyddl.strategies import Averaging, Local, Strategy, strategy
from pyddl.train import Trainer, simulate
from pyddl.train.run import read_toml

EXAMPLE = str(Path(__file__).parents[2] / "examples/doubling.py")
NAMED = f"{EXAMPLE}:Doubling"
Doubling = type(strategy(NAMED))
ROWS = np.random.default_rng(5).random((203, 20), dtype=np.float32)


def train(chosen, out=None, **options):
    options = {"batch_size": 50, "epochs": 2, "seed": 4, **options}
    return Trainer(Autoencoder(20, hidden=(8, 3)), strategy=chosen, out=None if out is None else str(out),
                   **options).fit(ROWS)


# ---- the example

def test_the_period_of_the_example_doubles():
    met = []

    class Seen(Doubling):
        def settle(self, me):
            if me.counters["left"] == 0:  # not to evaluate
                met.append((me.number, me.step + 1))
            yield from super().settle(me)

    simulate(Autoencoder(20, hidden=(8, 3)), ROWS, strategy=Seen(longest=4), workers=2, epochs=4, batch_size=50)
    assert sorted(met) == [(worker, step) for worker in (0, 1) for step in (1, 3, 7, 11, 15, 19)]


def test_a_constant_period_is_averaging():
    same = {"workers": 3, "epochs": 2, "batch_size": 50}
    ours, theirs = (simulate(Autoencoder(20, hidden=(8, 3)), ROWS, strategy=each, **same)
                    for each in (Doubling(first=4, longest=4), Averaging(period=4)))
    assert np.array_equal(ours.parameters, theirs.parameters)
    assert [point["test_loss"] for point in ours.curve] == [point["test_loss"] for point in theirs.curve]


@pytest.mark.mpi(min_size=2)
def test_ranks_and_simulated_workers_do_the_same(world):
    together = train(NAMED, strategy_options={"longest": 4})
    simulated = simulate(Autoencoder(20, hidden=(8, 3)), ROWS, strategy=strategy(NAMED, longest=4),
                         workers=world.size, epochs=2, batch_size=50, seed=4)
    np.testing.assert_allclose(together.parameters, simulated.parameters, rtol=1e-4, atol=1e-6)


@pytest.mark.mpi(min_size=2)
def test_a_resumed_run_is_the_uninterrupted_one(world, shared):
    whole = train(Doubling(longest=4), epochs=3)
    train(Doubling(longest=4), shared / "run", epochs=1)
    resumed = train(NAMED, shared / "run", epochs=3, resume=True, strategy_options={"longest": 4})
    assert np.array_equal(resumed.parameters, whole.parameters)


class Counting(Local):
    """As `Local`, with a counter of its own."""

    def __init__(self):
        self.found = []

    def worker(self, me):
        self.found.append(me.counters.get("count"))
        me.counters["count"] = self.count
        yield from super().worker(me)


@pytest.mark.parametrize("value", [np.float32(0.5), np.int64(3)])
def test_counters_of_numpy_are_kept(tmp_path, value):
    Counting.count, strategies = value, [Counting(), Counting()]
    for epochs, each in enumerate(strategies, 1):
        train(each, tmp_path / "run", epochs=epochs, resume=epochs > 1)
    assert [each.found for each in strategies] == [[None], [value]] and isinstance(strategies[1].found[0], int | float)


def test_a_counter_that_no_checkpoint_holds_is_named(tmp_path):
    Counting.count = np.zeros(2)
    with pytest.raises(StrategyError, match=r"Counting has left array.* in me.counters\['count'\], and a check"):
        train(Counting(), tmp_path / "run", epochs=1)


# ---- its arguments are recorded

class Given(Local):
    """As `Local`, with arguments."""

    def __init__(self, *, rate: float = 1.0, name_of_it="x", among=()):
        self.kept = rate, name_of_it, among


def test_arguments_are_known_without_help_of_the_constructor():
    assert Given(rate=2).options() == {"rate": 2, "name_of_it": "x", "among": ()}
    assert Local().options() == {} and Averaging(8).options()["period"] == 8
    assert Given.name == "Given" and strategy(NAMED).name == "Doubling"


def test_a_run_records_what_makes_the_same_strategy_again(tmp_path):
    train(Given(rate=2), tmp_path / "own", epochs=1)
    config = read_toml((tmp_path / "own/config.toml").read_text())
    assert config["strategy_options"] == {"rate": 2, "name_of_it": "x", "among": []}
    assert re.fullmatch(r".*test_own\.py:Given", config["strategy"])
    train(Local(), tmp_path / "local", epochs=1)
    config = read_toml((tmp_path / "local/config.toml").read_text())
    assert config["strategy"] == "local" and "strategy_options" not in config


@pytest.mark.mpi(min_size=2)
def test_options_of_an_object_are_recorded_as_those_of_a_name(world, shared):
    train(Averaging(period=4), shared / "object", epochs=1)
    train("averaging", shared / "name", epochs=1, period=4)
    if world.rank == 0:
        by_object, by_name = (read_toml((shared / each / "config.toml").read_text()) for each in ("object", "name"))
        assert by_object["period"] == 4 and {**by_name, **by_object} == by_name


def test_another_value_is_refused_on_resume(tmp_path):
    train(Given(rate=2), tmp_path / "run", epochs=1)
    with pytest.raises(DataError, match=r"of a run with own strategy .Given\(rate=2, .*, this one has "
                                        r".Given\(rate=3, .*; resume with the same"):
        train(Given(rate=3), tmp_path / "run", resume=True)
    with pytest.raises(DataError, match=r"own strategy .Given.*, this one has none"):
        train("local", tmp_path / "run", resume=True)
    assert len(train(Given(rate=2), tmp_path / "run", resume=True).metrics) == 2


def test_arguments_that_no_file_holds_are_refused():
    with pytest.raises(ParameterError, match="strategy Given was made with values that a file of JSON cannot hold"):
        train(Given(among={1, 2}))


@pytest.mark.mpi(min_size=2)
def test_unlike_arguments_on_the_ranks_are_refused(world):
    with pytest.raises(ParameterError, match="options differ between the ranks: strategy is "):
        train(Averaging(period=4 + world.rank))


# ---- mistakes

def of(worker, **members):
    """A strategy with this worker."""
    settle = Local.settle  # does nothing
    return type("Mistaken", (Strategy,), {"worker": worker, "settle": settle, **members})()


def without_end(self, me):
    while (yield BeginStep()):
        for _ in me.turns():
            yield Compute()
            yield Update(1 / me.samples)


def after_the_end(self, me):
    while True:
        yield BeginStep()
        for _ in me.turns():
            yield Compute()
        yield StepDone()


def asks_for_ever(self, me):
    while True:
        if (yield BeginStep()):
            for _ in me.turns():
                yield Compute()
            yield StepDone()


def within(*operations):
    def worker(self, me):
        while (yield BeginStep()):
            for _ in me.turns():
                yield Compute()
                for each in operations:
                    yield each(me) if callable(each) and not isinstance(each, type) else each
            yield StepDone()
    return worker


def one_step(self, me):
    yield BeginStep()
    for _ in me.turns():
        yield Compute()
    yield StepDone()


def half_a_step(self, me):
    yield BeginStep()
    for _ in me.turns():
        yield Compute()


def never_ends_a_step(self, me):
    yield BeginStep()
    for _ in me.turns():
        yield Compute()
    while True:
        yield Sum(me.gradients[:0])


def outside_a_turn(operation):
    def worker(self, me):
        while (yield BeginStep()):
            yield operation
            yield StepDone()
    return worker


def no_gradient(self, me):
    while (yield BeginStep()):
        yield StepDone()


def no_generator(self, me):
    return None


def only_ends(self, me):
    while True:
        yield StepDone()


def raises(self, me):
    yield BeginStep()
    me.paramters[:] = 0


def nothing(self, me):
    return
    yield


MISTAKES = [
    (without_end, "without_end yielded BeginStep before .* over: each step must end with yield StepDone"),
    (half_a_step, "ended within a step: each step must end with yield StepDone"),
    (never_ends_a_step, "has yielded 100 operations without the end of a step"),
    (after_the_end, "yielded StepDone after the end of the data"),
    (asks_for_ever, r"yielded BeginStep after the end of the data.*while \(yield BeginStep\(\)\)"),
    (one_step, "strategy Mistaken has ended after step 1 of 10: its worker must go on until BeginStep answers False"),
    (nothing, "strategy Mistaken has ended after step 0 of 10"),
    (only_ends, "yielded StepDone without BeginStep"),
    (raises, r"raises in .*test_own.py raised AttributeError: .* no attribute 'paramters', in line \d+$"),
    (no_generator, "returned None; expected a generator"),
    (no_gradient, "yielded StepDone in a step without Compute"),
    (outside_a_turn(Compute()), "asked for Compute outside a turn: it belongs into the loop for turn in me.turns"),
    (outside_a_turn(Update(1.0)), "asked for Update outside a turn"),
    (within(5), "yielded 5, which is no operation: yield those of pyddl.comm.operations"),
    (within(None), "yielded None, which is no operation"),
    (within(Compute), r"yielded the class Compute: yield Compute\(\)"),
    (within(lambda me: me.merge_buffers()), "yielded a generator, .*merge_buffers, in the place of .*yield from"),
    (within(lambda me: Push(me.gradients, 1, 0)), "yielded Push, which only strategies with servers can"),
    (within(lambda me: Fetch(me.gradients)), "yielded Fetch, which only strategies with servers can"),
]


@pytest.mark.parametrize(("worker", "message"), MISTAKES)
@pytest.mark.parametrize("simulated", [False, True], ids=["trained", "simulated"])
def test_a_mistake_in_a_strategy_is_named(monkeypatch, worker, message, simulated):
    monkeypatch.setattr("pyddl.comm.order.MOST", 100)
    with pytest.raises(StrategyError, match=message):
        if simulated:
            simulate(Autoencoder(20, hidden=(8, 3)), ROWS, strategy=of(worker), workers=2, epochs=2, batch_size=50)
        else:
            train(of(worker))


def test_a_turn_that_was_left_early_is_over():
    def worker(self, me):
        while (yield BeginStep()):
            for _ in me.turns():
                yield Compute()
                break
            assert me.parameters.size == me.whole.size
            yield StepDone()

    assert len(train(of(worker)).metrics) == 2


def test_a_gradient_may_be_computed_twice_in_a_turn():
    """As in an extra-gradient step."""
    def worker(self, me):
        while (yield BeginStep()):
            for _ in me.turns():
                yield Compute()
                here = me.parameters.copy()
                yield Update(1 / me.samples)
                yield Compute()
                me.parameters[:] = here
                yield Update(1 / me.samples)
            yield StepDone()

    result = train(of(worker), epochs=20)
    assert result.metrics[-1]["train_loss"] < result.metrics[0]["train_loss"]


def test_a_strategy_without_its_side_says_so():
    with pytest.raises(StrategyError, match=r"Bare lacks its worker side: a method worker\(self, me\)"):
        train(type("Bare", (Strategy,), {})())
    with pytest.raises(ParameterError, match=r"strategy is the class Doubling: pass Doubling\(\)"):
        Trainer(Autoencoder(20), strategy=Doubling)
    with pytest.raises(ParameterError, match=r"optimizer is the class Adam: pass Adam\(\)"):
        Trainer(Autoencoder(20), optimizer=pyddl.optim.Adam)
    with pytest.raises(ParameterError, match=r"strategy is the class Doubling: pass Doubling\(\)"):
        simulate(Autoencoder(20), ROWS, strategy=Doubling)
    with pytest.raises(ParameterError, match="strategy is 5; expected a name, or an object of"):
        Trainer(Autoencoder(20), strategy=5)


# ---- files

@pytest.mark.parametrize(("text", "named", "message"), [
    (None, "own.py:Own", "and there is no file own.py; did you mean 'won.py'"),
    ("", "own.py:Own", "and own.py has no Own; expected .*, of which own.py has none"),
    ("class Own:\n    pass", "own.py:Own", "and Own is none; expected a class that derives from "
                                           "pyddl.strategies.Strategy"),
    ("class Mine(Local):\n    pass", "own.py:Mien", "has no Mien; .* of which own.py has Mine; did you mean 'Mine'?"),
    ("class Mine(Local):\n    pass", "own.py", "expected FILE.py:Class: own.py has Mine"),
    ("class Mine(Local):\n    x = 1 / 0", "own.py:Mine", "and own.py cannot be run: ZeroDivisionError: division by "
                                                         "zero, in line 3"),
    ("class Mine(Local)\n    pass", "own.py:Mine", "cannot be run: SyntaxError: .*, in line 2"),
    ("import sys\nsys.exit(3)", "own.py:Mine", "cannot be run: SystemExit: 3, in line 3"),
    ("class Mine(Local):\n    def __init__(self):\n        self.x = {}['period']", "own.py:Mine",
     "strategy own.py:Mine cannot be made: KeyError: 'period', in line 4"),
])
def test_a_file_that_does_not_help_is_named(tmp_path, monkeypatch, text, named, message):
    monkeypatch.chdir(tmp_path)
    Path("won.py").write_text("")
    if text is not None:
        Path("own.py").write_text(f"from pyddl.strategies import Local\n{text}\n")
    with pytest.raises(ParameterError, match=message):
        train(named)


def test_a_file_may_use_what_lies_beside_it(tmp_path, monkeypatch):
    (tmp_path / "beside_it.py").write_text("RATE = 3\n")
    (tmp_path / "own.py").write_text(textwrap.dedent("""
        from __future__ import annotations
        import dataclasses
        from beside_it import RATE
        from pyddl.strategies import Local

        @dataclasses.dataclass
        class Mine(Local):
            rate: int = RATE
        """))
    mine = strategy(f"{tmp_path}/own.py:Mine")
    assert mine.rate == 3 and mine.options() == {"rate": 3}
    assert type(strategy(f"{tmp_path}/own.py:Mine")) is type(mine), "the file is run once"


@pytest.mark.parametrize(("options", "message"), [
    ({"longst": 3}, "strategy .*doubling.py:Doubling has no option 'longst'; did you mean 'longest'"),
    ("longest", "strategy_options is 'longest'; expected NAME=VALUE with commas"),
    (3, "strategy_options is 3; expected values by name"),
])
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ParameterError, match=message):
        train(NAMED, strategy_options=options)
    with pytest.raises(ParameterError, match=r"strategy_options is an option of strategy FILE\.py:Class"):
        train("local", strategy_options={"longest": 3})


def test_arguments_on_the_command_line_are_plain_values():
    option = pyddl.options.named("strategy_options")
    assert option.check("a=1, b=0.5,c=true,d=half") == {"a": 1, "b": 0.5, "c": True, "d": "half"}


def test_a_mistake_in_it_is_told_by_one_rank(tmp_path):
    (tmp_path / "own.py").write_text("from pyddl.strategies import Strategy\n\n\nclass Own(Strategy):\n"
                                     "    def worker(self, me):\n        yield me.nothing\n")
    said = said_by_pyddl("train", "autoencoder", "--data", "random:200x20", "--loss", "mse", "--hidden", "3",
                         "--strategy", "own.py:Own", "--ranks", 2, "--quiet", cwd=tmp_path, check=1)
    assert said.count("raised AttributeError") == said.count("ending all ranks") == 1, said


def test_the_command_line_trains_and_simulates_it(tmp_path):
    own = ["--strategy", NAMED, "--strategy-options", "longest=4"]
    small = ["--data", "random:200x20", "--loss", "mse", "--hidden", "8,3", "--batch-size", 50]
    said_by_pyddl("train", "autoencoder", *small, *own, "--epochs", 1, "--ranks", 2, "--out", "run", cwd=tmp_path)
    config = read_toml((tmp_path / "run/config.toml").read_text())
    assert config["strategy"] == NAMED and config["strategy_options"] == {"first": 1, "longest": 4}
    said = said_by_pyddl("simulate", *small, *own, "--workers", "3", "--epochs", 1, cwd=tmp_path)
    assert re.search(r"^Doubling +3 ", said, re.M), said


def test_operations_between_workers_are_open_to_all():
    """Each of them, in one step: a sum, an average, a lock."""
    def worker(self, me):
        while (yield BeginStep()):
            for _ in me.turns():
                yield Compute()
                total = yield Sum(me.gradients, me.samples)
                yield Update(1 / total)
            yield Lock()
            yield Unlock()
            weight = yield Average(me.parameters, [me.parameters], [2])
            assert weight == 2 * me.count
            yield StepDone()

    chosen = of(worker, locks=True, synchronous=True, replicated=True, together=True)
    ours = simulate(Autoencoder(20, hidden=(8, 3)), ROWS, strategy=chosen, workers=3, epochs=2, batch_size=50)
    theirs = simulate(Autoencoder(20, hidden=(8, 3)), ROWS, strategy="allreduce", workers=3, epochs=2, batch_size=50)
    np.testing.assert_allclose(ours.parameters, theirs.parameters, rtol=1e-5, atol=1e-6)
