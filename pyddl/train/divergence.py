"""Divergence: a value that is not finite ends training on all ranks, by one message, whoever finds it."""

from __future__ import annotations

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
    """

    def __init__(self, connection: Connection, stop: StopRequest):
        self._connection, self._stop = connection, stop
        self._first: NotFiniteError | None = None

    def found(self, error: NotFiniteError) -> None:
        """Raise ``error``, or let `agree` do so."""
        if self._connection.transport.size == 1:
            raise error
        self._first = self._first or error
        self._stop.requested = True

    def agree(self) -> None:
        """Raise on every rank what any of them has found. Collective."""
        found = self._connection.transport.gather_objects(None if self._first is None else str(self._first))
        text = next((each for each in found if each is not None), None)
        if text is not None:
            error = NotFiniteError(text)
            error.on_all_ranks = True
            raise error from self._first
