"""Each worker for itself: the baseline that sends nothing."""

from __future__ import annotations

from pyddl.comm.operations import compute, step_done
from pyddl.strategies.base import Me, Steps, Strategy

__all__ = ["Local"]


class Local(Strategy):
    """Every worker trains its own replica on its own rows of each batch; nothing is sent.

    With one worker this is plain stochastic gradient descent. With more it shows what one rank gets alone, and what a
    step costs without communication. Rank 0's replica is the one that is evaluated and saved.
    Sent per step: nothing. Waits: none.
    """

    name = "local"
    joint = False
    updates_only = True

    def worker(self, me: Me) -> Steps:
        while (yield compute()):
            if me.samples:
                me.update(scale=1 / me.samples)
            yield step_done()
