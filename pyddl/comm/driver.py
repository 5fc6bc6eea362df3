"""The driver: carries out a strategy's operations for one worker, over a transport."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Protocol

from pyddl.comm.activity import Activity
from pyddl.comm.operations import Compute, Operation, StepDone, Sum
from pyddl.comm.transport import Transport
from pyddl.errors import InternalError

__all__ = ["Actor", "Stop", "drive"]

STOP = 1 << 48  # added to the count of a sum by a rank that wants to stop: agreeing costs no message of its own
STRATEGY = "the strategy, between two operations"


class Actor(Protocol):
    """What the driver asks of the worker whose generator it runs."""

    def compute(self) -> bool: ...

    def step_done(self) -> None: ...


class Stop(Protocol):
    """A request to end the data early. ``agreed`` is set by the driver when a sum has carried it to all ranks."""

    requested: bool
    agreed: bool


class Never:
    """No request: the default."""

    requested = agreed = False


def drive(strategy: Generator[Operation, Any, None], actor: Actor, transport: Transport, stop: Stop | None = None, *,
          ordered: bool = False, activity: Activity | None = None) -> None:
    """Run ``strategy`` to its end, or to the first step after which all ranks agree to stop.

    Collective, as the strategy is. With ``ordered``, sums follow one fixed tree, whatever the transport would prefer.
    Each operation is noted in ``activity``.
    """
    noted = activity or Activity()
    request: Stop = Never() if stop is None else stop
    compute, step_done, total = actor.compute, actor.step_done, transport.sum

    def sum_and_agree(operation: Sum) -> int:
        count = operation.count + STOP if request.requested else operation.count
        count = total(operation.vector, count, ordered)
        if count >= STOP:
            request.agreed = True
            count %= STOP
        return count

    def close_step(operation: StepDone) -> None:
        if request.requested and transport.size == 1:
            request.agreed = True
        step_done()

    carry_out: dict[type, Callable[[Any], Any]] = {
        Compute: lambda operation: not request.agreed and compute(),
        Sum: sum_and_agree,
        StepDone: close_step,
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
        noted.doing = operation
        noted.number += 1
        answer = handler(operation)
        noted.doing = STRATEGY
