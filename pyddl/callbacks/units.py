"""Units of work: the data of a training in pieces that the server hands out, each to be done once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pyddl.data.sampler import Sampler
from pyddl.errors import DataError

__all__ = ["Unit", "Work"]


@dataclass(frozen=True)
class Unit:
    """What one call of ``gradient`` gets: the items at positions [begin, end) of an epoch.

    Attributes
    ----------
    items : list or None
        The items themselves, where the data has no length and only the server reads it.
    """

    epoch: int
    begin: int
    end: int
    items: list[Any] | None = None

    def __len__(self) -> int:
        return self.end - self.begin

    def __str__(self) -> str:
        return f"items {self.begin} to {self.end - 1} of epoch {self.epoch + 1}"


class Work:
    """Hands out units; takes back those of a worker that is lost. The server has one.

    Parameters
    ----------
    data : iterable
        What has no length is drawn from.
    sampler : Sampler or None
        The steps of data with a length; None for what is drawn from.
    parts : int
        Units per step.
    epochs : range
    batch_size : int or None
        Items per step of what is drawn from.

    Attributes
    ----------
    returned : deque of Unit
        Taken from workers that are lost; handed out before all others.
    """

    def __init__(self, data: Any, sampler: Sampler | None, parts: int, epochs: range, batch_size: int | None):
        self._data, self._sampler, self._parts, self._batch_size = data, sampler, parts, batch_size
        self._units = self._cut(epochs)
        self.returned: deque[Unit] = deque()
        self._held: dict[int, deque[Unit]] = {}

    def claim(self, worker: int, count: int) -> list[Unit]:
        """Up to ``count`` units for a worker; none when nothing is left to hand out now."""
        units: list[Unit] = []
        while self.returned and len(units) < count:
            units.append(self.returned.popleft())
        units += islice(self._units, count - len(units))
        self._held.setdefault(worker, deque()).extend(units)
        return units

    def done(self, worker: int) -> Unit:
        """The oldest unit that a worker holds is done."""
        return self._held[worker].popleft()

    def held(self) -> dict[int, Unit]:
        """By worker, the unit it does now."""
        return {worker: units[0] for worker, units in self._held.items() if units}

    def lose(self, worker: int) -> None:
        """Let others do what a worker held."""
        self.returned.extend(self._held.pop(worker, ()))

    def _cut(self, epochs: range) -> Iterator[Unit]:
        for epoch in epochs:
            if self._sampler is None:
                yield from self._drawn(epoch)
                continue
            for step in range(self._sampler.steps_per_epoch):
                for part in range(self._parts):
                    begin, end = self._sampler.part(step, part, self._parts)
                    if begin < end:
                        yield Unit(epoch, begin, end)

    def _drawn(self, epoch: int) -> Iterator[Unit]:
        position = 0
        items = iter(self._data)
        while batch := list(islice(items, self._batch_size)):
            for part in range(self._parts):
                begin, end = (len(batch) * each // self._parts for each in (part, part + 1))
                if begin < end:
                    yield Unit(epoch, position + begin, position + end, batch[begin:end])
            position += len(batch)
        if not position:
            raise DataError(f"data gave no items in epoch {epoch + 1}; expected at least one")
