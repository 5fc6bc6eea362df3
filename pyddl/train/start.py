"""The first values of a rank's vectors: the model's own, a checkpoint's, or an earlier training's."""

from __future__ import annotations

import numpy as np

from pyddl.errors import ParameterError, ShapeError
from pyddl.train.checkpoint import Saved
from pyddl.train.connection import Connection
from pyddl.train.plan import Plan
from pyddl.train.replica import Replica
from pyddl.train.result import Result

__all__ = ["go_on", "initialise", "restore"]


def initialise(plan: Plan, connection: Connection, replica: Replica) -> None:
    """Let the model give them. Collective."""
    plan.model.initialise(replica.whole, replica.buffers, plan.options["seed"], plan.statistics())
    connection.between.broadcast(replica.whole)  # ranks on unlike processors may round differently
    connection.between.broadcast(replica.buffers)
    replica.take_buffers(replica.buffers)


def restore(plan: Plan, replica: Replica, saved: Saved) -> None:
    """Take those of a checkpoint, whose stage has been entered and whose step is the ledger's."""
    books, alike = saved.books, plan.strategy.replicated
    replica.restore(saved.tensors)
    if alike:
        replica.take_buffers(replica.buffers)  # the file has them as one process would
    number = 0 if alike else plan.division.number
    for each, updates in zip(replica.rows, books["updates"][number], strict=True):
        for phase, done in zip(each.phases, updates, strict=True):
            phase.updates = done
    replica.counters = books["counters"][number]
    replica.step = books["step"] - plan.calendar.spans[books["stage"]].first
    if plan.world.rank == 0 or (not alike and plan.division.part == 0):  # of those with the same losses, one
        replica.losses.update({name: list(losses) for name, losses in books["losses"][number].items()})


def go_on(plan: Plan, replica: Replica, start: Result, begun: bool) -> None:
    """Take those that an earlier training in this process left, in a stage that has ``begun`` or just follows."""
    if plan.division.group is not None:
        start = start.cut(plan.model.layout, plan.model.buffers)
    for mine, theirs in ((replica.whole, start.parameters), (replica.buffers, start.buffers)):
        _take("parameters or buffers", mine, theirs)
    replica.take_buffers(replica.buffers)
    if not begun or not replica.kept or not start.state:
        if begun:
            replica.begin_averages()
        return
    for phase in replica.phases:
        given = [name for name in start.state if name.split(".")[0] == phase.name]
        if len(given) != len(phase.state):
            raise ParameterError(f"there are {len(given)} vectors of optimizer state to start from; "
                                 f"{phase.optimizer.name} keeps {len(phase.state)}: use the optimizer that left them")
        for name, mine in zip(phase.names, phase.state, strict=True):
            vector = start.state.get(f"{phase.name}.{name}")
            if vector is None:
                raise ParameterError(f"there is no vector {name} of the optimizer to start from, which "
                                     f"{phase.optimizer.name} keeps: use the optimizer that left them")
            _take(f"optimizer state {name}", mine, vector[phase.share] if vector.size == phase.size else vector)
        phase.updates = start.updates.get(phase.name, 0)


def _take(what: str, mine: np.ndarray, theirs: np.ndarray) -> None:
    if mine.shape != theirs.shape:
        raise ShapeError(f"a vector to start from ({what}) has shape {theirs.shape}; this model needs {mine.shape}: "
                         "whole() of that result gathers shares, if that is what it has")
    mine[:] = theirs
