"""Sources made of others: several joined, a part drawn by chance, one with other columns or labels."""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from pyddl import _check, _core
from pyddl.data.blocks import BlockSource
from pyddl.data.labels import Labels, as_labels, renumbered
from pyddl.data.scaling import Scaling
from pyddl.data.source import Source
from pyddl.errors import DataError, ParameterError

__all__ = ["ChosenSource", "JoinedSource", "LabelledSource", "PartSource", "ReorderedSource", "ScaledSource",
           "in_order_of", "labelled_part", "reach", "reaches_beyond", "rounded_into", "scaled", "split",
           "training_and_test"]

AT_ONCE = 4096  # rows that are looked at together
ROUNDING = 1e-5  # beyond a range that values may be by the rounding of whoever scaled them
DRAW = 2**63  # stands for the epoch where the split is drawn: no epoch of training has this number


class JoinedSource(Source):
    """The rows of several sources, one after another. It has labels where all of them have.

    Parameters
    ----------
    sources : sequence of Source
        At least one, of equal width. Columns with names are joined by these, in the order of the first. Where their
        labels were text, classes are those of all together.
    name, origin : str
    test : callable, optional
        Gives the test part when it is first asked for.

    Raises
    ------
    DataError
        Two differ in their features, in what these are called, in the shape of pictures or in the kind of their labels;
        the message names both.
    """

    def __init__(self, sources: Sequence[Source], *, name: str, origin: str,
                 test: Callable[[], Source | None] | None = None):
        first = sources[0]
        blocks = [whole for whole in map(_whole, sources) if isinstance(whole, BlockSource)]
        for block in blocks[1:]:  # memory does not grow with their number
            block.cache = blocks[0].cache
        for other in sources[1:]:
            if other.inner != first.inner:
                raise DataError(f"{origin}: the rows of {other.name} are {_inner(other)}, those of {first.name} "
                                f"{_inner(first)}; expected one name: give it, {origin}:NAME")
        sources = [first, *(in_order_of(other, first.columns, first.image_shape, first.name) for other in sources[1:])]
        for other in sources[1:]:
            if other.features != first.features:
                raise DataError(f"{origin}: {other.name} has {other.features} features but {first.name} has "
                                f"{first.features}; all need the same: remove or convert the one that is wrong")
        self.name, self.origin, self._sources, self._test = name, origin, list(sources), test
        self._begins = np.cumsum([0, *map(len, sources)])
        self.shape = (int(self._begins[-1]), first.features)
        self.image_shape = first.image_shape if all(s.image_shape == first.image_shape for s in sources) else None
        self.columns, self.inner = first.columns, first.inner
        self._label_type = self._label_type_of_all()

    def _label_type_of_all(self) -> tuple[tuple[int, ...], np.dtype] | None:
        """Shape and element type that hold the labels of all sources; and gives them classes in common."""
        kinds = [source.label_type for source in self._sources]
        if None in kinds:
            return None
        first = self._sources[0]
        shape, dtypes = kinds[0][0], [kind[1] for kind in kinds if kind]  # type: ignore[index]
        for other, kind in zip(self._sources, kinds, strict=True):
            if kind is None or kind[0] != shape or (other.classes is None) != (first.classes is None):
                raise DataError(f"{self.origin}: labels of {other.name} and of {first.name} are of different kinds: "
                                f"{_kind(other)}, and {_kind(first)}; all need the same")
        if first.classes is not None:
            self.classes = tuple(sorted({name for source in self._sources for name in source.classes or ()}))
            self._sources = [with_classes(source, self.classes) for source in self._sources]
        return shape, np.result_type(*dtypes)

    @property
    def label_type(self) -> tuple[tuple[int, ...], np.dtype] | None:
        return self._label_type

    @cached_property
    def labels(self) -> np.ndarray | None:  # type: ignore[override]
        return _all_labels(self)

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
        for source, places, rows in self._by_source(index):
            part = np.empty((len(places), self.features), dtype=np.float32)
            source.read(rows, part)
            out[places] = part

    def read_labels(self, index: np.ndarray, out: np.ndarray) -> None:
        for source, places, rows in self._by_source(index):
            assert source.label_type is not None
            part = np.empty((len(places), *out.shape[1:]), dtype=source.label_type[1])
            source.read_labels(rows, part)
            out[places] = part

    def _by_source(self, index: np.ndarray) -> Iterator[tuple[Source, np.ndarray, np.ndarray]]:
        """Each source that holds some of the rows; their places in ``index``; their numbers in that source."""
        of_row = np.searchsorted(self._begins, index, side="right") - 1
        for number in np.unique(of_row).tolist():
            places = np.flatnonzero(of_row == number)
            yield self._sources[number], places, index[places] - self._begins[number]

    def describe(self) -> str:
        return f"{self.name}: {self.shape[0]} x {self.shape[1]} of {len(self._sources)} files, from {self.origin}"


