"""The order of a worker's operations: a step begins, has its turns and is done, until the data end."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

from pyddl._own import from_here, said
from pyddl.comm.operations import (
    BeginStep,
    Fetch,
    GatherFromServers,
    NextEpoch,
    Operation,
    Publish,
    Push,
    Receive,
)
from pyddl.errors import PyddlError, StrategyError

__all__ = ["OF_SERVERS", "Order"]

MOST = 10_000  # operations of a step
PYDDL = str(Path(__file__).parents[1])
OF_SERVERS = (Fetch, GatherFromServers, NextEpoch, Publish, Push, Receive)
"""Operations that have no meaning where there are no servers."""


class Order:
    """What has become of one generator of a strategy, so that a mistake in it is an error instead of a training that
    does nothing, or never ends.

    Drivers tell it of each `BeginStep`, `StepDone` and `NextEpoch`, and count operations for it.

    Parameters
    ----------
    steps : generator
        What `Strategy.worker`, `Strategy.server` or `Strategy.settle` has returned.

    Attributes
    ----------
    limit : int
        The number of operations at which one step has become too long.

    Raises
    ------
    StrategyError
        It is no generator.
    """

    __slots__ = ("_begun", "_over", "limit", "steps", "who")

    def __init__(self, steps: Any):
        if not isinstance(steps, Generator):
            raise StrategyError(f"the strategy's worker, server or settle returned {steps!r}; expected a generator: "
                                "a function with yield in it")
        self.steps, self.who = steps, _name_of(steps)
        self._begun: set[int] = set()  # whose steps are under way: of the worker, or of replicas of its
        self._over: set[int] = set()  # for whom the data have ended
        self.limit = MOST

    def begin(self, operation: BeginStep, number: int) -> None:
        """A step is to begin, as operation ``number``."""
        whose = id(operation.replica)
        if whose in self._begun:
            raise StrategyError(f"{self.who} yielded BeginStep before the step that is under way was over: each step "
                                "must end with yield StepDone()")
        if whose in self._over:
            raise StrategyError(f"{self.who} yielded BeginStep after the end of the data, which the answer False had "
                                "told: the loop is while (yield BeginStep()):")
        self.get_on(number)

    def began(self, operation: BeginStep, more: bool) -> None:
        """What the answer was."""
        (self._begun if more else self._over).add(id(operation.replica))

    def done(self, number: int) -> None:
        """The step is over, as operation ``number``."""
        if self._over and not self._begun:
            raise StrategyError(f"{self.who} yielded StepDone after the end of the data, which BeginStep's answer "
                                "False had told: the loop is while (yield BeginStep()):")
        self._begun.clear()
        self.get_on(number)

    def next_epoch(self, number: int) -> None:
        """Where there are servers: a fence, as operation ``number``."""
        self._over.clear()
        self.get_on(number)

    def get_on(self, number: int) -> None:
        """Training gets on, by operation ``number``."""
        self.limit = number + MOST

    def end(self) -> None:
        """The generator has ended."""
        if self._begun:
            raise StrategyError(f"{self.who} ended within a step: each step must end with yield StepDone()")

    def explain(self, error: Exception) -> None:
        """The generator has raised: where it is one's own, say where."""
        code = getattr(self.steps, "gi_code", None)
        if isinstance(error, PyddlError) or code is None or code.co_filename.startswith(PYDDL):
            return
        file = code.co_filename
        raise StrategyError(f"{self.who} in {from_here(file)} raised {said(error, file)}") from error

    def too_long(self) -> StrategyError:
        """What to raise at the limit."""
        return StrategyError(f"{self.who} has yielded {MOST:,} operations without the end of a step: it needs yield "
                             "StepDone(), or a loop in it never ends")

    def no_operation(self, yielded: Any) -> StrategyError:
        """What to raise where nobody can carry out what was yielded."""
        start = f"{self.who} yielded {yielded!r}, which is no operation"
        if isinstance(yielded, type) and issubclass(yielded, Operation):
            return StrategyError(f"{self.who} yielded the class {yielded.__name__}: yield {yielded.__name__}()")
        if isinstance(yielded, Generator):
            return StrategyError(f"{self.who} yielded a generator, {_name_of(yielded)}, in the place of its "
                                 "operations: yield from it")
        if isinstance(yielded, OF_SERVERS):
            return StrategyError(f"{self.who} yielded {type(yielded).__name__}, which only strategies with servers can:"
                                 " say how many it has, as the attribute servers")
        return StrategyError(f"{start}: yield those of pyddl.comm.operations, for example Compute()")


def _name_of(steps: Any) -> str:
    """As its author knows it: ``Doubling.worker``."""
    return getattr(steps, "__qualname__", type(steps).__name__)
