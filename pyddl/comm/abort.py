"""One rank fails: every rank ends, and one traceback says which rank and why.

Without this an uncaught exception ends one process, and all others wait for it for ever.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from pyddl.errors import PeerLost

__all__ = ["ENDING_ALL", "LEAVING", "STOPPED", "OnAllRanks", "end_all", "end_without_mpi", "first_of_node", "install",
           "installed", "leave", "run_main", "told_by_another"]

STOPPED = 75
"""Exit status of a run that was stopped on request and can be resumed: all ranks agree on it, so it is no
failure."""


class OnAllRanks(int):
    """An exit status that every rank reaches by itself: none has to end the others."""


AFTER_OTHERS = 1.0  # seconds in which the rank that failed first may speak and end the job
ENDING = 0.5  # seconds in which the other ranks end after MPI has
PATIENCE = 5  # seconds that MPI has to end the job
ENDING_ALL = "; ending all ranks"  # ends the line in which a rank says why
LEAVING = "pyddl leaves"  # what the system calls a process that waits for others at its end
INTERRUPTED = 130  # as a shell reports SIGINT

_abort: Callable[[int], Any] | None = None
_name = ""
_told: Callable[[str], bool] | None = None
_silent: bool | None = None  # whether another rank tells what this one has failed by; None: it has not failed
_others_first: Callable[[], bool] | None = None  # where this process ends without MPI_Finalize
_claim: socket.socket | None = None


def install(abort: Callable[[int], Any], rank: int, size: int, told: Callable[[str], bool]) -> None:
    """From now on an uncaught exception, in any thread, prints this rank's traceback and calls
    ``abort(code)``; a crash in native code prints its Python traceback too.

    ``told(kind)`` is whether another rank that fails by this kind of error says so.
    """
    global _abort, _name, _told
    first = _abort is None
    _abort, _name, _told = abort, f"rank {rank} of {size}", told
    from pyddl import _core  # not at the top: whoever only starts ranks does not need it

    if not faulthandler.is_enabled():
        faulthandler.enable(2)  # standard error itself, whatever sys.stderr is
    _core.name_crashes(f"{_name}: ")
    if not first:
        return
    sys.excepthook = _fail
    before = threading.excepthook

    def thread_failed(args: threading.ExceptHookArgs, /) -> None:
        if args.exc_type is SystemExit or args.exc_value is None:
            before(args)
        else:
            _fail(args.exc_type, args.exc_value, args.exc_traceback)

    threading.excepthook = thread_failed


def _after_fork() -> None:
    global _abort, _name, _others_first
    _abort, _name, _others_first = None, "", None  # the others wait for the parent, not for its child


os.register_at_fork(after_in_child=_after_fork)


def installed() -> bool:
    """Whether a failure of this process is one of a rank among others, who may wait for it."""
    return _abort is not None


def told_by_another(error: BaseException | str) -> bool:
    """Whether another rank fails by such an error too, and says so: then this one is silent to its end."""
    global _silent
    if _silent is None:
        kind = error if isinstance(error, str) else type(error).__name__
        main = threading.current_thread() is threading.main_thread()
        _silent = main and _told is not None and _told(kind)
    return _silent


def _fail(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, PeerLost):  # the other rank's own words come first, and matter more than where this one waited
        time.sleep(AFTER_OTHERS)
        if not told_by_another(error):
            os.write(2, f"{_name}: {error}{ENDING_ALL}\n".encode(errors="backslashreplace"))
    elif not told_by_another(error):
        report(error, kind, trace)
    _end(INTERRUPTED if issubclass(kind, KeyboardInterrupt) else 1)


def report(error: BaseException, kind: type[BaseException] | None = None,
           trace: TracebackType | None = None) -> None:
    """Write the traceback of ``error`` to standard error under this rank's name, in one piece."""
    lines = traceback.format_exception(kind or type(error), error, trace or error.__traceback__)
    head = f"{_name}: " if _name else ""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed already: nothing to lose
            stream.flush()
    os.write(2, f"{head}{''.join(lines)}".encode(errors="backslashreplace"))


def _end(code: int) -> None:
    if _abort is not None:
        # lets the launcher pass on what was written, by this rank or another, before its own words about the end
        time.sleep(AFTER_OTHERS if _silent else 0.2)
        if not first_of_node():
            time.sleep(PATIENCE)  # the first one's abort ends this rank too
            os._exit(code)
        _abort(code)


