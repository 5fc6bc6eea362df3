"""Transport: how vectors travel between ranks. One interface, whatever carries the bytes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from pyddl.comm.environment import outlives
from pyddl.errors import CommError, ShapeError

if TYPE_CHECKING:
    from mpi4py import MPI

    from pyddl.comm._mpi import Channel

__all__ = ["Alone", "MPITransport", "Transport"]

BUCKET = 1 << 16  # elements that travel together: 256 kB


class Transport(ABC):
    """Operations over the ranks of a world. Collective, all of them: every rank calls the same ones in the
    same order.

    Attributes
    ----------
    rank, size : int
    kind : str
        What carries the bytes: ``alone``, ``MPI`` or ``shared memory``.
    wait_seconds : float
        Time spent so far in waiting for ranks that came later.
    communication_seconds : float
        Time spent so far in moving bytes.
    bytes_sent : int
        What this rank had to send so far, by the algorithm: 2 (P-1)/P n 4 for the sum of n floats over P
        ranks.
    """

    kind: str
    rank: int
    size: int
    wait_seconds: float
    communication_seconds: float
    bytes_sent: int

    @abstractmethod
    def sum(self, vector: np.ndarray, count: int = 0, ordered: bool = False) -> int:
        """Replace ``vector`` by its sum over the ranks; return the sum of ``count``.

        The count travels first and synchronises the ranks: its time is waiting, the vector's is
        communication.

        Parameters
        ----------
        vector : ndarray of shape (n,), float32
            The same length on every rank; n may be 0.
        count : int
            For example the samples that this rank's gradient stands for.
        ordered : bool, default=False
            Add along a fixed binary tree over the ranks, so that equal inputs give equal bits on any machine.

        Raises
        ------
        ShapeError
            ``vector`` is no contiguous, writable float32 vector.
        CommError
            MPI failed; ``ordered`` on a number of ranks that is no power of two.
        """

    @abstractmethod
    def gather(self, values: np.ndarray) -> list[np.ndarray]:
        """The vectors of all ranks, in rank order. Float64; lengths may differ between ranks."""

    @abstractmethod
    def gather_objects(self, value: Any) -> list[Any]:
        """Small Python values of all ranks, in rank order. Slow: not for every step."""

    @abstractmethod
    def swap_objects(self, value: Any, partner: int) -> Any:
        """The small Python value of rank ``partner``, who gets this one. Collective over the two. Slow."""

    @abstractmethod
    def broadcast(self, array: np.ndarray, root: int = 0) -> None:
        """Replace ``array`` (contiguous, any dtype, the same shape everywhere) by that of rank ``root``."""

    @abstractmethod
    def barrier(self) -> None:
        """Return when all ranks have come here."""

    def allocate(self, size: int, name: str = "vector") -> np.ndarray:
        """A new vector of ``size`` zeros, float32, aligned to a cache line: `sum` is fastest with these.

        Every rank gets its own; where ranks share a node they lie in shared memory. Views keep it alive, also
        beyond the transport, and dropping it is no collective matter.

        Parameters
        ----------
        size : int
            Elements; the same on every rank.
        name : str
            For messages.
        """
        raw = np.zeros(size + 16, dtype=np.float32)
        skip = -raw.ctypes.data // raw.itemsize % 16
        return raw[skip : skip + size]

    def travelling(self, vector: np.ndarray, slices: Iterable[tuple[int, int]]) -> Callable[[int, int], None] | None:
        """What to call with the bounds of parts of ``vector`` that are final, so that they start to travel.

        The next `sum` of ``vector`` completes that. All ranks announce in the same order, with other operations at the
        same places between; each element once at the most. Not for ordered sums.

        Parameters
        ----------
        vector : ndarray of shape (n,), float32
            From `allocate`; nobody may touch a part of it between its announcement and the end of the sum.
        slices : iterable of (begin, end)
            What will be announced, in whatever pieces; what lies between them is final from the beginning.

        Returns
        -------
        callable or None
            None where nothing would be gained by an early start: within a node, or for a short vector.
        """
        return None

    def compare(self, operation: str, vector: np.ndarray | None = None) -> None:
        """Before what some other way carries out: debug mode compares it over all ranks (`pyddl.comm.checked`)."""
        return None

    def compare_pair(self, operation: str, vector: np.ndarray, partner: int) -> None:
        """As `compare`, with one other rank, who compares with this one."""
        return None

    def leave(self) -> None:
        """Tell the others that this rank has ended; those who wait for it get an error. Not collective."""
        return None

    def give_up(self) -> None:
        """Leave, and interrupt also those who wait by MPI, where that lets ranks outlive each other. Not collective."""
        self.leave()

    def close(self) -> None:
        """End the transport, not its vectors. Collective."""
        return None


class Alone(Transport):
    """One rank, no MPI: sends nothing."""

    kind = "alone"

    def __init__(self) -> None:
        self.rank = 0
        self.size = 1
        self.wait_seconds = 0.0
        self.communication_seconds = 0.0
        self.bytes_sent = 0

    def sum(self, vector: np.ndarray, count: int = 0, ordered: bool = False) -> int:
        return count

    def gather(self, values: np.ndarray) -> list[np.ndarray]:
        return [np.array(values, dtype=np.float64)]

    def gather_objects(self, value: Any) -> list[Any]:
        return [value]

    def swap_objects(self, value: Any, partner: int) -> Any:
        check_root(partner, 1)
        return value

    def broadcast(self, array: np.ndarray, root: int = 0) -> None:
        check_root(root, 1)

    def barrier(self) -> None:
        pass


class MPITransport(Transport):
    """Operations by MPI calls over a communicator, which must be this transport's own (see
    `pyddl.comm.use`)."""

    kind = "MPI"

    def __init__(self, mpi: MPI.Intracomm, channel: Channel | None = None) -> None:
        from pyddl.comm import _mpi

        self._mpi = mpi
        self._channel: Any = channel or _mpi.Channel(mpi)
        self.rank = self._channel.rank
        self.size = self._channel.size
        self.sum = self._channel.sum  # type: ignore[method-assign]  # called every step: no Python frame between
        self.barrier = self._channel.barrier  # type: ignore[method-assign]

    @property
    def wait_seconds(self) -> float:  # type: ignore[override]
        return self._channel.wait_seconds

    @property
    def communication_seconds(self) -> float:  # type: ignore[override]
        return self._channel.communication_seconds

    @property
    def bytes_sent(self) -> int:  # type: ignore[override]
        return self._channel.bytes_sent

    def sum(self, vector: np.ndarray, count: int = 0, ordered: bool = False) -> int:
        return self._channel.sum(vector, count, ordered)

    def gather(self, values: np.ndarray) -> list[np.ndarray]:
        values = np.ascontiguousarray(values, dtype=np.float64)
        if values.ndim != 1:
            raise ShapeError(f"values is an array of shape {values.shape}; expected one dimension")
        return self._channel.gather(values)

    def give_up(self) -> None:
        self.leave()
        if outlives():
            for each in self._communicators():
                each.Revoke()

    def _communicators(self) -> list[MPI.Intracomm]:
        """Those that ranks wait in."""
        return [self._mpi]

    def gather_objects(self, value: Any) -> list[Any]:
        from mpi4py import MPI

        try:
            return self._mpi.allgather(value)
        except MPI.Exception as error:
            raise CommError(f"MPI_Allgather: {error}") from None

    def swap_objects(self, value: Any, partner: int) -> Any:
        from mpi4py import MPI

        try:
            return self._mpi.sendrecv(value, partner, source=partner)
        except MPI.Exception as error:
            raise CommError(f"MPI_Sendrecv with rank {partner}: {error}") from None

    def travelling(self, vector: np.ndarray, slices: Iterable[tuple[int, int]]) -> Callable[[int, int], None] | None:
        from pyddl.comm import _mpi

        if self.size == 1 or vector.size <= BUCKET:
            return None
        return _mpi.Travelling(self._channel, vector, slices, BUCKET)

    def broadcast(self, array: np.ndarray, root: int = 0) -> None:
        check_root(root, self.size)
        if not (array.flags.forc and array.flags.writeable):
            raise ShapeError("array to broadcast must be contiguous and writable; copy it first")
        self._channel.broadcast(array.ravel(order="K").view(np.uint8), root)

    def barrier(self) -> None:
        self._channel.barrier()


def check_root(root: int, size: int) -> None:
    if not 0 <= root < size:
        raise CommError(f"root is rank {root}; expected 0 to {size - 1}")
