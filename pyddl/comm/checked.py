"""The transport of debug mode: ranks compare what they are about to do; a mismatch is named instead of hanging."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pyddl.comm.transport import Transport
from pyddl.errors import CommError

__all__ = ["Checked"]


class Checked(Transport):
    """Another transport, each of whose operations begins with a comparison over all ranks.

    Parameters
    ----------
    inner : Transport
        Carries out the operations.
    place : callable
        Where this rank is, as a number that all ranks must share: for example how many operations its strategy has
        yielded.
    """

    def __init__(self, inner: Transport, place: Callable[[], int] = lambda: 0):
        self._inner, self._place = inner, place
        self._number = 0
        self.rank, self.size = inner.rank, inner.size

    def __getattr__(self, name: str) -> Any:  # counters, and whatever else the transport offers
        return getattr(self._inner, name)

    def sum(self, vector: np.ndarray, count: int = 0, ordered: bool = False) -> int:
        self.compare("ordered sum" if ordered else "sum", vector)
        return self._inner.sum(vector, count, ordered)

    def gather(self, values: np.ndarray) -> list[np.ndarray]:
        self.compare("gather")
        return self._inner.gather(values)

    def gather_objects(self, value: Any) -> list[Any]:
        self.compare("gather_objects")
        return self._inner.gather_objects(value)

    def swap_objects(self, value: Any, partner: int) -> Any:
        return self._inner.swap_objects(value, partner)

    def broadcast(self, array: np.ndarray, root: int = 0) -> None:
        self.compare(f"broadcast from rank {root}", array)
        self._inner.broadcast(array, root)

    def barrier(self) -> None:
        self.compare("barrier")
        self._inner.barrier()

    def allocate(self, size: int, name: str = "vector") -> np.ndarray:
        self.compare(f"allocation of {size}")
        return self._inner.allocate(size, name)

    def leave(self) -> None:
        self._inner.leave()

    def close(self) -> None:
        self.compare("close")
        self._inner.close()

    def compare(self, operation: str, vector: np.ndarray | None = None) -> None:
        """Raise `CommError` on every rank unless all are about to do the same."""
        self._number += 1
        mine = (operation, *_kind(vector), self._number, self._place())
        self._require_same(dict(enumerate(self._inner.gather_objects(mine))))

    def compare_pair(self, operation: str, vector: np.ndarray, partner: int) -> None:
        """Raise `CommError` on both ranks unless they are about to do the same.

        Those who name partners that do not name them wait for ever, which the watchdog reports.
        """
        mine = (operation, *_kind(vector), 0, self._place())
        self._require_same({self.rank: mine, partner: self._inner.swap_objects(mine, partner)})

    def _require_same(self, found: Mapping[int, tuple[Any, ...]]) -> None:
        alike: dict[tuple[Any, ...], list[int]] = {}
        for rank in sorted(found):
            alike.setdefault(found[rank], []).append(rank)
        if len(alike) == 1:
            return
        error = CommError("the ranks are not about to do the same: " + "; ".join(
            f"{_ranks(ranks)}: {_named(*what)}" for what, ranks in alike.items())
            + ". Every rank must yield the same operations, on vectors of the same length and type")
        error.on_all_ranks = True
        raise error


def _kind(vector: np.ndarray | None) -> tuple[tuple[int, ...] | None, str | None]:
    return (None, None) if vector is None else (np.shape(vector), str(np.asarray(vector).dtype))


def _named(operation: str, shape: tuple[int, ...] | None, kind: str | None, number: int, place: int) -> str:
    what = operation if shape is None else f"{operation} of {'x'.join(map(str, shape))} {kind}"
    return f"{what} (collective {number}, operation {place})" if number else what


def _ranks(ranks: list[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
