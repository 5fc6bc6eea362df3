"""Boltzmann machines on many ranks: one machine under allreduce, every strategy learns, runs go on elsewhere."""

import time

import numpy as np
import pytest
from clusters import clusters
from small_runs import same_everywhere
from support import assert_reproducible, from_here_on_alone

import pyddl.data
from pyddl.data import ArraySource
from pyddl.errors import ParameterError
from pyddl.models import RBM
from pyddl.models.likelihood import annealed, exact_log_partition, likelihood
from pyddl.models.tempering import Ladder
from pyddl.optim import optimizer
from pyddl.strategies import strategy
from pyddl.train import Trainer
from pyddl.train.crew import Crew
from pyddl.train.simulation import simulate
from pyddl.train.stop import StopRequest

ROWS = (np.random.default_rng(5).random((203, 20)) < 0.3).astype(np.float32)
DIGITS = (np.asarray(pyddl.data.load("digits")) >= 0.5).astype(np.float32)
KINDS = {
    "persistent": {},
    "three chains": {"chains": 3, "gibbs_steps": 2},
    "from rows": {"chain": "cd"},
    "classic": {"centering": False},
    "sparse": {"sparsity": 0.1, "binarise": "sample"},
    "gaussian": {"visible": "gaussian", "variance": "learned"},
    "tempered": {"chain": "ptt", "chains": 50, "ladder": 3},
}
CLUSTERS = clusters(2, 0, 500)[0]
STRATEGIES = {
    "averaging": {"period": 3},
    "slow momentum": {"strategy": "averaging", "period": 4, "outer": "momentum"},
    "elastic": {"tau": 2},
    "gossip": {},
    "sequential": {"replicas": 3},
    "server": {},
    "ssp": {"strategy": "server", "mode": "ssp"},
    "async": {"strategy": "server", "mode": "async"},
}


def train(kind, rows=ROWS, out=None, hidden=7, **options):
    model = RBM(rows.shape[1], (hidden,), **KINDS[kind])
    options = {"optimizer": "sgd", "epochs": 4, "batch_size": 50, "seed": 4, **options}
    return Trainer(model, out=None if out is None else str(out), **options).fit(rows, rows[:101])


@pytest.mark.mpi
@pytest.mark.parametrize("kind", KINDS)
def test_all_ranks_together_are_one(world, monkeypatch, kind):
    together = train(kind)
    assert same_everywhere(world, together.parameters)
    from_here_on_alone(monkeypatch)
    one = train(kind, strategy="local")
    np.testing.assert_allclose(together.parameters, one.parameters, rtol=1e-3, atol=2e-5)
    np.testing.assert_allclose(together.buffers, one.buffers, rtol=1e-3, atol=2e-5)
    for name in ("train_loss", "test_loss", "test_free_energy"):
        found, expected = ([line[name] for line in result.metrics] for result in (together, one))
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-4), name


