"""Replicas that are drawn to a common centre, and the centre to them."""

from __future__ import annotations

import numpy as np

from pyddl import _check
from pyddl.comm.operations import (
    Arrived,
    BeginStep,
    Compute,
    Fetch,
    GatherFromServers,
    NextEpoch,
    Publish,
    Push,
    Receive,
    StepDone,
    Update,
)
from pyddl.errors import ParameterError
from pyddl.strategies.base import Me, Served, Steps, Strategy, average
from pyddl.strategies.figures import Figures

__all__ = ["Elastic"]

MOVING_RATE = 0.9  # beta = alpha * workers, as in the paper's experiments


class Elastic(Strategy):
    """Every worker x_i takes steps of its own; every ``tau`` steps an elastic force joins it to a centre c [1]_.

    Mode ``sync``: synchronous EASGD, equations 5 and 6 of the paper; at other steps than every tau-th, alpha is 0::

        x_i' = x_i - eta g(x_i) - alpha (x_i - c)
        c'   = c + alpha sum over i of (x_i - c) = c + beta (mean of x_i - c),    beta = alpha workers

    Mode ``async``: algorithm 1. The centre is on rank 0, a server; the other ranks are the workers, and meet it each
    when its own clock is a multiple of tau. Rows go to whoever is free. A worker fetches c, moves by -f, and pushes
    f = alpha (x_i - c), which the server adds to its centre: another one perhaps, if others have met it meanwhile.

    With ``elastic_momentum`` it is EAMSGD: v' = delta v - eta g(x_i + delta v) in the place of -eta g(x_i). Then
    ``me.parameters`` is the point x_i + delta v at which gradients are taken. The step -eta g may be any optimizer's.
    Where a step has several turns workers meet before the last one's update; the force acts on whole vectors.

    It is another algorithm than one worker's: replicas stay apart, which is meant to explore. The centre is the model:
    it is evaluated, saved, and what all ranks have at the end. Workers count alike. Sent per worker every ``tau``
    steps: 2 (P-1)/P n elements in mode sync, which waits there; 2 n in mode async, where nobody waits.

    Parameters
    ----------
    mode : {"sync", "async"}, default="sync"
        Whether all workers meet the centre at the same step, or each when it gets there.
    tau : int, default=10
        Steps between two meetings.
    alpha : float, optional
        Share of its distance by which a worker moves to the centre, eta rho in the paper; 0.9 / workers by default,
        1 / workers at the most.
    elastic_momentum : float, default=0
        delta, from 0 to below 1.

    References
    ----------
    .. [1] Zhang, Choromanska, LeCun (2015), Deep learning with elastic averaging SGD, NeurIPS.
    """

    name = "elastic"
    needs = 2

    def __init__(self, mode: str = "sync", tau: int = 10, alpha: float | None = None, elastic_momentum: float = 0.0):
        self.mode = _check.one_of("mode", mode, ("sync", "async"))
        self.servers = 0 if mode == "sync" else 1
        self.tickets = mode == "async"
        self.tau = _check.integer("tau", tau, at_least=1)
        self.alpha = None if alpha is None else _check.number("alpha", alpha, above=0)
        self.momentum = _check.number("elastic_momentum", elastic_momentum, at_least=0, below=1)
        own = ("centre", "mean") if mode == "sync" else ("force",)
        self.vectors = (*own, *(("position", "velocity") if self.momentum else ()))

    def __str__(self) -> str:
        return f"{self.name} in mode {self.mode}"

    def check(self, ranks: int, batch_size: int) -> None:
        super().check(ranks, batch_size)
        workers = ranks - self.servers
        if self.alpha is not None and self.alpha * workers > 1:
            raise ParameterError(f"alpha is {self.alpha} with {workers} workers, so that the centre would move beyond "
                                 f"their mean; expected at most 1 / workers = {1 / workers:g}")

    def step_seconds(self, figures: Figures) -> float:
        f = figures
        if self.servers:
            workers = f.ranks - self.servers
            meeting = f.link("served") + 3 * f.link("pass")
            return max(f.minibatch(workers) + f.update + meeting / self.tau, workers * f.link("pass") / self.tau)
        own = 5 * f.link("pass") if self.momentum else 0.0
        return f.step(self.tau) + own + (f.link("average") + 7 * f.link("pass")) / self.tau

    def worker(self, me: Me) -> Steps:
        x = me.vectors.get("position", me.parameters)
        if me.step == 0:
            x[:] = me.parameters
            if self.mode == "sync":
                me.vectors["centre"][:] = x
        if self.mode == "sync":
            yield from self._steps(me, x)
        else:
            while (yield NextEpoch()) is not None:
                yield from self._steps(me, x)

    def _steps(self, me: Me, x: np.ndarray) -> Steps:
        meet = self._meet_all if self.mode == "sync" else self._meet_centre
        while (yield BeginStep()):
            due = me.step % self.tau == 0 and (me.step > 0 or self.mode == "async")  # in sync all are equal at first
            for turn in me.turns():
                yield Compute()
                if turn.last and due:
                    yield from meet(me, x)
                    due = False
                if me.samples:
                    yield Update(1 / me.samples)
            if due:  # in a step without a turn
                yield from meet(me, x)
            me.counters["samples"] = me.counters.get("samples", 0) + me.samples
            if self.momentum:
                velocity = np.subtract(me.parameters, x, out=me.vectors["velocity"])
                x[:] = me.parameters
                me.parameters += self.momentum * velocity
            yield StepDone()

    def _meet_all(self, me: Me, x: np.ndarray) -> Steps:
        centre, mean = me.vectors["centre"], me.vectors["mean"]
        mean[:] = x
        yield from average(me, mean, [mean], [1])
        self._move(me, x, self._rate(me) * (centre - x))
        mean -= centre
        mean *= self._rate(me) * me.count
        centre += mean

    def _meet_centre(self, me: Me, x: np.ndarray) -> Steps:
        force = me.vectors["force"]
        version = yield Fetch(force)
        np.subtract(x, force, out=force)
        force *= self._rate(me)
        self._move(me, x, -force)
        samples = me.counters.get("samples", 0)
        new = samples - me.counters.get("pushed", 0)
        yield Push(force, new, version, rows=new)
        me.counters["pushed"] = samples

    def _rate(self, me: Me) -> float:
        return MOVING_RATE / me.count if self.alpha is None else self.alpha

    def _move(self, me: Me, x: np.ndarray, by: np.ndarray) -> None:
        x += by
        if x is not me.whole:
            me.whole += by

    def server(self, me: Served) -> Steps:
        while (yield NextEpoch()) is not None:
            while (arrived := (yield Receive())) is not None:
                if isinstance(arrived, Arrived):
                    me.add(arrived.vector)
                    yield Publish()

    def settle(self, me: Me) -> Steps:
        if self.mode == "sync":
            me.parameters[:] = me.vectors["centre"]
            yield from me.merge_buffers([1])
        else:
            yield GatherFromServers(me.parameters)
            yield from me.merge_buffers([min(1, me.counters.get("samples", 0))])  # of those who have seen rows
