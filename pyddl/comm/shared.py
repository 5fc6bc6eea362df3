"""Transport inside a node by shared memory: vectors of all ranks lie in one place, and sums happen there."""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from pyddl.comm.transport import MPITransport
from pyddl.errors import CommError
from pyddl.layout import staggered

if TYPE_CHECKING:
    from mpi4py import MPI

    from pyddl.comm._mpi import Role, SharedVectors

__all__ = ["SharedTransport", "check_room", "create_and_join", "together"]

log = logging.getLogger("pyddl")

T = TypeVar("T")


class SharedTransport(MPITransport):
    """Operations in shared memory inside a node, and by MPI between nodes.

    Vectors from `allocate` are summed in place: every rank adds up its part of all vectors and writes the sum
    into all of them. Others are summed by way of a small piece of shared memory.

    Parameters
    ----------
    mpi : mpi4py.MPI.Intracomm
        All ranks; this transport's own.
    on_node : mpi4py.MPI.Intracomm
        Those of this node, only used by `start` and `allocate`.
    """

    kind = "shared memory"

    def __init__(self, mpi: MPI.Intracomm, on_node: MPI.Comm, node: int, nodes: int) -> None:
        from mpi4py import MPI

        from pyddl.comm._mpi import SharedChannel

        self._on_node = on_node
        self._node = node
        self._lane: MPI.Comm | None = None
        self._nodes = nodes
        self._allocations = 0

        def make(name: str, role: Role) -> SharedChannel:
            return SharedChannel(mpi, name, role, on_node.rank, on_node.size)

        channel = self._share(mpi, 1 << 20, make)
        channel.enter()
        on_node.Barrier()
        channel.watch()
        on_node.Barrier()
        if nodes > 1:
            lanes = mpi.allreduce(on_node.size, MPI.MIN)
            self._lane = mpi.Split(min(on_node.rank, lanes), mpi.rank)
            channel.connect(self._lane if on_node.rank < lanes else None, lanes, nodes)
        super().__init__(mpi, channel)

    def _share(self, mpi: MPI.Intracomm, size: int, make: Callable[[str, Role], T]) -> T:
        """Let the first rank of each node create an object by ``make``, and the others join it. Collective over all.

        On return all ranks have mapped it, and its memory is reserved.

        Parameters
        ----------
        size : int
            Bytes for each rank.

        Raises
        ------
        CommError
            On all ranks, if it failed on one.
        """
        node = self._on_node
        made: list[T] = []
        leader = node.bcast(mpi.rank)

        def create(name: str, role: Role) -> str | None:
            made.clear()
            if node.rank:
                return None
            check_room(size * node.size)
            made.append(make(name, role))
            return made[0].place  # type: ignore[attr-defined]

        def join(places: Sequence[str | None]) -> None:
            if node.rank:
                made.append(make(str(places[leader]), "joins"))

        create_and_join(mpi, self._node, create, join)
        together(mpi, self._node, lambda: made[0].reserve())  # type: ignore[attr-defined]
        return made[0]

    def allocate(self, size: int, name: str = "vector") -> np.ndarray:
        self._channel.before_allocation(size)
        skip = staggered(self._allocations)
        vectors = self._vectors(size, name, "sums copy it", skip) if size else None
        if vectors is None:
            return super().allocate(size, name)
        self._allocations += 1
        vectors.register(self._allocations)
        return np.frombuffer(memoryview(vectors), np.float32)[skip:]

    def sum_to_owners(self, vector: np.ndarray, count: int = 0) -> int:
        """Each rank's share of ``vector`` becomes its sum over the ranks of this one node; the rest as in `sum`.

        Other elements are lost. Shares are those of `pyddl.comm.group.shares`. Collective.
        """
        return self._channel.sum_to_owners(vector, count) if self.is_shared(vector) else self.sum(vector, count)

    def gather_from_owners(self, vector: np.ndarray) -> None:
        """``vector``, one that the ranks of this one node share, becomes what each has in its share. Collective."""
        self._channel.gather_from_owners(vector)

    def is_shared(self, vector: np.ndarray) -> bool:
        """Whether a vector lies in memory that the ranks of this node share, from `allocate`."""
        return self._channel.is_shared(vector)

    def allocate_in_sight(self, size: int, name: str = "vector") -> list[np.ndarray] | None:
        """A new vector for each rank of the node, in their order: this rank's, and those of the others, to be read.

        What another rank has written can be read after both have met, in a `barrier` or a sum. Collective.

        Parameters
        ----------
        size : int
            Elements, at least 1; the same on every rank.
        name : str
            For messages.

        Returns
        -------
        list of ndarray of shape (size,), float32
            None where the machine has no room.
        """
        self._channel.before_allocation(size)
        vectors = self._vectors(size, name, "messages carry it")
        if vectors is None:
            return None
        node = self._on_node
        return [np.frombuffer(memoryview(vectors), np.float32) if rank == node.rank else vectors.of(rank)
                for rank in range(node.size)]

    def _vectors(self, size: int, name: str, instead: str, skip: int = 0) -> SharedVectors | None:
        """One vector for each rank, behind ``skip`` elements more; None, and one line that says so, where shared memory
        has no room for them."""
        from pyddl.comm._mpi import SharedVectors

        node = self._on_node

        def make(shared_name: str, role: Role) -> SharedVectors:
            return SharedVectors(self._channel, shared_name, role, node.rank, node.size, skip + size)

        try:
            return self._share(self._mpi, 4 * (skip + size), make)
        except CommError as refused:
            if self.rank == 0:
                log.warning("%s: no shared memory for %d bytes (%s); using private memory, and %s", name, 4 * size,
                            refused, instead)
            return None

    def travelling(self, vector: np.ndarray, slices: Iterable[tuple[int, int]]) -> Callable[[int, int], None] | None:
        if self._nodes == 1 or not self.is_shared(vector):
            return None
        return super().travelling(vector, slices)

    def gather_objects(self, value: Any) -> list[Any]:
        self._channel.before_objects()
        return super().gather_objects(value)

    def leave(self) -> None:
        self._channel.leave()

    def _communicators(self) -> list[MPI.Intracomm]:
        return [*super()._communicators(), *([] if self._lane is None else [self._lane])]  # type: ignore[list-item]

    def close(self) -> None:
        self.leave()
        if self._lane is not None:
            self._lane.Free()
            self._lane = None
        self._on_node.Free()