class _SomeRows(Source):
    """Some rows of a source: `_rows` says which."""

    def __init__(self, whole: Source, count: int, name: str):
        self._whole, self.name = whole, name
        self.shape = (count, whole.features)
        self.image_shape, self.columns, self.inner = whole.image_shape, whole.columns, whole.inner
        self.classes, self.scaling = whole.classes, whole.scaling

    @abstractmethod
    def _rows(self, index: np.ndarray) -> np.ndarray:
        """Numbers in the whole of rows of this source."""

    @property
    def label_type(self) -> tuple[tuple[int, ...], np.dtype] | None:
        return self._whole.label_type

    @cached_property
    def labels(self) -> np.ndarray | None:  # type: ignore[override]
        return _all_labels(self)

    @property
    def minimum(self) -> float:
        """That of the whole."""
        return self._whole.minimum

    @property
    def maximum(self) -> float:
        """That of the whole."""
        return self._whole.maximum

    def checksum(self) -> int | None:
        """That of the whole."""
        return self._whole.checksum()

    def read(self, index: np.ndarray, out: np.ndarray) -> None:
        self._whole.read(self._rows(index), out)

    def read_labels(self, index: np.ndarray, out: np.ndarray) -> None:
        self._whole.read_labels(self._rows(index), out)


class PartSource(_SomeRows):
    """Some rows of a source, drawn by chance; see `split`. Keeps no list of them: any size costs no memory."""

    def __init__(self, whole: Source, seed: int, begin: int, end: int, name: str):
        super().__init__(whole, end - begin, name)
        self._seed, self._begin = seed, begin

    def _rows(self, index: np.ndarray) -> np.ndarray:
        if index.size and not (index.min() >= 0 and index.max() < len(self)):
            raise IndexError(f"{self.name}: rows {index.min()} to {index.max()} are asked for; it has {len(self)}")
        rows = index + self._begin
        _core.order(rows, rows, len(self._whole), self._seed, DRAW)
        return rows

    def describe(self) -> str:
        return f"{self.name}: {len(self)} of {len(self._whole)} rows, by seed {self._seed}; {self._whole.describe()}"


class ChosenSource(_SomeRows):
    """Some rows of a source, by their numbers.

    Parameters
    ----------
    whole : Source
    index : ndarray of shape (rows,), int64
    name : str
    """

    def __init__(self, whole: Source, index: np.ndarray, name: str):
        super().__init__(whole, len(index), name)
        self._index = index

    def _rows(self, index: np.ndarray) -> np.ndarray:
        return self._index[index]

    def describe(self) -> str:
        return f"{self.name}: {len(self)} of {len(self._whole)} rows; {self._whole.describe()}"


class _AllRows(_SomeRows):
    """All rows of a source, whose values are others."""

    def __init__(self, whole: Source):
        super().__init__(whole, len(whole), whole.name)

    def _rows(self, index: np.ndarray) -> np.ndarray:
        return index


class ReorderedSource(_AllRows):
    """All rows of a source, their columns in another order.

    Parameters
    ----------
    whole : Source
        Its columns have names.
    columns : sequence of str
        The same names in the order that is wanted.
    """

    def __init__(self, whole: Source, columns: Sequence[str]):
        super().__init__(whole)
        assert whole.columns is not None
        self._order = np.array([whole.columns.index(name) for name in columns])
        self.columns, self.scaling = tuple(columns), whole.scaling and whole.scaling.reordered(self._order)

    @property
    def test(self) -> Source | None:
        test = self._whole.test
        return None if test is None else in_order_of(test, self.columns, self.image_shape, self.name)

    def read(self, index: np.ndarray, out: np.ndarray) -> None:
        rows = np.empty((len(index), self.features), dtype=np.float32)
        self._whole.read(index, rows)
        out[...] = rows[:, self._order]

    def describe(self) -> str:
        return f"{self._whole.describe()}, its columns put in order by their names"


