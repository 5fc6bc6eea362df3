"""Statistics of all rows of a source, the same on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from pyddl.data.source import Source

__all__ = ["Statistics"]

CHUNKS = 256  # at most: the rows are cut the same way on any number of ranks, and so is the order of addition
ROWS = 500  # of a chunk, at the least


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
    labels : ndarray or None
        Of all rows.
    mean, variance : ndarray of shape (features,), float64
        ``variance`` is the mean of the squared distance from the mean.
    minimum, maximum : ndarray of shape (features,), float32
    largest_norm : float
        Of a row, Euclidean.
    """

    def __init__(self, source: Source, rank: int = 0, size: int = 1,
                 gather: Callable[[Any], list[Any]] = lambda value: [value]):
        self._source, self._rank, self._size, self._gather = source, rank, size, gather
        self.count, self.features, self.image_shape = len(source), source.features, source.image_shape
        self.labels = source.labels

    @property
    def mean(self) -> np.ndarray:
        return self._all[0]

    @property
    def variance(self) -> np.ndarray:
        return self._all[1]

    @property
    def minimum(self) -> np.ndarray:
        return self._all[2]

    @property
    def maximum(self) -> np.ndarray:
        return self._all[3]

    @property
    def largest_norm(self) -> float:
        return self._all[4]

    @cached_property
    def _all(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
        each = max(ROWS, -(-self.count // CHUNKS))
        begins = range(0, self.count, each)
        mine = [self._of_chunk(begin, min(begin + each, self.count)) for begin in begins[self._rank :: self._size]]
        parts = self._gather(mine)
        chunks = [parts[number % self._size][number // self._size] for number in range(len(begins))]
        count, mean, squares, minimum, maximum, largest = chunks[0]
        for rows, its_mean, its_squares, least, greatest, norm in chunks[1:]:
            off = its_mean - mean
            mean = mean + off * (rows / (count + rows))
            squares = squares + its_squares + off**2 * (count * rows / (count + rows))
            count += rows
            minimum, maximum = np.minimum(minimum, least), np.maximum(maximum, greatest)
            largest = max(largest, norm)
        return mean, squares / count, minimum, maximum, largest

    def _of_chunk(self, begin: int, end: int) -> tuple[int, np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
        rows = np.empty((end - begin, self.features), dtype=np.float32)
        self._source.read(np.arange(begin, end, dtype=np.int64), rows)
        values = rows.astype(np.float64)
        mean = values.mean(axis=0)
        norm = float(np.sqrt(np.einsum("ij,ij->i", values, values).max()))
        values -= mean
        return end - begin, mean, np.einsum("ij,ij->j", values, values), rows.min(axis=0), rows.max(axis=0), norm
