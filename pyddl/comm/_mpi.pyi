"""Vectors over the ranks of one communicator (csrc/comm). Import mpi4py.MPI first: it chooses the MPI
library."""

import numpy as np
from mpi4py import MPI

class Channel:
    """Collective operations on ``comm``, which must not be freed before; the GIL is released while bytes
    move.

    The attributes add up over all calls, in seconds and bytes.
    """

    rank: int
    size: int
    wait_seconds: float
    communication_seconds: float
    bytes_sent: int

    def __init__(self, comm: MPI.Comm) -> None: ...
    def sum(self, vector: np.ndarray, count: int = 0, ordered: bool = False) -> int:
        """Replace a float32 vector by its sum over the ranks; return the sum of the counts."""
    def gather(self, values: np.ndarray) -> list[np.ndarray]:
        """Float64 vectors of all ranks, in rank order; lengths may differ."""
    def broadcast(self, raw: np.ndarray, root: int) -> None:
        """Replace the bytes (uint8) by those of rank ``root``."""
    def barrier(self) -> None: ...
