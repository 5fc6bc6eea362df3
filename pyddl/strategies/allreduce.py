"""Synchronous data parallelism: map-reduce of gradients."""

from __future__ import annotations

from pyddl.comm.operations import compute, step_done, sum_over_workers
from pyddl.strategies.base import Me, Steps, Strategy

__all__ = ["Allreduce"]


class Allreduce(Strategy):
    """Every worker applies the mean gradient of all samples of the step.

    P workers follow one worker with the same global batch, up to rounding; bit for bit when sums are ordered and each
    worker computes the same micro-shards. Per step and worker: one synchronisation, and 2 (P-1)/P n elements sent.
    Nothing is ever stale.
    """

    name = "allreduce"
    synchronous = True
    replicated = True

    def worker(self, me: Me) -> Steps:
        while (yield compute()):
            samples = yield sum_over_workers(me.gradients, me.samples)
            me.update(scale=1 / samples)
            yield step_done()
