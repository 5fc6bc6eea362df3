"""Where the seconds of a rank go."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Protocol

from pyddl.comm.model_group import ModelGroup

__all__ = ["PARTS", "TimeSplit"]

PARTS = ("compute", "communication", "wait", "data", "other")


class Replica(Protocol):
    def seconds(self) -> tuple[float, float]:
        """Spent so far in computing, and in waiting for data."""


class Carrier(Protocol):
    """What moves vectors: a transport, groups, a link to a server."""

    @property
    def communication_seconds(self) -> float: ...

    @property
    def wait_seconds(self) -> float: ...

    @property
    def bytes_sent(self) -> int: ...


class TimeSplit:
    """Seconds of training on this rank, in parts; evaluation and saving are left out.

    ``compute`` is gradients and updates; ``communication`` moving bytes; ``wait`` waiting for other ranks; ``data``
    waiting for rows; ``other`` the rest: the strategy, the driver, the progress display.

    It counts from the start where there are carriers, else from `carry_on`.

    Attributes
    ----------
    seconds : dict of float
        By part.
    bytes_sent : int
        What this rank had to send, by the algorithm.
    """

    def __init__(self, replica: Replica, carriers: Sequence[Carrier] = (), model_group: ModelGroup | None = None):
        self._replica, self._carriers, self._model_group = replica, carriers, model_group
        self.bytes_sent = 0
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._lap = 0.0
        if carriers:
            self.go_on()

    def carry_on(self, carriers: Sequence[Carrier]) -> None:
        """Begin to count again, with these carriers."""
        self._carriers = carriers
        self.go_on()

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    def pause(self) -> None:
        """Book the time since the last `go_on`."""
        whole = perf_counter() - self._begin
        spent = [now - then for now, then in zip(self._counters(), self._at, strict=True)]
        for part, seconds in zip(PARTS, [*spent, whole - sum(spent)], strict=True):
            self.seconds[part] += seconds
        self.bytes_sent += self._sent() - self._sent_before

    def lap(self) -> float:
        """Seconds booked since the last call: an epoch's."""
        seconds, self._lap = self.total - self._lap, self.total
        return seconds

    def go_on(self) -> None:
        """Begin to count again."""
        self._at, self._sent_before = self._counters(), self._sent()
        self._begin = perf_counter()

    def _counters(self) -> tuple[float, ...]:
        compute, data = self._replica.seconds()
        moving = sum(each.communication_seconds for each in self._carriers)
        waiting = sum(each.wait_seconds for each in self._carriers)
        if self._model_group is not None:
            moving += self._model_group.communication_seconds
            waiting += self._model_group.wait_seconds
        return compute, moving, waiting, data

    def _sent(self) -> int:
        group = 0 if self._model_group is None else self._model_group.bytes_sent
        return group + sum(each.bytes_sent for each in self._carriers)
