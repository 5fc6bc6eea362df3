"""Parameter server: the two ends of what workers push and fetch. One interface, whatever carries the bytes."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from pyddl.comm.cut import Cut
from pyddl.comm.operations import Arrived, Left
from pyddl.comm.shared import check_room, create_and_join, together
from pyddl.comm.transport import Transport
from pyddl.errors import CommError, ParameterError, ShapeError

if TYPE_CHECKING:
    from mpi4py import MPI

    from pyddl.comm._mpi import NetworkLink, NodeLink, Region, Role, Server
    from pyddl.comm.world import World

__all__ = ["ServerLink", "ServerPort", "serve"]

log = logging.getLogger("pyddl")

Self = TypeVar("Self", bound="_End")

CHUNK = 1 << 28  # elements in a message: a count of bytes fits an int, whatever MPI makes of it
PHASES = 8  # bits below the version in a push's version: 0 for all phases, or 1 and the phase's number
NOTE = struct.Struct("<If")  # a push's note: rows, and weight
Phases = Mapping[str, tuple[int, int]]
"""By name, begin and end of what is pushed together."""


class _End:
    """One end of the service, which `close` ends; a ``with`` block does so, too, unless an error leaves it."""

    def __init__(self, ends: Sequence[Server | NodeLink | NetworkLink], mpi: MPI.Intracomm, cut: Cut, phases: Phases):
        self._ends, self._mpi, self.cut, self.phases = ends, mpi, cut, phases
        self.servers, self.workers = cut.count, mpi.size - cut.count

    def watch(self) -> None:
        """Begin to watch the processes at the other ends, when all ends have been made."""
        for end in self._ends:
            end.watch()

    @property
    def wait_seconds(self) -> float:
        return sum(end.wait_seconds for end in self._ends)

    @property
    def bytes_sent(self) -> int:
        return sum(end.bytes_sent for end in self._ends)

    def close(self) -> None:
        """End the service. Collective over all servers and workers that are left."""
        for end in self._ends:
            end.close()
        self._mpi.Free()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:  # closing is collective: not where a rank may be alone
            self.close()


class ServerPort(_End):
    """A server's end: it publishes versions of its share of a vector, and receives what workers push.

    All calls but `close` concern this rank alone.

    Attributes
    ----------
    number, servers, workers : int
        This server's number, and how many servers and workers there are.
    cut : Cut
        Which server owns which part of the vector.
    wait_seconds, communication_seconds : float
    bytes_sent : int
        As in `pyddl.comm.transport.Transport`.
    """

    def __init__(self, server: Server, mpi: MPI.Intracomm, number: int, cut: Cut, phases: Phases):
        super().__init__([server], mpi, cut, phases)
        self._server = server
        self.number = number
        self._places = [(None, slice(None)), *((name, cut.within(number, *phases[name])[0]) for name in phases)]
        self._read = [server.buffer(index, True) for index in range(server.count)]
        self._write = [server.buffer(index, False) for index in range(server.count)]
        self._pushed = [[server.mailbox(worker, slot) for slot in range(2)] for worker in range(self.workers)]

    def current(self) -> np.ndarray:
        """The current version, read only; zeros before the first. Valid until the second `publish` from now."""
        return self._read[self._server.current()]

    def free(self) -> np.ndarray:
        """A buffer that nobody reads, to write the next version to; the same one until `publish`.

        Its values are those of some earlier version. Waits while readers are still copying all others.
        """
        return self._write[self._server.free()]

    def publish(self, progress: int = 0) -> int:
        """What was written to the `free` buffer becomes the current version.

        Parameters
        ----------
        progress : int
            From now on those may go on who wait for it (`ServerLink.fetch`); not below 0.

        Returns
        -------
        int
            The version, counted from 0. Where `free` was not called since the last time only the progress changes.
        """
        return self._server.publish(progress)

    def receive(self) -> Arrived | Left | None:
        """Wait for the next push.

        Pushes of one worker come in its order; among workers it goes round.

        Returns
        -------
        Arrived, Left or None
            `Left` where a worker has finished the epoch, or died or gone, after its last push. None when the epoch is
            over: all workers have left it, and nothing is in the mailboxes.
        """
        event = self._server.receive()
        if event is None:
            return None
        if len(event) == 2:
            return Left(*event)
        worker, slot, samples, version, note, clock = event
        phase, place = self._places[version & (1 << PHASES) - 1]
        rows, weight = NOTE.unpack(note.to_bytes(8, "little", signed=True))
        return Arrived(worker, samples, version >> PHASES, self._pushed[worker][slot][place], phase, rows, weight,
                       clock=clock)

    def begin_epoch(self, tickets: int = 0) -> None:
        """Let workers begin their next epoch, with this many tickets to claim. After the one before is over."""
        self._server.begin_epoch(tickets)

    @property
    def claimed(self) -> int:
        """How many tickets workers have claimed in this epoch: all below this number."""
        return self._server.claimed()

    def close_tickets(self) -> None:
        """Give out no more tickets in this epoch: workers find that it is over."""
        self._server.close_tickets()

    @property
    def communication_seconds(self) -> float:
        return 0.0  # what moves, moves while it waits


class ServerLink(_End):
    """A worker's end of its links to all servers.

    All calls but `close` concern this rank alone.

    Attributes
    ----------
    number, servers, workers : int
        This worker's number, and how many servers and workers there are.
    wait_seconds, communication_seconds : float
    bytes_sent : int
        As in `pyddl.comm.transport.Transport`.
    """

    def __init__(self, links: Sequence[NodeLink | NetworkLink], mpi: MPI.Intracomm, number: int, cut: Cut,
                 phases: Phases):
        super().__init__(links, mpi, cut, phases)
        self._links = links
        self.number = number
        self._codes: dict[str | None, int] = {name: code for code, name in enumerate([None, *phases])}
        self._places = {name: [cut.within(server, *place) for server in range(cut.count)]
                        for name, place in phases.items() if place != (0, cut.size)}
        apart = self._places or not all(map(cut.is_range, range(cut.count)))
        self._parts = [np.zeros(length, dtype=np.float32) for length in cut.lengths] if apart else []

    def push(self, vector: np.ndarray, samples: int, version: int | tuple[int, ...], phase: str | None = None,
             rows: int = 0, weight: float = 1.0) -> None:
        """Copy each share of ``vector`` into this worker's mailbox at its server.

        Waits while the last two pushes are both unread.

        Parameters
        ----------
        vector : ndarray of shape (elements of the phase,), float32
        samples : int
        version : int or tuple of int
            What `fetch` gave when the parameters came that ``vector`` was computed from.
        phase : str, optional
            Whose slices ``vector`` is of; by default it is the whole vector.
        rows : int
            Of the minibatches that are complete with this push.
        weight : float
            What part of a step, or how many steps, the vector stands for.

        Raises
        ------
        PeerLost
            A server has died or ended.
        """
        begin, end = (0, self.cut.size) if phase is None else self.phases[phase]
        self._check("vector", vector, end - begin)
        versions = version if isinstance(version, tuple) else (version,) * self.servers
        code, note = self._codes[phase], int.from_bytes(NOTE.pack(rows, weight), "little", signed=True)
        for server, (link, number) in enumerate(zip(self._links, versions, strict=True)):
            link.push(self._part(server, vector, phase), samples, number << PHASES | code, note)

    def _part(self, server: int, vector: np.ndarray, phase: str | None) -> np.ndarray:
        """What a server gets: of its whole part, only the phase's share counts."""
        if phase not in self._places:
            return self.cut.part(server, vector, self._parts[server] if self._parts else None)
        there, here = self._places[phase][server]
        self._parts[server][there] = vector[here]
        return self._parts[server]

    def fetch(self, out: np.ndarray, progress: int = 0) -> int | tuple[int, ...]:
        """Wait until all servers have published this progress; copy the newest version of each share.

        Each server is through with this worker's pushes before: what it published after them is in the copy.

        Parameters
        ----------
        out : ndarray of shape (size,), float32
        progress : int

        Returns
        -------
        int or tuple of int
            The version; with several servers that of each. Each share is one version.

        Raises
        ------
        PeerLost
            A server has died or ended.
        """
        self._check("out", out, self.cut.size)
        ranges = [self.cut.is_range(server) for server in range(self.servers)]
        parts = [self.cut.part(server, out) if whole else self._parts[server] for server, whole in enumerate(ranges)]
        for link, part in zip(self._links, parts, strict=True):
            link.request(part, progress)
        versions = [link.fetch(part, progress) for link, part in zip(self._links, parts, strict=True)]
        for server, (part, whole) in enumerate(zip(parts, ranges, strict=True)):
            if not whole:
                self.cut.scatter(server, part, out)
        return versions[0] if self.servers == 1 else tuple(versions)

    def claim(self) -> int | None:
        """The next ticket of this epoch, which nobody else gets; None when there are no more.

        Waits until server 0 has begun the epoch.
        """
        ticket = self._links[0].claim()
        return None if ticket < 0 else ticket

    def close_tickets(self) -> None:
        """Give out no more tickets in this epoch, to any worker."""
        self._links[0].close_tickets()

    def finish(self) -> None:
        """This worker is through with the epoch: it will push no more before the next one."""
        for link in self._links:
            link.finish()

    @property
    def communication_seconds(self) -> float:
        return sum(link.communication_seconds for link in self._links)

    def _check(self, name: str, vector: np.ndarray, size: int) -> None:
        if vector.shape != (size,) or vector.dtype != np.float32 or not vector.flags.c_contiguous:
            raise ShapeError(f"{name} has shape {vector.shape} and type {vector.dtype}; expected a contiguous float32 "
                             f"vector of {size} elements")


