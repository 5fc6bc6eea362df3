"""The driver: carries out a strategy's operations for one worker or server, over a transport."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Protocol

from pyddl.comm.activity import Activity
from pyddl.comm.group import AloneGroup, Group
from pyddl.comm.lock import NoLock
from pyddl.comm.operations import (
    Arrived,
    Average,
    BeginStep,
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
    Update,
    Version,
)
from pyddl.comm.order import Order
from pyddl.comm.server import ServerLink, ServerPort
from pyddl.comm.transport import Transport
from pyddl.errors import PeerLost

__all__ = ["Actor", "Stop", "drive"]

STOP = 1 << 48  # added to the count of a sum by a rank that wants to stop: agreeing costs no message of its own
STRATEGY = "the strategy, between two operations"


class Actor(Protocol):
    """What the driver asks of the worker whose generator it runs, and of its replicas."""

    def begin_step(self) -> bool: ...

    def compute(self) -> None: ...

    def update(self, operation: Update) -> None: ...

    def step_done(self) -> None: ...


class FencedActor(Protocol):
    """What it asks of a worker or server besides, where there are servers."""

    def next_epoch(self) -> Epoch | None: ...


class WorkerActor(Actor, FencedActor, Protocol):
    def fetched(self, version: Version) -> None: ...


class ServerActor(FencedActor, Protocol):
    def received(self, arrived: Arrived) -> Arrived: ...

    def update(self, operation: Update) -> None: ...

    def published(self, version: int) -> None: ...


class Stop(Protocol):
    """A request to end the data early. ``agreed`` is set by the driver when a sum has carried it to all ranks: then the
    step under way is the last."""

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

    Raises
    ------
    StrategyError
        It yielded what is no operation, or operations that make no steps: see `Order`.
    """
    shared = (actor, transport, stop or Never(), groups or _Alone(), ordered)
    driver = (WorkerDriver(*shared, end) if isinstance(end, ServerLink) else
              ServerDriver(*shared, end, outlive) if isinstance(end, ServerPort) else Driver(*shared))
    driver.run(strategy, activity or Activity())


class Driver:
    """Carries out what workers among themselves do: a method for each operation, by its verb."""

    def __init__(self, actor: Any, transport: Transport, request: Stop, groups: Groups, ordered: bool):
        self.actor, self.transport, self.request, self.groups, self.ordered = actor, transport, request, groups, ordered

    def run(self, strategy: Generator[Operation, Any, None], noted: Activity) -> None:
        carry_out: dict[type, Callable[[Any], Any]] = {}
        order, self.noted = Order(strategy), noted
        self.order = order
        order.limit += noted.number
        advance = strategy.send
        answer = None
        while True:
            try:
                operation = advance(answer)
            except StopIteration:
                order.end()
                return
            except Exception as error:
                order.explain(error)
                raise
            kind = type(operation)
            handler = carry_out.get(kind)
            if handler is None:
                handler = carry_out[kind] = self._handler(operation)
            noted.doing = operation
            noted.number += 1
            if noted.number > order.limit:
                raise order.too_long()
            answer = handler(operation)
            noted.doing = STRATEGY

    def _handler(self, operation: Any) -> Callable[[Any], Any]:
        handler = getattr(self, operation.verb, None) if isinstance(operation, Operation) else None
        if handler is None:
            raise self.order.no_operation(operation)
        return handler

    # ---- a step

    def begin_step(self, operation: BeginStep) -> bool:
        self.order.begin(operation, self.noted.number)
        more = self._more(operation)
        self.order.began(operation, more)
        return more

    def _more(self, operation: BeginStep) -> bool:
        return not self.request.agreed and (operation.replica or self.actor).begin_step()

    def compute(self, operation: Compute) -> None:
        (operation.replica or self.actor).compute()

    def update(self, operation: Update) -> None:
        (operation.replica or self.actor).update(operation)

    def step_done(self, operation: StepDone) -> None:
        self.order.done(self.noted.number)
        if self.request.requested and self.transport.size == 1:
            self.request.agreed = True
        self.actor.step_done()

    # ---- among workers

    def sum(self, operation: Sum) -> int:
        count = operation.count + STOP if self.request.requested else operation.count
        count = self.transport.sum(operation.vector, count, self.ordered)
        if count >= STOP:
            self.request.agreed = True
            count %= STOP
        return count

    def average(self, operation: Average) -> int:
        of_all = operation.level == "world"
        self.transport.compare(f"average ({operation.level})", operation.out)
        weight, wanted = self.groups[operation.level].average(operation.out, operation.vectors, operation.weights,
                                                              self.request.requested and of_all)
        self.request.agreed |= wanted
        return weight

    def sum_to_owners(self, operation: SumToOwners) -> int:
        self.transport.compare("sum to owners", operation.vector)
        count, wanted = self.groups["world"].sum_to_owners(operation.vector, operation.count, self.request.requested)
        self.request.agreed |= wanted
        return count

    def gather_from_owners(self, operation: GatherFromOwners) -> None:
        self.transport.compare("gather from owners", operation.vector)
        self.groups["world"].gather_from_owners(operation.vector)

    def exchange(self, operation: Exchange) -> None:
        self.transport.compare_pair("exchange", operation.vector, operation.partner)
        self.groups["world"].exchange(operation.vector, operation.out, operation.partner)

    def gather(self, operation: Gather) -> list[Any]:
        return self.transport.gather(operation.vector)

    def lock(self, operation: Lock) -> None:
        self.groups.lock.acquire()

    def unlock(self, operation: Unlock) -> None:
        self.groups.lock.release()


