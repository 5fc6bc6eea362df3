"""What belongs to one phase on one worker or server: its range, its rule, and the state that the rule keeps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pyddl import _core
from pyddl.comm.operations import Update
from pyddl.layout import Layout
from pyddl.models.stages import Phase
from pyddl.optim import Optimizer
from pyddl.strategies.base import Turn

__all__ = ["AVERAGE", "PhaseState"]

AVERAGE = "average"  # name of the averaged copy among the state


class PhaseState:
    """A phase's part of the vectors, its optimizer and its state.

    Parameters
    ----------
    phase : Phase
    number : int
        Of the phase in its stage: its turn's number in a step.
    optimizer : Optimizer
        Its own: nobody else uses it.
    layout : Layout
    share : slice, optional
        Which elements of the phase's range are kept and moved here; all by default.
    counted : bool, default=True
        Whether slices that other parts of a split model hold as well count in this part's norm.

    Attributes
    ----------
    begin, end : int
        Range of the phase in the whole vectors.
    place : slice
        The same.
    state : list of ndarray, float32
        The optimizer's vectors, then, where wanted, the averaged copy: of the share. All zero at the start, but the
        copy.
    names : tuple of str
        Theirs.
    moments : list of ndarray
        The optimizer's own among them.
    updates : int
        Done since the stage began.
    """

    def __init__(self, phase: Phase, number: int, optimizer: Optimizer, layout: Layout, share: slice | None = None,
                 counted: bool = True):
        self.phase, self.number, self.optimizer = phase, number, optimizer
        self.name, self.layout = phase.name, layout
        self.begin, self.end = layout.range_of(phase.groups)
        self.place = slice(self.begin, self.end)
        self.size = self.end - self.begin
        self.share = share or slice(0, self.size)
        self.names = (*optimizer.state_names, *((AVERAGE,) if phase.average is not None else ()))
        # Pages of other shares are never touched, so they take no memory; copies would all begin alike in a page.
        self.state = [layout.zeros()[self.place][self.share] for _ in self.names]
        self.moments = self.state[: len(optimizer.state_names)]
        self.updates = 0
        self._reached: int | None = None  # the clock after the last update's
        self.clips = optimizer.clip_norm is not None
        self.turns = {last: Turn(phase.name, self.place, last) for last in (False, True)}
        self.ranges = _within([(begin - self.begin, end - self.begin, decay)
                               for begin, end, decay in layout.decayed_ranges(phase.groups)], self.share)
        self._counted = self.ranges if counted else _within(
            [(s.begin - self.begin, s.end - self.begin, s.decay) for s in layout
             if self.begin <= s.begin < self.end and s.of is not None], self.share)

    @property
    def copies(self) -> bool:
        """Whether an averaged copy is kept."""
        return self.phase.average is not None

    @property
    def average(self) -> np.ndarray:
        """The averaged copy."""
        return self.state[-1]

    def is_due(self, step: int) -> bool:
        """Whether it has a turn in that step of the stage."""
        return step % self.phase.every == self.phase.every - 1

    def begin_average(self, parameters: np.ndarray) -> None:
        """The copy begins as this share of the phase's ``parameters``."""
        if self.copies:
            self.average[:] = parameters

    def squared_norm(self, gradients: np.ndarray) -> float:
        """Sum of squares of this share of the phase's ``gradients``."""
        mine = gradients[self.share]
        return sum(_core.sum_of_squares(mine[begin:end]) for begin, end, _ in self._counted)

    def update(self, parameters: np.ndarray, gradients: np.ndarray, rounded: np.ndarray | None, operation: Update,
               clock: int) -> None:
        """Move this share of the phase's ``parameters`` by the same share of ``gradients``.

        ``clock`` is where schedules are: steps since the stage began. ``rounded`` receives the same in bfloat16.
        """
        reached = self._reached
        if reached is None:  # in a new session
            reached = max(0, clock + 1 - self.phase.every)
        self.optimizer.update(parameters, gradients, self.moments, self.ranges, scale=operation.scale,
                              step=self.updates, clock=clock, reached=reached,
                              squared_norm=operation.squared_norm, rate=operation.rate, rounded=rounded)
        self.updates, self._reached = self.updates + 1, clock + 1
        if self.phase.average is not None:
            keep = min(self.phase.average, self.updates / (self.updates + 9))
            _core.approach(self.average, parameters, 1 - keep)

    def restart(self) -> None:
        """Forget the optimizer's state."""
        self.updates = 0
        for vector in self.moments:
            vector[:] = 0


def _within(ranges: Sequence[tuple[int, int, bool]], share: slice) -> list[tuple[int, int, bool]]:
    """``ranges`` cut to ``share``, counted from its beginning."""
    cut = ((max(begin, share.start) - share.start, min(end, share.stop) - share.start, decay)
           for begin, end, decay in ranges)
    return [(begin, end, decay) for begin, end, decay in cut if begin < end]
