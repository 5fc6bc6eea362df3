"""BlockSource: rows of a file that can only be read in blocks, such as chunks of HDF5 or row groups of Parquet."""

from __future__ import annotations

import itertools
import threading
import weakref
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from pyddl import _core
from pyddl.data.source import SCAN_BYTES, Source
from pyddl.errors import DataError, ShapeError

__all__ = ["CACHE_BYTES", "BlockCache", "BlockSource", "open_files"]

CACHE_BYTES = 256 << 20  # of unpacked blocks, of all files of a source, per process
MOST_OPEN = 64  # files that are read in blocks, per process: a folder may have thousands
T = TypeVar("T")
READABLE = (np.float32, np.float64, np.uint8)  # what `_core.gather_rows` reads


class BlockCache:
    """Unpacked blocks of one source or several, the last ones used.

    Parameters
    ----------
    most : int
        Bytes; the block in use is kept however large it is.
    """

    def __init__(self, most: int = CACHE_BYTES):
        self.most, self.bytes = most, 0
        self.lock = threading.RLock()  # a loader's thread and the trainer's may both read
        self._kept: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()  # the last used one last

    def get(self, key: tuple[int, int], load: Callable[[], np.ndarray]) -> np.ndarray:
        """What is kept of (source, block), else what ``load`` gives."""
        with self.lock:
            rows = self._kept.get(key)
            if rows is not None:
                self._kept.move_to_end(key)
                return rows
            rows = load()
            while self._kept and self.bytes + rows.nbytes > self.most:
                self.bytes -= self._kept.popitem(last=False)[1].nbytes
            self._kept[key] = rows
            self.bytes += rows.nbytes
            return rows

    def __len__(self) -> int:
        return len(self._kept)


class OpenFiles:
    """Files of this process that are read in blocks, of which the last ones used stay open."""

    def __init__(self, most: int = MOST_OPEN):
        self._most, self._lock = most, threading.RLock()
        self._open: OrderedDict[int, Any] = OrderedDict()

    def use(self, owner: BlockSource, open_file: Callable[[], Any], read: Callable[[Any], T]) -> T:
        """What ``read(file)`` gives for the file of ``owner``, which ``open_file()`` opens where it is not open."""
        with self._lock:
            key = owner.number
            if key not in self._open:
                while len(self._open) >= self._most:
                    self._open.popitem(last=False)[1].close()
                self._open[key] = open_file()
                weakref.finalize(owner, self._forget, key)
            self._open.move_to_end(key)
            return read(self._open[key])

    def _forget(self, key: int) -> None:
        with self._lock:
            file = self._open.pop(key, None)
        if file is not None:
            file.close()


open_files = OpenFiles()
_numbers = itertools.count()


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
    cache : BlockCache, optional
        Its own by default; the parts of a folder share one.
    """

    def __init__(self, name: str, origin: str, begins: Sequence[int], features: int, *,
                 image_shape: tuple[int, ...] | None = None, cache: BlockCache | None = None):
        self.name, self.origin, self.image_shape = name, origin, image_shape
        self._begins = np.asarray(begins, dtype=np.int64)
        self.shape = (int(self._begins[-1]), int(features))
        self.cache = BlockCache() if cache is None else cache

    @cached_property
    def number(self) -> int:
        """That no other source of this process has."""
        return next(_numbers)

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
            rows = self._block(block)
            wanted = index[places] - self._begins[block]
            part = np.empty((len(places), self.features), dtype=np.float32)
            _core.gather_rows(rows, wanted, part)  # finite, as `_block` has found
            out[places] = part

    def _block(self, block: int) -> np.ndarray:
        return self.cache.get((self.number, block), lambda: self._checked(block))

    def _checked(self, block: int) -> np.ndarray:
        rows = self.load(block)
        expected = (int(self._begins[block + 1] - self._begins[block]), self.features)
        if rows.shape != expected:
            raise DataError(f"{self.name}: rows {self._begins[block]} on have shape {rows.shape}; expected {expected}")
        if rows.dtype not in READABLE:
            with np.errstate(over="ignore", under="ignore"):  # what is too large becomes infinite, which is named below
                rows = rows.astype(np.float32)
        self._refuse_not_finite(rows, int(self._begins[block]))
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
