"""Rehearsal: what a step and its parts take here, measured on throwaway vectors before training begins."""

from __future__ import annotations

import copy
import heapq
import math
from collections.abc import Hashable, Iterable
from time import perf_counter
from typing import Any

import numpy as np

from pyddl import _core
from pyddl.comm.driver import drive
from pyddl.comm.operations import BeginStep, Compute, StepDone, Sum, Update
from pyddl.comm.probe import operation_seconds
from pyddl.comm.threads import cores
from pyddl.comm.transport import Transport
from pyddl.comm.world import World
from pyddl.data import Source
from pyddl.data.batch import Batch
from pyddl.data.sampler import Sampler
from pyddl.models.protocol import Model
from pyddl.strategies import Allreduce, Local, Steps, Strategy
from pyddl.strategies.base import Me
from pyddl.strategies.figures import Figures, Link
from pyddl.train.division import Division
from pyddl.train.plan import Plan
from pyddl.train.replica import Rules
from pyddl.train.worker import Worker

__all__ = ["rehearse"]

ROUNDS = 3  # in which the measurements take turns, at least; the least counts: other work only adds to it
MOST_ROUNDS = 12  # more than three where other work disturbs them
ALIKE = 0.05  # a least is believed where a second round comes as near
BUDGET = 2.0  # seconds from the first round on, after which no round begins beyond the third
OPERATIONS = 2  # rounds in which operations of all ranks are measured: these are many, and short
SECONDS = 0.03  # of one measurement in one round, or one step where that takes longer
PATIENCE = 5  # times that, with the time that other work takes
MOST_STEPS = 500
SHORT = 16  # floats: a cache line, whose operations are all latency


class Understudy(Worker):
    """A worker whose losses do not count: a rehearsal must not fail where training would not."""

    def _loss_of(self, batch: Batch, gradients: np.ndarray) -> None:
        self.model.gradient(self.whole, gradients, self.buffers, batch)


class InStep(Strategy):
    """Ranks that begin every step together and send nothing else."""

    name = "in step"

    def worker(self, me: Me) -> Steps:
        while (yield BeginStep()):
            for _ in me.turns():
                yield Compute()
                yield Sum(me.gradients[:0])
                yield Update(1 / max(me.samples, 1))
            yield StepDone()


class Rounds:
    """What was measured, round by round. Other work on the machine only ever adds to it, so the least counts.

    Attributes
    ----------
    whole, delayed : float
        Seconds of all rounds, and those in which a rank waited for a core.
    """

    def __init__(self) -> None:
        self.seconds: dict[Hashable, list[float]] = {}
        self.whole = self.delayed = 0.0

    def enter(self, name: Hashable, seconds: float) -> None:
        self.seconds.setdefault(name, []).append(max(seconds, 1e-9))

    @property
    def count(self) -> int:
        return max(map(len, self.seconds.values()), default=0)

    @property
    def least(self) -> dict[Any, float]:
        return {name: min(taken) for name, taken in self.seconds.items()}

    def unsure(self, names: Iterable[Hashable]) -> float:
        """By what share the least of a measurement may be too large: how far the next one is, at the worst."""
        pairs = [heapq.nsmallest(2, self.seconds[name]) for name in names]
        return max(second / least - 1 for least, second in pairs)

    @property
    def disturbed(self) -> float:
        """The share of the time in which a rank waited for a core."""
        return self.delayed / max(self.whole, 1e-9)

    def enough(self, names: Iterable[Hashable], elapsed: float) -> bool:
        """Whether all is measured, after so many seconds: the same on all ranks."""
        if self.count < ROUNDS:
            return False
        return self.count >= MOST_ROUNDS or elapsed >= BUDGET or self.unsure(names) <= ALIKE


def rehearse(plan: Plan, here: World, *, division: Division | None = None) -> Figures:
    """Measure, on all ranks at the same time, with the rows, threads and code that training will use. Collective.

    Measured is the first stage. With ``division`` the model is also tried in its parts. It takes about a second, or
    some three dozen steps where these take longer; two or three seconds where other work disturbs it.
    """
    if division is None:
        return _rehearse(plan, here, None, None)
    with division.connected(here.transport, lambda transport: transport) as between:
        return _rehearse(plan, here, division, between)


