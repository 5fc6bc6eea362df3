"""A fault that ranks have in common is told by one of them."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpi4py import MPI

__all__ = ["Faults"]

PATIENCE = 1.0  # seconds in which the rank below may fail, too
TO_SEND = 0.2  # seconds that a word to the rank above may take


class Faults:
    """Words between ranks that fail: each tells the next one above how it does.

    Nothing is collective once it is made, so that ranks that do not fail, or wait in MPI, are left alone. A rank sends
    one word, and waits for one.

    Parameters
    ----------
    comm : MPI.Intracomm
        Of all ranks. Duplicated, which is collective.
    """

    def __init__(self, comm: MPI.Intracomm):
        from mpi4py import MPI

        self._comm = comm.Dup()
        self._comm.Set_errhandler(MPI.ERRORS_RETURN)
        self._finalized = MPI.Is_finalized

    def told(self, kind: str) -> bool:
        """Whether the rank below fails by this kind of fault too: it, or one further below, says so for all.

        To be called by the main thread of a rank that fails, once.
        """
        if self._finalized():
            return False
        with contextlib.suppress(Exception):  # where MPI itself is at fault each rank speaks for itself
            return self._told(kind)
        return False

    def _told(self, kind: str) -> bool:
        comm, begun = self._comm, time.monotonic()
        below, above = comm.rank - 1, comm.rank + 1
        sent = comm.isend(kind, above) if above < comm.size else None
        if below >= 0:
            while time.monotonic() < begun + PATIENCE:
                if comm.iprobe(source=below):
                    return bool(comm.recv(source=below) == kind)
                time.sleep(0.005)
        while sent is not None and not sent.test()[0] and time.monotonic() < begun + TO_SEND:
            time.sleep(0.005)
        return False