def serve(here: World, transport: Transport, *, servers: int, size: int, phases: Phases | None = None
          ) -> ServerPort | ServerLink:
    """Make ranks 0 to ``servers`` - 1 servers of a vector, and the others their workers. Collective.

    Server s owns part s of a `Cut` by the phases; rank r is worker r - ``servers``.

    Parameters
    ----------
    here : World
    transport : Transport
        Of that world.
    servers : int
    size : int
        Elements of the vector; the same on all ranks.
    phases : mapping, optional
        By name, begin and end of what is pushed together, besides the whole vector.

    Returns
    -------
    ServerPort or ServerLink

    Raises
    ------
    ParameterError
        No rank would be left for a worker.
    """
    if not 1 <= servers < here.size or here.mpi is None:
        raise ParameterError(f"servers is {servers} on {here.size} rank{'s' * (here.size > 1)}; expected 1 or more, "
                             "and at least one rank besides: start more ranks (--ranks)")
    cut = Cut(size, servers, (phases or {}).values())
    # Ranks of one place share memory.
    places = here.mpi.allgather(here.node if transport.kind == "shared memory" else -1 - here.rank)
    mates = [[place == places[server] for place in places[servers:]] for server in range(servers)]
    try:
        regions = _regions(here.mpi, here.node, mates, cut.lengths)
    except CommError as refused:
        if here.rank == 0:
            log.warning("parameter server: no shared memory (%s); using messages", refused)
        mates = [[False] * len(row) for row in mates]
        regions = _regions(here.mpi, here.node, mates, cut.lengths)
    mpi = here.mpi.Dup()
    mpi.Set_errhandler(here.mpi.Get_errhandler())
    make: Callable[..., ServerPort | ServerLink] = _port if here.rank < servers else _link
    end = make(mpi, cut, phases or {}, mates, regions)
    mpi.Barrier()
    end.watch()
    mpi.Barrier()  # only now may anyone leave
    return end


