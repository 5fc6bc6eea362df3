"""Source: numbered rows of float32, wherever they come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

from pyddl import _core
from pyddl.data.arrays import as_numbers, column_names
from pyddl.data.labels import as_labels, take
from pyddl.data.scaling import Scaling
from pyddl.errors import DataError, ShapeError

__all__ = ["ArraySource", "RandomSource", "Source", "as_matrix"]

CHECKSUM_BYTES = 1 << 20  # rows that are not contiguous are copied in pieces of this size
SAMPLED = 8  # rows that stand for all in a fingerprint: each may be in a packed block of its own
SCAN_BYTES = 256 << 20  # a larger file is not read whole just to learn its smallest and largest value


class Source(ABC):
    """Numbered rows of a data set, given as float32 on demand.

    Attributes
    ----------
    name : str
        What a report calls it.
    shape : tuple of int
        (rows, features).
    image_shape : tuple of int or None
        Shape of one row as a picture, for example (28, 28).
    columns : tuple of str or None
        Names of the features in their order, where each is a column with a name.
    inner : str
        Name of what alone holds the features within a file, a data set or a column of lists; else empty.
    labels : ndarray of shape (rows,) or (rows, targets), or None
        Of all rows, where there are any. A source of several files joins them when first asked; `read_labels` gives
        those of some rows without that.
    classes : tuple of str or None
        Where the labels were text: its values in sorted order, which the labels number from 0.
    scaling : Scaling or None
        What the rows have been scaled by; see `pyddl.data.load`.
    spec : dict of str
        What `pyddl.data.load` was asked for: ``data``, and ``labels``, ``image_size`` and ``grey`` where these were
        given too. Empty where it was not asked by a name.
    minimum, maximum : float
        Of all values as `read` gives them; see the subclasses for what they cost.
    """

    name: str
    spec: Mapping[str, Any] = MappingProxyType({})
    shape: tuple[int, int]
    image_shape: tuple[int, ...] | None = None
    columns: tuple[str, ...] | None = None
    inner: str = ""
    scaling: Scaling | None = None
    labels: np.ndarray | None = None
    classes: tuple[str, ...] | None = None

    @property
    @abstractmethod
    def minimum(self) -> float: ...

    @property
    @abstractmethod
    def maximum(self) -> float: ...

    @property
    def test(self) -> Source | None:
        """The test part that a named set brings, else None."""
        return None

    def checksum(self) -> int | None:
        """Of all values where they lie in this process's memory, to compare ranks; None where they are read from a
        file or made on demand.
        """
        return None

    def fingerprint(self) -> int:
        """CRC-32 of a few evenly spaced rows as `read` gives them: the same wherever and however they are stored.

        It tells other data apart, not data of which some values have changed.

        Raises
        ------
        DataError
            One of the rows cannot be read.
        """
        import zlib

        row, total = np.empty((1, self.features), dtype=np.float32), 0
        for number in dict.fromkeys((len(self) - 1) * i // (SAMPLED - 1) for i in range(SAMPLED)):
            self.read(np.array([number], dtype=np.int64), row)
            total = zlib.crc32(row.data, total)
        return total

    @property
    def features(self) -> int:
        return self.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def read(self, index: np.ndarray, out: np.ndarray) -> None:
        """Fill ``out[i]`` with row ``index[i]``. Any thread may call it; the GIL is released.

        Parameters
        ----------
        index : ndarray of shape (n,), int64
            Contiguous; each from 0 to rows - 1, in any order.
        out : ndarray of shape (n, features), float32
            Contiguous.

        Raises
        ------
        IndexError
            An index lies outside; ``out`` is untouched.
        DataError
            A value is NaN or infinite.
        """

    @property
    def label_type(self) -> tuple[tuple[int, ...], np.dtype] | None:
        """Shape of one row's labels, () or (targets,), and their element type; None without labels."""
        return None if self.labels is None else (self.labels.shape[1:], self.labels.dtype)

    def read_labels(self, index: np.ndarray, out: np.ndarray) -> None:
        """Fill ``out[i]`` with the labels of row ``index[i]``; only where there are any. Any thread may call it.

        Parameters
        ----------
        index : ndarray of shape (n,), int64
            As in `read`.
        out : ndarray of shape (n,) or (n, targets)
            Contiguous, as `label_type` says.
        """
        assert self.labels is not None
        take(self.labels, index, out)

    @abstractmethod
    def describe(self) -> str:
        """One line: what it is, and where it was found."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError(f"{self.name}: rows are converted to float32, so an array without a copy is "
                             "impossible")
        out = np.empty(self.shape, dtype=np.float32)
        self.read(np.arange(len(self), dtype=np.int64), out)
        return out if dtype is None else out.astype(dtype, copy=False)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.describe()}>"


class ArraySource(Source):
    """Rows of an array, kept as it is: float32, float64 or uint8, in memory or mapped from a file.

    Parameters
    ----------
    array : array_like of shape (rows, features) or (rows, ...), or DataFrame
        Not copied when it is an ndarray of one of the three element types and its axes after the first can be
        joined without a copy; other real numbers are converted to float32 once. Must not change while in use.
    scale : float, default=1
        Factor on every value: 1/255 for pixels of a named set or IDX file. A plain uint8 array is taken at
        its word: its values stay 0 to 255 unless the caller passes a scale.
    name : str, default="array"
        Also begins every error message.
    image_shape : tuple of int, optional
        By default the axes after the first, when there are several.
    labels : array_like of shape (rows,) or (rows, targets), or Labels, optional
        See `pyddl.data.labels.as_labels`.
    test : callable, optional
        Gives the test part when it is first asked for.
    origin : str, default="memory"
        Where it was found.

    Raises
    ------
    ShapeError
        No rows, no features, fewer than 2 dimensions, or no real numbers; or labels of another number of rows.
    DataError
        NaN or infinity, what is empty, masked or no number, with row and column. An array in memory is searched at
        once, a mapped file row by row as it is read.

    Examples
    --------
    >>> source = ArraySource(np.eye(3))
    >>> out = np.empty((2, 3), dtype=np.float32)
    >>> source.read(np.array([2, 0]), out)
    >>> out
    array([[0., 0., 1.],
           [1., 0., 0.]], dtype=float32)
    """

    def __init__(self, array: Any, *, scale: float = 1.0, name: str = "array",
                 image_shape: tuple[int, ...] | None = None, labels: Any = None,
                 test: Callable[[], Source] | None = None, origin: str = "memory"):
        given = as_numbers(array, name)
        self.name, self.scale, self.origin = name, float(scale), origin
        self._rows = as_matrix(given, name)
        self.shape = (int(self._rows.shape[0]), int(self._rows.shape[1]))
        self.image_shape = image_shape or (given.shape[1:] if given.ndim > 2 else None)
        self.columns = column_names(array)
        if labels is not None:
            self.labels, self.classes = as_labels(labels, name, len(self))
        self._test = test
        if not isinstance(given, np.memmap):
            _ = self._range

    @cached_property
    def _test_part(self) -> Source | None:
        return self._test() if self._test else None

    @property
    def test(self) -> Source | None:
        return self._test_part

    @property
    def array(self) -> np.ndarray:
        """The rows as they are kept, not scaled."""
        return self._rows

    @property
    def dtype(self) -> np.dtype:
        """Element type in which the rows are kept."""
        return self._rows.dtype

    def read(self, index: np.ndarray, out: np.ndarray) -> None:
        bad = _core.gather_rows(self._rows, index, out, self.scale)
        if bad >= 0:
            row, column = divmod(bad, self.features)
            self._refuse(int(index[row]), column)

    @cached_property
    def _range(self) -> tuple[float, float]:
        """Smallest and largest value, scaled: one pass over the rows; over some rows of a very large file."""
        rows = self._rows
        if isinstance(rows, np.memmap) and rows.nbytes > SCAN_BYTES:
            rows = rows[:: -(-rows.nbytes // SCAN_BYTES)]
        low, high = rows.min(), rows.max()
        if rows.dtype.kind == "f" and not np.abs([low, high]).max() <= np.finfo(np.float32).max:
            limit = np.finfo(np.float32).max
            for i, row in enumerate(self._rows):
                wrong = np.flatnonzero(~(np.abs(row) <= limit))  # NaN compares false
                if wrong.size:
                    self._refuse(i, int(wrong[0]))
        with np.errstate(over="ignore", under="ignore"):
            low, high = (np.float32(value) * np.float32(self.scale) for value in (low, high))  # as `read` does
        return float(low), float(high)

    @property
    def minimum(self) -> float:
        """Smallest value, by one pass at first use; of a file above 256 MiB only evenly spaced rows count."""
        return self._range[0]

    @property
    def maximum(self) -> float:
        """Largest value; as `minimum`."""
        return self._range[1]

    def checksum(self) -> int | None:
        """CRC-32 of the rows, at about 1 GB/s; None for a mapped file."""
        if isinstance(self._rows, np.memmap):
            return None
        import zlib

        total, step = 0, max(1, CHECKSUM_BYTES // self._rows[:1].nbytes)
        for begin in range(0, len(self), step):
            total = zlib.crc32(np.ascontiguousarray(self._rows[begin : begin + step]).data, total)
        return total

    def _refuse(self, row: int, column: int) -> None:
        raise DataError(f"{self.name}: the value in row {row}, column {column} is "
                        f"{self._rows[row, column]}; expected a finite float32: replace or drop such rows")

    def describe(self) -> str:
        what = f"{self.name}: {self.shape[0]} x {self.shape[1]} {self._rows.dtype}"
        if self.image_shape:
            what += f" ({' x '.join(map(str, self.image_shape))} images)"
        return f"{what}, from {self.origin}"


def as_matrix(array: np.ndarray, name: str) -> np.ndarray:
    """``array`` as (rows, features) of float32, float64 or uint8, without a copy where that is possible."""
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > 8:
        raise ShapeError(f"{name} holds {array.dtype} values; expected real numbers: float32, float64 or "
                         "uint8")
    if array.ndim < 2:
        raise ShapeError(f"{name} has shape {array.shape}; expected (rows, features): use x.reshape(-1, 1) "
                         "for rows of one feature or x.reshape(1, -1) for one row")
    if array.size == 0:
        raise ShapeError(f"{name} has shape {array.shape}; expected at least one row and one feature")
    matrix = array if array.ndim == 2 else array.reshape(len(array), -1)
    if matrix.dtype not in (np.float32, np.float64, np.uint8):
        with np.errstate(over="ignore", under="ignore"):  # what is too large becomes infinite, which `read` names
            matrix = matrix.astype(np.float32)
    if any(stride % matrix.itemsize for stride in matrix.strides):
        matrix = np.ascontiguousarray(matrix)
    return matrix


class RandomSource(Source):
    """Random rows in [0, 1), made when asked for: data of any size that occupy no memory.

    A row depends on its number only. Uniform noise: for measuring speed, not for learning.

    Parameters
    ----------
    rows, features : int
        From 1 to 2**62.
    """

    def __init__(self, rows: int, features: int):
        if rows < 1 or features < 1:
            raise ShapeError(f"random:{rows}x{features} is empty; expected at least one row and one feature")
        if max(rows, features) > 2**62:
            raise ShapeError(f"random:{rows}x{features} is too large; expected at most 2**62 rows and features")
        self.shape = (rows, features)
        self.name = f"random:{rows}x{features}"

    @property
    def minimum(self) -> float:
        """0, the lower bound."""
        return 0.0

    @property
    def maximum(self) -> float:
        """1, the upper bound."""
        return 1.0

    def read(self, index: np.ndarray, out: np.ndarray) -> None:
        if out.ndim == 2 and out.shape[1] != self.features:
            raise ShapeError(f"out has {out.shape[1]} columns; expected {self.features}")
        _core.random_rows(len(self), index, out)

    def describe(self) -> str:
        return f"{self.name}: uniform noise in [0, 1), made on demand"
