"""Crew: ranks that share out the work of a measure, which is no sum over rows."""

from __future__ import annotations

import numpy as np

from pyddl.comm.transport import Alone, Transport

__all__ = ["Crew"]


class Crew:
    """All ranks of a transport, as a model's ``measures`` see them; one process without one.

    Examples
    --------
    >>> crew = Crew()
    >>> crew.part(10), crew.gather(np.arange(3))
    ((0, 10), [array([0, 1, 2])])
    """

    def __init__(self, transport: Transport | None = None):
        self._transport = transport or Alone()

    def part(self, count: int) -> tuple[int, int]:
        """Begin and end of this rank's pieces of ``count``: all ranks' are neighbours in their order; some may be
        empty."""
        rank, size = self._transport.rank, self._transport.size
        return rank * count // size, (rank + 1) * count // size

    def gather(self, array: np.ndarray) -> list[np.ndarray]:
        """The arrays of all ranks, in their order; shapes may differ. Collective."""
        return self._transport.gather_objects(array)
