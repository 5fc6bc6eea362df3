"""Job: one training as a rank was asked to do it, the data among it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sized
from typing import Any

import numpy as np

from pyddl.callbacks.spark import Partitions, PartitionWork, PartUnit
from pyddl.callbacks.units import Unit, Work
from pyddl.data.sampler import Sampler
from pyddl.data.source import Source
from pyddl.errors import DataError, ParameterError

__all__ = ["Job", "length"]


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
    data : sequence, ndarray, DataFrame, Series, Source, iterable, or DataFrame or RDD of Spark
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
        self.partitions = Partitions.of(data)
        self.items = length(data) if self.partitions is None else self.partitions.count
        self.fetch_every: int = options["fetch_every"]
        self._sampler = None
        if self.items is not None and self.partitions is None:
            step = options["batch_size"] or self.items
            self._sampler = Sampler(self.items, step, options["seed"], options["shuffle"])

    def work(self) -> Work:
        """All units. For the server."""
        options = self.options
        epochs = range(options["first"], options["first"] + options["epochs"])
        if self.partitions is not None:
            return self._of_partitions(self.partitions, epochs)
        if self._sampler is None:
            self._require_drawable()
        return Work(self.data, self._sampler, options["parts"], epochs, options["batch_size"])

    def _of_partitions(self, partitions: Partitions, epochs: range) -> Work:
        batch_size, parts = self.options["batch_size"], self.options["parts"]
        share = batch_size and max(1, batch_size // parts)
        return PartitionWork(partitions.sizes(), epochs, share, self._order)

    def _order(self, epoch: int, what: int, count: int) -> np.ndarray | None:
        """That of the partitions (``what`` is 0), or of the items of partition ``what`` - 1, in an epoch; None: as they
        come."""
        if not self.options["shuffle"]:
            return None
        return np.random.default_rng([self.options["seed"], epoch, what]).permutation(count)

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
            kind = "items" if self.partitions is None else "partitions"
            there = "data without length" if items is None else f"{items} {kind}"
            raise DataError(f"data has {self.items} {kind} on rank 0, but rank {rank} has {there}; every rank needs "
                            "the whole data, the same everywhere")

    def take(self, unit: Unit) -> Any:
        """The items of a unit: rows of an array, else a list."""
        if self.partitions is not None:
            assert isinstance(unit, PartUnit)
            return self.partitions.items(unit, self._order(unit.epoch, unit.partition + 1, unit.size))
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
