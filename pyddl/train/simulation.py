"""Simulated training: real models, rows and arithmetic, on workers that exist only on a virtual clock."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np

from pyddl import _check
from pyddl.comm.cut import Cut
from pyddl.comm.machine import Machine, Timeline
from pyddl.comm.operations import Epoch
from pyddl.comm.simulated import Baton, Simulation
from pyddl.comm.simulated_servers import Published
from pyddl.data import Source, load
from pyddl.data.batch import Batch
from pyddl.data.prefetch import Loader, label_buffer
from pyddl.data.sampler import Sampler
from pyddl.data.statistics import Statistics
from pyddl.data.tickets import SliceLoader, TicketLoader, Tickets
from pyddl.errors import ParameterError, StrategyError
from pyddl.models.protocol import Model, finish
from pyddl.models.stages import stages_of
from pyddl.optim import Optimizer
from pyddl.optim.given import optimizer_of
from pyddl.strategies import Steps, Strategy
from pyddl.strategies.given import strategy_of
from pyddl.train.calendar import Calendar, Span
from pyddl.train.evaluation import evaluate
from pyddl.train.replica import Replica, chains_of, checked_buffers
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
    averaged : ndarray
        The same with averaged copies in their places.
    buffers : ndarray
        As one process has them.
    servers : list of dict
        What each server has received, as `pyddl.train.server.Received` sums it up.
    """

    strategy: str
    workers: int
    steps: int
    curve: list[dict[str, Any]]
    timelines: list[Timeline]
    parameters: np.ndarray
    averaged: np.ndarray
    buffers: np.ndarray
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


