"""Rehearsal: what a step and its parts take here, measured on throwaway vectors before training begins."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from pyddl.comm.driver import drive
from pyddl.comm.operations import BeginStep, Compute, StepDone, Sum, Update
from pyddl.comm.probe import operation_seconds
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

ROUNDS = 3  # in which the measurements take turns: other work on the machine disturbs all alike
SECONDS = 0.03  # of one measurement in one round, or one step where that takes longer
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


def rehearse(plan: Plan, here: World, *, division: Division | None = None) -> Figures:
    """Measure, on all ranks at the same time, with the rows, threads and code that training will use. Collective.

    Measured is the first stage. With ``division`` the model is also tried in its parts. It takes less than a second, or
    some two dozen steps where these take longer.
    """
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

    def seconds(name: str, steps: int) -> float:
        return _step_seconds(*measured[name], source, here, steps, reproducible, idle=name == "solo" and here.rank > 0)

    rounds: dict[str, list[float]] = {name: [] for name in measured}
    counts = {}
    for name in measured:
        seconds(name, 1)  # makes what the first step of its kind needs
        counts[name] = int(min(max(SECONDS / seconds(name, 2), 1), MOST_STEPS))
    for _ in range(ROUNDS):
        for name, count in counts.items():
            rounds[name].append(seconds(name, count))
    medians = {name: statistics.median(values) for name, values in rounds.items()}
    apart, twice = medians["apart"], medians["double"]
    rows, more = (each.consumed(counts[name]) / counts[name] / here.size
                  for name, each in (("apart", sampler), ("double", double)))
    floats = max(model.layout.size, 2 * SHORT)
    short, long = (operation_seconds(here, n, ordered=reproducible, seconds=SECONDS / 2) for n in (SHORT, floats))
    links = {name: Link.through((4 * SHORT, short[name]), (4 * floats, long[name])) for name in long}
    update = max(transport.gather_objects(_update_seconds(worker)))
    per_row = max(twice - apart, 0.0) / (more - rows) if more > rows else apart / rows
    together = max(apart, medians["together"] - links["sum"].latency)
    left = (medians["summed"] - together) / long["sum"] if "summed" in measured else 1.0
    return Figures(
        ranks=here.size, nodes=here.nodes, crowding=max(1.0, apart / medians["solo"]), rows=rows,
        nbytes=4 * model.layout.size, apart=apart, together=together, per_row=per_row,
        update=min(update, apart), hidden=min(max(1 - left, 0.0), 1.0),
        split=math.inf if division is None else _split_seconds(division, cast, plan.rules(span), source, here),
        links=links)


def _step_seconds(strategy: Strategy, actor: Worker, source: Source, here: World, steps: int, ordered: bool = False,
                  transport: Transport | None = None, idle: bool = False) -> float:
    """Of one step, over the first ``steps``: the slowest rank's mean; one may be ``idle``. Collective."""
    actor.restart()
    with actor.open(source, 0, 0 if idle else steps):
        here.transport.barrier()
        begin = perf_counter()
        drive(strategy.worker(actor), actor, transport or here.transport, ordered=ordered)
        taken = perf_counter() - begin
    return max(here.transport.gather_objects(taken)) / steps


def _split_seconds(division: Division, cast: Callable[..., Worker], rules: Rules, source: Source, here: World) -> float:
    """Of one step of the model that all ranks hold together. Collective."""
    with division.connected(here.transport, lambda transport: transport) as between:
        worker = cast(division.model, rules, number=division.number, count=division.count, group=division.group)

        def seconds(steps: int) -> float:
            return _step_seconds(Local(), worker, source, here, steps, transport=between)

        seconds(1)
        count = int(min(max(SECONDS / seconds(2), 1), MOST_STEPS))
        return statistics.median(seconds(count) for _ in range(ROUNDS))


def _update_seconds(worker: Worker, runs: int = 5) -> float:
    """Of one update of all parameters: the median."""
    taken = []
    for _ in range(runs):
        before = worker.compute_seconds
        for _ in worker.turns():
            worker.update(Update(1.0))
        taken.append(worker.compute_seconds - before)
    return statistics.median(taken)
