"""Server: a replica that serves. It keeps versions of its part, and moves them by what workers push."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Protocol

import numpy as np

from pyddl import _core
from pyddl.comm.cut import Cut
from pyddl.comm.operations import Arrived, Update
from pyddl.data.sampler import Sampler
from pyddl.errors import NotFiniteError
from pyddl.models.protocol import Model
from pyddl.models.stages import Stage
from pyddl.train.replica import NOT_FINITE_CURE, Replica, Rules

__all__ = ["Port", "Received", "Server"]

REMEMBERED = 1 << 16  # updates of a phase whose versions are known: no push is staler


class Port(Protocol):
    """Where the versions of a part are: `pyddl.comm.server.ServerPort`, or a simulated one."""

    def current(self) -> np.ndarray:
        """The current version, which workers may be reading."""

    def free(self) -> np.ndarray:
        """Memory for the next version."""


class Received:
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

    def add(self, arrived: Arrived) -> None:
        self.pushes[arrived.worker] += 1
        self.samples[arrived.worker] += arrived.rows
        self.staleness[arrived.staleness] += 1

    def drop(self, arrived: Arrived) -> None:
        self.samples[arrived.worker] -= arrived.rows
        self.dropped += 1
        self.dropped_samples += arrived.rows

    def summary(self, version: int) -> dict[str, Any]:
        """For ``summary.json``."""
        return {"pushes": sum(self.pushes), "versions": version,
                "workers": [{"pushes": pushes, "samples": samples}
                            for pushes, samples in zip(self.pushes, self.samples, strict=True)],
                "dropped": self.dropped, "dropped_samples": self.dropped_samples,
                "staleness": {str(staleness): self.staleness[staleness] for staleness in sorted(self.staleness)}}


class Server(Replica):
    """One server of a strategy (see `pyddl.strategies.Served`), and the actor of its driver.

    Workers have the ranks after the servers'. ``whole`` is the whole vector, for evaluation and checkpoints; what
    workers fetch is at the port.

    Parameters
    ----------
    model : Model
    sampler : Sampler
    workers : int
    on_publish : callable
        Called without arguments after each publication.
    **own
        As in `Replica`.
    """

    def __init__(self, model: Model, sampler: Sampler, *, workers: int,
                 on_publish: Callable[[], None] = lambda: None, **own: Any):
        super().__init__(model, gradients=np.zeros(0, dtype=np.float32), sharded=True, **own)
        self.sampler, self.workers, self.owners = sampler, workers, workers
        self.on_publish = on_publish
        self.version = 0
        self.consumed = 0  # samples that have arrived since training began
        self._in_version = 0  # those of them that had arrived at the last update
        self._first_step = 0  # of the stage
        self.received_so_far = Received(workers)
        self.compute_seconds = 0.0
        self.cut: Cut
        self.port: Port

    @property
    def _members(self) -> Sequence[Replica]:
        return ()  # it sees no rows

    def enter(self, stage: Stage, rules: Rules) -> None:
        super().enter(stage, rules)
        segments = {each.name: (each.begin, each.end) for each in self.phases}
        self.cut = Cut(self.layout.size, self.count, segments.values())
        self._places = {name: self.cut.within(self.number, *segment)[0] for name, segment in segments.items()}
        self.sums: dict[str, np.ndarray] = {name: np.zeros(place.stop - place.start, dtype=np.float32)
                                            for name, place in self._places.items()}
        self._updated_at: dict[str, list[int]] = {name: [] for name in segments}  # versions that an update has made

    def serve(self, port: Port, consumed: int = 0, stage_began: int = 0) -> None:
        """Begin with the parameters, into which so many samples have gone: they are to be published.

        The stage is that which began with step ``stage_began``.
        """
        self.port, self._first_step = port, stage_began
        self.consumed = self._in_version = consumed
        self.version = 0
        free = port.free()
        at = 0
        for piece in self.cut.pieces[self.number]:
            free[at : at + piece.stop - piece.start] = self.whole[piece]
            at += piece.stop - piece.start

    def refresh(self) -> None:
        """Copy what is served into the whole vector."""
        self.cut.scatter(self.number, self.port.current(), self.whole)

    @property
    def steps(self) -> int:
        return self.sampler.reached(self.consumed) - self._first_step

    def received(self, arrived: Arrived) -> Arrived:
        """Enter a push into the books, and say how stale it is.

        Raises
        ------
        NotFiniteError
            It is not finite.
        """
        begin = perf_counter()
        at = _core.first_not_finite(arrived.vector)
        if at >= 0:
            self.diverged(NotFiniteError(
                f"step {self.steps}, rank {self.count + arrived.worker}: it pushed a vector whose first bad value is "
                f"{arrived.vector[at]}, in {self._slice_of(arrived.phase, at)}: {NOT_FINITE_CURE}"))
        self.consumed += arrived.rows
        updates = self._updated_at.get(arrived.phase or "", None)
        staleness = self.version - arrived.version if updates is None else (
            len(updates) - bisect_right(updates, arrived.version))
        arrived = arrived._replace(staleness=staleness)
        self.received_so_far.add(arrived)
        self.compute_seconds += perf_counter() - begin
        return arrived

    def _slice_of(self, phase: str | None, at: int) -> str:
        """Name of the slice that element ``at`` of a push belongs to."""
        places = self.cut.part(self.number, np.arange(self.layout.size))
        place = at if phase is None else self._places[phase].start + at
        return self.layout.name_at(int(places[place]))

    def update(self, operation: Update) -> None:
        begin = perf_counter()
        assert operation.vector is not None and operation.phase is not None
        free, phase = self.port.free(), self._by_name[operation.phase]
        free[:] = self.port.current()
        phase.update(free[self._places[phase.name]], operation.vector, None, operation,
                     self.sampler.reached(self._in_version) - self._first_step)
        made = self._updated_at[phase.name]
        made.append(self.version + 1)
        if len(made) > REMEMBERED:
            del made[: REMEMBERED // 2]
        self._in_version = self.consumed
        self.compute_seconds += perf_counter() - begin

    def add(self, vector: np.ndarray) -> None:
        begin = perf_counter()
        np.add(self.port.current(), vector, out=self.port.free())
        self.compute_seconds += perf_counter() - begin

    def drop(self, arrived: Arrived) -> None:
        self.received_so_far.drop(arrived)
        self.counters["dropped_samples"] = self.counters.get("dropped_samples", 0) + arrived.rows

    def published(self, version: int) -> None:
        self.version = version
        self.on_publish()

    def seconds(self) -> tuple[float, float]:
        """Spent so far in computing, and in waiting for data."""
        return self.compute_seconds, 0.0
