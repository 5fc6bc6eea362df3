"""Synchronous data parallelism: map-reduce of gradients."""

from __future__ import annotations

import numpy as np

from pyddl.comm.operations import compute, gather, gather_from_owners, step_done, sum_over_workers, sum_to_owners
from pyddl.strategies.base import Me, Steps, Strategy

__all__ = ["Allreduce"]


class Allreduce(Strategy):
    """Every worker applies the mean gradient of all samples of the step.

    P workers follow one worker with the same global batch, up to rounding; bit for bit when sums are ordered and each
    worker computes the same micro-shards. Per step and worker: one synchronisation, and 2 (P-1)/P n elements sent.
    Nothing is ever stale. Between nodes, finished slices travel while the backward pass goes on.

    With ``shard_optimizer`` each worker owns one share of all vectors: it receives the sum of the gradients there only,
    keeps optimizer state for it only, moves its share of the parameters, and gives it to all. The same elements are
    sent, in two halves; memory for optimizer state and time for updates are divided by P. This is the first stage of
    ZeRO [1]_. Results are the same.

    Parameters
    ----------
    shard_optimizer : bool, default=False

    References
    ----------
    .. [1] Rajbhandari, Rasley, Ruwase, He (2020), ZeRO: Memory optimizations toward training trillion parameter models,
       SC20.
    """

    name = "allreduce"
    synchronous = True
    replicated = True

    def __init__(self, shard_optimizer: bool = False):
        self.shards = shard_optimizer
        self.sums_gradients = self.updates_only = not shard_optimizer

    def worker(self, me: Me) -> Steps:
        while (yield compute()):
            if self.shards:
                yield from self._sharded_step(me)
            else:
                samples = yield sum_over_workers(me.gradients, me.samples)
                me.update(scale=1 / samples)
            yield step_done()

    def _sharded_step(self, me: Me) -> Steps:
        samples = yield sum_to_owners(me.gradients, me.samples)
        squared_norm = None
        if me.clips:  # by the norm of the whole gradient
            parts = yield gather(np.array([me.squared_norm()]))
            squared_norm = float(sum(part[0] for part in parts))
        me.update(scale=1 / samples, squared_norm=squared_norm)
        yield gather_from_owners(me.parameters)
