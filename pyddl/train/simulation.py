"""Simulated training: real models, rows and arithmetic, on workers that exist only on a virtual clock."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np

from pyddl.comm.operations import Epoch
from pyddl.comm.simulated import Machine, Simulation, Timeline
from pyddl.comm.simulated_servers import Published
from pyddl.data import Source
from pyddl.data.prefetch import Loader
from pyddl.data.sampler import Sampler
from pyddl.data.statistics import Statistics
from pyddl.data.tickets import SliceLoader, TicketLoader, Tickets
from pyddl.errors import ParameterError
from pyddl.models.protocol import Model
from pyddl.optim import Optimizer
from pyddl.strategies import Steps, Strategy
from pyddl.train.evaluation import evaluate
from pyddl.train.replica import Replica
from pyddl.train.server import Server
from pyddl.train.worker import Worker

R = TypeVar("R", bound=Replica)

__all__ = ["Simulated", "check", "simulate"]

POINTS = 16  # of a curve
LOADER_BYTES = 1 << 14  # small: there may be hundreds of workers


@dataclass
class Simulated:
    """What a simulated training gave.

    Attributes
    ----------
    strategy : str
    workers, steps : int
    curve : list of dict
        ``step``, virtual ``seconds``, ``samples``; of the settled model ``test_loss`` and perhaps
        ``test_squared_error``.
    timelines : list of Timeline
        Of each rank: of servers, then of workers.
    parameters : ndarray
        As all workers have them at the end.
    servers : list of dict
        What each server has received, as `pyddl.train.server.Books` sums it up.
    """

    strategy: str
    workers: int
    steps: int
    curve: list[dict[str, Any]]
    timelines: list[Timeline]
    parameters: np.ndarray
    servers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return max(timeline.now for timeline in self.timelines)

    def share(self, part: str) -> float:
        """Mean share of the workers' time: ``compute``, ``wait`` or ``communication``."""
        return float(np.mean([getattr(timeline, part) for timeline in self._of_workers])) / self.seconds

    @property
    def bytes_per_step(self) -> float:
        """Sent by a worker, in the mean."""
        return float(np.mean([timeline.bytes_sent for timeline in self._of_workers])) / self.steps

    @property
    def _of_workers(self) -> list[Timeline]:
        return self.timelines[len(self.timelines) - self.workers :]