def _port(mpi: MPI.Intracomm, cut: Cut, phases: Phases, mates: list[list[bool]], regions: dict[int, Region]
          ) -> ServerPort:
    from pyddl.comm._mpi import Server

    number = mpi.rank
    server = Server(regions[number], _seats(mates[number]), list(range(cut.count, mpi.size)), mpi, CHUNK)
    return ServerPort(server, mpi, number, cut, phases)


def _link(mpi: MPI.Intracomm, cut: Cut, phases: Phases, mates: list[list[bool]], regions: dict[int, Region]
          ) -> ServerLink:
    from pyddl.comm._mpi import NetworkLink, NodeLink

    number = mpi.rank - cut.count
    links: list[NodeLink | NetworkLink] = []
    for server, length in enumerate(cut.lengths):
        name = f"server {server} (rank {server})"
        if mates[server][number]:
            links.append(NodeLink(regions[server], number, _seats(mates[server])[number], name))
        else:
            links.append(NetworkLink(mpi, server, name, number, length, CHUNK))
    return ServerLink(links, mpi, number, cut, phases)


def _seats(mates: Sequence[bool]) -> list[int]:
    """A seat for each worker on its server's node; -1 for the others."""
    return [sum(mates[:worker]) if mate else -1 for worker, mate in enumerate(mates)]


def _regions(mpi: MPI.Intracomm, node: int, mates: list[list[bool]], lengths: list[int]) -> dict[int, Region]:
    """By server, the memory that this rank shares with it; a server's is its own where it has no mates. Collective.

    Raises
    ------
    CommError
        On all ranks, if it failed on one.
    """
    from pyddl.comm._mpi import Region

    servers = len(mates)
    made: dict[int, Region] = {}

    def make(server: int, name: str | None, role: Role) -> None:
        length, workers, here = lengths[server], len(mates[server]), sum(mates[server])
        if name is not None and role != "joins":
            check_room(Region.bytes(length, workers, here))
        made[server] = Region(name, role, length, workers, here)

    shares_memory = mpi.rank < servers and any(mates[mpi.rank])

    def create(name: str, role: Role) -> str | None:
        if mpi.rank < servers:
            make(mpi.rank, name if shares_memory else None, role)
        return made[mpi.rank].place if shares_memory else None

    def join(places: Sequence[str | None]) -> None:
        for server in range(servers if mpi.rank >= servers else 0):
            if mates[server][mpi.rank - servers]:
                make(server, places[server], "joins")

    def reserve() -> None:
        if shares_memory:
            made[mpi.rank].reserve()

    create_and_join(mpi, node, create, join)
    together(mpi, node, reserve)
    return made
