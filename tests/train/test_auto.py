"""Strategy auto in the trainer: it becomes a real strategy once, says so everywhere, and keeps to it."""

import json
from dataclasses import replace

import numpy as np
import pytest

import pyddl
from pyddl import options
from pyddl.comm.world import use
from pyddl.data import ArraySource
from pyddl.errors import DataError, ParameterError
from pyddl.models import Autoencoder
from pyddl.optim import SGD, Adam
from pyddl.strategies import Auto, Local
from pyddl.strategies.figures import Figures, Link
from pyddl.train import StopRequest, Trainer, auto, rehearsal
from pyddl.train.plan import Plan
from pyddl.train.progress import Progress
from pyddl.train.rehearsal import rehearse
from pyddl.train.report import table
from pyddl.train.run import read_toml

ROWS = np.random.default_rng(5).random((203, 20), dtype=np.float32)
TEST = np.random.default_rng(6).random((31, 20), dtype=np.float32)


class Titles(Progress):
    def __init__(self):
        self.titles = []

    def begin(self, title, *rest):
        self.titles.append(title)


def train(out=None, model=None, rows=ROWS, start=None, **options):
    options = {"strategy": "auto", "batch_size": 50, "epochs": 3, "seed": 4, **options}
    model = model or Autoencoder(20, hidden=(8, 3))
    return Trainer(model, out=None if out is None else str(out), **options).fit(rows, TEST, start=start)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """No figure of these tests needs to be a good one."""
    monkeypatch.setattr(rehearsal, "SECONDS", 0.001)


@pytest.fixture(autouse=True)
def measured(monkeypatch):
    """Figures that decide as the test wants, in the place of the clock's; at first servers are far away."""

    def fix(latencies=None, **changes):
        links = {name: Link(latency, 1e12) for name, latency in (latencies or {"served": 1e3}).items()}

        def fixed(*given, **named):
            figures = rehearse(*given, **named)
            return replace(figures, **{"unsure": 0.0, **changes}, links={**figures.links, **links})

        monkeypatch.setattr(auto, "rehearse", fixed)

    fix()
    return fix


def planned(world, model, rule, **given):
    given = options.resolve({"batch_size": 50, "seed": 1, **given}, lambda each: each.trainer)
    return Plan(model, Local(), rule, given, world, ArraySource(ROWS), None)


def never(*given, **named):
    raise AssertionError("measured once more")


@pytest.mark.mpi
@pytest.mark.parametrize("reproducible", [False, True])
def test_figures_are_measured_alike_on_all_ranks(world, reproducible):
    if reproducible and 8 % world.size:
        pytest.skip("reproducible needs a divisor of 8")
    figures = rehearse(planned(world, Autoencoder(20, hidden=(8, 3)), Adam(), reproducible=reproducible), world)
    assert isinstance(figures, Figures)
    assert len(set(map(str, world.transport.gather_objects(figures.record())))) == 1
    assert 0 < figures.update <= figures.apart <= figures.together
    assert 0 < figures.rows * world.size <= 50
    assert figures.per_row >= 0 and figures.crowding >= 1
    assert figures.split == float("inf") and 0 <= figures.hidden <= 1
    assert all(link.latency >= 0 and link.bandwidth > 0 for link in figures.links.values())
    assert {"sum", "average", "owners", "exchange", "pass"} <= set(figures.links)


@pytest.mark.mpi
def test_training_is_that_of_the_strategy_chosen(world):
    chosen = train()
    strategy = chosen.summary["strategy"]
    assert strategy == ("local" if world.size == 1 else "allreduce")
    assert chosen.summary["auto"]["strategy"] == strategy
    named = train(strategy=strategy, **chosen.summary["auto"]["options"])
    assert np.array_equal(chosen.parameters, named.parameters)  # the rehearsal left nothing behind
    assert named.summary["auto"] is None


@pytest.mark.mpi(min_size=2)
def test_the_choice_stands_in_every_file(world, shared, measured):
    measured(update=1.0, apart=3.0, together=3.0)  # so sharding the optimizer must win
    result = train(shared / "run", Autoencoder(20, hidden=(8, 4)))
    if world.rank == 0:
        config = read_toml((shared / "run/config.toml").read_text())
        summary = json.loads((shared / "run/summary.json").read_text())
        assert config["strategy"] == summary["strategy"] == "allreduce"
        assert config["shard_optimizer"] is True and "allow" not in config
        for record in (config["auto"], summary["auto"]):
            assert record["options"] == {"shard_optimizer": True} and record["ranks"] == world.size
            assert {row["strategy"] for row in record["table"]} > {"allreduce", "averaging", "local", "split"}
            assert record["figures"]["split"] > 0
            assert record["figures"]["update"] == 1.0
        assert summary["auto"]["measured"] > 0 and "measured" not in config["auto"]
        assert "that auto predicted" in table(summary)
    assert result.summary["auto"]["predicted"] == pytest.approx(3.0 - (1 - 1 / world.size), rel=0.5)


@pytest.mark.mpi(min_size=2)
def test_a_resumed_run_keeps_its_strategy(world, shared, measured, monkeypatch):
    measured(update=1.0, apart=3.0, together=3.0)
    whole = train(epochs=4)
    first = train(shared / "run", epochs=2)
    monkeypatch.setattr(auto, "rehearse", never)
    titles = Titles()
    second = train(shared / "run", epochs=4, resume=True, progress=titles)
    assert second.summary["auto"]["options"] == {"shard_optimizer": True}
    assert second.summary["auto"]["figures"] == first.summary["auto"]["figures"]
    assert np.array_equal(second.parameters, whole.parameters)
    assert world.rank or "auto: allreduce, as was chosen when training began" in titles.titles[0]
    named = train(shared / "run", epochs=5, resume=True, strategy="allreduce", shard_optimizer=True)  # as config.toml
    assert named.summary["auto"]["figures"] == first.summary["auto"]["figures"]


