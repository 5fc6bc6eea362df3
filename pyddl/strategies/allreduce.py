"""Synchronous data parallelism: map-reduce of gradients."""

from __future__ import annotations

import numpy as np

from pyddl.comm.operations import BeginStep, Compute, Gather, GatherFromOwners, StepDone, Sum, SumToOwners, Update
from pyddl.strategies.base import Me, Steps, Strategy
from pyddl.strategies.figures import Figures

__all__ = ["Allreduce"]


class Allreduce(Strategy):
    """Every worker applies the mean gradient of all samples of the step.

    P workers follow one worker with the same global batch, up to rounding; bit for bit when sums are ordered and each
    worker computes the same micro-shards. Per step and worker: one synchronisation, and 2 (P-1)/P n elements sent.
    Nothing is ever stale. Buffers are merged, by the rule of each slice, at the end of each epoch. Between nodes,
    finished slices travel while the backward pass goes on.

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
    together = True
    replicated = True

    def __init__(self, shard_optimizer: bool = False):
        self.shards = shard_optimizer
        self.sums_gradients = self.updates_only = not shard_optimizer

    def step_seconds(self, figures: Figures) -> float:
        if self.shards:  # each updates its share only
            return figures.together - figures.update * (1 - 1 / figures.ranks) + figures.link("owners")
        return figures.together + (1 - figures.hidden) * figures.link("sum")

    def worker(self, me: Me) -> Steps:
        while (yield BeginStep()):
            for _ in me.turns():
                yield Compute()
                if self.shards:
                    yield from self._update_shares(me)
                else:
                    samples = yield Sum(me.gradients, me.samples)
                    yield Update(1 / samples)
            yield StepDone()

    def _update_shares(self, me: Me) -> Steps:
        samples = yield SumToOwners(me.gradients, me.samples)
        squared_norm = None
        if me.clips:  # by the norm of the whole gradient
            parts = yield Gather(np.array([me.squared_norm()]))
            squared_norm = float(sum(part[0] for part in parts))
        yield Update(1 / samples, squared_norm)
        yield GatherFromOwners(me.parameters)