class WorkerDriver(Driver):
    """A worker's operations with servers. A stop that is asked for ends the epoch: no more tickets are given."""

    actor: WorkerActor

    def __init__(self, actor: Any, transport: Transport, request: Stop, groups: Groups, ordered: bool,
                 link: ServerLink):
        super().__init__(actor, transport, request, groups, ordered)
        self.link = link
        self.within = False  # an epoch

    def _more(self, operation: BeginStep) -> bool:
        if self.request.requested:
            self.link.close_tickets()
        return self.actor.begin_step()

    def step_done(self, operation: StepDone) -> None:
        self.order.done(self.noted.number)
        self.actor.step_done()

    def push(self, operation: Push) -> None:
        self.link.push(operation.vector, operation.samples, operation.version, operation.phase, operation.rows,
                       operation.weight)

    def fetch(self, operation: Fetch) -> Version:
        version = self.link.fetch(operation.out, operation.progress)
        self.actor.fetched(version)
        return version

    def next_epoch(self, operation: NextEpoch) -> Epoch | None:
        self.order.next_epoch(self.noted.number)
        if self.within:
            self.link.finish()
        epoch = self.actor.next_epoch()
        self.within = epoch is not None
        return epoch

    def gather_from_servers(self, operation: GatherFromServers) -> None:
        self.link.cut.broadcast(self.transport, operation.vector)


class ServerDriver(Driver):
    """A server's operations."""

    actor: ServerActor

    def __init__(self, actor: Any, transport: Transport, request: Stop, groups: Groups, ordered: bool,
                 port: ServerPort, outlive: bool):
        super().__init__(actor, transport, request, groups, ordered)
        self.port, self.outlive = port, outlive

    def receive(self, operation: Receive) -> Arrived | Left | None:
        self.order.get_on(self.noted.number)
        if self.request.requested:
            self.port.close_tickets()
        arrived = self.port.receive()
        if isinstance(arrived, Arrived):
            return self.actor.received(arrived)
        if arrived is not None and arrived.why and not self.outlive:
            raise PeerLost(f"server {self.port.number}: {arrived.why}")
        return arrived

    def publish(self, operation: Publish) -> int:
        version = self.port.publish(operation.progress)
        self.actor.published(version)
        return version

    def next_epoch(self, operation: NextEpoch) -> Epoch | None:
        self.order.next_epoch(self.noted.number)
        return self.actor.next_epoch()

    def gather_from_servers(self, operation: GatherFromServers) -> None:
        self.port.cut.scatter(self.port.number, self.port.current(), operation.vector)
        self.port.cut.broadcast(self.transport, operation.vector)
