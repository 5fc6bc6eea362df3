"""Group: workers that average and exchange their vectors - all of the world, or those of a node."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pyddl.comm.cut import shares
from pyddl.comm.lock import FileLock, NoLock
from pyddl.errors import CommError

if TYPE_CHECKING:
    from mpi4py import MPI

    from pyddl.comm.shared import SharedTransport
    from pyddl.comm.transport import Transport
    from pyddl.comm.world import World

__all__ = ["AloneGroup", "Group", "Groups", "MPIGroup", "SharedGroup", "mean_of", "tree_sum"]

FLAG = 1 << 48  # added to a count


class Group(ABC):
    """Operations among some workers. Collective over the group, unless they say otherwise.

    Attributes
    ----------
    rank, size : int
        Within the group.
    wait_seconds, communication_seconds : float
    bytes_sent : int
        As in `pyddl.comm.transport.Transport`.
    """

    rank: int
    size: int

    def __init__(self) -> None:
        self.wait_seconds = 0.0
        self.communication_seconds = 0.0
        self.bytes_sent = 0

    @abstractmethod
    def average(self, out: np.ndarray, vectors: Sequence[np.ndarray], weights: Sequence[int],
                flag: bool = False) -> tuple[int, bool]:
        """``out`` becomes the weighted mean of all vectors of all workers, with the same bits everywhere.

        Parameters
        ----------
        out : ndarray of shape (n,), float32
            May be one of ``vectors``. Stays as it is where all weights are 0.
        vectors : sequence of ndarray of shape (n,), float32
            This worker's; perhaps none.
        weights : sequence of int
        flag : bool
            Travels with the weights.

        Returns
        -------
        tuple
            The sum of all weights; whether any worker gave the flag.
        """

    @abstractmethod
    def sum_to_owners(self, vector: np.ndarray, count: int = 0, flag: bool = False) -> tuple[int, bool]:
        """This worker's share of ``vector`` becomes its sum over all workers; other elements are lost.

        The rest as in `average`: the order of addition, and what is returned.
        """

    @abstractmethod
    def gather_from_owners(self, vector: np.ndarray) -> None:
        """``vector`` becomes what each worker has in its share."""

    def share_of(self, vector: np.ndarray) -> slice:
        """This worker's share of a vector."""
        bounds = shares(vector.size, self.size)
        return slice(int(bounds[self.rank]), int(bounds[self.rank + 1]))

    @abstractmethod
    def exchange(self, vector: np.ndarray, out: np.ndarray, partner: int) -> None:
        """Send ``vector`` to ``partner`` and receive theirs into ``out``. Collective over the two."""

    def close(self) -> None:
        """Give back what the group holds."""
        return None


class AloneGroup(Group):
    """One worker."""

    rank, size = 0, 1

    def average(self, out: np.ndarray, vectors: Sequence[np.ndarray], weights: Sequence[int],
                flag: bool = False) -> tuple[int, bool]:
        mean_of(out, vectors, weights)
        return sum(weights), flag

    def sum_to_owners(self, vector: np.ndarray, count: int = 0, flag: bool = False) -> tuple[int, bool]:
        return count, flag

    def gather_from_owners(self, vector: np.ndarray) -> None:
        return None

    def exchange(self, vector: np.ndarray, out: np.ndarray, partner: int) -> None:
        raise CommError(f"there is no worker {partner} to exchange with: this one is alone")


