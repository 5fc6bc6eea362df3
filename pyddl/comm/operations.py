"""The operations that strategies yield: what happens, never how.

A strategy is a generator; a driver carries out each operation it yields and sends the answer back. The same
generators run over MPI and on the simulator's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Arrived", "Average", "Compute", "Epoch", "Exchange", "Fetch", "Gather", "GatherFromOwners",
           "GatherFromServers", "Left", "Lock", "NextEpoch", "Operation", "Publish", "Push", "Receive", "StepDone",
           "Sum", "SumToOwners", "Unlock", "Version", "average", "average_replicas", "compute", "exchange", "fetch",
           "gather", "gather_from_owners", "gather_from_servers", "lock", "next_epoch", "publish", "push", "receive",
           "step_done", "sum_over_workers", "sum_to_owners", "unlock"]

Version = int | tuple[int, ...]
"""How many times a server has published; of each, where there are several."""


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


# ---- workers and servers


class Epoch(NamedTuple):
    """What begins at a fence.

    Attributes
    ----------
    number : int
        Fences so far in this session, from 1.
    step : int
        Steps (of ``batch_size`` samples) before it, since training began.
    steps : int
        Steps in it.
    """

    number: int
    step: int
    steps: int


class Arrived(NamedTuple):
    """A push, as the server finds it.

    Attributes
    ----------
    worker : int
    samples : int
        What the vector is a sum over.
    version : int
        Of this server's share, on which the vector was computed.
    vector : ndarray, float32
        This server's share; read only, valid until the next `receive`.
    clock : int
        Pushes of this worker before this one.
    """

    worker: int
    samples: int
    version: int
    vector: np.ndarray
    clock: int


class Left(NamedTuple):
    """A worker will push no more in this epoch.

    Attributes
    ----------
    worker : int
    why : str
        How it has died; empty where it has come to the end of the epoch.
    """

    worker: int
    why: str = ""


class NextEpoch(Operation):
    """All ranks meet, between two epochs. Answer: the `Epoch` that begins; None when training is over."""

    __slots__ = ()


@dataclass(slots=True, eq=False)
class Push(Operation):
    """Send ``vector``, the sum over ``samples`` rows, to the servers; it may be changed at once. Answer: None."""

    vector: np.ndarray
    samples: int
    version: Version


@dataclass(slots=True, eq=False)
class Fetch(Operation):
    """``out`` becomes the newest version whose ``progress`` is at least this; it is waited for. Answer: its `Version`.

    What comes from one server is of one version, and the server has dealt with all that this worker has pushed before.
    """

    out: np.ndarray
    progress: int


class Receive(Operation):
    """The next push. Answer: `Arrived`; `Left`; None when all workers have left this epoch and all pushes are read."""

    __slots__ = ()


@dataclass(slots=True, eq=False)
class Publish(Operation):
    """What the server has written becomes the current version, with this ``progress``. Answer: the version."""

    progress: int


@dataclass(slots=True, eq=False)
class GatherFromServers(Operation):
    """``vector`` becomes, on all ranks, servers too, what each server has published of its share. Answer: None."""

    vector: np.ndarray


_COMPUTE = Compute()
_LOCK = Lock()
_UNLOCK = Unlock()
_STEP_DONE = StepDone()
_NEXT_EPOCH = NextEpoch()
_RECEIVE = Receive()


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


def next_epoch() -> NextEpoch:
    """Meet all ranks between two epochs: the answer is the `Epoch` that begins, or None. Every rank calls it."""
    return _NEXT_EPOCH


def push(vector: np.ndarray, samples: int, version: Version) -> Push:
    """Send a sum over ``samples`` rows, computed on ``version``, to the servers."""
    return Push(vector, samples, version)


def fetch(out: np.ndarray, progress: int = 0) -> Fetch:
    """Copy what the servers have published into ``out``, once they have come as far as ``progress``."""
    return Fetch(out, progress)


def receive() -> Receive:
    """Wait for the next push of any worker: `Arrived`, `Left`, or None at the end of the epoch."""
    return _RECEIVE


def publish(progress: int = 0) -> Publish:
    """Let workers see what the server has written, and ``progress``, a number that only grows."""
    return Publish(progress)


def gather_from_servers(vector: np.ndarray) -> GatherFromServers:
    """Replace ``vector`` by what all servers have published. Every rank calls it, at a fence or after the last."""
    return GatherFromServers(vector)
