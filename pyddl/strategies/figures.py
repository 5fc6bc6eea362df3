"""Figures: what was measured on the ranks, from which a strategy predicts how long its steps take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

__all__ = ["Figures", "Link"]


class Link(NamedTuple):
    """How long an operation of all ranks takes on vectors: ``latency + bytes / bandwidth``, in s and bytes/s."""

    latency: float
    bandwidth: float

    def seconds(self, nbytes: float) -> float:
        return self.latency + nbytes / self.bandwidth

    @classmethod
    def through(cls, short: tuple[int, float], long: tuple[int, float]) -> Link:
        """The line through two (bytes, seconds); never one that falls."""
        slope = max(long[1] - short[1], 0.01 * long[1]) / (long[0] - short[0])
        return cls(max(short[1] - short[0] * slope, 0.0), 1 / slope)


@dataclass(frozen=True)
class Figures:
    """What was measured on the ranks before training: seconds, of the slowest rank where ranks differ.

    Attributes
    ----------
    ranks, nodes : int
    crowding : float
        How much faster a rank's step is while the others are idle, 1 at least: what they take of cores and memory.
    rows : float
        Of one rank in one step.
    nbytes : int
        Of the parameters.
    apart : float
        A step, gradient and update, when no rank waits for another.
    together : float
        A step when all begin it together: until the last is done.
    per_row : float
        What each row of a rank adds to a step.
    update : float
        The optimizer's share of a step.
    hidden : float
        Share of a sum of the gradients that is over when the backward pass ends: between nodes slices travel meanwhile.
    split : float
        A step of the model split over all ranks; not finite where it cannot be split.
    links : dict of Link
        ``sum``, of the gradients; ``average``, and ``replicas``, of vectors that stay as they are; ``owners``, a sum to
        owners and a gather from them; ``exchange``, of
        pairs; ``pass``, one vector in memory added to another; ``served``, a push to rank 0 and a fetch of what it then
        publishes, of all others at once; and, where there are several nodes, ``node``, an average within each.
    unsure : float
        By what share steps may be measured wrongly: how far apart the two shortest measurements of one kind are.
    disturbed : float
        Share of the time of measuring in which ranks waited for cores that other work had; what they measured is
        without it.
    """

    ranks: int
    nodes: int
    crowding: float
    rows: float
    nbytes: int
    apart: float
    together: float
    per_row: float
    update: float
    hidden: float
    split: float
    links: Mapping[str, Link]
    unsure: float = 0.0
    disturbed: float = 0.0

    def link(self, name: str) -> float:
        """Seconds of an operation on a vector of the parameters' size."""
        return self.links[name].seconds(self.nbytes)

    def step(self, period: float) -> float:
        """A rank's own step where ranks wait for the slowest every ``period`` steps.

        What chance adds to one step evens out over several: the largest of the ranks' means over H steps lies above
        their common mean by 1/sqrt(H) of what it does for one.
        """
        return self.apart + (self.together - self.apart) / math.sqrt(period)

    def alone(self, rows: float) -> float:
        """A step of ``rows`` rows on one rank while the others are idle."""
        return max(self.apart + (rows - self.rows) * self.per_row, self.update) / self.crowding

    def minibatch(self, workers: int) -> float:
        """The gradient of a worker where so many share the rows of a step."""
        rows = self.ranks * self.rows / workers
        relief = max(1.0, self.crowding * workers / self.ranks) / self.crowding  # servers leave cores to workers
        return max(self.apart - self.update + (rows - self.rows) * self.per_row, 0.0) * relief

    def record(self) -> dict[str, Any]:
        """As plain values; those that are not finite are left out."""
        values = {name: value for name, value in asdict(self).items() if name != "split" or math.isfinite(value)}
        return {**values, "links": {name: link._asdict() for name, link in self.links.items()}}
