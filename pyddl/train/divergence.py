"""Divergence: a value that is not finite ends training on all ranks, by one message, whoever finds it."""

from __future__ import annotations

from collections.abc import Callable

from pyddl.errors import NotFiniteError
from pyddl.train.connection import Connection
from pyddl.train.stop import StopRequest

__all__ = ["Divergence"]


class Divergence:
    """What this rank has found that is not finite.

    A rank alone ends at once. Among others, who would wait for it in the next sum, it goes on and asks for a stop,
    which that sum carries to all of them.

    Parameters
    ----------
    connection : Connection
    stop : StopRequest
    step : callable
        Gives the number of steps done: of what several ranks find the first counts.
    """

    def __init__(self, connection: Connection, stop: StopRequest, step: Callable[[], int]):
        self._connection, self._stop, self._step = connection, stop, step
        self._first: NotFiniteError | None = None
        self._when = 0

    def found(self, error: NotFiniteError) -> None:
        """Raise ``error``, or let `agree` do so."""
        if self._connection.transport.size == 1:
            raise error
        if self._first is None:
            self._first, self._when = error, self._step()
        self._stop.requested = True

    def agree(self) -> None:
        """Raise on every rank what any of them has found. Collective."""
        mine = None if self._first is None else (self._when, str(self._first))
        found = [each for each in self._connection.transport.gather_objects(mine) if each is not None]
        if found:
            error = NotFiniteError(min(found, key=lambda each: each[0])[1])
            error.on_all_ranks = True
            raise error from self._first
