"""Vectors over the ranks of one communicator (csrc/comm). Import mpi4py.MPI first: it chooses the MPI
library."""

from collections.abc import Iterable
from typing import Literal

import numpy as np
from mpi4py import MPI

# What a rank does with a shared object: "creates" it, with no name that others could find, and names its `place`;
# "creates_named" where others do not see this process in /proc; or "joins" it, by either of the two.
Role = Literal["creates", "creates_named", "joins"]

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

class SharedChannel(Channel):
    """The same operations in shared memory among the ranks of a node, and by MPI between nodes.

    Made in steps, each when all ranks have done the one before: construct (the first rank of the node creates
    the shared object, others join it), `reserve` memory, `enter`, `watch`; `connect` where there are several nodes.
    """

    place: str  # of the object, until memory is reserved

    def __init__(self, comm: MPI.Comm, name: str, role: Role, node_rank: int, node_size: int) -> None: ...
    def reserve(self) -> None: ...
    def enter(self) -> None: ...
    def watch(self) -> None: ...
    def connect(self, lane: MPI.Comm | None, lanes: int, nodes: int) -> None:
        """Use ``lane``: the ranks of this one's number on all nodes. Each node has ranks for ``lanes``."""
    def is_shared(self, vector: np.ndarray) -> bool:
        """Whether it lies in memory that the ranks of this node share."""
    def sum_to_owners(self, vector: np.ndarray, count: int = 0) -> int:
        """As `sum`, but each rank gets its share of the sum only. Of one node; the vector is one that `is_shared`."""
    def gather_from_owners(self, vector: np.ndarray) -> None:
        """The vector becomes what each rank has in its share. Of one node; the vector is one that `is_shared`."""
    def leave(self) -> None:
        """Mark this rank as ended: others that wait for it raise. Not collective."""
    def before_objects(self) -> None:
        """Meet before objects are gathered by MPI."""
    def before_allocation(self, length: int) -> None:
        """Meet before ``length`` elements for each rank are allocated."""

class Travelling:
    """Announces parts of ``vector`` that are final, so that their sum over the ranks begins.

    They travel in buckets of ``bucket`` elements, cut from the end of the vector, in this order on all ranks; the next
    ``channel.sum(vector)`` starts the rest and waits for all. ``slices`` says which elements will be announced.
    """

    early: int  # buckets that started before the sum, in the latest one

    def __init__(self, channel: Channel, vector: np.ndarray, slices: Iterable[tuple[int, int]],
                 bucket: int) -> None: ...
    def __call__(self, begin: int, end: int) -> None:
        """Elements [begin, end) are final. Collective: all ranks announce in the same order."""

class SharedVectors:
    """A float32 vector for each rank of a node, in one shared object; a buffer that shows this rank's.

    Parameters
    ----------
    channel : SharedChannel
    name : str
        Of the shared object, or its place.
    role : Role
    node_rank, node_size : int
    length : int
        Elements, at least 1.
    """

    place: str  # of the object, until memory is reserved

    def __init__(self, channel: SharedChannel, name: str, role: Role, node_rank: int, node_size: int,
                 length: int) -> None: ...
    def reserve(self) -> None:
        """Allocate this rank's part; CommError where there is no space."""
    def register(self, number: int) -> None:
        """Let ``channel.sum`` know these vectors, under a number equal on all ranks."""
    def of(self, node_rank: int) -> np.ndarray:
        """What another rank of the node has in its own: to be read only."""
    def __buffer__(self, flags: int, /) -> memoryview: ...

class View:
    """A buffer somewhere in the memory that another object keeps; not to be made here."""

class Region:
    """The memory that one server shares with its mates: the workers of its node.

    Parameters
    ----------
    name : str or None
        Of the shared object, or its place; None for memory of this process alone.
    role : Role
    length : int
        Elements of the server's share.
    workers, mates : int
        How many.
    """

    place: str  # of the object, until memory is reserved

    def __init__(self, name: str | None, role: Role, length: int, workers: int, mates: int) -> None: ...
    @staticmethod
    def bytes(length: int, workers: int, mates: int) -> int: ...
    def reserve(self) -> None:
        """Allocate it for good; CommError where there is no space."""

class Server:
    """One server's side (csrc/comm/port.hpp). `watch` when all mates have made theirs.

    Parameters
    ----------
    region : Region
    seats : list of int
        Of each worker among the mates; -1 for those who come by messages.
    ranks : list of int
        Of each worker in ``comm``.
    comm : mpi4py.MPI.Comm
        For these messages alone.
    chunk : int
        Elements in a message.
    """

    count: int
    wait_seconds: float
    bytes_sent: int

    def __init__(self, region: Region, seats: list[int], ranks: list[int], comm: MPI.Comm, chunk: int) -> None: ...
    def watch(self) -> None: ...
    def buffer(self, index: int, readonly: bool) -> np.ndarray: ...
    def mailbox(self, worker: int, slot: int) -> np.ndarray: ...
    def current(self) -> int: ...
    def free(self) -> int: ...
    def publish(self, progress: int) -> int: ...
    def receive(self) -> tuple[int, int, int, int, int, int] | tuple[int, str] | None:
        """Worker, slot, samples, version, note, clock of a push; worker and why one left, or nothing
        where one has finished the epoch; None when the epoch is over."""
    def begin_epoch(self, tickets: int) -> None: ...
    def claimed(self) -> int: ...
    def close_tickets(self) -> None: ...
    def close(self) -> None:
        """Wait until all who come by messages have left. Collective with `NetworkLink.close`."""

class NodeLink:
    """A worker's side on its server's node. `watch` when all have made theirs.

    Parameters
    ----------
    region : Region
    number, seat : int
        Among all workers, and among the mates.
    server : str
        The server's name, for messages.
    """

    wait_seconds: float
    communication_seconds: float
    bytes_sent: int

    def __init__(self, region: Region, number: int, seat: int, server: str) -> None: ...
    def watch(self) -> None: ...
    def push(self, vector: np.ndarray, samples: int, version: int, note: int = 0) -> None: ...
    def request(self, out: np.ndarray, progress: int) -> None:
        """Say what `fetch` will ask for next, so that several links can be at it at once."""
    def fetch(self, out: np.ndarray, progress: int) -> int: ...
    def claim(self) -> int:
        """-1 when there are no more tickets."""
    def close_tickets(self) -> None: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...

class NetworkLink:
    """The same by messages: what is done for it is done whenever the server comes to it.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        For these messages alone.
    server : int
        Its rank in ``comm``.
    name : str
        The server's, for messages.
    number : int
        Of this worker.
    length : int
        Elements of the server's share.
    chunk : int
        Elements in a message.
    """

    wait_seconds: float
    communication_seconds: float
    bytes_sent: int

    def __init__(self, comm: MPI.Comm, server: int, name: str, number: int, length: int, chunk: int) -> None: ...
    def watch(self) -> None: ...
    def push(self, vector: np.ndarray, samples: int, version: int, note: int = 0) -> None: ...
    def request(self, out: np.ndarray, progress: int) -> None: ...
    def fetch(self, out: np.ndarray, progress: int) -> int: ...
    def claim(self) -> int: ...
    def close_tickets(self) -> None: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...

def unlink_shared_memory(name: str) -> None:
    """Take away the name of a shared object; what is mapped stays. Nothing happens where there is none."""
