"""The driver: carries out a strategy's operations for one worker, over a transport."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Protocol

from pyddl.comm.activity import Activity
from pyddl.comm.group import AloneGroup, Group, broadcast_shares
from pyddl.comm.lock import NoLock
from pyddl.comm.operations import (
    Arrived,
    Average,
    Compute,
    Epoch,
    Exchange,
    Fetch,
    Gather,
    GatherFromOwners,
    GatherFromServers,
    Left,
    Lock,
    NextEpoch,
    Operation,
    Publish,
    Push,
    Receive,
    StepDone,
    Sum,
    SumToOwners,
    Unlock,
    Version,
)
from pyddl.comm.server import ServerLink, ServerPort
from pyddl.comm.transport import Transport
from pyddl.errors import InternalError, PeerLost

__all__ = ["Actor", "Stop", "drive"]

STOP = 1 << 48  # added to the count of a sum by a rank that wants to stop: agreeing costs no message of its own
STRATEGY = "the strategy, between two operations"


class Actor(Protocol):
    """What the driver asks of the worker whose generator it runs."""

    def compute(self) -> bool: ...

    def step_done(self) -> None: ...


class FencedActor(Protocol):
    """What it asks of a worker or server besides, where there are servers."""

    def next_epoch(self) -> Epoch | None: ...


class WorkerActor(Actor, FencedActor, Protocol):
    def fetched(self, version: Version) -> None: ...


class ServerActor(FencedActor, Protocol):
    def received(self, arrived: Arrived) -> None: ...

    def published(self, version: int) -> None: ...


class Stop(Protocol):
    """A request to end the data early. ``agreed`` is set by the driver when a sum has carried it to all ranks."""

    requested: bool
    agreed: bool


class Groups(Protocol):
    """The group of each level, ``world`` and ``node``, and the lock that all share."""

    @property
    def lock(self) -> NoLock: ...

    def __getitem__(self, level: str) -> Group: ...


class _Alone:
    lock = NoLock()

    def __getitem__(self, level: str) -> Group:
        return AloneGroup()


class Never:
    """No request: the default."""

    requested = agreed = False


def drive(strategy: Generator[Operation, Any, None], actor: Any, transport: Transport, stop: Stop | None = None, *,
          groups: Groups | None = None, ordered: bool = False, activity: Activity | None = None,
          end: ServerLink | ServerPort | None = None, outlive: bool = False) -> None:
    """Run ``strategy`` to its end, or to the first step after which all ranks agree to stop.

    Collective, as the strategy is. With ``ordered``, sums follow one fixed tree, whatever the transport would prefer.
    Averages and exchanges are carried out by ``groups``, which one worker alone does not need. Each operation is noted
    in ``activity``. Pushes and what belongs to them go through this rank's ``end``. To ``outlive`` a worker, a server
    that learns of its death goes on.
    """
    noted = activity or Activity()
    request: Stop = Never() if stop is None else stop
    group = _Alone() if groups is None else groups
    total = transport.sum

    def gradient(operation: Compute) -> bool:
        if request.agreed:
            return False
        return actor.compute() if operation.replica is None else operation.replica.compute()

    def sum_and_agree(operation: Sum) -> int:
        count = operation.count + STOP if request.requested else operation.count
        count = total(operation.vector, count, ordered)
        if count >= STOP:
            request.agreed = True
            count %= STOP
        return count

    def average(operation: Average) -> int:
        of_all = operation.level == "world"
        transport.compare(f"average ({operation.level})", operation.out)
        weight, wanted = group[operation.level].average(operation.out, operation.vectors, operation.weights,
                                                        request.requested and of_all)
        request.agreed |= wanted
        return weight

    def sum_to_owners(operation: SumToOwners) -> int:
        transport.compare("sum to owners", operation.vector)
        count, wanted = group["world"].sum_to_owners(operation.vector, operation.count, request.requested)
        request.agreed |= wanted
        return count

    def gather_from_owners(operation: GatherFromOwners) -> None:
        transport.compare("gather from owners", operation.vector)
        group["world"].gather_from_owners(operation.vector)

    def swap(operation: Exchange) -> None:
        transport.compare_pair("exchange", operation.vector, operation.partner)
        group["world"].exchange(operation.vector, operation.out, operation.partner)

    def close_step(operation: StepDone) -> None:
        if request.requested and transport.size == 1:
            request.agreed = True
        actor.step_done()

    carry_out: dict[type, Callable[[Any], Any]] = {
        Compute: gradient,
        Sum: sum_and_agree,
        Average: average,
        SumToOwners: sum_to_owners,
        GatherFromOwners: gather_from_owners,
        Exchange: swap,
        Gather: lambda operation: transport.gather(operation.vector),
        Lock: lambda operation: group.lock.acquire(),
        Unlock: lambda operation: group.lock.release(),
        StepDone: close_step,
    }
    if isinstance(end, ServerLink):
        carry_out |= _of_worker(end, actor, transport, request)
    elif isinstance(end, ServerPort):
        carry_out |= _of_server(end, actor, transport, request, outlive)
    advance = strategy.send
    answer = None
    while True:
        try:
            operation = advance(answer)
        except StopIteration:
            return
        handler = carry_out.get(type(operation))
        if handler is None:
            raise InternalError(f"the strategy yielded {operation!r}, which is no operation of this driver")
        noted.doing = operation
        noted.number += 1
        answer = handler(operation)
        noted.doing = STRATEGY


Handlers = dict[type, Callable[[Any], Any]]


def _of_worker(link: ServerLink, actor: WorkerActor, transport: Transport, request: Stop) -> Handlers:
    """A worker's operations with servers. A stop that is asked for ends the epoch: no more tickets are given."""
    within = False  # an epoch

    def gradient(operation: Compute) -> bool:
        if request.requested:
            link.close_tickets()
        return actor.compute()

    def fetch(operation: Fetch) -> Version:
        version = link.fetch(operation.out, operation.progress)
        actor.fetched(version)
        return version

    def meet(operation: NextEpoch) -> Epoch | None:
        nonlocal within
        if within:
            link.finish()
        epoch = actor.next_epoch()
        within = epoch is not None
        return epoch

    return {
        Compute: gradient,
        StepDone: lambda operation: actor.step_done(),
        Push: lambda operation: link.push(operation.vector, operation.samples, operation.version),
        Fetch: fetch,
        NextEpoch: meet,
        GatherFromServers: lambda operation: broadcast_shares(transport, operation.vector, link.servers),
    }


def _of_server(port: ServerPort, actor: ServerActor, transport: Transport, request: Stop, outlive: bool) -> Handlers:
    def receive(operation: Receive) -> Arrived | Left | None:
        if request.requested:
            port.close_tickets()
        arrived = port.receive()
        if isinstance(arrived, Arrived):
            actor.received(arrived)
        elif arrived is not None and arrived.why and not outlive:
            raise PeerLost(f"server {port.number}: {arrived.why}")
        return arrived

    def publish(operation: Publish) -> int:
        version = port.publish(operation.progress)
        actor.published(version)
        return version

    def gather(operation: GatherFromServers) -> None:
        operation.vector[port.share] = port.current()
        broadcast_shares(transport, operation.vector, port.servers)

    return {Receive: receive, Publish: publish, GatherFromServers: gather,
            NextEpoch: lambda operation: actor.next_epoch()}