@pytest.mark.mpi
def test_all_ranks_freeze_the_same_ladder(world, monkeypatch):
    """A ladder of 3, from which rungs are left out."""
    together = train("tempered", CLUSTERS, epochs=12, learning_rate=0.1)
    ladder = Ladder(together.model, together.buffers)
    assert ladder.rungs == 3 and np.abs(np.diff(ladder.kept["ladder_log_partition"])).min() > 0.1
    assert same_everywhere(world, together.buffers)
    from_here_on_alone(monkeypatch)
    one = train("tempered", CLUSTERS, strategy="local", epochs=12, learning_rate=0.1)
    np.testing.assert_allclose(together.parameters, one.parameters, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(ladder.kept["ladder"], Ladder(one.model, one.buffers).kept["ladder"], atol=1e-3)
    found, expected = ([line["test_log_likelihood"] for line in result.metrics] for result in (together, one))
    assert found == pytest.approx(expected, abs=1e-2)


@pytest.mark.mpi(min_size=2)
def test_a_ladder_may_be_rehearsed(world):
    """Steps that ranks take apart must not let their ladders differ in those that they take together."""
    assert train("tempered", CLUSTERS, strategy="auto", learning_rate=0.3).summary["strategy"] == "allreduce"


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("name", ["averaging", "gossip", "elastic", "sequential", "server", "ssp", "async"])
def test_a_ladder_is_refused_where_workers_go_apart(world, name):
    options = {"strategy": name, **STRATEGIES[name]}
    with pytest.raises(ParameterError, match=r"keeps buffers \(ladder, .* must have alike.* choose strategy allreduce"):
        train("tempered", **options)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("kind", ["persistent", "from rows"])
def test_every_strategy_learns(world, name, kind):
    options = {"strategy": name, **STRATEGIES[name]}
    result = train(kind, DIGITS, hidden=16, epochs=20, schedule="linear", **options)
    losses = [line["test_loss"] for line in result.metrics]
    assert losses[-1] < losses[0] - 0.5, losses
    assert same_everywhere(world, result.parameters)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("kind", ["persistent", "three chains", "tempered"])
def test_a_run_goes_on_on_another_number_of_ranks(world, shared, monkeypatch, kind):
    rows, epochs, loose = (CLUSTERS, 8, 1e-3) if kind == "tempered" else (ROWS, 4, 2e-5)
    whole = train(kind, rows, epochs=epochs)
    train(kind, rows, out=shared / "run", epochs=epochs // 2)
    world.transport.barrier()
    if world.rank == 0:
        from_here_on_alone(monkeypatch)
        second = train(kind, rows, out=shared / "run", resume=True, epochs=epochs)
        np.testing.assert_allclose(second.parameters, whole.parameters, rtol=1e-3, atol=loose)
        np.testing.assert_allclose(second.buffers, whole.buffers, rtol=1e-3, atol=loose)
    world.transport.barrier()


class Hesitant(StopRequest):
    """Is asked within a step, and heeded so late that other workers have gone on to where they need this one's push."""

    asked = False

    @property
    def requested(self):
        if self.asked:
            time.sleep(0.3)
        return self.asked

    @requested.setter
    def requested(self, asked):
        self.asked = asked


class StopWithin(RBM):
    """Asks for a stop within a step, on one rank."""

    def __init__(self, stop, step):
        super().__init__(20, (7,), centering=False)
        self.stop, self.step = stop, step

    def gradient(self, parameters, gradients, buffers, batch):
        if batch.step == self.step:
            self.stop.requested = True
        return super().gradient(parameters, gradients, buffers, batch)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("stop", [StopRequest, Hesitant])
@pytest.mark.parametrize("step", [0, 3, 6, 9])
def test_a_step_that_a_server_has_not_made_is_made_again_from_where_its_chains_were(world, shared, step, stop):
    """A worker may have moved its chains for it before the stop, and for the next one too. (Offsets are merged where a
    checkpoint is written.)

    Of two workers at most, whose pushes have one sum in any order: a state of a chain may hang on its rounding.
    """
    options = {"strategy": "server", "servers": max(1, world.size - 2), "optimizer": "sgd", "batch_size": 50,
               "seed": 4, "epochs": 4}
    whole = train("classic", **options)
    stop = stop()
    given = {**options, "out": str(shared / "run")}
    Trainer(StopWithin(stop, step if world.rank == world.size - 1 else -1), stop=stop, **given).fit(ROWS, ROWS[:101])
    second = train("classic", **{**given, "resume": True})
    np.testing.assert_allclose(second.parameters, whole.parameters, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(second.buffers, whole.buffers, atol=1e-6)


@pytest.mark.mpi(min_size=2)
def test_a_classic_machine_is_reproducible_bit_for_bit(world, monkeypatch):
    assert_reproducible(world, monkeypatch, lambda: train("classic", reproducible=True))


@pytest.mark.mpi(min_size=4)
def test_workers_without_a_chain_are_refused_where_each_needs_some(world):
    with pytest.raises(ParameterError, match="3 persistent chains for 4 workers"):
        train("three chains", strategy="averaging", period=2)


def test_a_centered_machine_is_not_reproducible_and_says_so():
    with pytest.raises(ParameterError, match=r"keeps buffers \(visible_offsets, hidden_offsets\), which reproducible"):
        train("persistent", reproducible=True)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("name", ["averaging", "gossip", "allreduce"])
def test_a_simulation_gives_what_as_many_ranks_give(world, name):
    options = {key: value for key, value in STRATEGIES.get(name, {}).items() if key != "strategy"}
    run = simulate(RBM(20, (7,)), ArraySource(ROWS), ArraySource(ROWS[:101]), strategy(name, **options), world.size,
                   optimizer("sgd", learning_rate=0.1), epochs=4, batch_size=50, seed=4)
    real = train("persistent", strategy=name, learning_rate=0.1, **options)
    np.testing.assert_allclose(run.parameters, real.parameters, rtol=1e-3, atol=2e-5)


@pytest.mark.mpi
def test_a_likelihood_is_the_same_on_any_number_of_ranks(world, monkeypatch):
    result = train("persistent")
    model, vectors = result.model, (result.parameters, result.buffers)
    here, one = Crew(world.transport), Crew()
    mean = ROWS.mean(axis=0)
    assert exact_log_partition(model, vectors[0], here) == exact_log_partition(model, vectors[0], one)
    assert annealed(model, *vectors, mean, here, steps=50, sweeps=10) == \
        annealed(model, *vectors, mean, one, steps=50, sweeps=10)
    assert likelihood(model, *vectors, ArraySource(ROWS), here) == likelihood(model, *vectors, ArraySource(ROWS), one)