class ClippedSource(_AllRows):
    """All rows of a source, their values clipped to a range.

    Parameters
    ----------
    whole : Source
    low, high : float
    """

    def __init__(self, whole: Source, low: float, high: float):
        super().__init__(whole)
        self._low, self._high = low, high

    @property
    def minimum(self) -> float:
        return max(self._whole.minimum, self._low)

    @property
    def maximum(self) -> float:
        return min(self._whole.maximum, self._high)

    def read(self, index: np.ndarray, out: np.ndarray) -> None:
        super().read(index, out)
        np.clip(out, self._low, self._high, out=out)

    def describe(self) -> str:
        return self._whole.describe()


class ScaledSource(_AllRows):
    """All rows of a source, scaled.

    Parameters
    ----------
    whole : Source
    scaling : Scaling
    """

    def __init__(self, whole: Source, scaling: Scaling):
        super().__init__(whole)
        self.scaling, self.spec = scaling, whole.spec

    @property
    def test(self) -> Source | None:
        test = self._whole.test
        return None if test is None or self.scaling is None else scaled(test, self.scaling)

    @cached_property
    def _range(self) -> tuple[float, float]:
        low, high = np.inf, -np.inf
        rows = np.empty((min(AT_ONCE, len(self)), self.features), dtype=np.float32)
        for begin in range(0, len(self), AT_ONCE):
            index = np.arange(begin, min(begin + AT_ONCE, len(self)), dtype=np.int64)
            self.read(index, rows[: len(index)])
            low, high = min(low, rows[: len(index)].min()), max(high, rows[: len(index)].max())
        return float(low), float(high)

    @property
    def minimum(self) -> float:
        """0, the lower bound; with standard the smallest value, by one pass at first use."""
        return 0.0 if self.scaling is not None and self.scaling.kind != "standard" else self._range[0]

    @property
    def maximum(self) -> float:
        """As `minimum`, of 1."""
        return 1.0 if self.scaling is not None and self.scaling.kind != "standard" else self._range[1]

    def read(self, index: np.ndarray, out: np.ndarray) -> None:
        assert self.scaling is not None
        self._whole.read(index, out)
        self.scaling.apply(out)

    def describe(self) -> str:
        assert self.scaling is not None
        return f"{self._whole.describe()}, scaled ({self.scaling.kind})"


def scaled(rows: Any, scaling: Scaling) -> Any:
    """A source of these rows, scaled; or scaled rows in place of an array's. What is scaled so already stays.

    Raises
    ------
    DataError
        The source is scaled otherwise.
    """
    if not isinstance(rows, Source):
        return scaling.apply(np.array(rows, dtype=np.float32))
    if rows.scaling is None:
        return ScaledSource(rows, scaling)
    if rows.scaling != scaling:
        raise DataError(f"{rows.name} is scaled already, as {rows.scaling.kind} by rows of its own; here they are "
                        f"scaled as the training rows were ({scaling.kind}): give them as they are, without scale")
    return rows


