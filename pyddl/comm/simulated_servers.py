"""Simulated servers: mailboxes, published versions and links, on the virtual clock of a `Simulation`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np

from pyddl.comm.cut import Cut
from pyddl.comm.machine import Machine, Timeline
from pyddl.comm.operations import Arrived, Fetch, GatherFromServers, Left, Publish, Push, Receive, Version
from pyddl.errors import StrategyError

__all__ = ["Published", "SimulatedServers"]

SLOTS = 2  # of each worker's mailbox


class Clock(Protocol):
    """What the servers ask of a `pyddl.comm.simulated.Simulation`."""

    now: float
    timelines: list[Timeline]
    actors: Any

    @property
    def machine(self) -> Machine: ...

    def at(self, time: float, rank: int, action: Callable[[], None]) -> None: ...

    def go_on(self, rank: int, answer: Any = None) -> None: ...

    def next_number(self, rank: int) -> int: ...


class Published:
    """The current version of a share, and the memory for the next one: what `pyddl.comm.server.ServerPort` offers.

    Parameters
    ----------
    values : ndarray of shape (n,), float32
        The current version.
    version : int, default=0
        Its number; -1 before the first.
    """

    def __init__(self, values: np.ndarray, version: int = 0):
        self._current, self._free = values.copy(), values.copy()
        self._written = False
        self.version = version
        self.progress = 0

    def current(self) -> np.ndarray:
        return self._current

    def free(self) -> np.ndarray:
        self._written = True
        return self._free

    @property
    def written(self) -> int:
        """Bytes to be published."""
        return self._free.nbytes if self._written else 0

    def publish(self, progress: int) -> int:
        if self._written:
            self._current, self._free = self._free, self._current
            self.version += 1
            self._written = False
        self.progress = progress
        return self.version


@dataclass
class _Server:
    """What one server has to do with workers."""

    published: Published
    mailbox: deque[Arrived | Left] = field(default_factory=deque)  # in the order of arrival
    held: dict[int, int] = field(default_factory=dict)  # by worker: slots in use
    clocks: dict[int, int] = field(default_factory=dict)  # by worker: pushes so far
    latest: dict[int, float] = field(default_factory=dict)  # by worker: when the last that it has sent arrives
    reading: int | None = None  # whose slot the server reads
    waits: bool = False
    here: int = 0  # workers that have not left the epoch
    incoming: float = 0.0  # when the link is free again
    outgoing: float = 0.0
    asked: list[tuple[int, int, Callable[[], None]]] = field(default_factory=list)  # progress, worker, what then


class SimulatedServers:
    """The first ranks of a simulation as servers.

    A server's link carries one vector at a time in each direction, in the order in which they were asked for; so does a
    worker's. A worker is occupied while its push leaves, then goes on; the push arrives a latency later. A fetch takes
    a latency, the waits for its own pushes, for the progress and for the link, and the transfer with another latency;
    the version is that of the moment in which the transfer begins.

    Parameters
    ----------
    simulation : Clock
    published : list of Published
        Of each server.
    workers : int
    cut : Cut or None
        Which server has what of the vector.
    """

    def __init__(self, simulation: Clock, published: list[Published], workers: int, cut: Cut | None):
        self._simulation, self.workers = simulation, workers
        self.count = len(published)
        self._cut = cut or Cut(0, 1)
        self._servers = [_Server(each) for each in published]
        self._blocked: dict[tuple[int, int], Callable[[], None]] = {}  # (server, worker): a push that waits for a slot
        self._open = False

    # ---- workers

    def push(self, rank: int, operation: Push) -> None:
        self._push_to(0, rank, operation.vector.copy(), operation)

    def _push_to(self, s: int, rank: int, vector: np.ndarray, operation: Push) -> None:
        """Send server s its share, then the next one."""
        if s == self.count:
            self._simulation.go_on(rank)
            return
        server, worker = self._servers[s], rank - self.count
        if server.held.get(worker, 0) == SLOTS:
            self._blocked[s, worker] = lambda: self._push_to(s, rank, vector, operation)
            return
        server.held[worker] = server.held.get(worker, 0) + 1
        share = self._share(s, vector, rank, operation.phase)
        version = operation.version if isinstance(operation.version, int) else operation.version[s]
        machine, timeline = self._simulation.machine, self._simulation.timelines[rank]
        latency, seconds = machine.message(self._simulation.next_number(rank), share.nbytes, rank, s)
        begin = max(timeline.now, server.incoming)
        server.incoming = end = begin + seconds
        timeline.wait += begin - timeline.now
        timeline.communication += seconds
        timeline.bytes_sent += share.nbytes
        timeline.now = end
        arrived = Arrived(worker, operation.samples, version, share, operation.phase, operation.rows,
                          float(np.float32(operation.weight)), clock=server.clocks.get(worker, 0))
        server.clocks[worker] = arrived.clock + 1
        self._send(s, arrived, end + latency)
        self._simulation.at(end, rank, lambda: self._push_to(s + 1, rank, vector, operation))

    def _share(self, s: int, vector: np.ndarray, rank: int, phase: str | None) -> np.ndarray:
        """What server s gets of a push."""
        if phase is None:
            return self._cut.part(s, vector).copy()
        begin, end = self._simulation.actors[rank].place_of(phase)
        return vector[self._cut.within(s, begin, end)[1]]

    def fetch(self, rank: int, operation: Fetch) -> None:
        versions: dict[int, int] = {}

        def got(s: int, version: int) -> None:
            versions[s] = version
            if len(versions) < self.count:
                self._fetch_from(s + 1, rank, operation, got)
                return
            answer: Version = versions[0] if self.count == 1 else tuple(versions[i] for i in range(self.count))
            self._simulation.actors[rank].fetched(answer)
            self._simulation.go_on(rank, answer)

        self._fetch_from(0, rank, operation, got)

    def _fetch_from(self, s: int, rank: int, operation: Fetch, got: Callable[[int, int], None]) -> None:
        server, simulation = self._servers[s], self._simulation
        timeline = simulation.timelines[rank]
        latency, seconds = simulation.machine.message(
            simulation.next_number(rank), 4 * self._cut.lengths[s], rank, s)

        def transfer() -> None:
            begin = max(simulation.now, server.outgoing)
            server.outgoing = begin + seconds
            simulation.at(begin, rank, copy)

        def copy() -> None:
            self._cut.scatter(s, server.published.current(), operation.out)
            version = server.published.version
            end = simulation.now + seconds + latency
            timeline.communication += seconds + 2 * latency
            timeline.wait += end - timeline.now - (seconds + 2 * latency)
            timeline.now = end
            simulation.at(end, rank, lambda: got(s, version))

        def ask() -> None:
            server.asked.append((operation.progress, rank, transfer))
            self._answer(server)

        simulation.at(timeline.now + latency, rank, ask)

    def _answer(self, server: _Server) -> None:
        """Begin the fetches that need not wait any more, in the order of workers."""
        for each in sorted(server.asked, key=lambda each: each[1]):
            progress, rank, transfer = each
            if progress <= server.published.progress and not server.held.get(rank - self.count):
                server.asked.remove(each)
                transfer()

    def begin_epoch(self) -> None:
        """All ranks have met: an epoch is open."""
        self._open = True
        for server in self._servers:
            server.here = self.workers

    def leave(self, rank: int) -> None:
        """A worker has come to the fence."""
        if not self._open:
            return
        for s in range(self.count):
            latency, _ = self._simulation.machine.message(self._simulation.next_number(rank), 0, rank, s)
            self._send(s, Left(rank - self.count), self._simulation.timelines[rank].now + latency)

    def _send(self, s: int, arrived: Arrived | Left, when: float) -> None:
        """Have something arrive at server s, not before what this worker has sent it before."""
        latest = self._servers[s].latest
        latest[arrived.worker] = when = max(when, latest.get(arrived.worker, 0.0))
        self._simulation.at(when, s, partial(self._deliver, s, arrived))

    # ---- servers

    def receive(self, s: int, operation: Receive) -> None:
        server = self._servers[s]
        if server.reading is not None:
            worker, server.reading = server.reading, None
            server.held[worker] -= 1
            self._answer(server)
            blocked = self._blocked.pop((s, worker), None)
            if blocked is not None:
                timeline = self._simulation.timelines[worker + self.count]
                now = max(self._simulation.now, timeline.now)
                timeline.wait += now - timeline.now
                timeline.now = now
                blocked()
        server.waits = True
        self._hand_out(s)

    def _deliver(self, s: int, arrived: Arrived | Left) -> None:
        self._servers[s].mailbox.append(arrived)
        if self._servers[s].waits:
            self._hand_out(s)

    def _hand_out(self, s: int) -> None:
        """Answer a `Receive` that waits, if there is something to answer."""
        server = self._servers[s]
        answer: Arrived | Left | None = None
        if server.mailbox:
            answer = server.mailbox.popleft()
            if isinstance(answer, Left):
                server.here -= 1
            else:
                server.reading = answer.worker
                answer = self._simulation.actors[s].received(answer)
        elif server.here > 0:
            return
        server.waits = False
        timeline = self._simulation.timelines[s]
        now = max(timeline.now, self._simulation.now)
        timeline.wait += now - timeline.now
        timeline.now = now
        self._simulation.go_on(s, answer)

    def publish(self, s: int, operation: Publish) -> None:
        server, timeline = self._servers[s], self._simulation.timelines[s]
        seconds = self._simulation.machine.update_seconds(server.published.written)
        timeline.compute += seconds
        timeline.now += seconds

        def show() -> None:
            if operation.progress < server.published.progress:
                raise StrategyError(f"server {s} published progress {operation.progress} after "
                                    f"{server.published.progress}; it may only grow")
            version = server.published.publish(operation.progress)
            self._answer(server)
            self._simulation.actors[s].published(version)
            self._simulation.go_on(s, version)

        self._simulation.at(timeline.now, s, show)

    def give_all(self, operations: list[GatherFromServers]) -> int:
        """Fill the vectors of all; the bytes of one."""
        for operation in operations:
            for s, server in enumerate(self._servers):
                self._cut.scatter(s, server.published.current(), operation.vector)
        return operations[0].vector.nbytes

    def waiting(self) -> str:
        """Who waits for ever, for a message; empty when nobody does."""
        asked = sorted({rank for server in self._servers for _, rank, _ in server.asked})
        servers = [s for s, server in enumerate(self._servers) if server.waits]
        found = [f"ranks {asked} wait for progress" if asked else "",
                 f"servers {servers} wait for pushes" if servers else ""]
        return ", ".join(text for text in found if text)
