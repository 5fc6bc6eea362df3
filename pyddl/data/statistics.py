"""Statistics of all rows of a source, the same on any number of ranks."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property, reduce
from typing import Any, NamedTuple

import numpy as np

from pyddl.data.source import Source

__all__ = ["Statistics"]

CHUNKS = 256  # at most: the rows are cut the same way on any number of ranks, and so is the order of addition
ROWS = 500  # of a chunk, at the least
PIECE_BYTES = 4 << 20  # of a chunk is in double precision at a time: within a core's cache


class _Sums(NamedTuple):
    """Of some rows: how many, mean, squared distances from it, least and greatest value, largest squared norm."""

    rows: int
    mean: np.ndarray
    squares: np.ndarray
    minimum: np.ndarray
    maximum: np.ndarray
    norm: float

    def joined(self, other: _Sums) -> _Sums:
        rows, off = self.rows + other.rows, other.mean - self.mean
        return _Sums(rows, self.mean + off * (other.rows / rows),
                     self.squares + other.squares + off**2 * (self.rows / rows * other.rows),
                     np.minimum(self.minimum, other.minimum), np.maximum(self.maximum, other.maximum),
                     max(self.norm, other.norm))


class Statistics:
    """What a model may know of the training rows before it sees them, computed when first asked for.

    Each chunk of rows is summed up by one rank, in double precision, and the chunks are joined in their order
    (Chan, Golub, LeVeque 1983), so that nothing depends on the ranks. The first attribute but ``count``, ``features``
    and ``image_shape`` is collective over the ranks that share the work.

    Parameters
    ----------
    source : Source
    rank, size : int, default=0, 1
        This rank, of those that share the work.
    gather : callable, optional
        ``gather(value)`` gives the values of all of them, in order.

    Attributes
    ----------
    count, features : int
    image_shape : tuple of int or None
    labels : ndarray of shape (count,) or (count, targets), or None
    classes : tuple of str or None
        Where the labels were text.
    mean, variance : ndarray of shape (features,), float64
        ``variance`` is the mean of the squared distance from the mean.
    minimum, maximum : ndarray of shape (features,), float32
    largest_norm, largest_distance : float
        Of a row, Euclidean: from 0, and from ``mean``, which takes a second pass over the rows. Collective, each.
    """

    def __init__(self, source: Source, rank: int = 0, size: int = 1,
                 gather: Callable[[Any], list[Any]] = lambda value: [value]):
        self._source, self._rank, self._size, self._gather = source, rank, size, gather
        self._function: Callable[[np.ndarray], np.ndarray] | None = None
        self.count, self.features, self.image_shape = len(source), source.features, source.image_shape

    def through(self, function: Callable[[np.ndarray], np.ndarray], features: int) -> Statistics:
        """The same of ``function(rows)``, which turns rows (n, features) into (n, ``features``)."""
        other = Statistics(self._source, self._rank, self._size, self._gather)
        other._function, other.features, other.image_shape = function, features, None
        return other

    @property
    def labels(self) -> np.ndarray | None:
        return self._source.labels

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self._source.classes

    @property
    def mean(self) -> np.ndarray:
        return self._all.mean

    @property
    def variance(self) -> np.ndarray:
        return self._all.squares / self.count

    @property
    def minimum(self) -> np.ndarray:
        return self._all.minimum

    @property
    def maximum(self) -> np.ndarray:
        return self._all.maximum

    @property
    def largest_norm(self) -> float:
        return math.sqrt(self._all.norm)

    @cached_property
    def largest_distance(self) -> float:
        mean, (each, begins, (rows, values)) = self.mean, self._chunks()
        most = 0.0
        for begin in begins[self._rank :: self._size]:
            end = min(begin + each, self.count)
            for at in range(begin, end, len(rows)):
                piece, off = rows[: end - at], values[: end - at]
                self._read(at, piece)
                np.subtract(piece, mean, out=off)
                most = max(most, float(np.einsum("ij,ij->i", off, off).max()))
        return math.sqrt(max(self._gather(most)))

    def _chunks(self) -> tuple[int, range, tuple[np.ndarray, np.ndarray]]:
        """Rows of a chunk, where chunks begin, and two buffers for their pieces."""
        each = max(ROWS, -(-self.count // CHUNKS))
        at_once = max(1, min(each, self.count, PIECE_BYTES // (8 * self.features)))
        buffers = np.empty((at_once, self.features), dtype=np.float32), np.empty((at_once, self.features))
        return each, range(0, self.count, each), buffers

    @cached_property
    def _all(self) -> _Sums:
        each, begins, buffers = self._chunks()
        mine = [self._of_chunk(begin, min(begin + each, self.count), *buffers)
                for begin in begins[self._rank :: self._size]]
        parts = self._gather(mine)
        return reduce(_Sums.joined, (parts[number % self._size][number // self._size] for number in range(len(begins))))

    def _of_chunk(self, begin: int, end: int, rows: np.ndarray, values: np.ndarray) -> _Sums:
        """Piece by piece, in the two buffers: memory does not grow with the data."""
        return reduce(_Sums.joined, (self._of_piece(at, rows[: end - at], values[: end - at])
                                     for at in range(begin, end, len(rows))))

    def _of_piece(self, begin: int, rows: np.ndarray, values: np.ndarray) -> _Sums:
        self._read(begin, rows)
        values[:] = rows
        mean = values.mean(axis=0)
        norm = float(np.einsum("ij,ij->i", values, values).max())
        values -= mean  # before squaring, so that a large offset costs no digits
        return _Sums(len(rows), mean, np.einsum("ij,ij->j", values, values), rows.min(axis=0), rows.max(axis=0), norm)

    def _read(self, begin: int, out: np.ndarray) -> None:
        """Rows from ``begin`` on."""
        index = np.arange(begin, begin + len(out), dtype=np.int64)
        if self._function is None:
            self._source.read(index, out)
            return
        rows = np.empty((len(out), self._source.features), dtype=np.float32)
        self._source.read(index, rows)
        out[:] = self._function(rows)
