"""The operations that strategies yield: what happens, never how.

A strategy is a generator; a driver carries out each operation it yields and sends the answer back. The same
generators run over MPI and on the simulator's clock. Whoever carries one out has a method of the operation's ``verb``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from pyddl._names import offers

__all__ = ["Arrived", "Average", "BeginStep", "Compute", "Epoch", "Exchange", "Fetch", "Gather", "GatherFromOwners",
           "GatherFromServers", "Left", "Lock", "NextEpoch", "Operation", "Publish", "Push", "Receive", "StepDone",
           "Sum", "SumToOwners", "Unlock", "Update", "Version"]

__dir__ = offers(__name__)

Version = int | tuple[int, ...]
"""How many times a server has published; of each, where there are several."""


class Operation:
    """Base of all operations.

    Attributes
    ----------
    verb : str
        The class's name in small letters: ``sum_to_owners``.
    """

    __slots__ = ()
    verb: ClassVar[str]

    def __init_subclass__(cls) -> None:
        cls.verb = re.sub(r"(?<=.)(?=[A-Z])", "_", cls.__name__).lower()


# ---- a step of one worker


@dataclass(slots=True, eq=False)
class BeginStep(Operation):
    """The rows of the next step of this worker, or of a replica of its. Answer: False at the end of the data."""

    replica: Any = None


@dataclass(slots=True, eq=False)
class Compute(Operation):
    """In a turn: the gradient of the step's rows, into the gradients of this worker, or of a replica. Answer: None."""

    replica: Any = None


@dataclass(slots=True, eq=False)
class Update(Operation):
    """Let the optimizer move parameters by ``scale`` times a sum of gradients. Answer: None.

    In a worker's turn: its parameters, or a replica's, by its gradients; its share of them where it has one, and then
    ``squared_norm`` is of all the gradients, for clipping. On a server: the next version is the current one, of which
    the slices of ``phase`` are moved by ``vector``; ``rate`` multiplies the learning rate.
    """

    scale: float
    squared_norm: float | None = None
    replica: Any = None
    vector: np.ndarray | None = None
    phase: str | None = None
    rate: float = 1.0


class StepDone(Operation):
    """A step is over: the trainer may look at the vectors, evaluate and save. Answer: None."""

    __slots__ = ()


# ---- among workers; all of them yield these


@dataclass(slots=True, eq=False)
class Sum(Operation):
    """``vector`` becomes its sum over all workers, on all workers. Answer: the sum of ``count``."""

    vector: np.ndarray
    count: int = 0


@dataclass(slots=True, eq=False)
class Average(Operation):
    """``out`` becomes the weighted mean of the ``vectors``, perhaps several or none, of each worker. Answer: the sum of
    the weights.

    The workers are those of the ``world``, or of this one's ``node``. Added along one fixed tree over the vectors,
    whatever carries them: the same bits on every worker, by MPI and in a simulation. Vector i of worker w of P stands
    at place i P + w. Where all weights are 0 ``out`` stays as it is.
    """

    out: np.ndarray
    vectors: Sequence[np.ndarray]
    weights: Sequence[int]
    level: str = "world"


@dataclass(slots=True, eq=False)
class Exchange(Operation):
    """``out``, another vector, becomes the ``vector`` of worker ``partner``, who names this one at the same time.
    Answer: None."""

    vector: np.ndarray
    out: np.ndarray
    partner: int


@dataclass(slots=True, eq=False)
class Gather(Operation):
    """Answer: a short vector of each worker, in worker order, on all workers. Not for parameters."""

    vector: np.ndarray


@dataclass(slots=True, eq=False)
class SumToOwners(Operation):
    """Each worker's share of ``vector`` becomes its sum over all workers; other elements are lost. Answer as `Sum`."""

    vector: np.ndarray
    count: int = 0


@dataclass(slots=True, eq=False)
class GatherFromOwners(Operation):
    """``vector`` becomes, on all workers, what each of them has in its share. Answer: None."""

    vector: np.ndarray


class Lock(Operation):
    """Wait for the lock that all workers share, and hold it; who uses it says so by ``locks``. Answer: None."""

    __slots__ = ()


class Unlock(Operation):
    """Give the lock back. Answer: None."""

    __slots__ = ()


# ---- workers and servers


class Epoch(NamedTuple):
    """What begins at a fence.

    Attributes
    ----------
    number : int
        Fences so far, from 1.
    step : int
        Steps (of ``batch_size`` samples) before it, since the stage began.
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
        Of this server, on which the vector was computed.
    vector : ndarray, float32
        This server's share; read only, valid until the next `Receive`.
    phase : str or None
        Whose slices the vector is of; None: all.
    rows : int
        Those of the minibatches that this push completes; 0 where more pushes of them follow.
    weight : float
        What part of a step, or how many steps, the vector stands for.
    staleness : int
        Updates of the phase since that version.
    clock : int
        Pushes of this worker before this one.
    """

    worker: int
    samples: int
    version: int
    vector: np.ndarray
    phase: str | None = None
    rows: int = 0
    weight: float = 1.0
    staleness: int = 0
    clock: int = 0


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
    """All ranks meet, between two epochs. Answer: the `Epoch` that begins; None when the stage is over."""

    __slots__ = ()


@dataclass(slots=True, eq=False)
class Push(Operation):
    """Send ``vector``, the sum over ``samples`` rows, to the servers; it may be changed at once. Answer: None.

    It is of the slices of ``phase``, computed on ``version``; with it minibatches of ``rows`` rows are complete. It
    stands for ``weight`` steps of all workers: a part of one, or several.
    """

    vector: np.ndarray
    samples: int
    version: Version
    phase: str | None = None
    rows: int = 0
    weight: float = 1.0


@dataclass(slots=True, eq=False)
class Fetch(Operation):
    """``out``, of all slices, becomes the newest version whose ``progress`` is at least this; it is waited for. Answer:
    its `Version`.

    What comes from one server is of one version, and the server has dealt with all that this worker has pushed before.
    """

    out: np.ndarray
    progress: int = 0


class Receive(Operation):
    """The next push. Answer: `Arrived`; `Left`; None when all workers have left this epoch and all pushes are read."""

    __slots__ = ()


@dataclass(slots=True, eq=False)
class Publish(Operation):
    """What the server has written becomes the current version, with this ``progress``, a number that only grows.
    Answer: the version."""

    progress: int = 0


@dataclass(slots=True, eq=False)
class GatherFromServers(Operation):
    """``vector`` becomes, on all ranks, servers too, what each server has published of its share. Answer: None."""

    vector: np.ndarray