def simulate(model: Model, data: Source, test: Source, strategy: Strategy, workers: int, optimizer: Optimizer, *,
             epochs: int = 1, batch_size: int = 256, seed: int = 0, machine: Machine | None = None,
             server_optimizer: Optimizer | None = None, points: int = POINTS) -> Simulated:
    """Train ``model`` with as many workers as wanted in this process.

    Rows, batches, seeds and results are those of so many MPI ranks; times are the machine's.

    Parameters
    ----------
    workers : int
        Servers, where the strategy has any, are besides. With 512 workers 512 copies of all vectors are kept: take a
        small model.
    batch_size : int
        Samples per step of all workers together.
    server_optimizer : Optimizer, optional
        What servers update by; the workers' by default.
    points : int, default=16
        Of the curve, at the least.

    Raises
    ------
    ParameterError
        The strategy refuses so many workers, or makes one of all; or the model needs sums over the whole batch.
    """
    check(strategy, workers, batch_size, data)
    servers = strategy.servers
    sampler = Sampler(len(data), batch_size, seed)
    steps = epochs * sampler.steps_per_epoch
    simulation = Simulation(machine)
    everyone = _Everyone(strategy, workers)
    snapshots = _Snapshots(model, test, everyone, max(1, steps // points), sampler, simulation)
    rule = server_optimizer or optimizer
    fences = _Fences(everyone, sampler, epochs)
    for number in range(servers):
        server = Server(model, rule, sampler, number=number, count=servers, workers=workers, seed=seed)
        server.on_publish = partial(snapshots.see_server, server)
        everyone.servers.append(server)
    for number in range(workers):
        worker = Worker(model, optimizer, sampler, number=number, count=workers, seed=seed, batch_sum=_no_sum,
                        vectors=strategy.vectors, sharded=strategy.shards)
        if servers == 0:
            worker.on_step = partial(snapshots.see, worker)
        if strategy.replicas is not None:
            worker.host(strategy.replicas)
        if strategy.tickets:
            worker.loader = TicketLoader(data, sampler, strategy.slices(workers), fences.claim)
        else:
            worker.open(data, 0, steps, buffer_bytes=LOADER_BYTES, background=False)
            if servers:
                worker.loader = SliceLoader(cast(Loader, worker.loader), fences.claim)
        everyone.workers.append(worker)
    statistics = Statistics(data)
    for each in everyone:
        model.initialise(each.parameters, each.buffers, seed, statistics)
        each.merged[:] = each.buffers
        each.on_epoch = partial(fences.pass_one, each)
    simulation.run(everyone.roles(), list(everyone), everyone.serve())
    timelines = simulation.timelines
    snapshots.finish(steps, max(timeline.now for timeline in timelines))
    everyone.settle()
    first, books = everyone.workers[0], [server.books.summary(server.version) for server in everyone.servers]
    return Simulated(strategy.name, workers, steps, snapshots.curve, timelines, first.parameters, books)


def check(strategy: Strategy, workers: int, batch_size: int, data: Source) -> None:
    """Raise `ParameterError` where the strategy cannot be simulated with so many workers."""
    if strategy.one_group:
        raise ParameterError(f"strategy {strategy.name} makes all ranks one worker; each simulated one has a model")
    strategy.check(strategy.servers + workers, min(batch_size, len(data)))


class _Everyone:
    """Servers, then workers."""

    def __init__(self, strategy: Strategy, count: int):
        self.strategy, self.count = strategy, count
        self.servers: list[Server] = []
        self.workers: list[Worker] = []

    def __iter__(self) -> Iterator[Any]:
        return iter([*self.servers, *self.workers])

    def roles(self) -> list[Steps]:
        """What each does."""
        return [*map(self.strategy.server, self.servers), *map(self.strategy.worker, self.workers)]

    def serve(self) -> list[Published]:
        """The servers' ports, with their first version."""
        ports = [Published(server.parameters[server.share]) for server in self.servers]
        for server, port in zip(self.servers, ports, strict=True):
            server.serve(port)
            port.publish(0)
            server.version = port.version
        return ports

    def copy(self) -> _Everyone:
        """Copies of what settling changes."""
        twins = _Everyone(self.strategy, self.count)
        twins.servers, twins.workers = list(map(_copy, self.servers)), list(map(_copy, self.workers))
        return twins

    def settle(self) -> None:
        """Give all of them the values that training stands for."""
        ports = [Published(server.port.current()) for server in self.servers]
        Simulation().run([self.strategy.settle(me) for me in self], list(self), ports)


class _Fences:
    """Epochs and tickets, where there are servers."""

    def __init__(self, everyone: _Everyone, sampler: Sampler, epochs: int):
        self.everyone, self.sampler, self.epochs = everyone, sampler, epochs
        self.slices = everyone.strategy.slices(everyone.count)
        self._number = 0
        self._passed = 0
        self._left = 0
        self._given = 0

    def pass_one(self, replica: Replica) -> Epoch | None:
        """One rank passes the fence; all do before any goes on."""
        if self._passed == 0:
            self._number += 1
            self._left = Tickets(self.sampler, self.slices).count
            self._given = 0
        self._passed = (self._passed + 1) % (len(self.everyone.servers) + self.everyone.count)
        if self._number > self.epochs:
            return None
        if isinstance(replica, Worker):
            cast(TicketLoader, replica.loader).begin_epoch(self._number - 1)
        else:
            cast(Server, replica).consumed = (self._number - 1) * self.sampler.rows
        per_epoch = self.sampler.steps_per_epoch
        return Epoch(self._number, (self._number - 1) * per_epoch, per_epoch)

    def claim(self) -> int | None:
        """The next ticket of this epoch."""
        if self._given == self._left:
            return None
        self._given += 1
        return self._given - 1


class _Snapshots:
    """Copies of all workers after the same step, each made when that worker was there, and what they are worth.

    Where there are servers: of what they serve when so many steps' samples have arrived.
    """

    def __init__(self, model: Model, test: Source, everyone: _Everyone, every: int, sampler: Sampler,
                 simulation: Simulation):
        self.model, self.test, self.everyone, self.every, self.sampler = model, test, everyone, every, sampler
        self.simulation = simulation
        self.curve: list[dict[str, Any]] = []
        self._waiting: dict[int, list[tuple[float, Worker]]] = {}

    def see(self, worker: Worker) -> None:
        if worker.step % self.every:
            return
        there = self._waiting.setdefault(worker.step, [])
        there.append((self.simulation.timelines[worker.number].now, _copy(worker)))
        if len(there) < worker.count:
            return
        twins = _Everyone(self.everyone.strategy, worker.count)
        twins.workers = sorted((each for _, each in self._waiting.pop(worker.step)), key=lambda each: each.number)
        self._judge(twins, worker.step, max(when for when, _ in there))

    def see_server(self, server: Server) -> None:
        """Server 0 has published."""
        last = self.curve[-1]["step"] if self.curve else 0
        if server.number == 0 and server.steps // self.every > last // self.every:
            self._judge(self.everyone.copy(), server.steps, self.simulation.now)

    def finish(self, steps: int, seconds: float) -> None:
        """All is over: where servers were seldom told of samples, the last point is still missing."""
        if not self.curve or self.curve[-1]["step"] < steps:
            self._judge(self.everyone.copy(), steps, seconds)

    def _judge(self, twins: _Everyone, step: int, seconds: float) -> None:
        twins.settle()
        first = twins.workers[0]
        scores = evaluate(self.model, first.parameters, first.buffers, self.test)
        self.curve.append({"step": step, "seconds": seconds, "samples": self.sampler.consumed(step),
                           **{f"test_{name}": value for name, value in scores.items()}})


def _copy(replica: R) -> R:
    twin = copy.copy(replica)
    for name in ("parameters", "buffers", "merged"):
        setattr(twin, name, getattr(replica, name).copy())
    twin.vectors = {name: vector.copy() for name, vector in replica.vectors.items()}
    twin.counters = dict(replica.counters)
    return twin


def _no_sum(vector: np.ndarray) -> np.ndarray:
    raise ParameterError("this model uses statistics of the whole batch (batch.sum), which simulated workers cannot "
                         "give: each computes its gradient in one piece")
