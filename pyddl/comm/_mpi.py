"""The MPI module that fits the MPI which mpi4py has loaded: it takes this file's place; its stub is ``_mpi.pyi``."""

import sys

from pyddl.comm.modules import load

sys.modules[__name__] = load()