class MPIGroup(Group):
    """The ranks of a communicator, which must be pyddl's own.

    A mean goes by way of owners: each rank receives one share of all vectors, adds them in the order of the tree, and
    gives its share of the mean to all. Two synchronisations; 2 (P-1)/P n elements sent per rank, as much as a ring
    (Rabenseifner 2004), but in an order of addition that no MPI library decides.
    """

    def __init__(self, mpi: MPI.Comm, *, owned: bool = False):
        super().__init__()
        self._mpi, self._owned = mpi, owned
        self.rank, self.size = mpi.rank, mpi.size
        self._scaled = self._received = np.empty(0, dtype=np.float32)

    def average(self, out: np.ndarray, vectors: Sequence[np.ndarray], weights: Sequence[int],
                flag: bool = False) -> tuple[int, bool]:
        with self._timed():
            everyone = np.empty((self.size, 3), dtype=np.int64)  # small and first: its time is waiting
            self._mpi.Allgather(np.array([len(vectors), sum(weights), flag], dtype=np.int64), everyone)
        total, flagged = int(everyone[:, 1].sum()), bool(everyone[:, 2].any())
        if total:
            with self._timed(moving=True):
                self._mean_by_owners(out, vectors, weights, everyone[:, 0].tolist(), total)
        return total, flagged

    def _mean_by_owners(self, out: np.ndarray, vectors: Sequence[np.ndarray], weights: Sequence[int],
                        counts: list[int], total: int) -> None:
        self._reserve(out.size, sum(counts))
        parts: list[np.ndarray] = []
        for place in range(max(counts)):
            scaled = None
            if place < len(vectors):
                if self._scaled.size < out.size:
                    self._scaled = np.empty(out.size, dtype=np.float32)
                scaled = np.multiply(vectors[place], factor(weights[place], total, sum(counts)),
                                     out=self._scaled[: out.size])
            parts += self._to_owners(scaled, out.size, [place < count for count in counts], len(parts))
        tree_sum(parts)
        self._from_owners(out, parts[0])

    def sum_to_owners(self, vector: np.ndarray, count: int = 0, flag: bool = False) -> tuple[int, bool]:
        with self._timed():
            total = np.array([count, flag], dtype=np.int64)
            self._mpi.Allreduce(_in_place(), total)
        with self._timed(moving=True):
            self._reserve(vector.size, self.size)
            parts = self._to_owners(vector, vector.size, [True] * self.size)
            tree_sum(parts)
            vector[self.share_of(vector)] = parts[0]
        return int(total[0]), bool(total[1])

    def gather_from_owners(self, vector: np.ndarray) -> None:
        with self._timed():
            self._mpi.Barrier()
        with self._timed(moving=True):
            self._from_owners(vector, vector[self.share_of(vector)].copy())

    def _to_owners(self, vector: np.ndarray | None, n: int, have: list[bool], before: int = 0) -> list[np.ndarray]:
        """This rank's share of the ``vector`` of each rank that has one, of n elements each.

        They lie in the scratch memory that `_reserve` has made, behind ``before`` others of this size.
        """
        cuts = shares(n, self.size)
        sizes = np.diff(cuts)
        mine = int(sizes[self.rank])
        theirs = np.array([mine if has else 0 for has in have])
        starts = np.concatenate([[0], np.cumsum(theirs)[:-1]])
        block = self._received[before * mine : (before + sum(have)) * mine]
        sent = np.zeros_like(sizes) if vector is None else sizes
        vector = self._received[:0] if vector is None else vector
        self._mpi.Alltoallv([vector, sent, cuts[:-1], _float()], [block, theirs, starts, _float()])
        self.bytes_sent += 4 * int(sent.sum() - sent[self.rank])
        return [block[start : start + mine] for start, has in zip(starts, have, strict=True) if has]

    def _reserve(self, n: int, count: int) -> None:
        """Have scratch memory for this rank's share of ``count`` vectors of n elements."""
        bounds = shares(n, self.size)
        wanted = count * int(bounds[self.rank + 1] - bounds[self.rank])
        if self._received.size < wanted:
            self._received = np.empty(wanted, dtype=np.float32)

    def _from_owners(self, out: np.ndarray, mine: np.ndarray) -> None:
        cuts = shares(out.size, self.size)
        self._mpi.Allgatherv([mine, mine.size, _float()], [out, np.diff(cuts), cuts[:-1], _float()])
        self.bytes_sent += 4 * (self.size - 1) * mine.size

    def exchange(self, vector: np.ndarray, out: np.ndarray, partner: int) -> None:
        nothing = np.empty(0, dtype=np.float32)
        with self._timed():
            self._mpi.Sendrecv(nothing, partner, recvbuf=nothing.copy(), source=partner)
        with self._timed(moving=True):
            self._mpi.Sendrecv(vector, partner, recvbuf=out, source=partner)
        self.bytes_sent += vector.nbytes

    def close(self) -> None:
        if self._owned:
            self._mpi.Free()

    @contextmanager
    def _timed(self, *, moving: bool = False) -> Iterator[None]:
        from mpi4py import MPI

        begin = perf_counter()
        try:
            yield
        except MPI.Exception as error:
            raise CommError(f"MPI failed between {self.size} ranks: {error}") from None
        seconds = perf_counter() - begin
        if moving:
            self.communication_seconds += seconds
        else:
            self.wait_seconds += seconds


