"""Cut: which owner has which part of a vector."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from pyddl.layout import ALIGNMENT

if TYPE_CHECKING:
    from pyddl.comm.transport import Transport

__all__ = ["Cut", "shares"]


def shares(n: int, count: int) -> np.ndarray:
    """Bounds of ``count`` shares of n elements, on cache lines: share i is [bounds[i], bounds[i + 1])."""
    lines = -(-n // ALIGNMENT)
    return np.minimum(np.arange(count + 1, dtype=np.int64) * lines // count * ALIGNMENT, n)


class Cut:
    """A vector among owners, each of whom has an equal share of every segment, so that no one gets all of a phase's.

    An owner's *part* is its pieces one after another.

    Parameters
    ----------
    size : int
        Elements of the vector.
    count : int
        Owners.
    segments : iterable of (begin, end), default=()
        Ranges that are shared out by themselves, as is what lies between them.

    Attributes
    ----------
    pieces : list of list of slice
        Of each owner, in order; neighbours are one.
    lengths : list of int
        Of the owners' parts.
    """

    def __init__(self, size: int, count: int, segments: Iterable[tuple[int, int]] = ()):
        self.size, self.count = size, count
        bounds = sorted({0, size, *(bound for segment in segments for bound in segment)})
        self.pieces: list[list[slice]] = [[] for _ in range(count)]
        for begin, end in pairwise(bounds):
            for owner, (first, last) in enumerate(pairwise((begin + shares(end - begin, count)).tolist())):
                mine = self.pieces[owner]
                if mine and mine[-1].stop == first:
                    mine[-1] = slice(mine[-1].start, last)
                elif last > first:
                    mine.append(slice(first, last))
        self.lengths = [sum(piece.stop - piece.start for piece in mine) for mine in self.pieces]

    def is_range(self, owner: int) -> bool:
        """Whether an owner's part is one piece, so that a view of the vector can stand for it."""
        return len(self.pieces[owner]) <= 1

    def part(self, owner: int, vector: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """An owner's part of ``vector``: a view where it is one piece, else copied into ``out``, or new memory."""
        pieces = self.pieces[owner]
        if len(pieces) <= 1:
            return vector[pieces[0]] if pieces else vector[:0]
        return np.concatenate([vector[piece] for piece in pieces], out=out)

    def scatter(self, owner: int, part: np.ndarray, vector: np.ndarray) -> None:
        """Write an owner's part to where it belongs in ``vector``."""
        at = 0
        for piece in self.pieces[owner]:
            size = piece.stop - piece.start
            vector[piece] = part[at : at + size]
            at += size

    def within(self, owner: int, begin: int, end: int) -> tuple[slice, slice]:
        """Where an owner's share of the segment [begin, end) lies: in its part, and in the segment."""
        at = 0
        for piece in self.pieces[owner]:
            first, last = max(piece.start, begin), min(piece.stop, end)
            if first < last:  # one piece has all of it: segments are ranges
                return slice(at + first - piece.start, at + last - piece.start), slice(first - begin, last - begin)
            at += piece.stop - piece.start
        return slice(0, 0), slice(0, 0)

    def broadcast(self, transport: Transport, vector: np.ndarray) -> None:
        """``vector`` becomes what the first ``count`` ranks have in their parts of it. Collective."""
        for owner, pieces in enumerate(self.pieces):
            for piece in pieces:
                transport.broadcast(vector[piece], owner)