def _rehearse(plan: Plan, here: World, division: Division | None, between: Transport | None) -> Figures:
    """The same, where the ranks of a ``division`` can speak to each other by ``between``."""
    transport, model, source, sampler = here.transport, plan.model, plan.data, plan.sampler
    seed, reproducible, span = plan.options["seed"], plan.options["reproducible"], plan.calendar.spans[0]

    def cast(model: Model, rules: Rules, **own: Any) -> Understudy:
        worker = Understudy(model, sampler, seed=seed, **own)
        worker.enter(span.stage, rules)
        model.initialise(worker.whole, worker.buffers, seed, plan.statistics())
        worker.begin_averages()
        return worker

    worker = cast(model, plan.rules(span), number=here.rank, count=here.size, reproducible=reproducible,
                  gradients=transport.allocate(model.layout.size, "rehearsal"))
    double = Sampler(sampler.rows, 2 * sampler.batch_size, seed, together=sampler.together)
    joint = copy.copy(worker)
    joint.buffers = worker.buffers.copy()  # equal on all ranks: those of steps apart are not
    if not reproducible:
        joint._batch_sum = lambda vector: (transport.sum(vector), vector)[1]
    larger = copy.copy(worker)
    larger.sampler = double
    measured: dict[str, tuple[Strategy, Worker]] = {
        "apart": (Local(), worker), "solo": (Local(), worker), "together": (InStep(), joint),
        "double": (Local(), larger)}
    if not reproducible:
        whole = copy.copy(joint)
        whole.travels = transport.travelling
        whole.announce()
        if any(whole.announces):
            measured["summed"] = (Allreduce(), whole)
    if division is not None:
        measured["split"] = Local(), cast(division.model, plan.rules(span), number=division.number,
                                          count=division.count, group=division.group)

    def seconds(name: str, steps: int) -> float:
        taken, delays = _step_seconds(*measured[name], source, here, steps, reproducible,
                                      between if name == "split" else None, idle=name == "solo" and here.rank > 0)
        rounds.whole += max(taken)
        rounds.delayed += max(delays)
        if name in ("together", "summed"):  # a delay of one is one of all; what this takes off too much, `apart` bounds
            return (max(taken) - sum(delays)) / steps
        if name == "split":
            return (max(taken) - max(delays)) / steps
        return max(np.subtract(taken, delays)) / steps

    rounds = Rounds()
    counts = {}
    for name in measured:
        seconds(name, 1)  # makes what the first step of its kind needs
        before = rounds.whole
        step, taken = seconds(name, 2), (rounds.whole - before) / 2
        counts[name] = int(max(min(SECONDS / max(step, 1e-6), PATIENCE * SECONDS / taken, MOST_STEPS), 1))
    floats = max(model.layout.size, 2 * SHORT)
    begin, elapsed = perf_counter(), 0.0
    while not rounds.enough(counts, elapsed):
        for name, count in counts.items():
            rounds.enter(name, seconds(name, count))
        for length in (SHORT, floats) if rounds.count <= OPERATIONS else ():
            for name, taken in operation_seconds(here, length, seconds=SECONDS / 2 / OPERATIONS, ordered=reproducible
                                                 ).items():
                rounds.enter((name, length), taken)
        elapsed = max(transport.gather_objects(perf_counter() - begin))
    apart, twice = rounds.least["apart"], rounds.least["double"]
    rows, more = (each.consumed(counts[name]) / counts[name] / here.size
                  for name, each in (("apart", sampler), ("double", double)))
    short, long = ({name[0]: taken for name, taken in rounds.least.items() if name[1:] == (n,)}
                   for n in (SHORT, floats))
    links = {name: Link.through((4 * SHORT, short[name]), (4 * floats, long[name])) for name in long}
    update = max(transport.gather_objects(_update_seconds(worker, here)))
    per_row = max(twice - apart, 0.0) / (more - rows) if more > rows else apart / rows
    together = max(apart, rounds.least["together"] - links["sum"].latency)
    left = (rounds.least["summed"] - together) / long["sum"] if "summed" in measured else 1.0
    return Figures(
        ranks=here.size, nodes=here.nodes, crowding=max(1.0, apart / rounds.least["solo"]), rows=rows,
        nbytes=4 * model.layout.size, apart=apart, together=together, per_row=per_row,
        update=min(update, apart), hidden=min(max(1 - left, 0.0), 1.0),
        split=rounds.least.get("split", math.inf), links=links, unsure=rounds.unsure(measured),
        disturbed=rounds.disturbed)


def _step_seconds(strategy: Strategy, actor: Worker, source: Source, here: World, steps: int, ordered: bool = False,
                  transport: Transport | None = None, idle: bool = False) -> tuple[list[float], list[float]]:
    """Of the first ``steps`` steps together, for each rank: how long they took, and how long of that the rank waited
    for a core that other work had. One may be ``idle``. Collective."""
    actor.restart()
    with actor.open(source, 0, 0 if idle else steps):
        here.transport.barrier()
        delay, begin = _delay(here), perf_counter()
        drive(strategy.worker(actor), actor, transport or here.transport, ordered=ordered)
        taken, delay = perf_counter() - begin, _delay(here) - delay
    both = here.transport.gather_objects((taken, min(delay, taken)))
    return [each[0] for each in both], [each[1] for each in both]


def _delay(here: World) -> float:
    """Seconds for which this thread has been ready to run, and had no core; 0 where the system does not say, or where
    the ranks themselves are more than the cores."""
    if here.node_size * _core.threads() > len(cores()):
        return 0.0
    try:
        with open("/proc/thread-self/schedstat", encoding="ascii") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def _update_seconds(worker: Worker, here: World, runs: int = 9) -> float:
    """Of one update of all parameters: the least, as of a step."""
    taken = []
    for _ in range(runs):
        before, delay = worker.compute_seconds, _delay(here)
        for _ in worker.turns():
            worker.update(Update(1.0))
        taken.append(max(worker.compute_seconds - before - (_delay(here) - delay), 1e-9))
    return min(taken)