def create_and_join(mpi: MPI.Comm, node: int, create: Callable[[str, Role], str | None],
                    join: Callable[[Sequence[str | None]], None]) -> None:
    """Let ranks create shared objects, and others of their nodes join them. Collective.

    At first without a name in /dev/shm, so that a rank that is killed leaves nothing there. Ranks that do not see each
    other in /proc, as those of several containers, need the name, for as long as it takes.

    Parameters
    ----------
    create : callable
        Given a new name and a role, creates this rank's object, if it has one, and returns its place, or None.
    join : callable
        Given those places, or names, of all ranks.

    Raises
    ------
    CommError
        On all ranks, if it failed on one.
    """
    with suppress(CommError):
        return _create_and_join(mpi, node, create, join, "creates")
    _create_and_join(mpi, node, create, join, "creates_named")


def _create_and_join(mpi: MPI.Comm, node: int, create: Callable[[str, Role], str | None],
                     join: Callable[[Sequence[str | None]], None], role: Role) -> None:
    from pyddl.comm._mpi import unlink_shared_memory

    name, made = f"/pyddl-{os.getpid()}-{secrets.token_hex(8)}", []
    try:
        together(mpi, node, lambda: made.append(create(name, role)))
        place, = made
        places = mpi.allgather(name if place and role == "creates_named" else place)
        together(mpi, node, lambda: join(places))
    finally:
        if role == "creates_named":
            unlink_shared_memory(name)  # before memory is reserved, which takes longest


def together(mpi: MPI.Comm, node: int, step: Callable[[], None]) -> None:
    """Do ``step`` on all ranks; raise CommError on all of them if it did so on one. Collective."""
    error = ""
    try:
        step()
    except CommError as failed:
        error = str(failed)
    for there, failed_there in mpi.allgather((node, error)):
        if failed_there:
            raise CommError(f"node {there}: {failed_there}")


def check_room(size: int) -> None:
    """Refuse what the machine cannot hold: /dev/shm may promise it, but then the kernel kills processes."""
    free = memory_available()
    if size > free:
        raise CommError(f"{size} bytes are wanted and {free} are available")


def memory_available() -> int:
    """Bytes of memory that can be had without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return sys.maxsize
