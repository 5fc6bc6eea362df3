"""A byte there and back over a socket between two processes on a core each: what waking each other costs here."""

from __future__ import annotations

import os
import socket
import sys
import time

from benchmarks.peers.line import serve

__all__ = ["main"]


class _Peer:
    def __init__(self) -> None:
        self.line, echo = socket.socketpair()
        cores = sorted(os.sched_getaffinity(0))
        if os.fork() == 0:
            self.line.close()  # else the child would not see its parent end
            os.sched_setaffinity(0, {cores[-1]})
            while byte := echo.recv(1):
                echo.send(byte)
            os._exit(0)
        os.sched_setaffinity(0, {cores[0]})

    def round_trips(self, count: int, pause: float) -> list[float]:
        """Seconds from each byte sent to the same received, after a pause."""
        taken = []
        for _ in range(count):
            time.sleep(pause)
            begin = time.perf_counter()
            self.line.send(b"x")
            self.line.recv(1)
            taken.append(time.perf_counter() - begin)
        return taken


def main(address: str) -> None:
    serve(address, 0, {}, {"round_trips": _Peer().round_trips})


if __name__ == "__main__":
    main(sys.argv[-1])
