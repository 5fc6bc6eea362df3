"""Lock: what only one rank at a time may do."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path
from time import perf_counter

from pyddl.comm.transport import Transport
from pyddl.errors import CommError, StrategyError

__all__ = ["FileLock", "NoLock"]


class NoLock:
    """One rank needs none.

    Attributes
    ----------
    held : bool
        Whether this rank holds the lock.
    wait_seconds : float
        Spent so far in waiting for it.
    """

    held = False
    wait_seconds = 0.0

    def acquire(self) -> None:
        """Wait until no other rank holds the lock, and hold it.

        Raises
        ------
        StrategyError
            This rank holds it already.
        """
        if self.held:
            raise StrategyError("the strategy asks for the lock that it holds already: yield Unlock() in between")
        self._wait()
        self.held = True

    def release(self) -> None:
        """Let another rank have it.

        Raises
        ------
        StrategyError
            This rank does not hold it.
        """
        if not self.held:
            raise StrategyError("the strategy gives back a lock that it does not hold: yield Lock() first")
        self._give_back()
        self.held = False

    def _wait(self) -> None:
        return None

    def _give_back(self) -> None:
        return None

    def close(self) -> None:
        """Give back what the lock uses."""
        return None


class FileLock(NoLock):
    """A POSIX lock on a file that all ranks have open [1]_. The system takes it back from a rank that dies.

    Parameters
    ----------
    transport : Transport
        Of all ranks. The constructor is collective.
    folder : Path, optional
        Which all ranks see; the one for temporary files by default. Nothing stays there.

    Raises
    ------
    CommError
        A rank cannot open the file, or its file system knows no locks. On all ranks.

    References
    ----------
    .. [1] POSIX.1-2024, fcntl, F_SETLKW.
    """

    def __init__(self, transport: Transport, folder: Path | None = None):
        self.wait_seconds = 0.0
        self._file = -1
        path, error = "", ""
        if transport.rank == 0:
            try:
                self._file, path = tempfile.mkstemp(prefix=".pyddl-lock-", dir=folder)
            except OSError as refused:
                error = f"cannot make a lock file in {folder or tempfile.gettempdir()}: {refused.strerror}"
        path = transport.gather_objects(path)[0]
        try:
            if path:
                if transport.rank:
                    self._file = os.open(path, os.O_RDWR)
                fcntl.lockf(self._file, fcntl.LOCK_EX)
                fcntl.lockf(self._file, fcntl.LOCK_UN)
        except OSError as refused:
            error = f"cannot lock the file {path}: {refused.strerror}"
        failed = [f"rank {rank} {text}" for rank, text in enumerate(transport.gather_objects(error)) if text]
        if path and transport.rank == 0:
            os.unlink(path)
        if failed:
            self.close()
            raise CommError(f"{'; '.join(failed)}: give a run directory (out) on a file system that all nodes share")

    def _wait(self) -> None:
        begin = perf_counter()
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        self.wait_seconds += perf_counter() - begin

    def _give_back(self) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
