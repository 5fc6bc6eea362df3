"""Activity: what this rank does now, noted by the one who does it and read by the watchdog's thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyddl.comm.operations import Operation

__all__ = ["Activity"]


class Activity:
    """What a rank does now. Noting costs two assignments; the reader finds out by itself for how long.

    Attributes
    ----------
    doing : Operation or str
        The operation being carried out, or the name of what the rank does between two.
    number : int
        How many things have been begun.
    beats : int
        How often it got further in one of them: as long as either grows, the rank makes progress.
    moves_bytes : bool
        Files are being written or read: their bytes count as progress too.
    """

    __slots__ = ("beats", "doing", "moves_bytes", "number")

    def __init__(self) -> None:
        self.doing: Operation | str = "the start"
        self.number = self.beats = 0
        self.moves_bytes = False

    def begin(self, doing: Operation | str) -> None:
        self.doing = doing
        self.number += 1

    def beat(self) -> None:
        """Still at the same, but further: perhaps on this rank only."""
        self.beats += 1

    @contextmanager
    def files(self, doing: str) -> Iterator[None]:
        """Within the block files are written or read, however large: progress is that their bytes move."""
        self.begin(doing)
        self.moves_bytes = True
        try:
            yield
        finally:
            self.moves_bytes = False

    def describe(self) -> str:
        """For people: ``Sum of 89,610 values``."""
        doing = self.doing
        if isinstance(doing, str):
            return doing
        vector = getattr(doing, "vector", getattr(doing, "out", None))
        partner = getattr(doing, "partner", None)
        return (type(doing).__name__ + ("" if vector is None else f" of {len(vector):,} values")
                + ("" if partner is None else f" with rank {partner}"))
