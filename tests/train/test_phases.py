"""Phases: an adversarial pair under every strategy, against a plain loop; by MPI and in the simulation."""

import re
import sys

import numpy as np
import pytest
import support
from phased_models import Pair
from phased_reference import TEST, flat, follow, logged, replay, replay_elastic, views_of
from phased_runs import KINDS, alone, assert_close, checked, per_node, simulated, train

from pyddl.comm.machine import Machine
from pyddl.layout import Layout, Slice
from pyddl.strategies import strategy
from pyddl.strategies.elastic import Elastic
from pyddl.strategies.server import Server

SERVED = {
    "in step": {"mode": "sync"},
    "in step on two servers": {"mode": "sync", "servers": 2},
    "bulk synchronous": {"mode": "ssp", "bound": 0},
    "ssp": {"mode": "ssp", "bound": 2, "push_every": 2, "fetch_every": 3},
    "async": {"mode": "async"},
    "async, stale steps whole": {"mode": "async", "staleness": "ignored"},
    "async on two servers": {"mode": "async", "servers": 2},
    "Downpour": {"mode": "async", "push_every": 3, "fetch_every": 2, "solo_steps": 3},
    "Downpour on two servers": {"mode": "async", "push_every": 2, "fetch_every": 4, "servers": 2},
}


@pytest.mark.mpi
@pytest.mark.parametrize("name", KINDS)
def test_every_strategy_follows_the_reference(world, name):
    kind, options, rule = checked(world, name)
    result = train(strategy=kind, **options)
    wanted = follow(Pair(), rule)
    if kind != "local" or world.rank == 0:
        assert_close(flat(Pair(), result.parameters), wanted.parameters)
        assert_close(flat(Pair(), result.averaged), wanted.averaged)
        assert not np.allclose(result.averaged, result.parameters, rtol=1e-3)
    if kind != "local":  # whose losses are rank 0's own
        for line, expected in zip(result.metrics, wanted.lines, strict=True):
            assert {name: line[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-4)
            assert line["train_loss"] == pytest.approx(line["train_loss_critic"] + line["train_loss_generator"])


@pytest.mark.mpi
@pytest.mark.parametrize("name", KINDS)
def test_the_simulation_gives_what_as_many_ranks_give(world, name):
    kind, options, _ = checked(world, name)
    result = train(strategy=kind, **options)
    chosen = strategy(kind, **options)
    run = simulated(chosen, world.size - chosen.servers, machine=Machine(workers_per_node=per_node(world)))
    if kind in ("allreduce", "server") or "sync_steps" in options:  # a transport may add in an order of its own
        assert_close(run.parameters, result.parameters)
    elif kind != "local" or world.rank == 0:
        np.testing.assert_array_equal(run.parameters, result.parameters)
    if kind != "local" or world.rank == 0:
        assert run.curve[-1]["test_loss"] == pytest.approx(result.metrics[-1]["test_loss"], rel=1e-5)


# ---- servers, by their logs


def served_logs(world, chosen):
    """A run over the world, and the logs of all servers and workers."""
    result = train(strategy=chosen)
    logs = world.transport.gather_objects(chosen.logs[0])
    return result, logs[: chosen.servers], logs[chosen.servers :]


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("name", SERVED)
def test_servers_follow_the_reference_by_their_logs(world, name):
    chosen = logged(Server)(**SERVED[name])
    if world.size <= chosen.servers:
        pytest.skip("needs more ranks")
    result, servers, workers = served_logs(world, chosen)
    wanted, averaged = replay(Pair(), servers, workers, scales=chosen.scales and chosen.mode != "sync", steps=15)
    assert_close(flat(Pair(), result.parameters), wanted)
    assert_close(flat(Pair(), result.averaged), averaged)


@pytest.mark.parametrize("workers", [1, 3, 6])
@pytest.mark.parametrize("name", SERVED)
def test_servers_follow_the_reference_in_the_simulation(name, workers):
    chosen = logged(Server)(**SERVED[name])
    run = simulated(chosen, workers, machine=Machine(jitter=0.5, uneven=0.5))
    wanted, averaged = replay(Pair(), chosen.logs[: chosen.servers], chosen.logs[chosen.servers :],
                              scales=chosen.scales and chosen.mode != "sync", steps=15)
    assert_close(flat(Pair(), run.parameters), wanted)
    copies = {name: value * len(TEST) for name, value in run.curve[-1].items() if name.startswith("test_")}
    expected = Pair().scores(views_of(Pair(), averaged), TEST.astype(np.float64))
    assert copies == pytest.approx({f"test_{name}": value for name, value in expected.items()}, rel=1e-4)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("delta", [0.0, 0.5])
def test_elastic_workers_follow_algorithm_1_by_their_logs(world, delta):
    chosen = logged(Elastic)(mode="async", tau=2, elastic_momentum=delta)
    result, servers, workers = served_logs(world, chosen)
    assert_close(flat(Pair(), result.parameters), replay_elastic(Pair(), servers[0], workers, delta=delta))


@pytest.mark.parametrize("workers", [1, 3, 6])
@pytest.mark.parametrize("delta", [0.0, 0.5])
def test_elastic_workers_follow_algorithm_1_in_the_simulation(delta, workers):
    chosen = logged(Elastic)(mode="async", tau=2, elastic_momentum=delta)
    run = simulated(chosen, workers, machine=Machine(jitter=0.5, uneven=0.5))
    assert_close(flat(Pair(), run.parameters), replay_elastic(Pair(), chosen.logs[0], chosen.logs[1:], delta=delta))


# ---- by messages, and with slices that travel early


class Wide(Pair):
    """Phases so long that finished slices travel during the backward pass."""

    name = "wide"
    layout = Layout([*(Slice(name, (40000,), "generator") for name in ("scale", "shift")),
                     *(Slice(name, (40000,), "critic") for name in ("w", "q"))])

    def sums(self, p, rows, batch):
        names = ("q", "w") if batch.phase == "critic" else ("shift", "scale")
        return rows.sum(), {name: 1e-2 * rows.sum() * np.cos(p[name] + batch.turn) for name in names}

    def scores(self, p, rows):
        return {"loss": rows.sum()}


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("options", [{}, {"shard_optimizer": True}, {"strategy": "server"},
                                     {"strategy": "averaging", "period": 2}, {"reproducible": True}], ids=str)
def test_long_phases_are_summed_by_their_own_slices(world, options):
    if options.get("reproducible") and world.size == 3:
        pytest.skip("reproducible needs a divisor of 8")
    with alone(world):
        one = train(Wide(), epochs=2, **{"reproducible": options.get("reproducible", False)})
    result = train(Wide(), epochs=2, **options)
    if "reproducible" in options:
        np.testing.assert_array_equal(result.parameters, one.parameters)
        np.testing.assert_array_equal(result.averaged, one.averaged)
    elif options.get("strategy") != "averaging":
        assert_close(result.parameters, one.parameters)
        assert_close(result.averaged, one.averaged)
    assert np.abs(result.parameters - one.parameters).max() < 0.2


def test_it_is_the_same_by_messages():
    done = support.run_ranks(3, [sys.executable, "-m", "pytest", "-q", "--only-mpi", "-x", __file__],
                             environ={"PYDDL_RANKS_PER_NODE": "1"}, timeout=100)
    assert done.code == 0, done.out + done.err
    assert re.search(r"[45]\d passed", done.out), done.out
