"""Golden trajectories with servers: workers with gradients of our own, servers by plain descent, and their logs.

What an asynchronous run gives depends on who came first. So every worker logs which slices it took on which versions,
every server in which order pushes came; a reference in double precision, written from the papers, is driven by these.
"""

from functools import cache

import numpy as np
from golden import LAYOUT, MEMBERS, RATE, SEED, gradient_sum, samples_of

from pyddl.comm.cut import shares
from pyddl.comm.driver import drive
from pyddl.comm.machine import Machine
from pyddl.comm.operations import Epoch
from pyddl.comm.server import ServerPort, serve
from pyddl.comm.simulated import Simulation
from pyddl.comm.simulated_servers import Published
from pyddl.strategies import Turn

EPOCHS, STEPS = 2, 6  # steps of each epoch


class Worker:
    """Takes slices by tickets, or its own of each step, and logs each gradient.

    ``log`` has for each: epoch, step, slice, the versions of the last fetch, and whether that was since the last one.
    ``points`` are the parameters where they were taken.
    """

    def __init__(self, number, count, strategy, claim):
        self.number, self.count, self.layout, self.seed = number, count, LAYOUT, SEED
        self.parameters, self.gradients, self.buffers = LAYOUT.zeros(), LAYOUT.zeros(), np.zeros(0, dtype=np.float32)
        self.whole, self.trained = self.parameters, [slice(0, LAYOUT.size)]
        self.vectors = {name: LAYOUT.zeros() for name in strategy.vectors}
        self.counters, self.samples, self.step, self.restarts = {}, 0, 0, 0
        self.tickets, self.slices = strategy.tickets, strategy.slices(count)
        self.claim, self.epoch, self.done = claim, 0, 0
        self.log, self.points, self.versions, self.fresh = [], [], (), False
        self.begin = lambda: None

    def next_epoch(self):
        self.begin()
        self.epoch, self.done = self.epoch + 1, 0
        return Epoch(self.epoch, (self.epoch - 1) * STEPS, STEPS) if self.epoch <= EPOCHS else None

    def fetched(self, version):
        self.versions, self.fresh = version if isinstance(version, tuple) else (version,), True

    def begin_step(self):
        while True:
            if self.tickets:
                ticket = self.claim()
                if ticket is None:
                    return False
                step, part = ticket // self.slices, ticket % self.slices
            else:
                if self.done == STEPS:
                    return False
                step, part = self.done, self.number
            self.done += 1
            step += (self.epoch - 1) * STEPS
            self.samples = samples_of(step, part)
            if self.samples or not self.tickets:
                break
        self.taken = step, part
        self.samples_of_step = sum(samples_of(step, each) for each in range(self.slices))
        return True

    def turns(self):
        yield Turn("all", slice(0, LAYOUT.size), True)

    def place_of(self, phase):
        return 0, LAYOUT.size

    def compute(self):
        step, part = self.taken
        self.gradients[:] = 0
        self.gradients[MEMBERS] = gradient_sum(self.parameters[MEMBERS], step, part)
        self.log.append((self.epoch, step, part, self.versions, self.fresh))
        self.points.append(self.parameters[MEMBERS].copy())
        self.fresh = False

    def update(self, operation):
        self.parameters -= np.float32(RATE * operation.scale) * self.gradients

    def restart(self):
        self.restarts += 1

    def merge_buffers(self, weights=None):
        yield from ()

    def step_done(self):
        self.step += 1


class Server:
    """Plain descent. ``log`` has the worker, version and samples of each push; ``history`` all versions."""

    def __init__(self, number, count, workers, strategy, port):
        bounds = shares(LAYOUT.size, count).tolist()
        self.share = slice(*bounds[number : number + 2])
        self.workers, self.port, self.slices = workers, port, strategy.slices(workers)
        self.parameters, self.counters, self.version, self.epoch = LAYOUT.zeros(), {}, 0, 0
        self.sums = {"all": np.zeros(self.share.stop - self.share.start, dtype=np.float32)}
        self.log, self.history, self.dropped, self.rates, self.weights = [], [self.sums["all"].copy()], [], [], []
        self.begin = lambda: None

    def next_epoch(self):
        self.epoch += 1
        self.begin()
        if self.epoch > EPOCHS:
            return None
        return Epoch(self.epoch, (self.epoch - 1) * STEPS, STEPS)

    def received(self, arrived):
        self.log.append((arrived.worker, arrived.version, arrived.samples))
        self.weights.append(arrived.weight)
        return arrived._replace(staleness=self.version - arrived.version)

    @property
    def steps(self):
        arrived, steps = sum(samples for *_, samples in self.log), 0
        while steps < EPOCHS * STEPS and arrived >= (need := sum(samples_of(steps, s) for s in range(self.slices))):
            arrived, steps = arrived - need, steps + 1
        return steps

    def update(self, operation):
        self.rates.append(operation.rate)
        factor = np.float32(RATE * operation.scale * operation.rate)
        self.port.free()[:] = self.port.current() - factor * operation.vector

    def add(self, vector):
        self.port.free()[:] = self.port.current() + vector

    def drop(self, arrived):
        self.dropped.append((arrived.worker, arrived.version, arrived.samples))

    def published(self, version):
        if version != self.version:
            self.history.append(self.port.current().copy())
        self.version = version

    def merge_buffers(self, weights=None):
        yield from ()


