"""Allreduce and local: golden trajectories with gradients of our own, by MPI on any number of ranks."""

import golden
import numpy as np
import pytest

from pyddl.comm.driver import drive
from pyddl.comm.operations import Sum, compute
from pyddl.comm.transport import Alone
from pyddl.errors import InternalError
from pyddl.layout import Layout, Slice
from pyddl.strategies import Allreduce, Local, strategy

LAYOUT = Layout([Slice("a", (3,)), Slice("b", (20,))])
STEPS = 5
RATE = 0.1


def sum_of_gradients(parameters, step, worker):
    """What a worker's rows give: a bent function of the parameters, so that a wrong order or scale shows."""
    k = 1 + worker + 3 * step
    return (np.sin(parameters * k) + k).astype(np.float32) * samples_of(step, worker)


def samples_of(step, worker):
    return (worker + step) % 3 + (worker == 0)  # uneven, and sometimes none


class Recorder:
    """A worker with the gradients above, plain descent, and a record of every step."""

    def __init__(self, number, count):
        self.number, self.count, self.layout = number, count, LAYOUT
        self.parameters, self.gradients = LAYOUT.zeros(), LAYOUT.zeros()
        self.samples, self.step, self.trajectory = 0, 0, []

    def compute(self):
        if self.step == STEPS:
            return False
        self.gradients[:] = sum_of_gradients(self.parameters, self.step, self.number)
        self.samples = samples_of(self.step, self.number)
        return True

    def update(self, *, scale):
        self.parameters -= np.float32(RATE * scale) * self.gradients

    def step_done(self):
        self.step += 1
        self.trajectory.append(self.parameters.copy())


def reference(workers, of=None):
    """Synchronous descent in one loop and double precision; only worker ``of`` where given."""
    parameters, trajectory = np.zeros(LAYOUT.size), []
    chosen = range(workers) if of is None else [of]
    for step in range(STEPS):
        total = sum(sum_of_gradients(parameters, step, w) for w in chosen)
        samples = sum(samples_of(step, w) for w in chosen)
        if samples:
            parameters = parameters - RATE * total / samples
        trajectory.append(parameters)
    return trajectory


@pytest.mark.mpi
@pytest.mark.parametrize("ordered", [False, True])
def test_allreduce_follows_the_reference_on_every_rank(world, ordered):
    if ordered and world.size & (world.size - 1):
        pytest.skip("ordered sums need a power of two")
    me = Recorder(world.rank, world.size)
    drive(Allreduce().worker(me), me, world.transport, ordered=ordered)
    assert len(me.trajectory) == STEPS
    for got, expected in zip(me.trajectory, reference(world.size), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    everywhere = world.transport.gather(me.parameters.astype(np.float64))
    assert all(np.array_equal(each, everywhere[0]) for each in everywhere)


@pytest.mark.mpi
def test_local_follows_its_own_rows_and_sends_nothing(world):
    me = Recorder(world.rank, world.size)
    sent = world.transport.bytes_sent
    drive(Local().worker(me), me, world.transport)
    for got, expected in zip(me.trajectory, reference(world.size, of=world.rank), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert world.transport.bytes_sent == sent


def test_on_one_worker_allreduce_is_local():
    runs = []
    for chosen in (Allreduce(), Local()):
        me = Recorder(0, 1)
        drive(chosen.worker(me), me, Alone())
        runs.append(me.parameters)
    assert np.array_equal(*runs)


def test_what_allreduce_yields_is_one_sum_per_step():
    me = Recorder(0, 1)
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
    assert yielded[0] is compute() and yielded[-1] is compute()


def test_an_unknown_operation_is_named():
    def strategy():
        yield "guess"

    with pytest.raises(InternalError, match="'guess', which is no operation"):
        drive(strategy(), Recorder(0, 1), Alone())


# ---- sharded optimizer state, and the simulation ------------------------------------------------------------------


def clipped_reference(workers, clip=None):
    """Synchronous descent in one loop and double precision; the last parameters are the settled ones."""
    x, trajectory = np.zeros(len(golden.MEMBERS)), []
    for t in range(golden.STEPS):
        samples = sum(golden.samples_of(t, w) for w in range(workers))
        mean = sum(golden.gradient_sum(x, t, w) for w in range(workers)) / samples
        if clip is not None:
            mean = mean * min(1, clip / np.linalg.norm(mean))
        x = x - golden.RATE * mean
        trajectory.append(x)
    return [*trajectory, x]


@pytest.mark.mpi
@pytest.mark.parametrize("clip", [None, 1.5])
def test_shards_of_the_optimizer_follow_the_reference(world, clip):
    chosen = strategy("allreduce", shard_optimizer=True)
    me = golden.by_mpi(world, chosen, clip=clip)
    golden.assert_follows(me, clipped_reference(world.size, clip))
    golden.assert_same(me, golden.by_simulation(chosen, world.size, clip=clip)[world.rank])


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("shard_optimizer", [False, True])
def test_the_simulation_follows_the_reference(workers, shard_optimizer):
    for me in golden.by_simulation(strategy("allreduce", shard_optimizer=shard_optimizer), workers):
        golden.assert_follows(me, clipped_reference(workers))


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_shards_do_not_change_a_bit(workers):
    whole, sharded = (golden.by_simulation(strategy("allreduce", shard_optimizer=each), workers)
                      for each in (False, True))
    for a, b in zip(whole, sharded, strict=True):
        golden.assert_same(a, b)
