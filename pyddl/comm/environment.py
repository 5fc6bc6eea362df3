"""What the environment of this process says: which launcher started it, and whether a person watches."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TextIO

__all__ = ["Started", "live_output", "outlives", "started", "terminal"]


class Started(NamedTuple):
    """What the environment says about the launcher of this process."""

    by: str
    """The variable that says so, for messages."""
    size: int | None
    """Ranks that the launcher started; None where it does not say."""
    rank: int | None

    @property
    def may_start(self) -> bool:
        """Whether it may be a person's shell, of ``salloc`` or ``srun --pty``, in which ranks are started: a step of
        one task."""
        return self.by.startswith("SLURM") and self.size == 1


# A step of srun also surrounds the daemons that mpirun starts on further nodes, so SLURM's variables come
# after MPI's.
_SIZE_AND_RANK = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("PMI_SIZE", "PMI_RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)


def started(environ: Mapping[str, str] = os.environ) -> Started | None:
    """Which launcher started this process as a rank, or None. Reads the environment only; starts no MPI."""
    for by, number in _SIZE_AND_RANK:
        if (size := _count(environ.get(by))) is not None:
            return Started(by, size, _count(environ.get(number)))
    rank = _count(environ.get("PMIX_RANK"))
    return None if rank is None else Started("PMIX_RANK", None, rank)


def _count(text: str | None) -> int | None:
    """The whole number that a variable holds; schedulers leave some empty, and people write anything."""
    return int(text) if text is not None and re.fullmatch(r"\s*[0-9]{1,9}\s*", text) else None


def outlives(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the launcher was told to let ranks go on when another one dies (``mpirun --with-ft ulfm``)."""
    return environ.get("OMPI_MCA_mpi_ft_enable") in ("1", "true")


def terminal() -> bool:
    """Whether a person watches standard output.

    Open MPI may give a rank a pseudo-terminal although mpirun's own output goes to a file, and MPICH a pipe
    although it goes to a terminal. So a rank asks the variable ``PYDDL_TERMINAL``, which this launcher sets,
    and else looks at the output of the process that started it.
    """
    said = os.environ.get("PYDDL_TERMINAL")
    if said is not None:
        return said == "1"
    if started() is None:
        return os.isatty(1)
    stream = _launchers_terminal()
    if stream is not None:
        stream.close()
    return stream is not None


def live_output() -> TextIO:
    """Where a live display writes: standard output, or the terminal of the mpirun that a person has typed.

    An mpirun of Open MPI 5 keeps back what a rank writes until the line ends, which a bar never does; the one
    that this launcher starts is told not to.
    """
    direct = None if "PYDDL_TERMINAL" in os.environ or started() is None else _launchers_terminal()
    return direct or sys.stdout


def _launchers_terminal() -> TextIO | None:
    """Standard output of the mpirun above this process, where that is a terminal."""
    launcher = _launching_ancestor()
    if launcher is None:
        return None
    try:
        descriptor = os.open(f"/proc/{launcher}/fd/1", os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return None
    if not os.isatty(descriptor):
        os.close(descriptor)
        return None
    os.set_blocking(descriptor, True)
    return open(descriptor, "w", encoding=sys.stdout.encoding, errors="replace")


_LAUNCHER_NAMES = re.compile(r"mpirun|mpiexec|prterun|orterun|srun")


def _launching_ancestor() -> int | None:
    """Process number of the farthest mpirun, mpiexec or srun above this process."""
    found = None
    process = os.getppid()
    while process > 1:
        try:
            name, after = Path(f"/proc/{process}/stat").read_text().split("(", 1)[1].rsplit(")", 1)
        except OSError:
            break
        if _LAUNCHER_NAMES.match(name):
            found = process
        process = int(after.split()[1])
    return found
