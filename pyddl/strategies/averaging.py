"""Replicas that train alone and average their parameters from time to time."""

from __future__ import annotations

import numpy as np

from pyddl import _check, options
from pyddl.comm.operations import BeginStep, Compute, StepDone, Sum, Update
from pyddl.errors import ParameterError
from pyddl.strategies.base import Me, Steps, Strategy, average
from pyddl.strategies.figures import Figures

__all__ = ["Averaging"]

OUTER = {"none": (0.0, 1.0), "momentum": (0.6, 1.0), "nesterov": (0.9, 0.7)}  # momentum and rate of the papers


class Averaging(Strategy):
    """Every worker takes steps of its own on its own rows; every ``period`` steps all replicas are averaged.

    Which paper it is, by its options:

    ==========================  ==================================================================================
    ``period`` 1                parameter averaging; with plain SGD equal to `allreduce` up to rounding
    ``period`` H                local SGD [1]_
    ``sync_steps`` > 0          post-local SGD [2]_: so many steps of `allreduce` first
    ``node_period`` < period    hierarchical local SGD [2]_: averages within each node in between
    ``outer`` momentum          block momentum [3]_, SlowMo [4]_ with constant inner rate
    ``outer`` nesterov          DiLoCo [5]_, where the inner optimizer is AdamW
    ==========================  ==================================================================================

    It is another algorithm than one worker with the same global batch: between averages each worker follows gradients
    of batch_size / P rows, and optimizer states are never averaged. Averages weight each replica by the samples it
    has used since the last average of the world, so uneven slices count as in one large batch. Buffers are merged, by
    the rule of each slice, with every average of the world.

    Sent per worker: 2 (P-1)/P n elements every ``period`` steps, and as much within the node every ``node_period``;
    in the first ``sync_steps`` steps every step. Waits: at averages only. Parameters are never older than a period.

    Evaluation and the end of training take the weighted mean of all replicas; evaluation takes it of copies.

    Parameters
    ----------
    period : int, default=16
        Steps between two averages of the world.
    sync_steps : int, default=0
    node_period : int, optional
        Steps between two averages within a node, fewer than ``period``; none by default.
    outer : {"none", "momentum", "nesterov"}, default="none"
        What moves the common parameters: the mean itself; or from the last common point ``anchor``, with
        d = anchor - mean and v = outer_momentum v + d, parameters = anchor - outer_rate v (momentum), or
        anchor - outer_rate (d + outer_momentum v) (nesterov).
    outer_momentum, outer_rate : float, optional
        By default 0.6 and 1 for momentum, 0.9 and 0.7 for nesterov.

    References
    ----------
    .. [1] Stich (2019), Local SGD converges fast and communicates little, ICLR.
    .. [2] Lin, Stich, Patel, Jaggi (2020), Don't use large mini-batches, use local SGD, ICLR.
    .. [3] Chen, Huo (2016), Scalable training of deep learning machines by incremental block training with intra-block
       parallel optimization and blockwise model-update filtering, ICASSP.
    .. [4] Wang, Tantia, Ballas, Rabbat (2020), SlowMo: Improving communication-efficient distributed SGD with slow
       momentum, ICLR.
    .. [5] Douillard et al. (2023), DiLoCo: Distributed low-communication training of language models,
       arXiv:2311.08105.
    """

    name = "averaging"
    needs = 2

    def __init__(self, period: int = 16, sync_steps: int = 0, node_period: int | None = None, outer: str = "none",
                 outer_momentum: float | None = None, outer_rate: float | None = None):
        self.period = _check.integer("period", period, at_least=1)
        self.sync_steps = _check.integer("sync_steps", sync_steps, at_least=0)
        self.node_period = None if node_period is None else _check.integer("node_period", node_period, at_least=1)
        if self.node_period is not None and self.node_period >= self.period:
            raise ParameterError(f"node_period is {node_period} and period {period}: averages of the world would leave "
                                 "those within nodes nothing to do: give a node_period below the period, or none")
        self.outer = _check.one_of("outer", outer, OUTER)
        options.check_effects({"outer": outer, "outer_momentum": outer_momentum, "outer_rate": outer_rate})
        momentum, rate = OUTER[outer]
        self.outer_momentum = momentum if outer_momentum is None else _check.number(
            "outer_momentum", outer_momentum, at_least=0, below=1)
        self.outer_rate = rate if outer_rate is None else _check.number("outer_rate", outer_rate, above=0)
        self.vectors = () if outer == "none" else ("anchor", "velocity")

    def step_seconds(self, figures: Figures) -> float:
        f, rare, often = figures, 1 / self.period, 1 / self.node_period if self.node_period else 0.0
        within = f.link("node" if f.nodes > 1 else "average") if self.node_period else 0.0
        between = f.link("average") + (6 * f.link("pass") if self.vectors else 0.0)
        own = f.step(min(self.period, self.node_period or self.period))
        return own + rare * between + max(0.0, often - rare) * within

    def worker(self, me: Me) -> Steps:
        while (yield BeginStep()):
            if me.step == self.sync_steps and self.vectors:
                me.vectors["anchor"][:] = me.parameters
            for _ in me.turns():
                yield Compute()
                samples = me.samples
                if me.step < self.sync_steps:
                    samples = yield Sum(me.gradients, me.samples)
                if samples:
                    yield Update(1 / samples)
            me.counters["seen"] = me.counters.get("seen", 0) + me.samples  # since buffers were merged
            if me.step >= self.sync_steps:
                yield from self._meet(me)
            yield StepDone()

    def _meet(self, me: Me) -> Steps:
        """After all turns of a step: an average of whole vectors, where one is due."""
        me.counters["samples"] = me.counters.get("samples", 0) + me.samples
        steps = me.step + 1 - self.sync_steps
        if steps % self.period == 0:
            yield from self.settle(me)
            me.counters.update(samples=0, seen=0)
            self._outer_step(me)
        elif self.node_period and steps % self.node_period == 0:
            yield from average(me, me.parameters, [me.parameters], [me.counters["samples"]], level="node")

    def settle(self, me: Me) -> Steps:
        yield from average(me, me.parameters, [me.parameters], [me.counters.get("samples", 0)])
        yield from me.merge_buffers([me.counters.get("seen", 0)])

    def _outer_step(self, me: Me) -> None:
        if self.outer == "none":
            return
        anchor, velocity = me.vectors["anchor"], me.vectors["velocity"]
        move = np.subtract(anchor, me.parameters, out=me.gradients)  # the outer gradient; the inner ones are used up
        velocity *= self.outer_momentum
        velocity += move
        if self.outer == "nesterov":
            move += self.outer_momentum * velocity
        else:
            move = velocity
        anchor -= self.outer_rate * move
        me.parameters[:] = anchor
