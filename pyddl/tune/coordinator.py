"""Coordinator: a process of rank 0's own that keeps the study and the table, and answers all ranks.

It is forked before MPI is there, and the only one that writes the journal; it ends with rank 0. Ranks of its node reach
it by a Unix socket, others by TCP; what they say is believed once they have shown that they know a key, which travels
by MPI.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import struct
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Client, Connection, answer_challenge, deliver_challenge, wait
from typing import Any

from pyddl import errors
from pyddl.comm.child import Child
from pyddl.comm.environment import outlives
from pyddl.comm.world import World
from pyddl.errors import CommError, PeerLost, PyddlError
from pyddl.tune.desk import Answers, Desk
from pyddl.tune.messages import Outcome, Over, Split, Task
from pyddl.tune.study import load

__all__ = ["Direct", "Link", "Remote", "connect", "opened", "start"]

HANDSHAKE = 5  # seconds for a stranger to say the key
SETTLE = 2.0  # seconds after which a rank's death is no part of its job's, where ranks outlive each other
NO_END = 20.0  # where they do not, and the launcher has ended no other one
LOST = "the process that keeps the search's journal has ended; go on with --resume"

MakeDesk = Callable[[Sequence[Sequence[int]], Sequence[int]], Desk]
"""The desk for these groups, and ranks left over."""


# ---- a rank's end


class Direct:
    """The desk of one process."""

    connection = None

    def __init__(self, desk: Desk):
        self._desk = desk

    def close(self) -> None:
        """End the search, or this session of it."""
        self._desk.close()

    def next(self, outcome: Outcome | None) -> Task | Split | Over:
        (_, answer), = self._desk.next(0, outcome)
        return answer  # type: ignore[no-any-return]

    def epoch(self, line: dict[str, Any]) -> str:
        return self._desk.epoch(0, line)


class Remote:
    """The coordinator, as a rank sees it.

    Attributes
    ----------
    connection : Connection
    """

    def __init__(self, connection: Connection):
        self.connection = connection

    def next(self, outcome: Outcome | None) -> Task | Split | Over:
        """Say what became of the last trial, and wait for what follows."""
        return self._asked("next", outcome)  # type: ignore[no-any-return]

    def epoch(self, line: dict[str, Any]) -> str:
        """Say that an epoch has ended; ``on``, ``prune`` or ``stop``."""
        return str(self._asked("epoch", line))

    def close(self) -> None:
        """Let the coordinator see this rank's end."""
        self.connection.close()

    def _asked(self, *said: Any) -> Any:
        try:
            self.connection.send(said)
            return self.connection.recv()
        except (EOFError, OSError):
            raise PeerLost(LOST) from None


Link = Direct | Remote


def start(make: Callable[[], MakeDesk]) -> Child:
    """Fork the coordinator, on rank 0, before MPI is there.

    Parameters
    ----------
    make : callable
        Called there, when `opened` is here: opens the study. What it raises, that raises.
    """
    return Child(lambda connection: _Coordinator(connection).run(make), mortal=False)


def opened(coordinator: Child | None, world: World) -> None:
    """Let the study be opened. Collective.

    Parameters
    ----------
    coordinator : Child or None
        On rank 0.

    Raises
    ------
    PyddlError
        It cannot be opened.
    """
    said: tuple[str, str] | None = None
    if coordinator is not None:
        try:
            coordinator.connection.send("open")
            said = coordinator.connection.recv()
        except (EOFError, OSError):
            said = CommError.__name__, LOST
    said = world.transport.gather_objects(said)[0]
    if said is not None:
        error: PyddlError = getattr(errors, said[0])(said[1])
        error.on_all_ranks = True
        raise error


def connect(coordinator: Child | None, groups: Sequence[Sequence[int]], idle: Sequence[int], world: World) -> Remote:
    """Let a rank reach the coordinator, which learns of the groups. Collective over the world.

    Parameters
    ----------
    coordinator : Child or None
        On rank 0.
    """
    said: Any = None
    if coordinator is not None:
        coordinator.connection.send((groups, idle, world.size, world.nodes > 1))
        said = coordinator.connection.recv()
    places, key = world.transport.gather_objects(said)[0]
    if coordinator is not None:
        return Remote(coordinator.connection)
    failures = []
    for place in places[:1] if world.node == 0 else places[1:]:
        try:
            connection = Client(place, authkey=key)
            connection.send(world.rank)
            return Remote(connection)
        except OSError as error:
            failures.append(f"{place}: {error.strerror or error}")
    raise CommError(f"rank {world.rank} does not reach the process of rank 0 that keeps the search's journal "
                    f"({'; '.join(failures)}): let nodes connect to each other by TCP, or search on one node")


