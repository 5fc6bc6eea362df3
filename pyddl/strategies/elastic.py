"""Replicas that are drawn to a common centre, and the centre to them."""

from __future__ import annotations

import numpy as np

from pyddl import _check
from pyddl.comm.operations import (
    Arrived,
    average,
    compute,
    fetch,
    gather_from_servers,
    next_epoch,
    publish,
    push,
    receive,
    step_done,
)
from pyddl.errors import ParameterError
from pyddl.strategies.base import Me, Served, Steps, Strategy

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

    def worker(self, me: Me) -> Steps:
        x = me.vectors.get("position", me.parameters)
        if me.step == 0:
            x[:] = me.parameters
            if self.mode == "sync":
                me.vectors["centre"][:] = x
        if self.mode == "sync":
            yield from self._steps(me, x)
        else:
            while (yield next_epoch()) is not None:
                yield from self._steps(me, x)

    def _steps(self, me: Me, x: np.ndarray) -> Steps:
        while (yield compute()):
            if me.step % self.tau == 0 and (me.step > 0 or self.mode == "async"):  # in sync all are equal at first
                yield from (self._meet_all(me, x) if self.mode == "sync" else self._meet_centre(me, x))
            if me.samples:
                me.update(scale=1 / me.samples)
            me.counters["samples"] = me.counters.get("samples", 0) + me.samples
            if self.momentum:
                velocity = np.subtract(me.parameters, x, out=me.vectors["velocity"])
                x[:] = me.parameters
                me.parameters += self.momentum * velocity
            yield step_done()

    def _meet_all(self, me: Me, x: np.ndarray) -> Steps:
        centre, mean = me.vectors["centre"], me.vectors["mean"]
        mean[:] = x
        yield average(mean, 1)
        self._move(me, x, self._rate(me) * (centre - x))
        mean -= centre
        mean *= self._rate(me) * me.count
        centre += mean

    def _meet_centre(self, me: Me, x: np.ndarray) -> Steps:
        force = me.vectors["force"]
        version = yield fetch(force)
        np.subtract(x, force, out=force)
        force *= self._rate(me)
        self._move(me, x, -force)
        samples = me.counters.get("samples", 0)
        yield push(force, samples - me.counters.get("pushed", 0), version)
        me.counters["pushed"] = samples

    def _rate(self, me: Me) -> float:
        return MOVING_RATE / me.count if self.alpha is None else self.alpha

    def _move(self, me: Me, x: np.ndarray, by: np.ndarray) -> None:
        x += by
        if x is not me.parameters:
            me.parameters += by

    def server(self, me: Served) -> Steps:
        while (yield next_epoch()) is not None:
            while (arrived := (yield receive())) is not None:
                if isinstance(arrived, Arrived):
                    me.add(arrived.vector)
                    yield publish()

    def settle(self, me: Me) -> Steps:
        if self.mode == "sync":
            me.parameters[:] = me.vectors["centre"]
            yield from me.merge_buffers([1])
        else:
            yield gather_from_servers(me.parameters)
            yield from me.merge_buffers([min(1, me.counters.get("samples", 0))])  # of those who have seen rows
