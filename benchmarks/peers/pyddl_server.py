"""pyddl's parameter server as a peer: rank 0 serves, rank 1 pushes and fetches."""

from __future__ import annotations

import sys
import time

import numpy as np

from benchmarks.peers.line import mpi_name, serve
from pyddl.comm import world
from pyddl.comm.operations import Arrived
from pyddl.comm.server import ServerLink, ServerPort
from pyddl.comm.server import serve as start_server

__all__ = ["main"]


class _Peer:
    def __init__(self) -> None:
        self.world = world()
        self.end: ServerPort | ServerLink | None = None
        self.progress = 0  # pushes that the server has applied

    def prepare(self, floats: int) -> None:
        """A service of this many floats, all zero."""
        if self.end is not None:
            self.end.close()
        self.end = start_server(self.world, self.world.transport, servers=1, size=floats)
        self.vector = np.zeros(floats, np.float32)
        self.progress = 0
        if isinstance(self.end, ServerPort):
            self.end.free()[:] = 0
            self.end.publish(0)

    def check(self) -> list[float]:
        """The server adds up what is pushed; what the worker fetches after three pushes."""
        self.vector[:] = np.arange(len(self.vector)) % 1000
        pushed = self.vector.copy()
        self.run(3, 0.0, pushed)
        return [float(self.vector[-1]), float(self.vector.sum(dtype=np.float64))]

    def round_trips(self, count: int, pause: float) -> list[float]:
        """Seconds from each push to the end of the fetch that brings its effect, after a pause; the worker's."""
        return self.run(count, pause, np.zeros_like(self.vector))

    def run(self, count: int, pause: float, pushed: np.ndarray) -> list[float]:
        taken = []
        end = self.end
        self.world.transport.barrier()
        if isinstance(end, ServerPort):
            end.begin_epoch()
            while (event := end.receive()) is not None:
                if not isinstance(event, Arrived):
                    continue  # the worker has finished
                self.progress += 1
                np.add(end.current(), event.vector, out=end.free())
                end.publish(self.progress)
        elif end is not None:
            for _ in range(count):
                time.sleep(pause)
                begin = time.perf_counter()
                end.push(pushed, 1, 0)
                self.progress += 1
                end.fetch(self.vector, self.progress)
                taken.append(time.perf_counter() - begin)
            end.finish()
        return taken

    def idle(self, seconds: float) -> float:
        """Share of a core that the server takes while its worker does nothing."""
        self.world.transport.barrier()
        if isinstance(self.end, ServerPort):
            self.end.begin_epoch()
            cpu, wall = time.process_time(), time.perf_counter()
            while self.end.receive() is not None:
                pass
            return (time.process_time() - cpu) / (time.perf_counter() - wall)
        if self.end is not None:
            time.sleep(seconds)
            self.end.finish()
        return 0.0


def main(address: str) -> None:
    peer = _Peer()
    from mpi4py import MPI

    about = {"mpi": mpi_name(MPI.Get_library_version())}
    handlers = {name: getattr(peer, name) for name in ("prepare", "check", "round_trips", "idle")}
    serve(address, peer.world.rank, about, handlers)


if __name__ == "__main__":
    main(sys.argv[-1])
