"""The driver: carries out a strategy's operations for one worker, over a transport."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Protocol

from pyddl.comm.operations import Compute, Operation, StepDone, Sum
from pyddl.comm.transport import Transport
from pyddl.errors import InternalError

__all__ = ["Actor", "drive"]


class Actor(Protocol):
    """What the driver asks of the worker whose generator it runs."""

    def compute(self) -> bool: ...

    def step_done(self) -> None: ...


def drive(strategy: Generator[Operation, Any, None], actor: Actor, transport: Transport, *,
          ordered: bool = False) -> None:
    """Run ``strategy`` to its end.

    Collective, as the strategy is. With ``ordered``, sums follow one fixed tree, whatever the transport would prefer.
    """
    compute, step_done, total = actor.compute, actor.step_done, transport.sum
    carry_out: dict[type, Callable[[Any], Any]] = {
        Compute: lambda operation: compute(),
        Sum: lambda operation: total(operation.vector, operation.count, ordered),
        StepDone: lambda operation: step_done(),
    }
    advance = strategy.send
    answer = None
    while True:
        try:
            operation = advance(answer)
        except StopIteration:
            return
        handler = carry_out.get(type(operation))
        if handler is None:
            raise InternalError(f"the strategy yielded {operation!r}, which is no operation of this driver")
        answer = handler(operation)
