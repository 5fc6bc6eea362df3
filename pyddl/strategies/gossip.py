"""Replicas that average with one random partner at a time."""

from __future__ import annotations

import numpy as np

from pyddl import _check
from pyddl.comm.operations import BeginStep, Compute, Exchange, StepDone, Update
from pyddl.random import SEEDS, STRATEGY
from pyddl.strategies.base import Me, Steps, Strategy, average
from pyddl.strategies.figures import Figures

__all__ = ["Gossip", "partner"]


class Gossip(Strategy):
    """Every worker takes steps of its own, and every ``period`` steps averages with one random partner.

    Decentralised parallel SGD with the pairs of AD-PSGD [1]_, in synchronous form: the gradient is taken before the
    average and applied after it, ::

        x_i' = (x_i + x_j) / 2 - eta g(x_i)

    Where a step has several turns the exchange, of whole vectors, comes before the last one's update.

    The pairs of a step are a random matching that follows from (seed, step), so that every worker knows its partner
    and nobody is asked; with an odd number of workers one is left out. The mean of all replicas moves as in
    `averaging`; how far they stand apart depends on the spectrum of the matching, 1/2 in the mean.

    It is another algorithm than one worker's. The mean of all replicas, which count alike, is the model: it is
    evaluated (on copies), saved, and what all ranks have at the end. Sent per worker: n elements every ``period``
    steps, to one partner, whatever the number of workers. Waits: for the partner only.

    Parameters
    ----------
    period : int, default=1
        Steps between two averages.

    References
    ----------
    .. [1] Lian, Zhang, Zhang, Liu (2018), Asynchronous decentralized parallel stochastic gradient descent, ICML.
    """

    name = "gossip"
    needs = 2
    vectors = ("theirs",)

    def __init__(self, period: int = 1):
        self.period = _check.integer("period", period, at_least=1)

    def step_seconds(self, figures: Figures) -> float:
        meeting = figures.link("exchange") + 2 * figures.link("pass")
        return figures.step(self.period) + meeting / self.period

    def worker(self, me: Me) -> Steps:
        while (yield BeginStep()):
            other = partner(me.number, me.count, me.seed, me.step) if (me.step + 1) % self.period == 0 else None
            for turn in me.turns():
                yield Compute()
                if turn.last and other is not None:
                    yield from self._meet(me, other)
                    other = None
                if me.samples:
                    yield Update(1 / me.samples)
            if other is not None:  # in a step without a turn
                yield from self._meet(me, other)
            yield StepDone()

    def _meet(self, me: Me, other: int) -> Steps:
        theirs = me.vectors["theirs"]
        yield Exchange(me.whole, theirs, other)
        me.whole += theirs
        me.whole *= 0.5

    def settle(self, me: Me) -> Steps:
        yield from average(me, me.parameters, [me.parameters], [1])
        yield from me.merge_buffers([1])


def partner(number: int, count: int, seed: int, step: int) -> int | None:
    """Whom a worker is paired with at a step; None for the one who is left out.

    Examples
    --------
    >>> [partner(worker, 5, seed=1, step=0) for worker in range(5)]
    [2, None, 0, 4, 3]
    """
    # The counter's lowest word counts the blocks of four keys: the step is in the next, or steps would share keys.
    keys = np.random.Philox(key=STRATEGY * SEEDS + seed % SEEDS, counter=step << 64).random_raw(count)
    shuffled = np.argsort(keys).tolist()
    place = shuffled.index(number) ^ 1
    return shuffled[place] if place < count else None