def first_of_node() -> bool:
    """Whether no other rank of this job on this node ends it already.

    Open MPI's launcher may hang, or report success, where two ranks of a node abort at once under ``--with-ft ulfm``.
    """
    global _claim
    if os.environ.get("OMPI_MCA_mpi_ft_enable") != "1":  # noqa: SIM112 - the name is Open MPI's
        return True
    claim = socket.socket(socket.AF_UNIX)
    try:  # an abstract name: one holder on the node, and free again when that has ended
        claim.bind(f"\0pyddl-ends-{os.environ.get('PMIX_NAMESPACE')}")
    except OSError:
        claim.close()
        return False
    _claim = claim
    return True


def end_all(code: int) -> NoReturn:
    """End all ranks now, from any thread, also where this rank's main thread hangs inside MPI."""
    if _abort is not None:
        if first_of_node():
            threading.Thread(target=_abort, args=(code,), daemon=True).start()
        time.sleep(PATIENCE)  # it does not return, unless MPI hangs in it too
    os._exit(code)  # the launcher ends the others


def leave(status: object) -> None:
    """One rank leaves by ``sys.exit`` what all do together: end all ranks, and never as a success."""
    if not told_by_another("sys.exit"):
        text = f"{_name}: sys.exit({status!r}) while the other ranks go on; ending all\n"
        os.write(2, text.encode(errors="backslashreplace"))
    _end(status if isinstance(status, int) and status not in (0, STOPPED) else 1)


def end_without_mpi(others_first: Callable[[], bool]) -> None:
    """Let this process end, when it does, without MPI_Finalize, which may wait for ever for a rank that has died.

    Its exit status is then 0, or that of `run_main`, as Python does not tell at exit what was given to `sys.exit`. Open
    MPI's launcher kills the others then, so while ``others_first()`` it waits at its end, under the name `LEAVING`.
    """
    global _others_first
    if _others_first is None:
        atexit.register(_end_now, 0)
    _others_first = others_first


def _end_now(code: int) -> NoReturn:
    atexit.unregister(_end_now)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(LEAVING)
    while _others_first is not None and _others_first():
        time.sleep(0.01)
    os._exit(code)


def run_main(main: Callable[[], int | None]) -> NoReturn:
    """Run ``main`` and end this process with its exit status; where it fails on one rank, end all ranks.

    ``main`` returns an exit status (None is 0), or leaves by `SystemExit` or another exception. 0 and 75
    (stopped on request) end this rank alone, as the others reach the same end; anything else in a world above
    1 aborts it. Python offers no hook for ``sys.exit(3)``, so a program under mpirun that may call it should
    start through here.

    Examples
    --------
    >>> if __name__ == "__main__":
    ...     pyddl.comm.run_main(main)  # doctest: +SKIP
    """
    status: object = None
    try:
        status = main()
    except SystemExit as leaving:
        status = leaving.code
        if isinstance(status, str):  # as Python does with sys.exit("message")
            if not told_by_another("sys.exit"):
                print(status, file=sys.stderr)
            status = 1
    except BaseException as error:
        if _abort is None:
            raise
        _fail(type(error), error, error.__traceback__)
        status = 1
    code = status if isinstance(status, int) else 0
    if code not in (0, STOPPED) and not isinstance(status, OnAllRanks) and _abort is not None:
        if not told_by_another("sys.exit"):
            os.write(2, f"{_name}: exit status {code}{ENDING_ALL}\n".encode())
        _end(code)
    if _others_first is not None:
        _end_now(code)
    if code == STOPPED and _abort is not None:
        code = _one_says_stopped()
    sys.exit(code)


def _one_says_stopped() -> int:
    """Leave MPI with all others; return the exit status of this rank: `STOPPED` on the first, which ends last.

    A launcher may take any status but 0 for a failure, kill the ranks that still end, and report that (srun -K: 143).
    """
    from mpi4py import MPI

    atexit._run_exitfuncs()  # some of them need MPI
    first = MPI.COMM_WORLD.rank == 0
    MPI.Finalize()
    if not first:
        return 0
    time.sleep(ENDING)
    return STOPPED
