"""Partitions of Spark: a DataFrame or RDD as data of `ParameterServer`; the server counts them, workers read them.

Every rank has a Spark session of its own, on its own node or on a cluster, and the same plan in it; a worker asks its
session for the partitions that the server gives it, one after another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from pyddl.callbacks.units import Unit, Work
from pyddl.errors import DataError

__all__ = ["PartUnit", "PartitionWork", "Partitions"]

T = TypeVar("T")
Order = Callable[[int, int, int], "np.ndarray | None"]
LONGEST = 300  # characters of what Spark says


@dataclass(frozen=True)
class PartUnit(Unit):
    """Items [begin, end) of a partition.

    Attributes
    ----------
    partition : int
    size : int
        Of the partition.
    """

    partition: int = 0
    size: int = 0

    def __str__(self) -> str:
        return f"items {self.begin} to {self.end - 1} of partition {self.partition}, epoch {self.epoch + 1}"


class Partitions:
    """The partitions of a DataFrame or RDD, as this rank's Spark session has them.

    Parameters
    ----------
    data : pyspark.sql.DataFrame or pyspark.RDD
        Of a DataFrame items are its rows.
    """

    def __init__(self, data: Any):
        self._rdd = _asked("the data", lambda: data if hasattr(data, "mapPartitionsWithIndex") else data.rdd)
        self.count: int = _asked("the data", self._rdd.getNumPartitions)
        self._read: tuple[int, list[Any]] = (-1, [])  # the last one

    @classmethod
    def of(cls, data: Any) -> Partitions | None:
        """Those of what is Spark's; None of all else. Imports nothing."""
        module = type(data).__module__
        return cls(data) if module == "pyspark" or module.startswith("pyspark.") else None

    def sizes(self) -> list[int]:
        """Items of each partition: goes through all of the data."""
        return _asked("the sizes of partitions", self._rdd.glom().map(len).collect)

    def items(self, unit: PartUnit, order: np.ndarray | None) -> list[Any]:
        """The items of a unit; ``order`` is that of all items of the partition, where it is not Spark's."""
        if self._read[0] != unit.partition:
            self._read = (-1, [])
            found = _asked(f"partition {unit.partition}", lambda: self._rdd.context.runJob(self._rdd, iter,
                                                                                           [unit.partition]))
            if len(found) != unit.size:
                raise DataError(f"partition {unit.partition} has {len(found)} items here, but {unit.size} on the "
                                "server; every rank needs the same data: save what is drawn by chance first")
            self._read = (unit.partition, found)
        items = self._read[1]
        return items[unit.begin : unit.end] if order is None else [items[i] for i in order[unit.begin : unit.end]]


class PartitionWork(Work):
    """Hands out units of partitions; a worker gets all of one before the first of the next, so that it is read once.

    Parameters
    ----------
    sizes : sequence of int
        Items of each partition.
    epochs : range
    share : int or None
        Items of a unit; None for whole partitions.
    order : callable
        ``order(epoch, 0, n)`` gives the order of n partitions; None: as they come.
    """

    def __init__(self, sizes: list[int], epochs: range, share: int | None, order: Order):
        if not any(sizes):
            raise DataError(f"data is empty: its {len(sizes)} partitions have no items; expected at least one")
        self._partitions = self._of(sizes, epochs, share, order)
        self._under_way: dict[int, deque[Unit]] = {}  # by worker, the rest of its partition
        self.returned = deque()
        self._held = {}

    def claim(self, worker: int, count: int) -> list[Unit]:
        units: list[Unit] = []
        while self.returned and len(units) < count:
            units.append(self.returned.popleft())
        while len(units) < count:
            if not self._under_way.get(worker):
                following = next(self._partitions, None)
                if following is None:
                    break
                self._under_way[worker] = following
            units.append(self._under_way[worker].popleft())
        self._held.setdefault(worker, deque()).extend(units)
        return units

    def lose(self, worker: int) -> None:
        super().lose(worker)
        self.returned.extend(self._under_way.pop(worker, ()))

    @staticmethod
    def _of(sizes: list[int], epochs: range, share: int | None,
            order: Order) -> Iterator[deque[Unit]]:
        """The units of one partition after another; of an empty one none."""
        for epoch in epochs:
            drawn = order(epoch, 0, len(sizes))
            for partition in range(len(sizes)) if drawn is None else drawn.tolist():
                size = sizes[partition]
                if size:
                    yield deque(PartUnit(epoch, begin, min(begin + (share or size), size), None, partition, size)
                                for begin in range(0, size, share or size))


def _asked(what: str, call: Callable[[], T]) -> T:
    """What Spark answers; its errors, which have pages, in a line."""
    try:
        return call()
    except Exception as error:  # py4j's, and pyspark's of each version
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        told = " ".join(lines[:2])[:LONGEST] or type(error).__name__
        raise DataError(f"{what} cannot be had from Spark: {told}") from error