class SharedGroup(MPIGroup):
    """The ranks of one node, whose transport adds in shared memory along the same tree. It keeps the books, too."""

    def __init__(self, mpi: MPI.Comm, transport: SharedTransport):
        super().__init__(mpi)
        self._transport = transport

    def average(self, out: np.ndarray, vectors: Sequence[np.ndarray], weights: Sequence[int],
                flag: bool = False) -> tuple[int, bool]:
        if len(vectors) != 1 or vectors[0] is not out:  # replicas, perhaps of another number on each rank
            return super().average(out, vectors, weights, flag)
        total, flagged = self.sum_to_owners(self._received[:0], weights[0], flag)
        if total:
            out *= factor(weights[0], total, self.size)
            self._transport.sum(out)
        return total, flagged

    def sum_to_owners(self, vector: np.ndarray, count: int = 0, flag: bool = False) -> tuple[int, bool]:
        total = self._transport.sum_to_owners(vector, count + FLAG if flag else count)
        return total % FLAG, total >= FLAG

    def gather_from_owners(self, vector: np.ndarray) -> None:
        if self._transport.is_shared(vector):
            self._transport.gather_from_owners(vector)
        else:
            super().gather_from_owners(vector)


class Groups:
    """The groups of a world that a strategy can name: ``world`` and ``node``. Use as a context manager, or `close`.

    The first use of ``node`` is collective over the world.

    Parameters
    ----------
    here : World
    transport : Transport, optional
        Of that world; its own by default.
    """

    def __init__(self, here: World, transport: Transport | None = None):
        self._here = here
        transport = transport or here.transport
        world: Group
        if here.mpi is None or here.size == 1:
            world = AloneGroup()
        elif transport.kind == "shared memory" and here.nodes == 1:
            world = SharedGroup(here.mpi, cast("SharedTransport", transport))
        else:
            world = MPIGroup(here.mpi)
        self._made: dict[str, Group] = {"world": world}
        self.lock = NoLock()

    def open_lock(self, folder: Path | None = None) -> None:
        """Open the lock that all ranks share, by a file in ``folder``, which all of them see. Collective.

        By default the folder for temporary files, or with several nodes the working directory.
        """
        here = self._here
        if here.size > 1:
            self.lock = FileLock(here.transport, Path.cwd() if folder is None and here.nodes > 1 else folder)

    def __getitem__(self, level: str) -> Group:
        if level not in self._made:
            here = self._here
            self._made[level] = AloneGroup() if here.mpi is None else MPIGroup(
                here.mpi.Split(here.node, here.rank), owned=True)
        return self._made[level]

    @property
    def wait_seconds(self) -> float:
        return self.lock.wait_seconds + sum(group.wait_seconds for group in self._made.values())

    @property
    def communication_seconds(self) -> float:
        return sum(group.communication_seconds for group in self._made.values())

    @property
    def bytes_sent(self) -> int:
        return sum(group.bytes_sent for group in self._made.values())

    def close(self) -> None:
        """Free the communicators that were made here. Collective."""
        for group in self._made.values():
            group.close()
        self.lock.close()

    def __enter__(self) -> Groups:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:  # freeing is collective: not where a rank may be alone
            self.close()


def mean_of(out: np.ndarray, vectors: Sequence[np.ndarray], weights: Sequence[int]) -> None:
    """``out`` becomes the weighted mean of ``vectors``, by the arithmetic of `Group.average`."""
    total = sum(weights)
    if not total:
        return
    parts = [vector * factor(weight, total, len(vectors)) for vector, weight in zip(vectors, weights, strict=True)]
    tree_sum(parts)
    out[:] = parts[0]


def factor(weight: int, total: int, count: int) -> np.float32:
    """What a vector is multiplied with. One vector alone is its own mean, to the bit."""
    return np.float32(1 if count == 1 else weight / total)


def tree_sum(parts: Sequence[np.ndarray]) -> None:
    """``parts[0]`` becomes the sum of all along the tree ((0+1)+(2+3))+(4+5)..., split at the largest power of two."""
    if len(parts) > 1:
        half = 1 << ((len(parts) - 1).bit_length() - 1)
        tree_sum(parts[:half])
        tree_sum(parts[half:])
        np.add(parts[0], parts[half], out=parts[0])


def _float() -> MPI.Datatype:
    from mpi4py import MPI

    return MPI.FLOAT


def _in_place() -> Any:
    from mpi4py import MPI

    return MPI.IN_PLACE
