"""The three ways through a training: of the server, of a worker, and of one process that is both."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from time import monotonic, perf_counter
from typing import Any

from pyddl.callbacks.link import Link, Packed, Patience
from pyddl.callbacks.messages import Acknowledged, Ask, Failed, Hello, ModelSent, Push
from pyddl.callbacks.served import Replica, Report, Served
from pyddl.callbacks.units import Unit
from pyddl.callbacks.work import Job
from pyddl.errors import CommError, PeerLost

__all__ = ["Serving", "train_alone", "work_on"]

AHEAD = 2  # pushes of a worker that the server has not acknowledged yet
LOOKS = 0.1  # seconds between two looks at the other processes and at the time limit

log = logging.getLogger("pyddl")


def train_alone(job: Job, served: Served) -> Report:
    """Serve and work in turn."""
    work = job.work()
    replica = Replica(served.copy(), served.parameters, rank=0)
    begin = perf_counter()
    while units := work.claim(0, job.fetch_every):
        if replica.version < served.version:
            replica.move(served.packed().unpack())
        for unit in units:
            update = replica.update(job.gradient, job.take(unit), unit)
            served.apply(job.descent, 0, work.done(0), replica.version, update)
    served.report.seconds = perf_counter() - begin
    return served.report


def work_on(job: Job, replica: Replica, server: Link) -> Report:
    """Be a worker, until the server has no more work; return its report."""
    server.send(Packed(Hello(job.options, job.items)))
    unacknowledged = 0
    while True:
        server.send(Packed(Ask(replica.version)))
        answer = _next(server)
        while not isinstance(answer, list | Report):
            if isinstance(answer, ModelSent):
                replica.move(answer)
            answer = _next(server)
        if isinstance(answer, Report):
            return answer
        unacknowledged = 0  # the server answers in the order of what it was sent
        for unit in answer:
            update = replica.update(job.gradient, job.take(unit), unit)
            while unacknowledged >= AHEAD:
                _next(server)
                unacknowledged -= 1
            # gradient may use the update's memory again while it is being sent: only the last push is waited for.
            server.send(Packed(Push(replica.version, update), copy=unit is not answer[-1]))
            unacknowledged += 1


def _next(server: Link) -> Any:
    """Wait for the server's next message."""
    patience, looked = Patience(), monotonic()
    while (message := server.poll()) is None:
        patience.wait()
        if monotonic() - looked > LOOKS:
            looked = monotonic()
            server.watch()
    if isinstance(message, Failed):
        raise PeerLost(f"rank {server.peer}, the server, ends training: {message.why}")
    return message


class Serving:
    """The server's side: hand out units and versions of the model, apply updates.

    Parameters
    ----------
    job : Job
    served : Served
    links : dict of int to Link
        To the workers, by rank. Those that are lost are taken out.
    on_failure : {"end", "continue"}
    timeout : float
        Seconds; 0 for ever.
    """

    def __init__(self, job: Job, served: Served, links: dict[int, Link], on_failure: str, timeout: float):
        self.job, self.served, self.links, self.on_failure, self.timeout = job, served, links, on_failure, timeout
        self.work = job.work()
        self.absent = set(links)  # workers that have not come yet
        self.asking: dict[int, int] = {}  # workers without work, and the version each has
        self.begin = 0.0  # when the first unit was handed out

    def run(self) -> Report:
        """Serve until all work is done."""
        served = self.served
        served.packed()  # a model that cannot travel is refused before the workers begin
        patience = Patience()
        heard = looked = monotonic()
        while len(self.asking) < len(self.links) or self.work.returned:
            news = list(self._news())
            for rank, message in news:
                self._take(rank, message)
            self._hand_out()
            if news:
                heard = monotonic()
                patience.reset()
                continue
            patience.wait()
            if monotonic() - looked > LOOKS:
                looked = monotonic()
                self._watch()
                if self.timeout and looked - heard > self.timeout:
                    raise CommError(self._stuck())
        for rank, version in self.asking.items():
            self._answer(rank, version, served.report)
        while any(self._guarded(rank, link.idle) is False for rank, link in list(self.links.items())):
            patience.wait()
        return served.report

    def _news(self) -> Iterator[tuple[int, Any]]:
        """At most one message of each worker: none can keep the others waiting."""
        for rank, link in list(self.links.items()):
            message = self._guarded(rank, link.poll)
            if message is not None:
                yield rank, message

    def _take(self, rank: int, message: Any) -> None:
        if isinstance(message, Push):
            self.served.apply(self.job.descent, rank, self.work.done(rank), message.version, message.update)
            self.served.report.seconds = perf_counter() - self.begin
            self._send(rank, Packed(Acknowledged()))
        elif isinstance(message, Ask):
            self.asking[rank] = message.version
        elif isinstance(message, Hello):
            self.job.require_same(message.options, message.items, rank)
            self.absent.discard(rank)
        elif isinstance(message, Failed):
            raise PeerLost(f"rank {rank} failed: {message.why}")

    def _hand_out(self) -> None:
        for rank, version in list(self.asking.items()):
            units = self.work.claim(rank, self.job.fetch_every)
            if not units:
                continue  # another may have more of its own partition
            self.begin = self.begin or perf_counter()
            del self.asking[rank]
            self._answer(rank, version, units)

    def _answer(self, rank: int, version: int, answer: list[Unit] | Report) -> None:
        """Send what was asked for, after the model where it has changed."""
        if version < self.served.version:
            self._send(rank, self.served.packed())
        self._send(rank, Packed(answer))

    # ---- workers that die ---------------------------------------------------------------------------------------

    def _send(self, rank: int, packed: Packed) -> None:
        if rank in self.links:
            self._guarded(rank, self.links[rank].send, packed)

    def _watch(self) -> None:
        for rank, link in list(self.links.items()):
            self._guarded(rank, link.watch)

    def _guarded(self, rank: int, call: Any, *arguments: Any) -> Any:
        """Call; where that shows that the worker is lost, go on without it, if that is wanted."""
        try:
            return call(*arguments)
        except PeerLost as lost:
            if self.on_failure == "end":
                raise
            self.links.pop(rank).abandon()
            self.absent.discard(rank)
            self.asking.pop(rank, None)
            self.work.lose(rank)
            self.served.report.lost.append(rank)
            if not self.links:
                raise CommError(f"all workers are lost, the last by this: {lost}") from None
            log.warning("%s; going on with %d workers, which do its work again", lost, len(self.links))
            return None

    def _stuck(self) -> str:
        held = [f"rank {rank} has not sent its update for {unit}" for rank, unit in self.work.held().items()]
        absent = [f"rank {rank} has not come to train" for rank in sorted(self.absent)]
        return (f"no worker has sent anything for {self.timeout:g} s: {', '.join(held + absent)}; a larger timeout "
                "allows longer gradients")
