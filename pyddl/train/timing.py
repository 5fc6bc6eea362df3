"""Where the seconds of a rank go."""

from __future__ import annotations

from time import perf_counter

from pyddl.comm.group import Groups
from pyddl.comm.model_group import ModelGroup
from pyddl.comm.transport import Transport
from pyddl.train.worker import Worker

__all__ = ["PARTS", "TimeSplit"]

PARTS = ("compute", "communication", "wait", "data", "other")


class TimeSplit:
    """Seconds of training on this rank, in parts; evaluation and saving are left out.

    ``compute`` is gradients and updates; ``communication`` moving bytes; ``wait`` waiting for other ranks; ``data``
    waiting for rows; ``other`` the rest: the strategy, the driver, the progress display.

    Attributes
    ----------
    seconds : dict of float
        By part.
    bytes_sent : int
        What this rank had to send, by the algorithm.
    """

    def __init__(self, worker: Worker, transport: Transport, groups: Groups, model_group: ModelGroup | None = None):
        self._worker, self._transport, self._groups, self._model_group = worker, transport, groups, model_group
        self.bytes_sent = 0
        self._at, self._sent_before = self._counters(), self._sent()
        self._begin = perf_counter()
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._lap = 0.0

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
        transport, groups, model_group = self._transport, self._groups, self._model_group
        compute, data = self._worker.seconds()
        moving = transport.communication_seconds + groups.communication_seconds
        waiting = transport.wait_seconds + groups.wait_seconds
        if model_group is not None:  # which works within a gradient
            moving += model_group.communication_seconds
            waiting += model_group.wait_seconds
            compute -= model_group.communication_seconds + model_group.wait_seconds
        return compute, moving, waiting, data

    def _sent(self) -> int:
        return sum(each.bytes_sent for each in (self._transport, self._groups, self._model_group) if each is not None)
