"""Machine: what simulated workers run on, and where their virtual time goes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pyddl import _check, options
from pyddl.random import SEEDS, STRATEGY

__all__ = ["Machine", "Timeline"]

COMPUTE, LATENCY, WORKER = range(3)  # what a random number is for


@dataclass(frozen=True)
class Machine:
    """What the simulated workers run on.

    Times vary by log-normal factors of mean 1. The sum of n bytes over P workers takes 2 log2(P) latencies and
    2 (P-1)/P n bytes [1]_; an exchange one latency and n bytes.

    Parameters
    ----------
    sample_seconds, step_seconds : float
        A gradient of r rows takes step_seconds + r sample_seconds, and so does what follows but is not said below.
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
    worker_update_bandwidth : float, optional
        The same of a worker; by default its updates are part of ``step_seconds``.
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
    worker_update_bandwidth: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("sample_seconds", "step_seconds", "jitter", "uneven", "latency", "node_latency"):
            _check.number(name, getattr(self, name), at_least=0)
        for name in ("bandwidth", "node_bandwidth", "straggler", "update_bandwidth"):
            _check.number(name, getattr(self, name), above=0)
        if self.worker_update_bandwidth is not None:
            _check.number("worker_update_bandwidth", self.worker_update_bandwidth, above=0)
        _check.integer("workers_per_node", self.workers_per_node, at_least=1)
        _check.integer("seed", self.seed, at_least=0)
        options.check_effects(vars(self))

    def compute_seconds(self, worker: int, number: int, samples: int) -> float:
        """How long a worker's ``number``-th gradient takes."""
        return ((self.step_seconds + samples * self.sample_seconds) * self._factor(self.jitter, COMPUTE, worker, number)
                * self._factor(self.uneven, WORKER, worker, 0) * (self.straggler if worker == 0 else 1))

    def update_seconds(self, size: int) -> float:
        """How long a server takes to update so many bytes."""
        return size / self.update_bandwidth

    def worker_update_seconds(self, size: int) -> float:
        """How long a worker takes."""
        return 0.0 if self.worker_update_bandwidth is None else size / self.worker_update_bandwidth

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