def simulate(model: Model, data: Source | np.ndarray, test: Source | np.ndarray | None = None,
             strategy: str | Strategy = "allreduce", workers: int = 4, optimizer: str | Optimizer = "adam", *,
             epochs: int = 1, batch_size: int = 256, seed: int = 0, machine: Machine | None = None,
             server_optimizer: str | Optimizer | None = None, points: int = POINTS,
             seen: Callable[[dict[str, Any], int], None] = lambda point, end: None) -> Simulated:
    """Train ``model`` with as many workers as wanted in this process, on a virtual clock.

    Rows, batches, seeds and results are those of so many MPI ranks; times are the machine's. ``pyddl simulate`` does
    this for several strategies and numbers of workers, and draws it.

    Parameters
    ----------
    model : Model
    data : Source or ndarray of shape (rows, features)
        What to train on.
    test : Source or ndarray, optional
        What the curve is measured on; by default the training rows.
    strategy : str or Strategy, default="allreduce"
        A name stands for its defaults; an object brings its own options, as `pyddl.strategies.strategy` makes it. One
        of your own may be simulated as any other.
    workers : int, default=4
        Servers, where the strategy has any, are besides. With 512 workers 512 copies of all vectors are kept: take a
        small model.
    optimizer : str or Optimizer, default="adam"
        A name stands for the rule with its default learning rate.
    epochs : int, default=1
    batch_size : int, default=256
        Samples per step of all workers together.
    seed : int, default=0
    machine : Machine, optional
        How long computes and messages take: `pyddl.comm.machine.Machine`, of which each figure has a default.
    server_optimizer : str or Optimizer, optional
        What servers update by; by default the strategy's own choice, else as the workers do.
    points : int, default=16
        Of the curve, at the least.
    seen : callable
        Called with each point of the curve as soon as it is known, and with the number of all steps.

    Returns
    -------
    Simulated

    Raises
    ------
    ParameterError
        The strategy refuses so many workers, or makes one of all.
    StrategyError
        It does not keep to the rules of its operations.

    Examples
    --------
    >>> import pyddl
    >>> digits = pyddl.data.load("digits")
    >>> model = pyddl.models.Autoencoder(digits.features, hidden=(16, 4))
    >>> gossip = simulate(model, digits, strategy="gossip", workers=16, epochs=2)
    >>> gossip.curve[-1]["test_loss"] < gossip.curve[0]["test_loss"]
    True
    >>> 0 < gossip.share("compute") < 1
    True
    """
    data = load(data)
    test = data if test is None else load(test)
    strategy = strategy_of(strategy, {})
    _check.name_or_object("optimizer", optimizer, Optimizer)
    check(strategy, workers, batch_size, data)
    sampler = Sampler(len(data), batch_size, seed, together=getattr(model, "rows_together", 1))
    calendar = Calendar(sampler, stages_of(model), epochs)
    checked_buffers(model.buffers, strategy, workers)
    strategy.check_stages([len(span.stage.phases) for span in calendar.spans])
    simulation = Simulation(machine)
    statistics = Statistics(data)
    batons = [Baton() for _ in range(workers)] if strategy.synchronous and _asks_for_sums(model, data) else []
    everyone = _Everyone.cast(model, strategy, sampler, workers, seed, batons)
    snapshots = _Snapshots(model, test, everyone, max(1, calendar.end // points), calendar, simulation, seen)
    fences = _Fences(everyone, calendar)
    for each in everyone:
        each.on_epoch = partial(fences.pass_one, each)
    for server in everyone.servers:
        server.on_publish = partial(snapshots.see_server, server)
    for worker in everyone.workers if not strategy.servers else ():
        worker.on_step = partial(snapshots.see, worker)
    timelines: list[Timeline] = []
    for span in calendar.spans:
        everyone.enter(span, optimizer, server_optimizer, getattr(model, "rate_scale", 1.0))
        if span.number == 0:
            for each in everyone:
                model.initialise(each.whole, each.buffers, seed, statistics)
                each.take_buffers(each.buffers)
        everyone.begin(span, seed, statistics)
        everyone.load(data, span, fences)
        snapshots.begin(span.first, max((timeline.now for timeline in timelines), default=0.0))
        fences.begin(span)
        simulation.run(everyone.roles(), list(everyone), everyone.serve(span), everyone.cut, batons)
        everyone.check_end(span)
        timelines = _added(timelines, simulation.timelines)
        if span is not calendar.spans[-1]:
            everyone.settle()
            for each in everyone:
                each.take_buffers(each.buffers_as_one())
    snapshots.finish(max(timeline.now for timeline in timelines))
    everyone.settle()
    first = everyone.workers[0]
    received = [server.received_so_far.summary(server.version) for server in everyone.servers]
    averaged, buffers = everyone.averaged(), first.buffers_as_one()
    finish(model, averaged, buffers)
    return Simulated(strategy.name, workers, calendar.end, snapshots.curve, timelines, first.whole, averaged, buffers,
                     received)


def check(strategy: Strategy, workers: int, batch_size: int, data: Source) -> None:
    """Raise `ParameterError` where the strategy cannot be simulated with so many workers."""
    _check.integer("workers", workers, at_least=1)
    if strategy.one_group:
        raise ParameterError(f"strategy {strategy.name} makes all ranks one worker; each simulated one has a model")
    strategy.check(strategy.servers + workers, min(batch_size, len(data)))


class _Everyone:
    """Servers, then workers."""

    def __init__(self, strategy: Strategy, count: int):
        self.strategy, self.count = strategy, count
        self.servers: list[Server] = []
        self.workers: list[Worker] = []

    @classmethod
    def cast(cls, model: Model, strategy: Strategy, sampler: Sampler, workers: int, seed: int,
             batons: Sequence[Baton]) -> _Everyone:
        """So many workers, and the servers that the strategy wants."""
        everyone = cls(strategy, workers)
        for number in range(strategy.servers):
            everyone.servers.append(Server(model, sampler, number=number, count=strategy.servers, workers=workers,
                                           seed=seed))
        for number in range(workers):
            batch_sum = batons[number].sum if batons else _unforeseen if strategy.synchronous else None
            # A model that waits for a sum on its thread may hold memory of its own meanwhile.
            its_model = copy.deepcopy(model) if batons else model
            worker = Worker(its_model, sampler, number=number, count=workers, seed=seed, batch_sum=batch_sum,
                            joint=strategy.joint, together=strategy.together, vectors=strategy.vectors,
                            sharded=strategy.shards)
            if strategy.replicas is not None:
                worker.host(strategy.replicas)
            everyone.workers.append(worker)
        return everyone

    def __iter__(self) -> Iterator[Any]:
        return iter([*self.servers, *self.workers])

    def enter(self, span: Span, rule: str | Optimizer, server_rule: str | Optimizer | None,
              rate_scale: float) -> None:
        """All begin a stage."""
        for each in self:
            given, own = rule, {}
            if isinstance(each, Server):
                given, own = server_rule or rule, {} if server_rule else dict(self.strategy.server_rule)
            each.enter(span.stage, lambda phase, given=given, own=own: optimizer_of(
                given, {}, span.end - span.first, rate_scale, {**own, **phase.optimizer}))

    def begin(self, span: Span, seed: int, statistics: Statistics) -> None:
        """Let the model do what it does at the stage's start."""
        for each in self:
            if span.stage.begin is not None:
                buffers = each.buffers_as_one().copy()
                span.stage.begin(each.whole, buffers, seed, statistics)
                each.take_buffers(buffers)
            for replica in dict.fromkeys((each, *each.rows)):
                replica.whole[:] = each.whole
                replica.begin_averages()

    def load(self, data: Source, span: Span, fences: _Fences) -> None:
        """Give all workers their rows of the stage."""
        for worker in self.workers:
            if self.strategy.tickets:
                worker.take(TicketLoader(data, worker.sampler, self.strategy.slices(self.count), fences.claim),
                            span.first)
                continue
            worker.open(data, span.first, span.end - span.first, stage_began=span.first, buffer_bytes=LOADER_BYTES,
                        background=False)
            if self.servers:
                worker.take(SliceLoader(cast(Loader, worker.loader), fences.claim), span.first)

    def check_end(self, span: Span) -> None:
        """Refuse a strategy that has ended before the stage has."""
        ended = min((worker.step for worker in self.workers), default=0)
        if not self.servers and ended < span.end - span.first:
            raise StrategyError(f"strategy {self.strategy.name} has ended after step {span.first + ended} of "
                                f"{span.end}: its worker must go on until BeginStep answers False")

    def roles(self) -> list[Steps]:
        """What each does."""
        return [*map(self.strategy.server, self.servers), *map(self.strategy.worker, self.workers)]

    @property
    def cut(self) -> Cut | None:
        """Which server has what."""
        return self.servers[0].cut if self.servers else None

    def serve(self, span: Span) -> list[Published]:
        """The servers' ports, with their first version."""
        ports = [Published(server.cut.part(server.number, server.whole), version=-1) for server in self.servers]
        for server, port in zip(self.servers, ports, strict=True):
            server.serve(port, server.sampler.consumed(span.first), span.first)
            server.version = port.publish(0)
        return ports

    def copy(self) -> _Everyone:
        """Copies of what settling changes."""
        twins = _Everyone(self.strategy, self.count)
        twins.servers, twins.workers = list(map(_copy, self.servers)), list(map(_copy, self.workers))
        return twins

    def settle(self) -> None:
        """Give all of them the values that training stands for."""
        ports = [Published(server.port.current()) for server in self.servers]
        rounds = [[self.strategy.settle(me) for me in self]]
        if self.strategy.joint and not self.strategy.replicated:
            rounds.append([me.settle_averages() for me in self])
        if self.strategy.joint:
            rounds.append([me.gather_chains() for me in self])
        for steps in rounds:
            Simulation().run(steps, list(self), ports, self.cut)

    def averaged(self) -> np.ndarray:
        """Of what is settled: the parameters with averaged copies in their places."""
        out = self.workers[0].whole.copy()
        keepers = self.servers if self.servers and self.strategy.replicated else (
            self.workers if self.strategy.shards else self.workers[:1])
        for each in keepers:
            for phase in each.phases:
                if phase.copies:
                    out[phase.place][phase.share] = phase.average
        return out


class _Fences:
    """Epochs and tickets, where there are servers."""

    def __init__(self, everyone: _Everyone, calendar: Calendar):
        self.everyone, self.calendar, self.sampler = everyone, calendar, calendar.sampler
        self.slices = everyone.strategy.slices(everyone.count)
        self._span = calendar.spans[0]
        self._number = self._epoch = 0
        self._passed = 0
        self._left = 0
        self._given = 0

    def begin(self, span: Span) -> None:
        """A stage begins."""
        self._span, self._epoch = span, span.first // self.sampler.steps_per_epoch - 1

    def pass_one(self, replica: Replica) -> Epoch | None:
        """One rank passes the fence; all do before any goes on."""
        each = self.sampler.steps_per_epoch
        if self._passed == 0:
            self._number, self._epoch = self._number + 1, self._epoch + 1
            self._given = self._left = 0
            if self._epoch <= self._span.last_epoch:
                self._steps = self.calendar.end_of(self._epoch) - self._epoch * each
                self._left = Tickets(self.sampler, self.slices, 0, self._steps).count
        self._passed = (self._passed + 1) % (len(self.everyone.servers) + self.everyone.count)
        if self._epoch > self._span.last_epoch:
            return None
        if isinstance(replica, Worker):
            cast(TicketLoader, replica.loader).begin_epoch(self._epoch, 0, self._steps)
        else:
            cast(Server, replica).consumed = self._epoch * self.sampler.rows
        return Epoch(self._number, self._epoch * each - self._span.first, self._steps)

    def claim(self) -> int | None:
        """The next ticket of this epoch."""
        if self._given == self._left:
            return None
        self._given += 1
        return self._given - 1


class _Snapshots:
    """Copies of all workers after the same step, each made when that worker was there, and what they are worth.

    Where there are servers: of what they serve when so many steps' samples have arrived, and at the end.
    """

    def __init__(self, model: Model, test: Source, everyone: _Everyone, every: int, calendar: Calendar,
                 simulation: Simulation, seen: Callable[[dict[str, Any], int], None]):
        self.model, self.test, self.everyone, self.every, self.calendar = model, test, everyone, every, calendar
        self.simulation, self.seen = simulation, seen
        self.curve: list[dict[str, Any]] = []
        self.first, self.seconds = 0, 0.0  # when the stage began
        self._waiting: dict[int, list[tuple[float, Worker]]] = {}

    def begin(self, step: int, seconds: float) -> None:
        """A stage begins."""
        self.first, self.seconds = step, seconds

    def see(self, worker: Worker) -> None:
        step = self.first + worker.step
        if step % self.every:
            return
        there = self._waiting.setdefault(step, [])
        there.append((self.simulation.timelines[worker.number].now, _copy(worker)))
        if len(there) < worker.count:
            return
        twins = _Everyone(self.everyone.strategy, worker.count)
        twins.workers = sorted((each for _, each in self._waiting.pop(step)), key=lambda each: each.number)
        self._judge(twins, step, self.seconds + max(when for when, _ in there))

    def see_server(self, server: Server) -> None:
        """Server 0 has published."""
        last = self.curve[-1]["step"] if self.curve else 0
        step = self.first + server.steps
        if server.number == 0 and step // self.every > last // self.every and step < self.calendar.end:
            self._judge(self.everyone.copy(), step, self.seconds + self.simulation.now)

    def finish(self, seconds: float) -> None:
        """All is over: where there are servers, the last point is still missing."""
        if not self.curve or self.curve[-1]["step"] < self.calendar.end:
            self._judge(self.everyone.copy(), self.calendar.end, seconds)

    def _judge(self, twins: _Everyone, step: int, seconds: float) -> None:
        twins.settle()
        first = twins.workers[0]
        scores = evaluate(self.model, twins.averaged(), first.buffers_as_one(), self.test)
        self.curve.append({"step": step, "seconds": seconds, "samples": self.calendar.rows_before(step),
                           **{f"test_{name}": value for name, value in scores.items()}})
        self.seen(self.curve[-1], self.calendar.end)


def _copy(replica: R) -> R:
    twin = copy.copy(replica)
    for name in ("whole", "buffers", "merged"):
        setattr(twin, name, getattr(replica, name).copy())
    twin.parameters = twin.whole
    twin.vectors = {name: vector.copy() for name, vector in replica.vectors.items()}
    twin.counters = dict(replica.counters)
    twin.phases = list(map(copy.copy, replica.phases))
    for phase in twin.phases:
        phase.state = [*phase.state[:-1], phase.state[-1].copy()] if phase.copies else phase.state
    return twin


def _asks_for_sums(model: Model, data: Source) -> bool:
    """Whether the model's gradients ask for sums over the batch: it does so equally often with no rows at all."""
    asked = []

    def sum_(vector: np.ndarray) -> np.ndarray:
        asked.append(vector)
        return vector

    chains = chains_of(model.buffers, 0, 1, together=True)
    rows, labels = np.empty((0, data.features), dtype=np.float32), label_buffer(data, 0)
    for stage in stages_of(model):
        for number, phase in enumerate(stage.phases):
            parameters, buffers = model.layout.zeros(), model.buffers.zeros()
            model.initialise(parameters, buffers, 0, Statistics(data))
            model.gradient(parameters, model.layout.zeros(), buffers, Batch(
                rows, labels=labels, phase=phase.name, turn=number, total=1, sum=sum_, chains=chains))
    return bool(asked)


def _unforeseen(vector: np.ndarray) -> np.ndarray:
    raise ParameterError("this model asks for statistics of the whole batch (batch.sum) now, but did not with no rows: "
                         "every worker must call it equally often, also without rows")


def _added(before: list[Timeline], more: Sequence[Timeline]) -> list[Timeline]:
    """Timelines of one stage after those of the stages before."""
    if not before:
        return list(more)
    return [Timeline(*(getattr(a, field.name) + getattr(b, field.name) for field in dataclasses.fields(Timeline)))
            for a, b in zip(before, more, strict=True)]
