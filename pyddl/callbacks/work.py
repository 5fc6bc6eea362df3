"""Work: the data of a training, cut into units that the server hands out, each to be done once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from pyddl.data.sampler import Sampler
from pyddl.data.source import Source
from pyddl.errors import DataError, ParameterError

__all__ = ["Job", "Unit", "Work", "length"]


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


def length(data: Any) -> int | None:
    """Number of items of what each rank reads by itself; None for what only the server draws from.

    Raises
    ------
    DataError
        The data is neither, or is empty.
    """
    if isinstance(data, Sized) and not isinstance(data, str | bytes | Mapping) and (
            hasattr(data, "__getitem__") or isinstance(data, Source)):
        if not len(data):
            raise DataError("data is empty; expected at least one item")
        return len(data)
    if isinstance(data, Iterable) and not isinstance(data, str | bytes | Mapping):
        return None
    raise DataError(f"data is of type {type(data).__name__}; expected a sequence, an array, a pyddl.data source, or an "
                    "iterable of items")


class Job:
    """One training, as a rank was asked to do it.

    Parameters
    ----------
    data : sequence, ndarray, DataFrame, Series, Source or iterable
    gradient, descent : callable
    options : dict
        ``batch_size``, ``parts`` (units of a step, or of an epoch where there is no batch_size), ``first`` (number of
        the first epoch), ``epochs``, ``fetch_every``, ``shuffle``, ``seed``. Equal on all ranks.
    """

    def __init__(self, data: Any, gradient: Callable[[Any, Any], Any], descent: Callable[[Any, Any], Any],
                 options: dict[str, Any]):
        if hasattr(data, "iloc"):  # pandas' objects, of which [i] is a column, or what has the label i
            data = data.to_numpy()
        self.data, self.gradient, self.descent = data, gradient, descent
        self.options = options
        self.items = length(data)
        self.fetch_every: int = options["fetch_every"]
        self._sampler = None
        if self.items is not None:
            step = options["batch_size"] or self.items
            self._sampler = Sampler(self.items, step, options["seed"], options["shuffle"])

    def work(self) -> Work:
        """All units. For the server."""
        options = self.options
        if self._sampler is None:
            self._require_drawable()
        epochs = range(options["first"], options["first"] + options["epochs"])
        return Work(self.data, self._sampler, options["parts"], epochs, options["batch_size"])

    def _require_drawable(self) -> None:
        kind = f"data, of type {type(self.data).__name__}, has no length"
        if self.options["batch_size"] is None:
            raise ParameterError(f"{kind}, so it cannot be cut into partitions; give batch_size, or list(data)")
        if self.options["shuffle"]:
            raise ParameterError(f"{kind}, so it cannot be shuffled; leave shuffle out, or give list(data)")
        if self.options["epochs"] > 1 and iter(self.data) is self.data:
            raise ParameterError(f"{kind} and can be read once, but epochs is {self.options['epochs']}; give "
                                 "list(data), or an object whose __iter__ begins anew")

    def require_same(self, theirs: dict[str, Any], items: int | None, rank: int) -> None:
        """Raise unless a worker was asked for the same training, on as many items. For the server."""
        for name, mine in self.options.items():
            if theirs[name] != mine:
                raise ParameterError(f"{name} is {mine} on rank 0, but {theirs[name]} on rank {rank}; every rank needs "
                                     "the same")
        if self.items is not None and items != self.items:
            there = "data without length" if items is None else f"{items} items"
            raise DataError(f"data has {self.items} items on rank 0, but rank {rank} has {there}; every rank needs the "
                            "whole data, the same everywhere")

    def take(self, unit: Unit) -> Any:
        """The items of a unit: rows of an array, else a list."""
        if self._sampler is None:
            return unit.items
        index = self._sampler.index(unit.epoch, unit.begin, unit.end)
        if isinstance(self.data, Source):
            rows = np.empty((len(unit), self.data.features), np.float32)
            self.data.read(index, rows)
            return rows
        if isinstance(self.data, np.ndarray):
            return self.data[index] if self._sampler.shuffle else self.data[unit.begin : unit.end]
        return [self.data[i] for i in index.tolist()]


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
