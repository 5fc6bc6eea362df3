"""What the environment of this process says: which launcher started it, and whether a person watches."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

__all__ = ["Started", "started", "terminal"]


class Started(NamedTuple):
    """What the environment says about the launcher of this process."""

    by: str
    """The variable that says so, for messages."""
    size: int | None
    """Ranks that the launcher started; None where it does not say."""
    rank: int | None


# A step of srun also surrounds the daemons that mpirun starts on further nodes, so SLURM's variables come
# after MPI's.
_SIZE_AND_RANK = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("PMI_SIZE", "PMI_RANK"),
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)


def started(environ: Mapping[str, str] = os.environ) -> Started | None:
    """Which launcher started this process as a rank, or None. Reads the environment only; starts no MPI."""
    for size, rank in _SIZE_AND_RANK:
        if environ.get(size, "").isdigit():
            known = environ.get(rank, "").isdigit()
            return Started(size, int(environ[size]), int(environ[rank]) if known else None)
    if environ.get("PMIX_RANK", "").isdigit():
        return Started("PMIX_RANK", None, int(environ["PMIX_RANK"]))
    return None


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
    launcher = _launching_ancestor()
    if launcher is None:
        return False
    try:
        descriptor = os.open(f"/proc/{launcher}/fd/1", os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return os.isatty(descriptor)
    finally:
        os.close(descriptor)


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
