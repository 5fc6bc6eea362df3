"""The MPI modules that were built, for one family of MPI or several, and which of them fits.

Binaries of Open MPI and of MPICH (and Intel MPI, MVAPICH, Cray MPICH, which share MPICH's interface) do not mix. A
wheel has a module for each; a build for a site's MPI has one.
"""

from __future__ import annotations

import ctypes
import importlib
from types import ModuleType
from typing import NamedTuple

from pyddl.errors import CommError

__all__ = ["Built", "built", "family", "first_line", "fitting", "load"]

FOLDERS = ("for_openmpi", "for_mpich", "for_unknown")


class Built(NamedTuple):
    """An MPI module."""

    folder: str
    """Of `pyddl.comm`."""
    family: str
    """``Open MPI`` or ``MPICH``."""
    version: str
    """Of the MPI whose headers it was built with."""
    source: str
    """Where those came from."""

    def __str__(self) -> str:
        return f"{self.family} {self.version}"


def built() -> list[Built]:
    """All that are here."""
    found = []
    for folder in FOLDERS:
        try:
            about = importlib.import_module(f"pyddl.comm.{folder}")
        except ImportError:
            continue
        if hasattr(about, "FAMILY"):  # a folder that a removed build has left is an empty package
            found.append(Built(folder, about.FAMILY, about.VERSION, about.SOURCE))
    return found


def family(library: str) -> str:
    """Of an MPI, by what its ``MPI_Get_library_version`` says."""
    return "Open MPI" if "Open MPI" in library else "MPICH"


def first_line(library: str) -> str:
    """What an MPI calls itself, in short."""
    return library.replace("\0", "").strip().splitlines()[0].split(", package")[0]


def fitting(mpi: ModuleType) -> Built:
    """The module for the MPI of this ``mpi4py.MPI``.

    Raises
    ------
    CommError
        There is none.
    """
    here, library = built(), mpi.Get_library_version()
    if not here:
        raise CommError("pyddl was built without its MPI module. Cure: install mpi4py, then build again: pip install "
                        "--force-reinstall --no-deps . in pyddl's sources")
    for each in here:
        if each.family == family(library):
            return each
    known = " and ".join(f"{each} ({each.source})" for each in here)
    raise CommError(f"pyddl was built for {known}, but mpi4py loads {first_line(library)}; the two do not mix. Cure: "
                    "build pyddl again for the MPI in use (pip install "
                    "--config-settings=cmake.define.MPI_HOME=<folder> "
                    f"...), or use the mpirun and libraries of {here[0].family}")


def load() -> ModuleType:
    """Import the module that fits; mpi4py loads its MPI, if it has not."""
    from mpi4py import MPI

    chosen = fitting(MPI)
    # A module of a wheel names no library: it takes MPI's functions from the one that mpi4py has loaded.
    ctypes.CDLL(MPI.__file__, mode=ctypes.RTLD_GLOBAL)
    return importlib.import_module(f"pyddl.comm.{chosen.folder}._mpi")
