"""What golden trajectories share: workers with gradients of our own, and a plain reference's bookkeeping.

A test runs the same strategy by MPI and in the simulation, and compares every parameter after every step with a loop
in double precision that was written from the paper.
"""

from dataclasses import replace

import numpy as np

from pyddl.comm.cut import shares
from pyddl.comm.driver import drive
from pyddl.comm.group import Groups
from pyddl.comm.machine import Machine
from pyddl.comm.simulated import Simulation
from pyddl.layout import Layout, Slice
from pyddl.strategies import Local, Turn

LAYOUT = Layout([Slice("a", (3,)), Slice("b", (20,))])
STEPS = 12
RATE = 0.1
SEED = 7
MEMBERS = np.concatenate([np.arange(s.begin, s.end) for s in LAYOUT])


def gradient_sum(parameters, step, worker):
    """What a worker's rows give: a bent function of the parameters, so that a wrong order or scale shows."""
    k = 1 + worker + 3 * (step % 5)
    return (np.sin(parameters * k) + k / 4) * samples_of(step, worker)


def samples_of(step, worker):
    return (worker + step) % 3 + (worker == 0)  # uneven, and sometimes none


def mean_gradient(parameters, step, worker):
    """Zero where the worker has no rows."""
    return gradient_sum(parameters, step, worker) / max(1, samples_of(step, worker))


class Worker:
    """The gradients above, plain descent, and a record of every step."""

    def __init__(self, number, count, strategy, steps=STEPS, clip=None):
        self.number, self.count, self.layout, self.seed = number, count, LAYOUT, SEED
        self.parameters, self.gradients = LAYOUT.zeros(), LAYOUT.zeros()
        self.whole, self.trained = self.parameters, [slice(0, LAYOUT.size)]
        self.vectors = {name: LAYOUT.zeros() for name in strategy.vectors}
        self.buffers = np.zeros(0, dtype=np.float32)
        self.share = slice(*shares(LAYOUT.size, count)[number : number + 2]) if strategy.shards else slice(None)
        self.clips = clip is not None
        self.clip = clip
        self.counters, self.samples, self.step, self.steps, self.trajectory = {}, 0, 0, steps, []
        self.replicas = []
        if strategy.replicas is not None:
            mine = range(number, strategy.replicas, count)
            self.replicas = [Worker(replica, strategy.replicas, Local(), steps) for replica in mine]

    def begin_step(self):
        if self.step == self.steps:
            return False
        self.samples = samples_of(self.step, self.number)
        return True

    def turns(self):
        yield Turn("all", slice(0, LAYOUT.size), True)

    def compute(self):
        self.gradients[:] = 0
        self.gradients[MEMBERS] = gradient_sum(self.parameters[MEMBERS], self.step, self.number)

    def squared_norm(self):
        return float(np.sum(self.gradients[self.share].astype(np.float64) ** 2))

    def update(self, operation):
        scale, squared_norm = operation.scale, operation.squared_norm
        if self.clip is not None:
            norm = scale * (self.squared_norm() if squared_norm is None else squared_norm) ** 0.5
            scale *= min(1, self.clip / norm)
        self.parameters[self.share] -= np.float32(RATE * scale) * self.gradients[self.share]

    def merge_buffers(self, weights=None):
        yield from ()

    def step_done(self):
        self.step += 1
        for replica in self.replicas:
            replica.step += 1
        self.trajectory.append(self.parameters[MEMBERS].copy())

    def settled(self):
        return self.parameters[MEMBERS].copy()


def by_mpi(world, strategy, *, per_node=None, clip=None, **keywords):
    """Train over the world; the worker of this rank, with the settled parameters as the last of its trajectory.

    With ``per_node`` the groups are made as if so many ranks were on each node.
    """
    me = Worker(world.rank, world.size, strategy, clip=clip)
    with Groups(world if per_node is None else replace(world, node=world.rank // per_node)) as groups:
        if strategy.locks:
            groups.open_lock()
        drive(strategy.worker(me), me, world.transport, groups=groups, **keywords)
        drive(strategy.settle(me), me, world.transport, groups=groups)
    me.trajectory.append(me.settled())
    return me


def by_simulation(strategy, workers, *, per_node=None, machine=None, clip=None):
    """The same for all workers, on a virtual clock."""
    machine = machine or Machine(workers_per_node=per_node or 1, jitter=0.5, uneven=0.5)
    everyone = [Worker(number, workers, strategy, clip=clip) for number in range(workers)]
    Simulation(machine).run([strategy.worker(me) for me in everyone], everyone)
    Simulation(machine).run([strategy.settle(me) for me in everyone], everyone)
    for me in everyone:
        me.trajectory.append(me.settled())
    return everyone


def assert_same(a, b):
    """Two workers have the same trajectory, to the bit."""
    for step, (x, y) in enumerate(zip(a.trajectory, b.trajectory, strict=True)):
        np.testing.assert_array_equal(x, y, err_msg=f"worker {a.number}, step {step}")


def assert_follows(worker, expected):
    """``expected``: the parameters after each step, and the settled ones."""
    assert len(worker.trajectory) == len(expected) == STEPS + 1
    for step, (got, wanted) in enumerate(zip(worker.trajectory, expected, strict=True)):
        np.testing.assert_allclose(got, wanted, rtol=2e-4, atol=1e-5, err_msg=f"worker {worker.number}, step {step}")


def weighted_mean(values, weights):
    return sum(w * x for x, w in zip(values, weights, strict=True)) / sum(weights)