# ---- the coordinator itself


class _Coordinator:
    def __init__(self, parent: Connection):
        self._parent = parent
        self._ranks: dict[int, Connection] = {0: parent}
        self._died: dict[int, float] = {}  # when that was seen
        self._desk: Desk | None = None

    def run(self, make: Callable[[], MakeDesk]) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        load()  # while MPI starts
        try:
            self._parent.recv()  # not before all ranks have found their data
            try:
                made = make()
            except PyddlError as error:
                self._parent.send((type(error).__name__, str(error)))
                return
            self._parent.send(None)
            groups, idle, size, far = self._parent.recv()
            self._desk = made(groups, idle)
            self._welcome(size, far)
            self._serve(self._desk)
        except (PyddlError, OSError) as error:
            if not isinstance(error, ConnectionError):  # the journal cannot be written
                os.write(2, f"pyddl: {error}\n".encode(errors="backslashreplace"))
        except EOFError:  # rank 0 has ended, and all with it
            pass
        finally:
            if self._desk is not None:
                self._desk.close()

    # ---- the ranks come

    def _welcome(self, size: int, far: bool) -> None:
        """Listen until all ranks have come."""
        key = secrets.token_bytes(32)
        listeners = [socket.socket(socket.AF_UNIX)]
        listeners[0].bind(f"\0pyddl-tune-{os.getpid()}-{secrets.token_hex(8)}")
        places: list[Any] = [listeners[0].getsockname().decode()]
        if far:
            tcp = socket.socket(socket.AF_INET)
            tcp.bind(("", 0))
            listeners.append(tcp)
            places += [(host, tcp.getsockname()[1]) for host in _hosts()]
        for each in listeners:
            each.listen(size)
        self._parent.send((places, key))
        rank_0 = os.getppid()
        while len(self._ranks) < size:
            for ready in wait(listeners, 0.5):
                assert isinstance(ready, socket.socket)
                self._admit(ready.accept()[0], key)
            if os.getppid() != rank_0:
                raise EOFError
        for each in listeners:
            each.close()

    def _admit(self, stranger: socket.socket, key: bytes) -> None:
        _limit(stranger, HANDSHAKE)
        connection = Connection(stranger.detach())
        try:
            deliver_challenge(connection, key)
            answer_challenge(connection, key)
            rank = int(connection.recv())
        except (OSError, EOFError, ValueError):
            connection.close()
            return
        with socket.socket(fileno=os.dup(connection.fileno())) as same:
            _limit(same, 0)
        self._ranks[rank] = connection

    # ---- and are answered

    def _serve(self, desk: Desk) -> None:
        ranks = {connection: rank for rank, connection in self._ranks.items()}
        over, settle = False, SETTLE if outlives() else NO_END
        while not over:
            pending = bool(self._died) or desk.waits
            answers: Answers = []
            for connection in wait(list(ranks), 0.2 if pending else None):
                assert isinstance(connection, Connection)
                rank = ranks[connection]
                try:
                    what, said = connection.recv()
                except (EOFError, ConnectionError):
                    if rank == 0:
                        raise EOFError from None
                    del ranks[connection]
                    self._died[rank] = time.monotonic()
                    desk.silent(rank)
                    continue
                if what == "epoch":
                    answers.append((rank, desk.epoch(rank, said)))
                else:
                    answers += desk.next(rank, said)
            for rank, when in list(self._died.items()):
                if time.monotonic() - when > settle:
                    del self._died[rank]
                    answers += desk.gone(rank)
            answers += desk.tick()
            for rank, answer in answers:
                over |= isinstance(answer, Over)
                with contextlib.suppress(OSError):  # it has died
                    self._ranks[rank].send(answer)


def _limit(connection: socket.socket, seconds: int) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", seconds, 0))


def _hosts() -> list[str]:
    """Names and addresses under which other machines may know this one, the likeliest first."""
    name = socket.gethostname()
    found = [name]
    with contextlib.suppress(OSError):
        found += [str(each[4][0]) for each in socket.getaddrinfo(name, None, socket.AF_INET)]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.connect(("192.0.2.1", 9))  # sends nothing: it tells which address a way out has
        found.append(out.getsockname()[0])
    own = [each for each in dict.fromkeys(found) if not each.startswith("127.")]
    return [*own, "127.0.0.1"]
