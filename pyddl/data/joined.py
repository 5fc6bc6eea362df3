"""Sources made of others: several joined to one, and a part of one drawn by chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pyddl import _check, _core
from pyddl.data.source import Source
from pyddl.errors import DataError, ParameterError

__all__ = ["JoinedSource", "PartSource", "split", "training_and_test"]

DRAW = 2**63  # stands for the epoch where the split is drawn: no epoch of training has this number


class JoinedSource(Source):
    """The rows of several sources, one after another.

    Parameters
    ----------
    sources : sequence of Source
        At least one, of equal width.
    name, origin : str
    test : callable, optional
        Gives the test part when it is first asked for.

    Raises
    ------
    DataError
        Two differ in their features; the message names both.
    """

    def __init__(self, sources: Sequence[Source], *, name: str, origin: str,
                 test: Callable[[], Source | None] | None = None):
        first = sources[0]
        for other in sources[1:]:
            if other.features != first.features:
                raise DataError(f"{origin}: {other.name} has {other.features} features but {first.name} has "
                                f"{first.features}; all need the same: remove or convert the one that is wrong")
        self.name, self.origin, self._sources, self._test = name, origin, list(sources), test
        self._begins = np.cumsum([0, *map(len, sources)])
        self.shape = (int(self._begins[-1]), first.features)
        self.image_shape = first.image_shape if all(s.image_shape == first.image_shape for s in sources) else None
        labels = [source.labels for source in sources if source.labels is not None]
        self.labels = np.concatenate(labels) if len(labels) == len(sources) else None

    @property
    def minimum(self) -> float:
        """The smallest of the sources' own."""
        return min(source.minimum for source in self._sources)

    @property
    def maximum(self) -> float:
        """The largest of the sources' own."""
        return max(source.maximum for source in self._sources)

    @property
    def test(self) -> Source | None:
        return self._test() if self._test else None

    def read(self, index: np.ndarray, out: np.ndarray) -> None:
        if index.size and not (index.min() >= 0 and index.max() < len(self)):
            raise IndexError(f"{self.name}: rows {index.min()} to {index.max()} are asked for; it has {len(self)}")
        of_row = np.searchsorted(self._begins, index, side="right") - 1
        for number in np.unique(of_row).tolist():
            places = np.flatnonzero(of_row == number)
            part = np.empty((len(places), self.features), dtype=np.float32)
            self._sources[number].read(index[places] - self._begins[number], part)
            out[places] = part

    def describe(self) -> str:
        return f"{self.name}: {self.shape[0]} x {self.shape[1]} of {len(self._sources)} files, from {self.origin}"


class PartSource(Source):
    """Some rows of a source, drawn by chance; see `split`. Keeps no list of them: any size costs no memory."""

    def __init__(self, whole: Source, seed: int, begin: int, end: int, name: str):
        self._whole, self._seed, self._begin, self.name = whole, seed, begin, name
        self.shape = (end - begin, whole.features)
        self.image_shape = whole.image_shape
        if whole.labels is not None:
            self.labels = whole.labels[self._rows(np.arange(len(self), dtype=np.int64))]

    @property
    def minimum(self) -> float:
        """That of the whole."""
        return self._whole.minimum

    @property
    def maximum(self) -> float:
        """That of the whole."""
        return self._whole.maximum

    def _rows(self, index: np.ndarray) -> np.ndarray:
        if index.size and not (index.min() >= 0 and index.max() < len(self)):
            raise IndexError(f"{self.name}: rows {index.min()} to {index.max()} are asked for; it has {len(self)}")
        rows = index + self._begin
        _core.order(rows, rows, len(self._whole), self._seed, DRAW)
        return rows

    def checksum(self) -> int | None:
        """That of the whole."""
        return self._whole.checksum()

    def read(self, index: np.ndarray, out: np.ndarray) -> None:
        self._whole.read(self._rows(index), out)

    def describe(self) -> str:
        return f"{self.name}: {len(self)} of {len(self._whole)} rows, by seed {self._seed}; {self._whole.describe()}"


def split(source: Source, validation: float, seed: int = 0) -> tuple[Source, Source]:
    """Cut a source in two by chance: rows to train on, and rows to validate on.

    Parameters
    ----------
    source : Source
    validation : float
        Fraction of the rows to validate on, between 0 and 1; rounded to whole rows, at least one in each part.
    seed : int, default=0
        The same seed gives the same parts, on any number of ranks.

    Raises
    ------
    ParameterError
        The fraction is out of range, or there is only one row.

    Examples
    --------
    >>> from pyddl.data import RandomSource
    >>> train, valid = split(RandomSource(1000, 3), 0.1)
    >>> len(train), len(valid)
    (900, 100)
    """
    _check.number("validation", validation, above=0, below=1)
    if len(source) < 2:
        raise ParameterError(f"{source.name} has {len(source)} row; a validation part needs at least 2")
    count = min(max(1, round(validation * len(source))), len(source) - 1)
    return (PartSource(source, seed, count, len(source), f"{source.name}, training part"),
            PartSource(source, seed, 0, count, f"{source.name}, validation part"))


def training_and_test(data: Source, test: Source | None, validation: float | None,
                      seed: int) -> tuple[Source, Source | None]:
    """What to train on and test on: ``test`` where it is given, else a validation part where one is asked for,
    else the test part that the data bring.

    Raises
    ------
    ParameterError
        Both ``test`` and ``validation`` are given, or the latter is out of range.
    """
    if validation is None:
        return data, data.test if test is None else test
    if test is not None:
        raise ParameterError(f"test data and validation {validation:g} are both given; leave one of the two out")
    return split(data, validation, seed)
