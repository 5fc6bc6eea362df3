"""The operations that strategies yield: what happens, never how.

A strategy is a generator; a driver carries out each operation it yields and sends the answer back. The same
generators run over MPI and on the simulator's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Average", "Compute", "Exchange", "Gather", "GatherFromOwners", "Lock", "Operation", "StepDone", "Sum",
           "SumToOwners", "Unlock", "average", "average_replicas", "compute", "exchange", "gather",
           "gather_from_owners", "lock", "step_done", "sum_over_workers", "sum_to_owners", "unlock"]


class Operation:
    """Base of all operations."""

    __slots__ = ()


@dataclass(slots=True, eq=False)
class Compute(Operation):
    """The gradient of the next rows of this worker, or of a replica of its. Answer: False at the end of the data."""

    replica: Any = None


@dataclass(slots=True, eq=False)
class Sum(Operation):
    """``vector`` becomes its sum over all workers, on all workers. Answer: the sum of ``count``."""

    vector: np.ndarray
    count: int


@dataclass(slots=True, eq=False)
class Average(Operation):
    """``out`` becomes the weighted mean of the ``vectors`` of all workers of ``level``. Answer: the sum of the weights.

    Added along one fixed tree over the vectors, whatever carries them: the same bits on every worker, by MPI and in a
    simulation. Vector i of worker w of P stands at place i P + w. Where all weights are 0 ``out`` stays as it is.
    """

    out: np.ndarray
    vectors: Sequence[np.ndarray]
    weights: Sequence[int]
    level: str


@dataclass(slots=True, eq=False)
class Exchange(Operation):
    """``out`` becomes the ``vector`` of worker ``partner``, who names this one at the same time. Answer: None."""

    vector: np.ndarray
    out: np.ndarray
    partner: int


@dataclass(slots=True, eq=False)
class Gather(Operation):
    """Answer: a short vector of each worker, in worker order, on all workers."""

    vector: np.ndarray


class Lock(Operation):
    """Wait for the lock that all workers share, and hold it. Answer: None."""

    __slots__ = ()


class Unlock(Operation):
    """Give the lock back. Answer: None."""

    __slots__ = ()


@dataclass(slots=True, eq=False)
class SumToOwners(Operation):
    """Each worker's share of ``vector`` becomes its sum over all workers; other elements are lost. Answer as `Sum`."""

    vector: np.ndarray
    count: int


@dataclass(slots=True, eq=False)
class GatherFromOwners(Operation):
    """``vector`` becomes, on all workers, what each of them has in its share. Answer: None."""

    vector: np.ndarray


class StepDone(Operation):
    """A step is over: the trainer may look at the vectors, evaluate and save. Answer: None."""

    __slots__ = ()


_COMPUTE = Compute()
_LOCK = Lock()
_UNLOCK = Unlock()
_STEP_DONE = StepDone()


def compute(replica: Any = None) -> Compute:
    """Compute the gradient of my next rows into ``me.gradients``; false at the end of the data.

    With one of ``me.replicas``, of its next rows into its gradients.
    """
    return _COMPUTE if replica is None else Compute(replica)


def lock() -> Lock:
    """Wait until no other worker holds the lock. A strategy that uses it says so by ``locks``."""
    return _LOCK


def unlock() -> Unlock:
    """Let the next worker have the lock."""
    return _UNLOCK


def sum_over_workers(vector: np.ndarray, count: int = 0) -> Sum:
    """Sum ``vector`` over all workers, in place; the answer is the sum of ``count``. Every worker calls it."""
    return Sum(vector, count)


def step_done() -> StepDone:
    """Tell the trainer that parameters are those of a finished step."""
    return _STEP_DONE


def average(vector: np.ndarray, weight: int, level: str = "world") -> Average:
    """Replace ``vector`` by its weighted mean over the workers of the ``world``, or of this worker's ``node``."""
    return Average(vector, (vector,), (weight,), level)


def average_replicas(out: np.ndarray, vectors: Sequence[np.ndarray], weights: Sequence[int]) -> Average:
    """Write the weighted mean of all workers' ``vectors``, perhaps several or none of each, into ``out``."""
    return Average(out, vectors, weights, "world")


def exchange(vector: np.ndarray, out: np.ndarray, partner: int) -> Exchange:
    """Send ``vector`` to ``partner`` and receive theirs into ``out``, another vector."""
    return Exchange(vector, out, partner)


def sum_to_owners(vector: np.ndarray, count: int = 0) -> SumToOwners:
    """Sum ``vector`` over all workers, each into its own share only; the answer is the sum of ``count``."""
    return SumToOwners(vector, count)


def gather_from_owners(vector: np.ndarray) -> GatherFromOwners:
    """Replace ``vector`` by the shares of all workers."""
    return GatherFromOwners(vector)


def gather(vector: np.ndarray) -> Gather:
    """The short ``vector`` of each worker: not for parameters."""
    return Gather(vector)
