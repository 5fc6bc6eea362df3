"""Calendar: which steps belong to which epoch and stage of a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyddl.data.sampler import Sampler
from pyddl.models.stages import Stage

__all__ = ["Calendar", "Span"]


@dataclass(frozen=True)
class Span:
    """When a stage takes place.

    Attributes
    ----------
    number : int
        Of the stage, from 0.
    stage : Stage
    first, end : int
        Steps [first, end). An epoch that the stage ends early leaves its other numbers unused.
    last_epoch : int
        That in which it ends.
    """

    number: int
    stage: Stage
    first: int
    end: int
    last_epoch: int


class Calendar:
    """The epochs and steps of all stages, one after another.

    Step s is of epoch s // steps_per_epoch, whatever the stage: rows and random numbers follow from it.

    Parameters
    ----------
    sampler : Sampler
    stages : sequence of Stage
    epochs : int
        Of the last stage.

    Attributes
    ----------
    spans : list of Span
    epochs : int
        Of all stages together.
    end : int
        The step at which training is over.
    """

    def __init__(self, sampler: Sampler, stages: Sequence[Stage], epochs: int):
        self.sampler, each = sampler, sampler.steps_per_epoch
        self.spans: list[Span] = []
        epoch = 0
        for number, stage in enumerate(stages):
            length = each * (stage.epochs or epochs) if stage.steps is None else stage.steps
            first, epoch = epoch * each, epoch + -(-length // each)
            self.spans.append(Span(number, stage, first, first + length, epoch - 1))
        self.epochs, self.end = epoch, epoch * each

    def span_of(self, step: int) -> Span:
        """The stage that a step belongs to; the last one's at the end."""
        return next((span for span in self.spans if step < span.end), self.spans[-1])

    def end_of(self, epoch: int) -> int:
        """The step after the last one of an epoch."""
        return min((epoch + 1) * self.sampler.steps_per_epoch, self._span(epoch).end)

    def rows_of(self, epoch: int) -> int:
        """Rows of an epoch: all, or those up to where its stage ends."""
        return self.sampler.consumed(self.end_of(epoch)) - epoch * self.sampler.rows

    def rows_before(self, step: int) -> int:
        """Rows of all the steps before this one."""
        whole = step // self.sampler.steps_per_epoch
        return sum(map(self.rows_of, range(whole))) + self.sampler.consumed(step) - whole * self.sampler.rows

    def after(self, step: int) -> int:
        """The step that follows the one before ``step``: beyond the numbers that an early end leaves unused."""
        epoch = (step - 1) // self.sampler.steps_per_epoch
        return (epoch + 1) * self.sampler.steps_per_epoch if step >= self.end_of(epoch) else step

    def _span(self, epoch: int) -> Span:
        return next(span for span in self.spans if epoch <= span.last_epoch)
