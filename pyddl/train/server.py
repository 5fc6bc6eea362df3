"""Server: a replica that serves. It keeps versions of its share, and moves them by what workers push."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from pyddl import _core
from pyddl.comm.operations import Arrived
from pyddl.data.sampler import Sampler
from pyddl.errors import NotFiniteError
from pyddl.models.protocol import Model
from pyddl.optim import Optimizer
from pyddl.train.replica import Replica

__all__ = ["Books", "Port", "Server"]


class Port(Protocol):
    """Where the versions of a share are: `pyddl.comm.server.ServerPort`, or a simulated one."""

    def current(self) -> np.ndarray:
        """The current version, which workers may be reading."""

    def free(self) -> np.ndarray:
        """Memory for the next version."""


class Books:
    """What a server has received since this session began.

    Attributes
    ----------
    pushes, samples : list of int
        By worker; dropped ones are not among the samples.
    dropped, dropped_samples : int
    staleness : Counter
        How many pushes came after so many updates.
    """

    def __init__(self, workers: int):
        self.pushes, self.samples = [0] * workers, [0] * workers
        self.dropped = self.dropped_samples = 0
        self.staleness: Counter[int] = Counter()

    def add(self, arrived: Arrived, staleness: int) -> None:
        self.pushes[arrived.worker] += 1
        self.samples[arrived.worker] += arrived.samples
        self.staleness[staleness] += 1

    def drop(self, arrived: Arrived) -> None:
        self.samples[arrived.worker] -= arrived.samples
        self.dropped += 1
        self.dropped_samples += arrived.samples

    def summary(self, version: int) -> dict[str, Any]:
        """For ``summary.json``."""
        return {"pushes": sum(self.pushes), "versions": version,
                "workers": [{"pushes": pushes, "samples": samples}
                            for pushes, samples in zip(self.pushes, self.samples, strict=True)],
                "dropped": self.dropped, "dropped_samples": self.dropped_samples,
                "staleness": {str(staleness): self.staleness[staleness] for staleness in sorted(self.staleness)}}


class Server(Replica):
    """One server of a strategy (see `pyddl.strategies.Served`), and the actor of its driver.

    Workers have the ranks after the servers'. ``parameters`` is the whole vector, for evaluation and checkpoints; what
    workers fetch is at the port.

    Parameters
    ----------
    model : Model
    optimizer : Optimizer
    sampler : Sampler
    workers : int
    on_publish : callable
        Called without arguments after each publication.
    **own
        As in `Replica`.
    """

    def __init__(self, model: Model, optimizer: Optimizer, sampler: Sampler, *, workers: int,
                 on_publish: Callable[[], None] = lambda: None, **own: Any):
        super().__init__(model, optimizer, sharded=True, **own)
        self.sampler, self.workers = sampler, workers
        self.gradients = self.gradients[self.share].copy()
        self.on_publish = on_publish
        self.version = 0
        self.consumed = 0  # samples that have arrived since training began
        self._in_version = 0  # those of them that had arrived at the last update
        self.books = Books(workers)
        self.compute_seconds = 0.0
        self.port: Port

    def serve(self, port: Port, consumed: int = 0) -> None:
        """Begin with ``parameters``, into which so many samples have gone: they are to be published."""
        self.port = port
        self.consumed = self._in_version = consumed
        port.free()[:] = self.parameters[self.share]

    def refresh(self) -> None:
        """Copy what is served into ``parameters``."""
        self.parameters[self.share] = self.port.current()

    @property
    def steps(self) -> int:
        return self.sampler.reached(self.consumed)

    def received(self, arrived: Arrived) -> None:
        """Enter a push into the books.

        Raises
        ------
        NotFiniteError
            It is not finite.
        """
        begin = perf_counter()
        at = _core.first_not_finite(arrived.vector)
        if at >= 0:
            at += self.share.start
            inside = [s.name for s in self.layout if s.begin <= at < s.end]
            raise NotFiniteError(
                f"step {self.steps}, rank {self.count + arrived.worker}: it pushed a vector whose first "
                f"bad value is {arrived.vector[at - self.share.start]}, in {inside[0] if inside else 'no slice'}: "
                "lower the learning rate, or set clip_norm")
        self.consumed += arrived.samples
        self.books.add(arrived, self.version - arrived.version)
        self.compute_seconds += perf_counter() - begin

    def update(self, vector: np.ndarray, *, scale: float, rate: float = 1.0) -> None:
        begin = perf_counter()
        free = self.port.free()
        free[:] = self.port.current()
        self.optimizer.update(free, vector, self.state, self._ranges, scale=scale, step=self.updates, rate=rate,
                              clock=self.sampler.reached(self._in_version))
        self._in_version = self.consumed
        self.updates += 1
        self.compute_seconds += perf_counter() - begin

    def add(self, vector: np.ndarray) -> None:
        begin = perf_counter()
        np.add(self.port.current(), vector, out=self.port.free())
        self.compute_seconds += perf_counter() - begin

    def drop(self, arrived: Arrived) -> None:
        self.books.drop(arrived)
        self.counters["dropped_samples"] = self.counters.get("dropped_samples", 0) + arrived.samples

    def published(self, version: int) -> None:
        self.version = version
        self.on_publish()

    def seconds(self) -> tuple[float, float]:
        """Spent so far in computing, and in waiting for data."""
        return self.compute_seconds, 0.0
