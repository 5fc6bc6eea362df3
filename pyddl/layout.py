"""Layout: the named slices of a flat float32 vector.

Whatever is trained is one flat vector. A layout says where each tensor lies in it; models read tensors through it,
strategies and optimizers see only ranges.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np

from pyddl import _check
from pyddl._names import offers
from pyddl.errors import ParameterError

__all__ = ["ALIGNMENT", "MERGES", "Layout", "Slice", "staggered"]

__dir__ = offers(__name__)

MERGES = ("mean", "sum", "total", "max", "rows", "equal")

ALIGNMENT = 16  # floats: slices start on a cache line, so that vector loads never straddle two
PAGE = 1024  # floats
STAGGER = 17 * ALIGNMENT  # floats: measured, Adam's pass over four vectors takes 14 % less time than from one offset
TURNS = 8

_turn = count()


def staggered(turn: int) -> int:
    """Where in a page, in floats, to begin the shared vector of that number: where no vector of `Layout.zeros` does."""
    return 8 * ALIGNMENT + STAGGER * (turn % TURNS)


@dataclass(frozen=True)
class Slice:
    """One tensor of a flat vector.

    Parameters
    ----------
    name : str
        As in a checkpoint, for example ``encoder.0.weight``.
    shape : tuple of int
    group : str, default="all"
        The phase that trains it: a GAN has ``generator`` and ``discriminator``.
    decay : bool, default=True
        Whether weight decay applies; usual for weights, unusual for biases.
    merge : {"mean", "sum", "total", "max", "rows", "equal"}, default="mean"
        For buffers: how the values of several workers become one.

        - ``mean``: their mean, weighted by the rows that each has seen since the last time
        - ``sum``: the last common value, and what each has added to it
        - ``total``: their sum, of which each worker goes on with an equal part: for decayed sums and their counts,
          whose quotient is then exact, also where workers have unlike numbers of rows
        - ``max``: the largest
        - ``rows``: a table whose first axis is cut among the workers, each of whom owns some: persistent chains
        - ``equal``: they are equal already, since the model moves them by ``batch.sum`` and the parameters only:
          strategies that have no such sums are refused
    first, of : int, optional
        Where this is only a part of a tensor: rows from ``first`` on, out of ``of`` rows in all.
    order : tuple of int, optional
        The axes as they follow one another in memory, the slowest first, where that is not their own order: a
        convolution's weights (outputs, inputs, height, width) with ``order=(0, 2, 3, 1)`` have channels last. Of a part
        of a tensor the first axis comes first.

    Attributes
    ----------
    begin, end : int
        Position in the vector, in elements; set by `Layout`.
    """

    name: str
    shape: tuple[int, ...]
    group: str = "all"
    decay: bool = True
    merge: str = "mean"
    first: int = 0
    of: int | None = None
    order: tuple[int, ...] | None = None
    begin: int = field(default=0, compare=False)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def end(self) -> int:
        return self.begin + self.size

    @property
    def whole_shape(self) -> tuple[int, ...]:
        """Of the tensor that this is a part of, or else its own."""
        return self.shape if self.of is None else (self.of, *self.shape[1:])

    def view(self, vector: np.ndarray, first: int = 0) -> np.ndarray:
        """This slice of ``vector``, which begins at element ``first`` of the layout, in its shape: the same memory."""
        values = vector[self.begin - first : self.end - first]
        if self.order is None:
            return values.reshape(self.shape)
        return values.reshape([self.shape[axis] for axis in self.order]).transpose(np.argsort(self.order))


class Layout:
    """Named slices of one flat vector, in order.

    Slices of one group must be neighbours, so that a phase is a range. Each slice starts at a multiple of `ALIGNMENT`
    elements; the gaps belong to no slice and stay zero.

    Parameters
    ----------
    slices : iterable of Slice

    Attributes
    ----------
    size : int
        Elements of a vector of this layout, gaps included.
    count : int
        Elements that belong to slices: the number of parameters.

    Examples
    --------
    >>> layout = Layout([Slice("weight", (2, 3)), Slice("bias", (2,), decay=False)])
    >>> layout.count, layout["bias"].begin
    (8, 16)
    >>> layout.views(layout.zeros())["weight"].shape
    (2, 3)
    """

    def __init__(self, slices: Iterable[Slice] = ()):
        placed: list[Slice] = []
        at = 0
        for s in slices:
            if any(s.name == p.name for p in placed):
                raise ParameterError(f"two slices are named {s.name!r}; names must differ")
            _check.one_of(f"merge of slice {s.name}", s.merge, MERGES)
            shape = _check.integers(f"shape of slice {s.name}", s.shape, at_least=0)
            _check_order(s)
            placed.append(replace(s, shape=shape, begin=at))
            at += -(-placed[-1].size // ALIGNMENT) * ALIGNMENT
        groups = [p.group for p in placed]
        changes = [g for i, g in enumerate(groups) if i == 0 or groups[i - 1] != g]
        if len(changes) != len(set(changes)):
            raise ParameterError(f"slices of one group must be neighbours; the order here is {changes}")
        self._slices = tuple(placed)
        self._by_name = {s.name: s for s in placed}
        self.size = at
        self.count = sum(s.size for s in placed)

    def __iter__(self) -> Iterator[Slice]:
        return iter(self._slices)

    def __len__(self) -> int:
        return len(self._slices)

    def __getitem__(self, name: str) -> Slice:
        if name not in self._by_name:
            raise KeyError(f"no slice is named {name!r}{_check.nearest(name, self._by_name)}")
        return self._by_name[name]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self._slices == other._slices

    def __hash__(self) -> int:
        return hash(self._slices)

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups, in order."""
        return tuple(dict.fromkeys(s.group for s in self._slices))

    def range(self, group: str | None = None) -> tuple[int, int]:
        """Begin and end of a group's slices, with the gap after the last; of the whole vector by default."""
        if group is None:
            return 0, self.size
        members = [s for s in self._slices if s.group == group]
        if not members:
            raise KeyError(f"no group is named {group!r}{_check.nearest(group, self.groups)}")
        return members[0].begin, -(-members[-1].end // ALIGNMENT) * ALIGNMENT

    def range_of(self, groups: Sequence[str] = ()) -> tuple[int, int]:
        """Begin and end of several groups' slices, which must be neighbours; of all slices where none is named."""
        if not groups:
            return 0, self.size
        names = self.groups
        places = sorted(names.index(group) for group in groups)
        if places != list(range(places[0], places[-1] + 1)):
            raise ParameterError(f"groups {', '.join(groups)} are no neighbours in the layout, whose groups are "
                                 f"{', '.join(names)}: what is trained together must be one range")
        return self.range(names[places[0]])[0], self.range(names[places[-1]])[1]

    def name_at(self, element: int) -> str:
        """Name of the slice that an element belongs to, for messages: ``no slice`` where it is between two."""
        return next((s.name for s in self._slices if s.begin <= element < s.end), "no slice")

    def decayed_ranges(self, groups: Sequence[str] = ()) -> list[tuple[int, int, bool]]:
        """The range of ``groups`` cut into (begin, end, decay), neighbours of one kind merged, without holes."""
        begin, end = self.range_of(groups)
        ranges: list[tuple[int, int, bool]] = []
        for s in self._slices:
            if s.begin < begin or s.begin >= end or s.size == 0:
                continue
            if ranges and ranges[-1][2] == s.decay:
                ranges[-1] = (ranges[-1][0], s.end, s.decay)
            else:
                if ranges:
                    ranges[-1] = (ranges[-1][0], s.begin, ranges[-1][2])
                ranges.append((s.begin, s.end, s.decay))
        if ranges:
            ranges[-1] = (ranges[-1][0], end, ranges[-1][2])
        return ranges

    def zeros(self) -> np.ndarray:
        """A new vector of zeros, aligned to a cache line.

        Vectors made one after another begin at different places in a page: a pass over several that began alike would
        meet in the same lines of a cache.
        """
        raw = np.zeros(self.size + PAGE + STAGGER * TURNS, dtype=np.float32)
        skip = (-raw.ctypes.data // raw.itemsize) % PAGE + STAGGER * (next(_turn) % TURNS)
        return raw[skip : skip + self.size]

    def views(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """Each slice of ``vector`` under its name and in its shape; writing to a view writes to the vector."""
        _check.vector("vector", vector, self.size)
        return {s.name: s.view(vector) for s in self._slices}

    def cut(self, whole: Layout, vector: np.ndarray) -> np.ndarray:
        """The part of ``vector``, of layout ``whole``, that this layout's slices name: a new vector."""
        part, views = self.zeros(), whole.views(vector)
        for name, view in self.views(part).items():
            first = self[name].first
            view[...] = views[name][first : first + len(view)] if view.shape else views[name]
        return part


def _check_order(s: Slice) -> None:
    if s.order is None:
        return
    if sorted(s.order) != list(range(len(s.shape))):
        raise ParameterError(f"order of slice {s.name} is {s.order}; expected each axis of shape {s.shape} once")
    if s.of is not None and s.order[0] != 0:
        raise ParameterError(f"order of slice {s.name} is {s.order}; expected axis 0 first, of which this is a part")
