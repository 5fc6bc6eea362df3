"""BlockSource: rows of a file that can only be read in blocks, such as chunks of HDF5 or row groups of Parquet."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from pyddl import _core
from pyddl.data.source import SCAN_BYTES, Source
from pyddl.errors import DataError, ShapeError

__all__ = ["CACHE_BYTES", "BlockSource"]

CACHE_BYTES = 256 << 20  # of unpacked blocks, per source and process
READABLE = (np.float32, np.float64, np.uint8)  # what `_core.gather_rows` reads


class BlockSource(Source):
    """Rows that lie in consecutive blocks, of which the last ones used stay in memory.

    Training reads rows in random order. Data whose unpacked rows fit into the cache are therefore read once; larger
    ones are read again and again, a block for a few rows: keep those as ``.npy``, which is mapped, or in blocks of few
    rows.

    Parameters
    ----------
    name, origin : str
        What messages and reports call it, and where it was found.
    begins : sequence of int
        First row of each block, then the number of rows: increasing from 0.
    features : int
    image_shape : tuple of int, optional
    cache_bytes : int, default=256 MiB
        The block in use is kept however large it is.
    """

    def __init__(self, name: str, origin: str, begins: Sequence[int], features: int, *,
                 image_shape: tuple[int, ...] | None = None, cache_bytes: int = CACHE_BYTES):
        self.name, self.origin, self.image_shape = name, origin, image_shape
        self._begins = np.asarray(begins, dtype=np.int64)
        self.shape = (int(self._begins[-1]), int(features))
        self._cache_bytes = cache_bytes
        self._cached: OrderedDict[int, np.ndarray] = OrderedDict()  # the last used one last
        self._bytes = 0
        self._lock = threading.Lock()  # a loader's thread and the trainer's may both read

    @abstractmethod
    def load(self, block: int) -> np.ndarray:
        """Rows of one block, (rows, features) of any real numbers; a `DataError` where the file is damaged."""

    def read(self, index: np.ndarray, out: np.ndarray) -> None:
        if index.size and not (index.min() >= 0 and index.max() < len(self)):
            raise IndexError(f"{self.name}: rows {index.min()} to {index.max()} are asked for; it has {len(self)}")
        if out.shape != (len(index), self.features):
            raise ShapeError(f"out has shape {out.shape}; expected ({len(index)}, {self.features})")
        of_row = np.searchsorted(self._begins, index, side="right") - 1
        by_block = np.argsort(of_row, kind="stable")
        blocks, first = np.unique(of_row[by_block], return_index=True)
        for block, places in zip(blocks.tolist(), np.split(by_block, first[1:]), strict=True):
            with self._lock:
                rows = self._block(block)
            wanted = index[places] - self._begins[block]
            part = np.empty((len(places), self.features), dtype=np.float32)
            _core.gather_rows(rows, wanted, part)  # finite, as `_block` has found
            out[places] = part

    def _block(self, block: int) -> np.ndarray:
        rows = self._cached.get(block)
        if rows is not None:
            self._cached.move_to_end(block)
            return rows
        rows = self.load(block)
        expected = (int(self._begins[block + 1] - self._begins[block]), self.features)
        if rows.shape != expected:
            raise DataError(f"{self.name}: rows {self._begins[block]} on have shape {rows.shape}; expected {expected}")
        if rows.dtype not in READABLE:
            with np.errstate(over="ignore", under="ignore"):  # what is too large becomes infinite, which is named below
                rows = rows.astype(np.float32)
        self._refuse_not_finite(rows, int(self._begins[block]))
        while self._cached and self._bytes + rows.nbytes > self._cache_bytes:
            self._bytes -= self._cached.popitem(last=False)[1].nbytes
        self._cached[block] = rows
        self._bytes += rows.nbytes
        return rows

    def _refuse_not_finite(self, rows: np.ndarray, first: int) -> None:
        if rows.dtype.kind != "f":
            return
        wrong = ~(np.abs(rows) <= np.finfo(np.float32).max)  # NaN compares false
        if wrong.any():
            row, column = np.unravel_index(int(np.argmax(wrong)), rows.shape)
            raise DataError(f"{self.name}: the value in row {first + int(row)}, column {int(column)} is "
                            f"{rows[row, column]}; expected a finite float32: replace or drop such rows")

    @cached_property
    def _range(self) -> tuple[float, float]:
        """Smallest and largest value: of all blocks, or of evenly spaced ones of very large data."""
        count = len(self._begins) - 1
        every = max(1, -(-len(self) * self.features * 4 // SCAN_BYTES))
        low, high = np.inf, -np.inf
        for block in range(0, count, min(every, count)):
            with self._lock:
                rows = self._block(block)
            low, high = min(low, float(rows.min())), max(high, float(rows.max()))
        return float(np.float32(low)), float(np.float32(high))  # as `read` gives them

    @property
    def minimum(self) -> float:
        """Smallest value, by one pass at first use; of data above 256 MiB only evenly spaced blocks count."""
        return self._range[0]

    @property
    def maximum(self) -> float:
        """Largest value; as `minimum`."""
        return self._range[1]

    def describe(self) -> str:
        return f"{self.name}: {self.shape[0]} x {self.shape[1]} in {len(self._begins) - 1} blocks, from {self.origin}"
