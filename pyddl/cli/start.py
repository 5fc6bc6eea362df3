"""Start the ranks that a command asks for: mpirun with this very command line."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import click

from pyddl.cli.app import BAD_INPUT, FAILED
from pyddl.comm.abort import STOPPED
from pyddl.comm.environment import started
from pyddl.errors import CommError, ParameterError, PyddlError

__all__ = ["on_ranks", "to_its_end"]

ENDED = "PYDDL_ENDED"  # names a file that a rank makes when it has come to its end


def on_ranks(ranks: int | None, *, given: int | None, threads: int | None = None, outlive: bool | None = False,
             verbose: bool = False) -> int | None:
    """Start ``ranks`` ranks, which know the launcher by their environment; the exit status, or None in one that is to
    do the work itself.

    Parameters
    ----------
    ranks : int, optional
    given : int, optional
        What the command line says, of which a launcher must have started as many.
    outlive : bool, optional
        Whether ranks outlive one that dies; None: where this MPI can do that.

    Raises
    ------
    ParameterError
        A launcher has started another number of ranks.
    CommError
        There is no launcher, or it cannot let ranks ``outlive`` one another.
    PyddlError
        All ranks have ended as if all were well, and none had come to its end.
    """
    launched = started()
    if (launched is None or launched.may_start) and ranks is not None and ranks > 1:
        return _start(ranks, threads, outlive, verbose)
    if launched is not None and launched.size is not None and given not in (None, launched.size):
        raise ParameterError(f"--ranks is {given}, but the launcher started {launched.size} ({launched.by}); "
                             "leave --ranks out, or start without mpirun or srun")
    return None


def _start(ranks: int, threads: int | None, outlive: bool | None, verbose: bool) -> int:
    from pyddl.comm import launcher

    argv = [sys.executable, *sys.orig_argv[1:]]
    try:
        line, environment = launcher.command(ranks, argv, threads=threads, outlive=outlive is not False)
    except CommError:
        if outlive is not None:
            raise
        line, environment = launcher.command(ranks, argv, threads=threads)
    if verbose:
        click.echo(launcher.shown(line, environment), err=True)
    with tempfile.TemporaryDirectory(prefix="pyddl-") as folder:
        ended = Path(folder) / "ended"
        status = launcher.supervise(line, {**environment, ENDED: str(ended)}, spoken=(FAILED, BAD_INPUT, STOPPED))
        if status == 0 and not ended.exists():  # the launcher believes ranks that say 0
            raise PyddlError("all ranks have ended, and their work has not, by os._exit in code of yours or of a "
                             "library; go on with --resume and --out")
    return status


def to_its_end(main: Callable[[], int]) -> Callable[[], int]:
    """``main``, which lets whoever has started this rank know when it returns."""
    ended = os.environ.pop(ENDED, None)  # which no process that this one starts can know

    def run() -> int:
        status = main()
        if ended is not None:
            with suppress(OSError):
                Path(ended).touch()
        return status

    return run
