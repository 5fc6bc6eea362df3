"""The simulated transport: many workers in one process, on a virtual clock.

The generators are those that run over MPI, the vectors are real and so is the arithmetic; only time is made up. What
happens first is decided by the virtual clock, so a run can be replayed: it depends on the seed and nothing else.
"""

from __future__ import annotations

import heapq
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pyddl.comm.cut import Cut, shares
from pyddl.comm.group import mean_of, tree_sum
from pyddl.comm.machine import Machine, Timeline
from pyddl.comm.operations import (
    BeginStep,
    Compute,
    Exchange,
    Gather,
    GatherFromOwners,
    GatherFromServers,
    Lock,
    NextEpoch,
    Operation,
    StepDone,
    Sum,
    SumToOwners,
    Unlock,
    Update,
)
from pyddl.comm.order import OF_SERVERS, Order
from pyddl.comm.simulated_servers import Published, SimulatedServers
from pyddl.errors import CommError, StrategyError

__all__ = ["Baton", "Simulation"]


RESUME = object()  # the answer to workers in the middle of a gradient


class BatchSum(Operation):
    """What a model asks for within its gradient: ``vector`` becomes its sum over all workers."""

    def __init__(self, vector: np.ndarray):
        self.vector, self.count = vector, 0


@dataclass
class _Meeting:
    """An operation of several workers that begins when all have come."""

    kind: type
    members: Sequence[int]
    came: dict[int, Operation] = field(default_factory=dict)