def roles(strategy, servers, workers):
    return [*map(strategy.server, servers), *map(strategy.worker, workers)]


def by_simulation(strategy, count, machine=None):
    """Servers and workers of a run on a virtual clock, and its timelines; the settled parameters are last."""
    simulation, given = Simulation(machine or Machine(jitter=0.5, uneven=0.5)), [0]

    def claim():
        if given[0] == STEPS * strategy.slices(count):
            return None
        given[0] += 1
        return given[0] - 1

    bounds = shares(LAYOUT.size, strategy.servers)
    ports = [Published(np.zeros(size, dtype=np.float32)) for size in np.diff(bounds)]
    servers = [Server(s, strategy.servers, count, strategy, port) for s, port in enumerate(ports)]
    servers[0].begin = lambda: given.__setitem__(0, 0)
    workers = [Worker(w, count, strategy, claim) for w in range(count)]
    simulation.run(roles(strategy, servers, workers), [*servers, *workers], ports)
    Simulation().run([strategy.settle(me) for me in (*servers, *workers)], [*servers, *workers], ports)
    return servers, workers, simulation.timelines


def by_mpi(world, strategy):
    """This rank's server or worker; then the logs and histories of all, as if they were here."""
    count = world.size - strategy.servers
    phases = {"all": (0, LAYOUT.size)}
    with serve(world, world.transport, servers=strategy.servers, size=LAYOUT.size, phases=phases) as end:
        if isinstance(end, ServerPort):
            me = Server(world.rank, strategy.servers, count, strategy, end)
            me.begin = lambda: (world.transport.barrier(), end.begin_epoch(STEPS * strategy.slices(count)))
            end.free()[:] = 0
            assert end.publish(0) == 0
            role = strategy.server(me)
        else:
            me = Worker(world.rank - strategy.servers, count, strategy, end.claim)
            me.begin = world.transport.barrier
            role = strategy.worker(me)
        world.transport.barrier()
        drive(role, me, world.transport, end=end)
        drive(strategy.settle(me), me, world.transport, end=end)
    for each in ("port", "begin", "claim"):
        me.__dict__.pop(each, None)
    everyone = world.transport.gather_objects(me)
    return everyone[: strategy.servers], everyone[strategy.servers :]


class Reference:
    """What the papers say of a run with these logs: values of versions, and of each worker's points.

    Parameters
    ----------
    applied : list of list of list of (int, int, float)
        By server and version, from 1: the pushes in it, as worker, number among its pushes, and factor of the rate.
    """

    def __init__(self, workers, servers, strategy, applied):
        self.workers, self.strategy, self.applied = workers, strategy, applied
        self.shares = [np.flatnonzero((server.share.start <= MEMBERS) & (server.share.stop > MEMBERS))
                       for server in servers]
        for name in ("value", "point", "push"):
            setattr(self, name, cache(getattr(self, name)))

    def value(self, s, version):
        """A server's share of a version."""
        if version == 0:
            return np.zeros(len(self.shares[s]))
        pushes = [(*self.push(worker, number), rate) for worker, number, rate in self.applied[s][version - 1]]
        total = sum(vector for vector, *_ in pushes)[self.shares[s]]
        return self.value(s, version - 1) - RATE * pushes[0][2] * total / sum(samples for _, samples, _ in pushes)

    def fetched(self, versions):
        whole = np.zeros(len(MEMBERS))
        for s, version in enumerate(versions):
            whole[self.shares[s]] = self.value(s, version)
        return whole

    def point(self, worker, i):
        """Where a worker takes its i-th gradient."""
        _, step, part, versions, fresh = self.workers[worker].log[i]
        if fresh:
            return self.fetched(versions)
        _, step, part, *_ = self.workers[worker].log[i - 1]
        before = self.point(worker, i - 1)
        return before - RATE * gradient_sum(before, step, part) / samples_of(step, part)

    def push(self, worker, number):
        """The vector of a worker's push, and its samples."""
        members = self.members(worker)[number]
        parts = [(gradient_sum(self.point(worker, i), step, part), samples_of(step, part))
                 for i in members for _, step, part, *_ in [self.workers[worker].log[i]]]
        return sum(vector for vector, _ in parts), sum(samples for _, samples in parts)

    def members(self, worker):
        """Of each push the gradients in it: ``push_every`` of one epoch, or what is left of it."""
        every, found = self.strategy.push_every, []
        for epoch in range(1, EPOCHS + 1):
            mine = [i for i, entry in enumerate(self.workers[worker].log) if entry[0] == epoch]
            found += [mine[begin : begin + every] for begin in range(0, len(mine), every)]
        return found


def assert_follows(got, wanted, what):
    np.testing.assert_allclose(got, wanted, rtol=3e-4, atol=2e-5, err_msg=what)