@pytest.mark.mpi(min_size=2)
def test_training_that_goes_on_keeps_its_strategy(world, measured, monkeypatch):
    measured(update=1.0, apart=3.0, together=3.0)
    first = train(epochs=1)
    monkeypatch.setattr(auto, "rehearse", never)
    assert train(epochs=2, start=first).summary["auto"]["options"] == {"shard_optimizer": True}


@pytest.mark.mpi(min_size=2)
def test_one_rank_goes_on_on_several(world, shared, monkeypatch):
    alone = world.mpi.Split(world.rank, 0)
    with use(alone):
        if world.rank == 0:
            assert train(shared / "run", epochs=1).summary["strategy"] == "local"
    alone.Free()
    world.transport.barrier()
    result = train(shared / "run", epochs=3, resume=True)
    assert (result.summary["strategy"], len(result.metrics)) == ("allreduce", 3)


@pytest.mark.mpi(min_size=2)
def test_a_stop_and_a_resume_in_the_middle_of_an_epoch(world, shared):
    stop = StopRequest()

    class StopsThere(Autoencoder):
        def gradient(self, parameters, gradients, buffers, batch):
            stop.requested |= batch.step == 7 and begun.titles != []  # not in the rehearsal
            return super().gradient(parameters, gradients, buffers, batch)

    begun = Titles()
    first = train(shared / "run", StopsThere(20, hidden=(8, 3)), stop=stop, progress=begun)
    begun_there = any(world.transport.gather_objects(bool(begun.titles)))
    assert begun_there and first.summary["finished"] is None
    assert train(shared / "run", resume=True).summary["finished"] is not None


@pytest.mark.mpi(min_size=2)
def test_what_a_session_refuses_is_not_offered(world):
    if 8 % world.size:
        pytest.skip("reproducible needs a divisor of 8")
    result = train(reproducible=True, clip_norm=1.0)
    assert "allreduce, shard_optimizer" not in [row["strategy"] for row in result.summary["auto"]["table"]]
    assert result.summary["auto"]["options"] == {}


@pytest.mark.mpi(min_size=2)
def test_any_strategy_may_win_when_allowed(world, measured):
    measured(apart=1e-3, together=10.0)  # waiting for the slowest in every step would be a disaster
    assert train().summary["strategy"] == "allreduce"
    assert train(strategy=Auto(allow="any")).summary["strategy"] == "sequential"
    assert train(allow="any").summary["strategy"] == "sequential"


@pytest.mark.mpi(min_size=2)
def test_servers_are_chosen_where_they_are_near(world, measured):
    measured({"served": 0.0, "sum": 1e3, "owners": 1e3})
    result = train()
    assert result.summary["strategy"] == "server"
    assert result.summary["auto"]["options"] == {} and len(result.metrics) == 3


@pytest.mark.mpi
def test_faults_are_found_before_anything_is_measured(world, monkeypatch):
    monkeypatch.setattr(auto, "rehearse", never)
    with pytest.raises(ParameterError, match="values in"):
        train(rows=ROWS * 9)
    with pytest.raises(ParameterError, match="period is an option of strategy"):
        train(period=4)
    if world.size > 1:
        with pytest.raises(ParameterError, match="would not all have work"):
            train(batch_size=world.size - 1)
        with pytest.raises(DataError, match="expected at least one"):
            train(rows=ROWS[: world.size - 1])


@pytest.mark.mpi(min_size=2)
def test_a_rehearsal_does_not_fail_where_training_diverges_later(world):
    model = Autoencoder(20, hidden=(8, 3), loss="mse")
    assert rehearse(planned(world, model, SGD(1e6)), world).apart > 0


@pytest.mark.mpi
def test_an_estimator_takes_auto(world):
    estimator = pyddl.Autoencoder(hidden=(3,), strategy="auto", epochs=1, random_state=0).fit(ROWS)
    assert estimator.result_.summary["auto"]["ranks"] == world.size
    estimator.partial_fit(ROWS)
    assert len(estimator.metrics_) == 2


def test_rounds_go_on_until_the_least_is_confirmed():
    rounds = rehearsal.Rounds()
    for seconds in (3.0, 1.0, 2.0):  # the least stands alone
        assert not rounds.enough(["step"], 0.0)
        rounds.enter("step", seconds)
    assert rounds.unsure(["step"]) == pytest.approx(1.0) and not rounds.enough(["step"], 0.0)
    assert rounds.enough(["step"], rehearsal.BUDGET)
    rounds.enter("step", 1.04)
    assert rounds.least == {"step": 1.0} and rounds.enough(["step"], 0.0)
    assert rounds.unsure(["step"]) == pytest.approx(0.04)


def test_time_that_other_work_had_is_taken_off(world, monkeypatch):
    figures = rehearse(planned(world, Autoencoder(20, hidden=(8, 3)), Adam()), world)
    clock = iter(np.arange(1e6))  # each reading a second later: no step takes as long
    monkeypatch.setattr(rehearsal, "_delay", lambda here: float(next(clock)))
    disturbed = rehearse(planned(world, Autoencoder(20, hidden=(8, 3)), Adam()), world)
    assert disturbed.disturbed == pytest.approx(1.0) and figures.disturbed < 1.0
    assert disturbed.apart < figures.apart
