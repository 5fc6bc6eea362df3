"""Allreduce and local: golden trajectories against descent in one loop, by MPI and in the simulation."""

import numpy as np
import pytest
from golden import (
    MEMBERS,
    RATE,
    STEPS,
    Worker,
    assert_follows,
    assert_same,
    by_mpi,
    by_simulation,
    gradient_sum,
    mean_gradient,
    samples_of,
)

from pyddl.comm.driver import drive
from pyddl.comm.operations import BeginStep, Sum
from pyddl.comm.transport import Alone
from pyddl.errors import StrategyError
from pyddl.strategies import Allreduce, Local, strategy


def reference(workers, clip=None):
    """Synchronous descent in double precision; the last parameters are the settled ones."""
    x, trajectory = np.zeros(len(MEMBERS)), []
    for t in range(STEPS):
        samples = sum(samples_of(t, w) for w in range(workers))
        mean = sum(gradient_sum(x, t, w) for w in range(workers)) / samples
        if clip is not None:
            mean = mean * min(1, clip / np.linalg.norm(mean))
        x = x - RATE * mean
        trajectory.append(x)
    return [*trajectory, x]


def reference_of_one(worker):
    """Descent on the rows of one worker alone."""
    x, trajectory = np.zeros(len(MEMBERS)), []
    for t in range(STEPS):
        x = x - RATE * mean_gradient(x, t, worker)
        trajectory.append(x)
    return [*trajectory, x]


@pytest.mark.mpi
@pytest.mark.parametrize("ordered", [False, True])
def test_allreduce_follows_the_reference_on_every_rank(world, ordered):
    if ordered and world.size & (world.size - 1):
        pytest.skip("ordered sums need a power of two")
    me = by_mpi(world, strategy("allreduce"), ordered=ordered)
    assert_follows(me, reference(world.size))
    everywhere = world.transport.gather(me.parameters.astype(np.float64))
    assert all(np.array_equal(each, everywhere[0]) for each in everywhere)
    simulated = by_simulation(strategy("allreduce"), world.size)[world.rank]
    if ordered:
        assert_same(me, simulated)
    else:  # a transport may add in an order of its own
        assert_follows(me, simulated.trajectory)


@pytest.mark.mpi
def test_local_follows_its_own_rows_and_sends_nothing(world):
    sent = world.transport.bytes_sent
    me = Worker(world.rank, world.size, Local())
    drive(Local().worker(me), me, world.transport)
    assert world.transport.bytes_sent == sent
    me = by_mpi(world, Local())
    assert_follows(me, reference_of_one(world.rank))
    assert_same(me, by_simulation(Local(), world.size)[world.rank])


def test_on_one_worker_allreduce_is_local():
    assert_same(by_simulation(Allreduce(), 1)[0], by_simulation(Local(), 1)[0])


def test_what_allreduce_yields_is_one_sum_per_step():
    me = Worker(0, 1, Local())
    yielded = []

    def spied(steps, answer=None):
        while True:
            try:
                operation = steps.send(answer)
            except StopIteration:
                return
            yielded.append(operation)
            answer = yield operation

    drive(spied(Allreduce().worker(me)), me, Alone())
    assert sum(isinstance(operation, Sum) for operation in yielded) == STEPS
    assert isinstance(yielded[0], BeginStep) and isinstance(yielded[-1], BeginStep)


def test_an_unknown_operation_is_named():
    def guessing():
        yield "guess"

    with pytest.raises(StrategyError, match="'guess', which is no operation"):
        drive(guessing(), Worker(0, 1, Local()), Alone())


# ---- sharded optimizer state, and the simulation

@pytest.mark.mpi
@pytest.mark.parametrize("clip", [None, 1.5])
def test_shards_of_the_optimizer_follow_the_reference(world, clip):
    chosen = strategy("allreduce", shard_optimizer=True)
    me = by_mpi(world, chosen, clip=clip)
    assert_follows(me, reference(world.size, clip))
    assert_same(me, by_simulation(chosen, world.size, clip=clip)[world.rank])


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("shard_optimizer", [False, True])
def test_the_simulation_follows_the_reference(workers, shard_optimizer):
    for me in by_simulation(strategy("allreduce", shard_optimizer=shard_optimizer), workers):
        assert_follows(me, reference(workers))


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_shards_do_not_change_a_bit(workers):
    whole, sharded = (by_simulation(strategy("allreduce", shard_optimizer=each), workers) for each in (False, True))
    for a, b in zip(whole, sharded, strict=True):
        assert_same(a, b)