class LabelledSource(Source):
    """The rows of a source with labels from elsewhere, or none.

    The test part that a source brings stays, but without labels: its own are of another kind.

    Parameters
    ----------
    whole : Source
    labels : array_like or Labels, optional
        See `pyddl.data.labels.as_labels`.
    origin : str, default="memory"
        Where they were found.
    """

    def __init__(self, whole: Source, labels: Any, *, origin: str = "memory"):
        self._whole, self._origin = whole, origin
        self.name, self.shape, self.image_shape = whole.name, whole.shape, whole.image_shape
        self.columns, self.inner, self.scaling = whole.columns, whole.inner, whole.scaling
        if labels is not None:
            self.labels, self.classes = as_labels(labels, whole.name, len(whole))

    @property
    def minimum(self) -> float:
        """That of the rows."""
        return self._whole.minimum

    @property
    def maximum(self) -> float:
        """That of the rows."""
        return self._whole.maximum

    @property
    def test(self) -> Source | None:
        test = self._whole.test
        return None if test is None else LabelledSource(test, None)

    def checksum(self) -> int | None:
        """Of rows and labels, where both lie in memory."""
        rows = self._whole.checksum()
        return rows if rows is None or self.labels is None else zlib.crc32(np.ascontiguousarray(self.labels).data, rows)

    def fingerprint(self) -> int:
        return self._whole.fingerprint()

    def read(self, index: np.ndarray, out: np.ndarray) -> None:
        self._whole.read(index, out)

    def describe(self) -> str:
        return f"{self._whole.describe()}; {_kind(self)}" + (f" from {self._origin}" if self.labels is not None else "")


def in_order_of(source: Source, columns: Sequence[str] | None, image_shape: Sequence[int] | None, other: str) -> Source:
    """``source`` as belongs to rows with these columns: put in their order, by name; itself where it is so already.

    What has no names for its features, or is no picture, is taken as it is.

    Parameters
    ----------
    source : Source
    columns : sequence of str or None
    image_shape : sequence of int or None
        Sides of 1 are of no account.
    other : str
        What has these columns, for messages.

    Raises
    ------
    DataError
        The names are others, or pictures have another shape.
    """
    shapes = [tuple(side for side in shape or () if side != 1) for shape in (source.image_shape, image_shape)]
    if source.image_shape and image_shape and shapes[0] != shapes[1]:
        raise DataError(f"{source.name} holds pictures of {_sides(source.image_shape)}, but {other} of "
                        f"{_sides(image_shape)}; all need the same: convert one of the two")
    if not columns or not source.columns or source.columns == tuple(columns):
        return source
    lacks = [name for name in columns if name not in source.columns]
    more = [name for name in source.columns if name not in columns]
    if lacks or more:
        parts = [f"{verb} {_some(names)}" for verb, names in (("lacks", lacks), ("has", more)) if names]
        file, leave_out = source.name.partition(":")[0], ",".join(f"-{name}" for name in more)
        cure = f"{file}:NAME,NAME, or rename them" if lacks or len(more) > 5 else f"{file}:{leave_out}"
        raise DataError(f"columns of {source.name} and of {other} have unlike names: {source.name} "
                        f"{' and '.join(parts)}; all need the same: choose them by name, {cure}")
    return ReorderedSource(source, columns)


def reaches_beyond(source: Source, low: float, high: float) -> bool:
    """Whether values lie outside a range by more than `ROUNDING`."""
    return source.minimum < low - ROUNDING or source.maximum > high + ROUNDING


def reach(source: Source) -> str:
    """Least and greatest value, with all digits that a float32 has."""
    return " to ".join(str(np.float32(value)).removesuffix(".0") for value in (source.minimum, source.maximum))


def rounded_into(source: Source, low: float, high: float) -> Source:
    """``source`` without what rounding has put outside a range; itself where nothing is."""
    if (source.minimum >= low and source.maximum <= high) or reaches_beyond(source, low, high):
        return source
    return ClippedSource(source, low, high)


