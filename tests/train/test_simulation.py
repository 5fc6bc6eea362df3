"""Simulated training: the results of so many ranks, in one process."""

import numpy as np
import pytest

from pyddl.comm.machine import Machine
from pyddl.data import ArraySource
from pyddl.errors import ParameterError
from pyddl.layout import Layout, Slice
from pyddl.models import Autoencoder
from pyddl.optim import OPTIMIZERS, optimizer
from pyddl.strategies import strategy
from pyddl.train import Trainer
from pyddl.train.simulation import simulate

ROWS = np.random.default_rng(5).random((203, 20), dtype=np.float32)
TEST = np.random.default_rng(6).random((101, 20), dtype=np.float32)
KINDS = {"averaging": {"period": 3, "outer": "nesterov"}, "elastic": {"tau": 2}, "gossip": {}, "allreduce": {}}


def simulated(name, workers, model=None, machine=None, **options):
    return simulate(model or Autoencoder(20, hidden=(8, 3)), ArraySource(ROWS), ArraySource(TEST),
                    strategy(name, **options), workers, optimizer("adam"), epochs=3, batch_size=50, seed=4,
                    machine=machine)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("name", KINDS)
def test_it_gives_what_as_many_ranks_give(world, name):
    run = simulated(name, world.size, **KINDS[name])
    real = Trainer(Autoencoder(20, hidden=(8, 3)), strategy=name, epochs=3, batch_size=50, seed=4, **KINDS[name]).fit(
        ROWS, TEST)
    if name == "allreduce":  # a transport may add in an order of its own
        np.testing.assert_allclose(run.parameters, real.parameters, rtol=1e-3, atol=2e-5)
    else:
        np.testing.assert_array_equal(run.parameters, real.parameters)
    at_epochs = [point["test_loss"] for point in run.curve if point["step"] % 5 == 0]
    assert at_epochs == pytest.approx([line["test_loss"] for line in real.metrics], rel=1e-5)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("rule", OPTIMIZERS)
@pytest.mark.parametrize("name", ["averaging", "elastic", "gossip", "sequential"])
def test_every_optimizer_goes_with_every_kind_of_replica(world, name, rule):
    options = KINDS.get(name, {"replicas": 3})
    real = Trainer(Autoencoder(20, hidden=(8, 3)), strategy=name, optimizer=optimizer(rule), epochs=1, batch_size=50,
                   seed=4, **options).fit(ROWS, TEST)
    run = simulate(Autoencoder(20, hidden=(8, 3)), ArraySource(ROWS), ArraySource(TEST), strategy(name, **options),
                   world.size, optimizer(rule), epochs=1, batch_size=50, seed=4)
    np.testing.assert_array_equal(run.parameters, real.parameters)


def test_times_do_not_change_results_and_books_add_up():
    a = simulated("averaging", 8, period=2, machine=Machine(seed=1, jitter=0.5, uneven=0.5))
    b = simulated("averaging", 8, period=2, machine=Machine(seed=2, latency=1.0))
    assert np.array_equal(a.parameters, b.parameters)
    assert [point["test_loss"] for point in a.curve] == [point["test_loss"] for point in b.curve]
    assert a.seconds != b.seconds and b.share("communication") > 0.5
    for run in (a, b):
        for each in run.timelines:
            assert each.compute + each.wait + each.communication == pytest.approx(each.now)
        assert [point["seconds"] for point in run.curve] == sorted(point["seconds"] for point in run.curve)
        assert run.curve[-1]["samples"] == 3 * len(ROWS)


def test_sending_less_often_sends_less():
    often, seldom = (simulated("averaging", 4, period=period).bytes_per_step for period in (1, 5))
    assert often == pytest.approx(5 * seldom)
    assert simulated("local", 4).bytes_per_step == 0


SERVED = [("server", {"mode": "sync"}), ("server", {"mode": "sync", "backup": 2}), ("server", {"mode": "ssp"}),
          ("server", {"mode": "async", "servers": 2, "push_every": 2, "fetch_every": 2}),
          ("elastic", {"mode": "async", "tau": 2})]


@pytest.mark.mpi(min_size=2)
def test_a_server_in_step_gives_what_as_many_ranks_give(world):
    run = simulated("server", world.size - 1, mode="sync")
    real = Trainer(Autoencoder(20, hidden=(8, 3)), strategy="server", epochs=3, batch_size=50, seed=4).fit(ROWS, TEST)
    np.testing.assert_allclose(run.parameters, real.parameters, rtol=1e-3, atol=2e-5)
    assert run.servers[0]["workers"] == real.summary["server"]["workers"]


@pytest.mark.parametrize(("name", "options"), SERVED, ids=str)
def test_servers_at_many_workers(name, options):
    run, again = (simulated(name, 40, machine=Machine(seed=1, jitter=0.5, straggler=3), **options) for _ in range(2))
    assert run.curve == again.curve and run.seconds == again.seconds and run.servers == again.servers
    assert np.array_equal(run.parameters, again.parameters)
    assert run.curve[-1]["test_loss"] < run.curve[0]["test_loss"]
    assert [point["step"] for point in run.curve] == sorted({point["step"] for point in run.curve})
    for each in run.timelines:
        assert each.compute + each.wait + each.communication == pytest.approx(each.now)
    books = run.servers[0]
    if name == "server":
        assert sum(worker["samples"] for worker in books["workers"]) + books["dropped_samples"] == 3 * len(ROWS)
        assert (books["dropped"] > 0) == ("backup" in options)


def test_in_step_a_server_is_allreduce():
    served, plain = simulated("server", 5, mode="sync"), simulated("allreduce", 5)
    np.testing.assert_allclose(served.parameters, plain.parameters, rtol=1e-3, atol=2e-5)


def test_512_workers_on_8_servers():
    chosen = strategy("server", mode="async", servers=8)
    run = simulate(Autoencoder(20, hidden=(4,)), ArraySource(ROWS), ArraySource(TEST), chosen, 512, optimizer("adam"),
                   epochs=1, batch_size=203)
    assert sum(worker["samples"] for worker in run.servers[0]["workers"]) == len(ROWS)
    assert max(map(int, run.servers[0]["staleness"])) > 100  # nearly all begin with the first version


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ParameterError, match="needs 2 ranks, and there is 1"):
        simulated("gossip", 1)

    class Moody:
        """Asks for a sum with rows only."""

        layout, buffers = Layout([Slice("w", (3,))]), Layout()

        def initialise(self, parameters, buffers, seed, data):
            parameters[:] = 0

        def gradient(self, parameters, gradients, buffers, batch):
            return float(batch.sum(np.ones(1, dtype=np.float32))[0]) if len(batch) else 0.0

    with pytest.raises(ParameterError, match="every worker must call it equally often, also without rows"):
        simulated("allreduce", 2, model=Moody())
