"""Format: what `pyddl.data.load` asks of a kind of file. A format's file ends with one; `spec.FORMATS` lists them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pyddl.data.labels import Labels
from pyddl.data.source import Source

__all__ = ["Format"]


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes
    ----------
    endings : str
        Which names it is known by, for people.
    matches : callable
        ``matches(path) -> bool``: whether a file of this name is of this kind.
    open : callable
        ``open(path, inner, without) -> Source`` with the rows: of what ``inner`` names in the file, or of all but what
        is named in ``without``. A file without rows raises `NoRowsError`. Both are empty for a kind without names.
    labels : callable
        ``labels(path, inner) -> Labels``.
    names : bool, default=False
        Whether ``FILE:NAME`` means a part of the file.
    rows : callable, optional
        ``rows(path) -> int``: how many there are. Of tables, whose columns may be joined by others.
    """

    endings: str
    matches: Callable[[str], bool]
    open: Callable[[str, str, Sequence[str]], Source]
    labels: Callable[[str, str], Labels]
    names: bool = False
    rows: Callable[[str], int] | None = None
