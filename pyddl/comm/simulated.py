"""The simulated transport: many workers in one process, on a virtual clock.

The generators are those that run over MPI, the vectors are real and so is the arithmetic; only time is made up. What
happens first is decided by the virtual clock, so a run can be replayed: it depends on the seed and nothing else.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pyddl import _check
from pyddl.comm.group import mean_of, shares, tree_sum
from pyddl.comm.operations import (
    Average,
    Compute,
    Exchange,
    Fetch,
    Gather,
    GatherFromOwners,
    GatherFromServers,
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
)
from pyddl.comm.simulated_servers import Published, SimulatedServers
from pyddl.errors import CommError, InternalError
from pyddl.random import SEEDS, STRATEGY

__all__ = ["Machine", "Simulation", "Timeline"]

COMPUTE, LATENCY, WORKER = range(3)  # what a random number is for


@dataclass(frozen=True)
class Machine:
    """What the simulated workers run on.

    Times vary by log-normal factors of mean 1. The sum of n bytes over P workers takes 2 log2(P) latencies and
    2 (P-1)/P n bytes [1]_; an exchange one latency and n bytes.

    Parameters
    ----------
    sample_seconds, step_seconds : float
        A gradient and update of r rows takes step_seconds + r sample_seconds.
    jitter : float
        Relative standard deviation of each compute and latency.
    uneven : float
        Relative standard deviation of the workers' own speeds.
    latency, bandwidth : float
        Between nodes: seconds per message, bytes per second.
    node_latency, node_bandwidth : float
        Within a node.
    workers_per_node : int
        In the order of ranks, of which servers are the first.
    straggler : float
        Worker 0 computes so many times slower than the others.
    update_bandwidth : float
        Of a server: bytes of parameters that it updates per second.
    seed : int

    References
    ----------
    .. [1] Rabenseifner (2004), Optimization of collective reduction operations, ICCS.
    """

    sample_seconds: float = 20e-6
    step_seconds: float = 100e-6
    jitter: float = 0.1
    uneven: float = 0.0
    latency: float = 30e-6
    bandwidth: float = 1.2e9
    node_latency: float = 2e-6
    node_bandwidth: float = 10e9
    workers_per_node: int = 1
    straggler: float = 1.0
    update_bandwidth: float = 1.5e9
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("sample_seconds", "step_seconds", "jitter", "uneven", "latency", "node_latency"):
            _check.number(name, getattr(self, name), at_least=0)
        for name in ("bandwidth", "node_bandwidth", "straggler", "update_bandwidth"):
            _check.number(name, getattr(self, name), above=0)
        _check.integer("workers_per_node", self.workers_per_node, at_least=1)
        _check.integer("seed", self.seed, at_least=0)

    def compute_seconds(self, worker: int, number: int, samples: int) -> float:
        """How long a worker's ``number``-th gradient takes."""
        return ((self.step_seconds + samples * self.sample_seconds) * self._factor(self.jitter, COMPUTE, worker, number)
                * self._factor(self.uneven, WORKER, worker, 0) * (self.straggler if worker == 0 else 1))

    def update_seconds(self, size: int) -> float:
        """How long a server takes to update so many bytes."""
        return size / self.update_bandwidth

    def message(self, number: int, size: int, one: int, other: int) -> tuple[float, float]:
        """Latency of rank ``one``'s ``number``-th communication, with ``other``; transfer time of so many bytes."""
        return self.seconds(number, 1, 0, (one, other)), self.seconds(number, 0, size, (one, other))

    def seconds(self, number: int, messages: int, sent: float, workers: Sequence[int]) -> float:
        """How long the ``number``-th communication takes: so many messages and bytes in a row, among these workers."""
        within = len({worker // self.workers_per_node for worker in workers}) == 1
        latency, bandwidth = ((self.node_latency, self.node_bandwidth) if within else (self.latency, self.bandwidth))
        return messages * latency * self._factor(self.jitter, LATENCY, workers[0], number) + sent / bandwidth

    def _factor(self, spread: float, purpose: int, worker: int, number: int) -> float:
        if spread == 0:
            return 1.0
        bits = np.random.Philox(key=STRATEGY * SEEDS + self.seed % SEEDS, counter=[number, worker, purpose, 1])
        radius, angle = ((bits.random_raw(2) >> np.uint64(11)) + np.uint64(1)) / 2.0**53  # of Box and Muller, in (0, 1]
        normal = math.sqrt(-2 * math.log(radius)) * math.cos(2 * math.pi * angle)
        variance = math.log1p(spread**2)
        return math.exp(math.sqrt(variance) * normal - variance / 2)


@dataclass
class Timeline:
    """Where a worker's virtual time went, in seconds, and what it sent."""

    now: float = 0.0
    compute: float = 0.0
    wait: float = 0.0
    communication: float = 0.0
    bytes_sent: int = 0


@dataclass
class _Meeting:
    """An operation of several workers that begins when all have come."""

    kind: type
    members: Sequence[int]
    came: dict[int, Operation] = field(default_factory=dict)


class Simulation:
    """Runs the generators of many workers, the earliest first.

    Parameters
    ----------
    machine : Machine

    Attributes
    ----------
    now : float
        The virtual time.
    timelines : list of Timeline
        One for each rank of the last `run`: servers first, then workers.
    actors : sequence of Actor
        Of each: as in `pyddl.comm.driver`.
    """

    def __init__(self, machine: Machine | None = None):
        self.machine = machine or Machine()
        self.timelines: list[Timeline] = []

    def run(self, strategies: Sequence[Generator[Operation, Any, None]], actors: Sequence[Any],
            served: Sequence[Published] = ()) -> None:
        """Run all strategies to their ends.

        Parameters
        ----------
        strategies : sequence of generator
            Of each rank.
        actors : sequence of Actor
            ``samples``, where there are any, says how long a gradient takes.
        served : sequence of Published
            What the servers serve: so many of the ranks, the first ones, are servers.

        Raises
        ------
        InternalError
            Workers that should act together yielded different operations.
        CommError
            The rest of the workers wait for one that has ended.
        """
        self.actors, self._strategies = actors, strategies
        count = len(strategies)
        self.now = 0.0
        self.timelines = [Timeline() for _ in range(count)]
        self._answers: list[Any] = [None] * count
        self._numbers = [0] * count
        self._meetings: dict[tuple[Any, ...], _Meeting] = {}
        self._locked: deque[int] = deque()  # who holds the lock, then who waits for it, in the order they came
        self._events: list[tuple[float, int, int, Callable[[], None]]] = []  # when, whose, which: a heap
        self._scheduled = 0
        self._servers = servers = SimulatedServers(self, list(served), count - len(served))
        self._carry_out_one: dict[type, Callable[[int, Any], None]] = {
            Compute: self._compute, StepDone: self._step_done, Exchange: self._exchange, Lock: self._lock,
            Unlock: self._unlock, Push: servers.push, Fetch: servers.fetch, Receive: servers.receive,
            Publish: servers.publish, NextEpoch: self._next_epoch,
            **dict.fromkeys((Sum, Average, Gather, SumToOwners, GatherFromOwners, GatherFromServers), self._meet)}
        for rank in range(count):
            self.go_on(rank)
        while self._events:
            self.now, _, _, action = heapq.heappop(self._events)
            action()
        self._check_end()

    def at(self, time: float, rank: int, action: Callable[[], None]) -> None:
        """Do something at a time. What happens at the same time is done in the order of ranks."""
        self._scheduled += 1
        heapq.heappush(self._events, (time, rank, self._scheduled, action))

    def go_on(self, rank: int, answer: Any = None) -> None:
        """Give a rank the answer to its operation, at the time where its timeline is."""
        self._answers[rank] = answer
        self.at(self.timelines[rank].now, rank, lambda: self._advance(rank))

    def next_number(self, rank: int) -> int:
        """How many computes and messages of this rank there were before."""
        self._numbers[rank] += 1
        return self._numbers[rank] - 1

    def _advance(self, rank: int) -> None:
        try:
            operation = self._strategies[rank].send(self._answers[rank])
        except StopIteration:
            return
        handler = self._carry_out_one.get(type(operation))
        if handler is None:
            raise InternalError(f"the strategy yielded {operation!r}, which is no operation of the simulation")
        handler(rank, operation)

    def _check_end(self) -> None:
        for meeting in self._meetings.values():
            missing = sorted(set(meeting.members) - set(meeting.came))
            raise CommError(f"workers {sorted(meeting.came)} wait in {meeting.kind.__name__} for {missing}, who have "
                            f"ended or wait elsewhere {self._servers.waiting()}".rstrip())
        if self._locked:
            holder, *waiting = self._locked
            raise CommError(f"worker {holder} has ended with the lock, for which {waiting} wait")
        if waits := self._servers.waiting():
            raise CommError(f"{waits}, and nobody is left who could end that")

    def _compute(self, worker: int, operation: Compute) -> None:
        actor = operation.replica or self.actors[worker]
        more = actor.compute()
        if more:
            seconds = self.machine.compute_seconds(worker - self._servers.count, self.next_number(worker),
                                                   getattr(actor, "samples", 1))
            self.timelines[worker].compute += seconds
            self.timelines[worker].now += seconds
        self.go_on(worker, more)

    def _step_done(self, worker: int, operation: StepDone) -> None:
        self.actors[worker].step_done()
        self.go_on(worker)

    def _next_epoch(self, rank: int, operation: NextEpoch) -> None:
        if rank >= self._servers.count:
            self._servers.leave(rank)
        self._meet(rank, operation)

    def _lock(self, worker: int, operation: Lock) -> None:
        self._locked.append(worker)
        if self._locked[0] == worker:
            self._hand_over(worker, self.timelines[worker].now)

    def _unlock(self, worker: int, operation: Unlock) -> None:
        if not self._locked or self._locked.popleft() != worker:
            raise InternalError(f"worker {worker} yielded Unlock, but does not hold the lock")
        if self._locked:
            self._hand_over(self._locked[0], self.timelines[worker].now)
        self.go_on(worker)

    def _hand_over(self, worker: int, now: float) -> None:
        timeline = self.timelines[worker]
        seconds = self.machine.seconds(self._numbers[worker], 1, 0, range(len(self.actors)))
        timeline.wait += now - timeline.now
        timeline.communication += seconds
        timeline.now = now + seconds
        self.go_on(worker)

    def _meet(self, worker: int, operation: Operation) -> None:
        level = getattr(operation, "level", "world")
        members: Sequence[int] = range(len(self.actors))
        if level == "node":
            size = self.machine.workers_per_node
            first = worker // size * size
            members = range(first, min(first + size, len(self.actors)))
        came = self._join((level, members[0]), worker, operation, members)
        if came is not None:
            self._carry_out(members, came)

    def _exchange(self, worker: int, operation: Exchange) -> None:
        pair = sorted((worker, operation.partner))
        came = self._join(("pair", *pair), worker, operation, pair)
        if came is not None:
            vectors = [came[member].vector.copy() for member in pair]
            for member, theirs in zip(pair, reversed(vectors), strict=True):
                came[member].out[:] = theirs
            self._pass_time(pair, 1, vectors[0].nbytes, vectors[0].nbytes, [None, None])

    def _join(self, place: tuple[Any, ...], worker: int, operation: Operation,
              members: Sequence[int]) -> dict[int, Any] | None:
        """Wait at ``place``; the operations of all members once the last has come."""
        meeting = self._meetings.setdefault(place, _Meeting(type(operation), members))
        if type(operation) is not meeting.kind:
            first = next(iter(meeting.came))
            raise InternalError(f"worker {worker} yielded {type(operation).__name__}, but worker {first} "
                                f"{meeting.kind.__name__}; all workers must yield the same operations")
        meeting.came[worker] = operation
        if len(meeting.came) < len(members):
            return None
        del self._meetings[place]
        return meeting.came

    def _carry_out(self, members: Sequence[int], came: dict[int, Any]) -> None:
        operations = [came[member] for member in members]
        count = len(members)
        rounds = (count - 1).bit_length()
        if isinstance(operations[0], Gather):
            gathered = [operation.vector.copy() for operation in operations]
            size = sum(vector.nbytes for vector in gathered)
            self._pass_time(members, rounds, size, size // count, [gathered] * count)
            return
        if isinstance(operations[0], (SumToOwners, GatherFromOwners)):
            self._by_owners(members, operations)
            return
        if isinstance(operations[0], NextEpoch):
            epochs = [self.actors[member].next_epoch() for member in members]
            self._servers.begin_epoch()
            self._pass_time(members, 2 * rounds, 0, 0, epochs)
            return
        if isinstance(operations[0], GatherFromServers):
            size = self._servers.gather(operations)
            self._pass_time(members, rounds, size, 0, [None] * count)
            return
        if isinstance(operations[0], Sum):
            vectors = [operation.vector for operation in operations]
            tree_sum(vectors)
            for vector in vectors[1:]:
                vector[:] = vectors[0]
            answer = sum(operation.count for operation in operations)
        else:
            most = max(len(operation.vectors) for operation in operations)
            vectors, weights = [], []
            for place in range(most):  # vector i of worker w stands at place i P + w
                for operation in operations:
                    if place < len(operation.vectors):
                        vectors.append(operation.vectors[place])
                        weights.append(operation.weights[place])
            mean_of(operations[0].out, vectors, weights)
            answer = sum(weights)
            for operation in operations[1:]:
                if answer:
                    operation.out[:] = operations[0].out
        sent = 2 * (count - 1) / count * vectors[0].nbytes
        self._pass_time(members, 2 * rounds, sent, int(sent), [answer] * count)

    def _by_owners(self, members: Sequence[int], operations: list[SumToOwners] | list[GatherFromOwners]) -> None:
        vectors = [operation.vector for operation in operations]
        bounds = shares(vectors[0].size, len(members))
        answer = None
        if isinstance(operations[0], SumToOwners):
            answer = sum(operation.count for operation in operations)  # type: ignore[union-attr]
            whole = [vector.copy() for vector in vectors]
            tree_sum(whole)
            for vector, begin, end in zip(vectors, bounds[:-1], bounds[1:], strict=True):
                vector[begin:end] = whole[0][begin:end]
        else:
            whole = [np.concatenate([vector[begin:end] for vector, begin, end
                                     in zip(vectors, bounds[:-1], bounds[1:], strict=True)])]
            for vector in vectors:
                vector[:] = whole[0]
        sent = (len(members) - 1) / len(members) * vectors[0].nbytes
        self._pass_time(members, (len(members) - 1).bit_length(), sent, int(sent), [answer] * len(members))

    def _pass_time(self, members: Sequence[int], messages: int, in_a_row: float, sent: int, answers: list[Any]) -> None:
        """Let all members wait for the last, then for the transfer."""
        begin = max(self.timelines[member].now for member in members)
        number = self._numbers[members[0]]
        seconds = self.machine.seconds(number, messages, in_a_row, members) if len(members) > 1 else 0.0
        for member, answer in zip(members, answers, strict=True):
            timeline = self.timelines[member]
            timeline.wait += begin - timeline.now
            timeline.communication += seconds
            timeline.now = begin + seconds
            timeline.bytes_sent += sent if len(members) > 1 else 0
            self.go_on(member, answer)
