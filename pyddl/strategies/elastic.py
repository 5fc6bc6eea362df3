"""Replicas that are drawn to a common centre, and the centre to them."""

from __future__ import annotations

import numpy as np

from pyddl import _check
from pyddl.comm.operations import average, compute, step_done
from pyddl.errors import ParameterError
from pyddl.strategies.base import Me, Steps, Strategy

__all__ = ["Elastic"]

MOVING_RATE = 0.9  # beta = alpha * workers, as in the paper's experiments


class Elastic(Strategy):
    """Every worker x_i takes steps of its own; every ``tau`` steps an elastic force joins it to a centre c [1]_.

    Synchronous EASGD, equations 5 and 6 of the paper; at other steps than every tau-th, alpha is 0::

        x_i' = x_i - eta g(x_i) - alpha (x_i - c)
        c'   = c + alpha sum over i of (x_i - c) = c + beta (mean of x_i - c),    beta = alpha workers

    With ``elastic_momentum`` it is EAMSGD: v' = delta v - eta g(x_i + delta v) in the place of -eta g(x_i). Then
    ``me.parameters`` is the point x_i + delta v at which gradients are taken. The step -eta g may be any optimizer's.

    It is another algorithm than one worker's: replicas stay apart, which is meant to explore. The centre is the model:
    it is evaluated, saved, and what all ranks have at the end. Workers count alike. Sent per worker: 2 (P-1)/P n
    elements every ``tau`` steps. Waits: there only.

    Parameters
    ----------
    mode : {"sync"}, default="sync"
        All workers meet the centre at the same step.
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
        self.mode = _check.one_of("mode", mode, ("sync",))
        self.tau = _check.integer("tau", tau, at_least=1)
        self.alpha = None if alpha is None else _check.number("alpha", alpha, above=0)
        self.momentum = _check.number("elastic_momentum", elastic_momentum, at_least=0, below=1)
        self.vectors = ("centre", "mean", *(("position", "velocity") if self.momentum else ()))

    def check(self, workers: int, batch_size: int) -> None:
        super().check(workers, batch_size)
        if self.alpha is not None and self.alpha * workers > 1:
            raise ParameterError(f"alpha is {self.alpha} on {workers} ranks, so that the centre would move beyond "
                                 f"their mean; expected at most 1 / ranks = {1 / workers:g}")

    def worker(self, me: Me) -> Steps:
        x = me.vectors.get("position", me.parameters)
        if me.step == 0:
            me.vectors["centre"][:] = x[:] = me.parameters
        while (yield compute()):
            if me.step > 0 and me.step % self.tau == 0:
                yield from self._meet(me, x)
            if me.samples:
                me.update(scale=1 / me.samples)
            if self.momentum:
                velocity = np.subtract(me.parameters, x, out=me.vectors["velocity"])
                x[:] = me.parameters
                me.parameters += self.momentum * velocity
            yield step_done()

    def _meet(self, me: Me, x: np.ndarray) -> Steps:
        centre, mean = me.vectors["centre"], me.vectors["mean"]
        alpha = MOVING_RATE / me.count if self.alpha is None else self.alpha
        mean[:] = x
        yield average(mean, 1)
        pull = alpha * (centre - x)
        x += pull
        if x is not me.parameters:
            me.parameters += pull
        mean -= centre
        mean *= alpha * me.count
        centre += mean

    def settle(self, me: Me) -> Steps:
        me.parameters[:] = me.vectors["centre"]
        yield from me.merge_buffers([1])
