"""Link: Python objects to and from one other rank, without ever blocking.

An object travels as several messages: the sizes of its frames, then the frames. The first frame is its pickle (protocol
5), the others are the memory of its arrays, which goes out and in without another copy.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyddl.comm.abort import LEAVING
from pyddl.errors import PeerLost

if TYPE_CHECKING:
    from mpi4py import MPI

__all__ = ["Link", "Packed", "Patience", "birth_of"]

SIZES, FRAME = 1, 2  # tags
IN_BAND = 4096  # bytes up to which an array stays within the pickle: another message would cost more than the copy
CHUNK = 1 << 30  # bytes; one MPI call takes fewer than 2**31


class Packed:
    """An object, ready to be sent; to several ranks, too.

    Parameters
    ----------
    value : object
        Anything that pickle takes.
    copy : bool, default=False
        Copy the arrays, so that they may change before all is sent.
    """

    def __init__(self, value: Any, *, copy: bool = False):
        outside: list[memoryview] = []

        def stays_inside(buffer: pickle.PickleBuffer) -> bool:
            raw = buffer.raw()
            if raw.nbytes > IN_BAND:
                outside.append(raw)
            return raw.nbytes <= IN_BAND

        head = pickle.dumps(value, protocol=5, buffer_callback=stays_inside)
        frames: tuple[Any, ...] = (head, *outside)
        self.frames = [np.frombuffer(frame, np.uint8) for frame in frames]
        if copy:
            self.frames[1:] = [frame.copy() for frame in self.frames[1:]]

    def unpack(self) -> Any:
        """A new object, as another rank gets it."""
        return _load([frame.copy() for frame in self.frames])


def _load(frames: list[np.ndarray]) -> Any:
    return pickle.loads(frames[0].data, buffers=frames[1:])


class Link:
    """Objects to and from rank ``peer`` of ``comm``. Only the main thread may use it; nothing in it waits.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        For links only, one between any two ranks.
    peer : int
    process, birth : int, str
        The peer's, if it runs on this machine, so that its death is seen also where MPI does not report it.
    """

    def __init__(self, comm: MPI.Intracomm, peer: int, process: int = 0, birth: str = ""):
        from mpi4py import MPI

        self.peer = peer
        self._comm, self._mpi = comm, MPI
        self._sent: deque[tuple[list[MPI.Request], list[np.ndarray]]] = deque()
        self._coming: tuple[list[MPI.Request], list[np.ndarray]] | None = None
        self._process, self._birth = process, birth if process and birth_of(process) == birth else ""

    def send(self, packed: Packed) -> None:
        """Begin to send. The arrays must stay as they are until `idle` is true, unless they were copied.

        Raises
        ------
        PeerLost
            The peer has died; so from all methods.
        """
        sizes = np.array([frame.size for frame in packed.frames], np.int64)
        try:
            requests = [self._comm.Isend(sizes, self.peer, SIZES)]
            requests += [self._comm.Isend(chunk, self.peer, FRAME) for chunk in _chunks(packed.frames)]
        except self._mpi.Exception as error:
            raise self._lost(error) from None
        self._sent.append((requests, [sizes, *packed.frames]))  # the memory lives as long as it is being sent

    def poll(self) -> Any:
        """The next object, if one has wholly come; else None."""
        try:
            self._forget_sent()
            if self._coming is None:
                self._coming = self._announced()
            if self._coming is None or not self._mpi.Request.Testall(self._coming[0]):
                return None
        except self._mpi.Exception as error:
            raise self._lost(error) from None
        frames = self._coming[1]
        self._coming = None
        return _load(frames)

    def _announced(self) -> tuple[list[MPI.Request], list[np.ndarray]] | None:
        """Begin to receive the frames whose sizes have come, if any have."""
        status = self._mpi.Status()
        found = self._comm.Improbe(self.peer, SIZES, status)
        if found is None:
            return None
        sizes = np.empty(status.Get_count(self._mpi.INT64_T), np.int64)
        found.Recv(sizes)
        frames = [np.empty(size, np.uint8) for size in sizes]
        return [self._comm.Irecv(chunk, self.peer, FRAME) for chunk in _chunks(frames)], frames

    def _forget_sent(self) -> None:
        while self._sent and self._mpi.Request.Testall(self._sent[0][0]):
            self._sent.popleft()

    def idle(self) -> bool:
        """Whether all that was sent has left."""
        try:
            self._forget_sent()
        except self._mpi.Exception as error:
            raise self._lost(error) from None
        return not self._sent

    def lives(self) -> bool:
        """Whether the peer's process is seen here, on this machine."""
        return bool(self._birth) and birth_of(self._process) == self._birth

    def works(self) -> bool:
        """Whether the peer's process is seen here and not at its end."""
        try:
            return self.lives() and Path(f"/proc/{self._process}/comm").read_text().strip() != LEAVING
        except OSError:
            return False

    def watch(self) -> None:
        """Raise `PeerLost` if the peer's process, on this machine, has ended."""
        if self._birth and not self.lives():
            raise self._lost("its process has ended")

    def abandon(self) -> None:
        """Give the link up, whatever is under way. MPI may use that memory until the process ends, so it is kept."""
        if self._sent or self._coming:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object((self._sent, self._coming)))

    def _lost(self, why: object) -> PeerLost:
        return PeerLost(f"rank {self.peer} was lost: {why}")


class Patience:
    """How to wait for something that is looked for again and again: at first without sleep, at last a millisecond each.

    So an answer within microseconds is seen at once, and a long wait costs hardly any of a core.
    """

    SPINS = 20
    SHORTEST, LONGEST = 2e-5, 1e-3  # seconds

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Something has come."""
        self._looks = 0
        self._sleep = self.SHORTEST

    def wait(self) -> None:
        """Nothing has come."""
        self._looks += 1
        if self._looks <= self.SPINS:
            os.sched_yield()
        else:
            time.sleep(self._sleep)  # Python's signal handlers run here
            self._sleep = min(1.5 * self._sleep, self.LONGEST)


def birth_of(process: int) -> str:
    """When a process of this machine began, in the kernel's ticks; empty if there is none, or only its remains."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _chunks(frames: Iterable[np.ndarray]) -> list[np.ndarray]:
    return [frame[begin : begin + CHUNK] for frame in frames for begin in range(0, frame.size, CHUNK)]
