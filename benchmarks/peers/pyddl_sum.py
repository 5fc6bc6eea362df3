"""pyddl's sum over ranks as a peer: ``transport.sum``, which also sums a count."""

from __future__ import annotations

import sys

import numpy as np

from benchmarks.peers.line import clocked, mpi_name, serve
from benchmarks.peers.pyddl_step import memory_bandwidth
from pyddl.comm import world

__all__ = ["main"]


class _Peer:
    def __init__(self) -> None:
        self.transport = world().transport
        self.vector = np.zeros(0, np.float32)

    def prepare(self, floats: int) -> None:
        """A vector where the ranks of a node can add to each other's."""
        self.vector = self.transport.allocate(floats)

    def check(self) -> list[float]:
        """Sum numbers that differ by rank; first, last and sum of the result."""
        self.vector[:] = np.arange(len(self.vector)) % 1000 + self.transport.rank
        self.transport.sum(self.vector, 1)
        return [float(self.vector[0]), float(self.vector[-1]), float(self.vector.sum(dtype=np.float64))]

    def bandwidth(self) -> float:
        """Bytes per second of this rank, while all measure, on two vectors as long as its own, 64 kB at least."""
        self.transport.barrier()
        return memory_bandwidth(max(2 * self.vector.nbytes, 1 << 17))  # of shorter ones a call takes longer than bytes

    def time(self, setup: str, count: int) -> float:
        self.vector[:] = 0  # sums of sums must not overflow
        return clocked(lambda: self.transport.sum(self.vector, 1), count, self.transport.barrier)


def main(address: str) -> None:
    peer = _Peer()
    from mpi4py import MPI

    about = {"mpi": mpi_name(MPI.Get_library_version())}
    serve(
        address,
        peer.transport.rank,
        about,
        {name: getattr(peer, name) for name in ("prepare", "check", "bandwidth", "time")},
    )


if __name__ == "__main__":
    main(sys.argv[-1])
