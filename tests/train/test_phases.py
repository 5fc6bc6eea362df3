"""Phases: an adversarial pair under every strategy, against a plain loop; by MPI and in the simulation."""

import numpy as np
import pytest
from phased_models import Pair
from phased_reference import TEST, flat, follow, logged, replay, views_of
from phased_runs import KINDS, assert_close, checked, simulated, train

from pyddl.comm.machine import Machine
from pyddl.strategies import strategy
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
    run = simulated(chosen, world.size - chosen.servers, machine=Machine(workers_per_node=world.size))
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