class Baton:
    """Runs a worker's gradient on a thread of its own, which stops wherever it asks for a sum over the batch.

    Only one thread runs at a time, the simulation's or the one that it has handed the baton to.
    """

    def __init__(self) -> None:
        self._mine, self._theirs = threading.Semaphore(0), threading.Semaphore(0)
        self._asked: np.ndarray | None = None
        self._failure: BaseException | None = None

    def begin(self, compute: Callable[[], None]) -> np.ndarray | None:
        """Compute, up to the first sum, whose vector is returned, or to the end: None."""
        threading.Thread(target=self._run, args=(compute,), daemon=True).start()
        return self._wait()

    def go_on(self) -> np.ndarray | None:
        """Go on after a sum, up to the next."""
        self._theirs.release()
        return self._wait()

    def sum(self, vector: np.ndarray) -> np.ndarray:
        """What `Batch.sum` is, on the thread."""
        self._asked = vector
        self._mine.release()
        self._theirs.acquire()
        return vector

    def _wait(self) -> np.ndarray | None:
        self._mine.acquire()
        if self._failure is not None:
            raise self._failure
        return self._asked

    def _run(self, compute: Callable[[], None]) -> None:
        try:
            compute()
        except BaseException as failure:
            self._failure = failure
        self._asked = None
        self._mine.release()


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
            served: Sequence[Published] = (), cut: Cut | None = None, batons: Sequence[Baton] = ()) -> None:
        """Run all strategies to their ends.

        Parameters
        ----------
        strategies : sequence of generator
            Of each rank.
        actors : sequence of Actor
            ``samples``, where there are any, says how long a gradient takes.
        served : sequence of Published
            What the servers serve: so many of the ranks, the first ones, are servers.
        cut : Cut, optional
            Which server has what; by default an equal share of the whole vector.
        batons : sequence of Baton, optional
            Of each worker, where their gradients ask for sums over the batch.

        Raises
        ------
        StrategyError
            A strategy yielded what is no operation, or operations that make no steps (see `Order`); or workers that
            should act together yielded different ones.
        CommError
            The rest of the workers wait for one that has ended.
        """
        self.actors, self._orders = actors, list(map(Order, strategies))
        self._yielded = [0] * len(strategies)  # operations of each
        count = len(strategies)
        self.now = 0.0
        self.timelines = [Timeline() for _ in range(count)]
        self._answers: list[Any] = [None] * count
        self._numbers = [0] * count
        self._meetings: dict[tuple[Any, ...], _Meeting] = {}
        self._locked: deque[int] = deque()  # who holds the lock, then who waits for it, in the order they came
        self._events: list[tuple[float, int, int, Callable[[], None]]] = []  # when, whose, which: a heap
        self._scheduled = 0
        if cut is None and served:
            cut = Cut(sum(each.current().size for each in served), len(served))
        self._servers = SimulatedServers(self, list(served), count - len(served), cut)
        self._batons = batons
        self._carry_out_one: dict[type, Callable[[int, Any], None]] = {}
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
        order = self._orders[rank]
        try:
            operation = order.steps.send(self._answers[rank])
        except StopIteration:
            order.end()
            return
        except Exception as error:
            order.explain(error)
            raise
        handler = self._carry_out_one.get(type(operation))
        if handler is None:
            handler = self._carry_out_one[type(operation)] = self._handler(operation, order)
        self._yielded[rank] += 1
        if rank < self._servers.count:  # servers make no steps
            order.get_on(self._yielded[rank])
        elif self._yielded[rank] > order.limit:
            raise order.too_long()
        handler(rank, operation)

    def _handler(self, operation: Any, order: Order) -> Callable[[int, Any], None]:
        """Who carries it out: a method of its verb, here or at the servers."""
        if isinstance(operation, Operation) and (self._servers.count or not isinstance(operation, OF_SERVERS)):
            for where in (self, self._servers):
                if (found := getattr(where, operation.verb, None)) is not None:
                    return found
        raise order.no_operation(operation)

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

    # ---- operations of one worker

    def begin_step(self, worker: int, operation: BeginStep) -> None:
        order = self._orders[worker]
        order.begin(operation, self._yielded[worker])
        more = (operation.replica or self.actors[worker]).begin_step()
        order.began(operation, more)
        self.go_on(worker, more)

    def compute(self, worker: int, operation: Compute) -> None:
        actor = operation.replica or self.actors[worker]
        timeline = self.timelines[worker]
        seconds = self.machine.compute_seconds(worker - self._servers.count, self.next_number(worker),
                                               getattr(actor, "samples", 1))
        timeline.compute += seconds
        if self._batons:
            asked = self._batons[worker - self._servers.count].begin(actor.compute)
        else:
            actor.compute()
            asked = None
        timeline.now += seconds
        self._computed(worker, asked)

    def _computed(self, worker: int, asked: np.ndarray | None) -> None:
        """A gradient is done, or asks for a sum over the batch first."""
        if asked is None:
            self.go_on(worker)
        else:
            self.at(self.timelines[worker].now, worker, lambda: self._meet(worker, BatchSum(asked)))

    def update(self, rank: int, operation: Update) -> None:
        actor = operation.replica or self.actors[rank]
        actor.update(operation)
        if rank >= self._servers.count:  # a server's time is that of publishing
            seconds = self.machine.worker_update_seconds(actor.parameters.nbytes)
            self.timelines[rank].compute += seconds
            self.timelines[rank].now += seconds
        self.go_on(rank)

    def step_done(self, worker: int, operation: StepDone) -> None:
        self._orders[worker].done(self._yielded[worker])
        self.actors[worker].step_done()
        self.go_on(worker)

    def next_epoch(self, rank: int, operation: NextEpoch) -> None:
        self._orders[rank].next_epoch(self._yielded[rank])
        if rank >= self._servers.count:
            self._servers.leave(rank)
        self._meet(rank, operation)

    def lock(self, worker: int, operation: Lock) -> None:
        self._locked.append(worker)
        if self._locked[0] == worker:
            self._hand_over(worker, self.timelines[worker].now)

    def unlock(self, worker: int, operation: Unlock) -> None:
        if not self._locked or self._locked.popleft() != worker:
            raise StrategyError(f"worker {worker} yielded Unlock, but does not hold the lock")
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

    # ---- operations of several workers

    def sum(self, worker: int, operation: Sum) -> None:
        self._meet(worker, operation)

    average = gather = sum_to_owners = gather_from_owners = gather_from_servers = sum

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

    def exchange(self, worker: int, operation: Exchange) -> None:
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
            raise StrategyError(f"worker {worker} yielded {type(operation).__name__}, but worker {first} "
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
            size = self._servers.give_all(operations)
            self._pass_time(members, rounds, size, 0, [None] * count)
            return
        if isinstance(operations[0], (Sum, BatchSum)):
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
        if isinstance(operations[0], BatchSum):
            answer = RESUME
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
            if answer is RESUME:
                self._computed(member, self._batons[member - self._servers.count].go_on())
            else:
                self.go_on(member, answer)
