"""Each worker for itself: the baseline that sends nothing."""

from __future__ import annotations

from pyddl.comm.operations import BeginStep, Compute, StepDone, Update
from pyddl.strategies.base import Me, Steps, Strategy
from pyddl.strategies.figures import Figures

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
        while (yield BeginStep()):
            for _ in me.turns():
                yield Compute()
                if me.samples:
                    yield Update(1 / me.samples)
            yield StepDone()

    def step_seconds(self, figures: Figures) -> float:
        return figures.apart

    def settle(self, me: Me) -> Steps:
        yield from ()