def _whole(source: Source) -> Source:
    """What a source that changes another one is made of."""
    while hasattr(source, "_whole"):
        source = source._whole
    return source


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _sides(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _inner(source: Source) -> str:
    return f"in {source.inner}" if source.inner else "columns of numbers"


def with_classes(source: Source, classes: tuple[str, ...]) -> Source:
    """``source`` with labels that number ``classes``, which hold its own; itself where they do already."""
    if source.classes in (None, classes):
        return source
    assert source.labels is not None and source.classes is not None
    values = renumbered(source.labels, source.classes, classes, source.name)
    return LabelledSource(source, Labels(values, classes))


def _kind(source: Source) -> str:
    """What a source's labels are, in words."""
    if source.label_type is None:
        return "no labels"
    shape, dtype = source.label_type
    if source.classes is not None:
        return f"labels of {len(source.classes)} classes"
    return f"{dtype} labels" + (f", {shape[0]} in a row" if shape else "")


def _all_labels(source: Source) -> np.ndarray | None:
    if source.label_type is None:
        return None
    shape, dtype = source.label_type
    labels = np.empty((len(source), *shape), dtype=dtype)
    source.read_labels(np.arange(len(source), dtype=np.int64), labels)
    return labels


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


def labelled_part(source: Source, count: int, seed: int = 0) -> Source:
    """The rows of which labels are known, where that are ``count`` only: drawn by the seed.

    Classes have their shares of them, to whole rows, at least one each; labels that are quantities are drawn as they
    come.

    Parameters
    ----------
    source : Source
        With labels.
    count : int
        At least one for each class, at most all rows.
    seed : int, default=0
        The same seed gives the same rows, on any number of ranks; more of them hold those of fewer, but for rounding
        of the shares.

    Raises
    ------
    ParameterError
        ``count`` is out of range.

    Examples
    --------
    >>> from pyddl.data import load
    >>> few = labelled_part(load("digits"), 20)
    >>> len(few), sorted(set(few.labels.tolist()))
    (20, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    """
    rows = len(source)
    _check.integer("labelled", count, at_least=1)
    if count > rows:
        raise ParameterError(f"labelled is {count}, and {source.name} has {rows} rows: give at most so many, or leave "
                             "it out")
    labels, order = source.labels, np.arange(rows, dtype=np.int64)
    _core.order(order, order, rows, seed, DRAW)
    if labels is None:
        raise DataError(f"{source.name} has no labels, of which labelled would be known: give them with labels "
                        "(--labels SPEC)")
    if labels.ndim > 1 or not np.array_equal(labels, np.floor(labels)):
        chosen = order[:count]
    else:
        drawn = labels[order]
        classes, sizes = np.unique(labels, return_counts=True)
        shares = _shares(sizes, count, source.name)
        chosen = np.concatenate([order[drawn == each][:share] for each, share in zip(classes, shares, strict=True)])
    return ChosenSource(source, np.sort(chosen), f"{source.name}, {count} labelled rows by seed {seed}")


def _shares(sizes: np.ndarray, count: int, name: str) -> np.ndarray:
    """``count`` rows shared out among classes of these sizes: in proportion, by largest remainders, at least one."""
    if count < len(sizes):
        raise ParameterError(f"labelled is {count}, and the labels of {name} are of {len(sizes)} classes: give at "
                             "least one row for each")
    exact = sizes * (count / sizes.sum())
    shares = np.maximum(np.floor(exact).astype(np.int64), 1)
    while (left := count - int(shares.sum())) != 0:
        off = exact - shares
        shares[np.argmax(np.where(shares < sizes, off, -np.inf)) if left > 0 else
               np.argmin(np.where(shares > 1, off, np.inf))] += np.sign(left)
    return shares


def training_and_test(data: Source, test: Source | None, validation: float | None,
                      seed: int) -> tuple[Source, Source | None]:
    """What to train on and test on: ``test`` where it is given, else a validation part where one is asked for,
    else the test part that the data bring. Columns with names come in the order of the training data, scaled as
    these; where labels were text, those of the test data number the classes of the training data.

    Raises
    ------
    ParameterError
        Both ``test`` and ``validation`` are given, or the latter is out of range.
    DataError
        Their columns have unlike names, or their pictures unlike shapes; or both have labels, but of different kinds.
    """
    if validation is None:
        test = data.test if test is None else test
        return data, test if test is None else _alike(data, test)
    if test is not None:
        raise ParameterError(f"test data and validation {validation:g} are both given; leave one of the two out")
    return split(data, validation, seed)


def _alike(data: Source, test: Source) -> Source:
    test = in_order_of(test, data.columns, data.image_shape, data.name)
    if data.scaling is not None:
        test = scaled(test, data.scaling)
    if data.label_type is None or test.label_type is None:
        return test
    if data.label_type[0] != test.label_type[0] or (data.classes is None) != (test.classes is None):
        raise DataError(f"{test.name}, the test data, has {_kind(test)}, but {data.name} has {_kind(data)}; expected "
                        "the same kind")
    return test if data.classes is None else with_classes(test, data.classes)
