"""MPI_Allreduce in place as a peer, by mpi4py alone: of whatever MPI its environment has."""

from __future__ import annotations

import sys

import numpy as np
from mpi4py import MPI

from benchmarks.peers.line import clocked, mpi_name, serve

ALIGNMENT = 64  # bytes: unaligned buffers would slow MPI down


class _Peer:
    def __init__(self) -> None:
        self.comm = MPI.COMM_WORLD
        self.vector = np.zeros(0, np.float32)

    def prepare(self, floats: int) -> None:
        raw = np.zeros(floats + ALIGNMENT // 4, np.float32)
        skip = -raw.ctypes.data // 4 % (ALIGNMENT // 4)
        self.vector = raw[skip : skip + floats]

    def check(self) -> list[float]:
        """Sum numbers that differ by rank; first, last and sum of the result."""
        self.vector[:] = np.arange(len(self.vector)) % 1000 + self.comm.rank
        self.comm.Allreduce(MPI.IN_PLACE, self.vector)
        return [float(self.vector[0]), float(self.vector[-1]), float(self.vector.sum(dtype=np.float64))]

    def time(self, setup: str, count: int) -> float:
        self.vector[:] = 0
        buffer = [self.vector, MPI.FLOAT]
        return clocked(lambda: self.comm.Allreduce(MPI.IN_PLACE, buffer), count, self.comm.Barrier)


def main(address: str) -> None:
    peer = _Peer()
    about = {"mpi": mpi_name(MPI.Get_library_version())}
    serve(
        address, peer.comm.rank, about, {name: getattr(peer, name) for name in ("prepare", "check", "time")}
    )


if __name__ == "__main__":
    main(sys.argv[-1])
