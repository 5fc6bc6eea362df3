"""Children: processes forked off a rank, which know nothing of the other ranks, and may die without it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from typing import NoReturn

__all__ = ["Child", "ending_with"]

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def ending_with(parent: int, number: int = signal.SIGTERM) -> Callable[[], None]:
    """What a new process calls to get a signal when ``parent`` has ended, however that was."""
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it has ended already
            os._exit(1)

    return ask


class Child:
    """A process that does ``work(connection)``, and then ends, without MPI's end and Python's.

    It is a world of its own (`pyddl.comm.world`), and its failure ends nobody else. Threads of the parent do not follow
    it: none should be at work.

    Parameters
    ----------
    work : callable
        Gets its end of the pipe. What it raises is printed.
    mortal : bool, default=True
        Whether it ends when the parent has, at once; else it has to see the end of the pipe.
    closed : sequence of Connection
        What of the parent's it must not hold open.

    Attributes
    ----------
    process : int
    connection : Connection
        The parent's end of the pipe, which ends (`EOFError`) when the child does.
    """

    def __init__(self, work: Callable[[Connection], None], *, mortal: bool = True, closed: tuple[Connection, ...] = ()):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # else both would write what it still holds
                stream.flush()
        self.connection, theirs = Pipe()
        die = ending_with(os.getpid(), signal.SIGKILL)
        self.process = os.fork()
        if self.process == 0:
            self._run(work, theirs, die if mortal else None, (self.connection, *closed))
        theirs.close()

    @staticmethod
    def _run(work: Callable[[Connection], None], theirs: Connection, die: Callable[[], None] | None,
             closed: tuple[Connection, ...]) -> NoReturn:
        status = 1
        try:
            if die is not None:
                die()
            for connection in closed:
                connection.close()
            work(theirs)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError, AttributeError):
                    stream.flush()
            os._exit(status)

    def ask(self, number: int) -> None:
        """Send it a signal; nothing where it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, number)

    def wait(self) -> int:
        """Wait for its end; its exit status, or minus the number of the signal that ended it."""
        self.connection.close()
        _, status = os.waitpid(self.process, 0)
        return os.waitstatus_to_exitcode(status)
