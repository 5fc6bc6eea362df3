"""Strategy: how vectors travel between workers, and when. It sees flat vectors, never a model."""

from __future__ import annotations

import inspect
from collections.abc import Generator, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np

from pyddl.comm.operations import Arrived, Average, Operation
from pyddl.errors import ParameterError, StrategyError
from pyddl.layout import Layout
from pyddl.strategies.figures import Figures

__all__ = ["Me", "Served", "Steps", "Strategy", "Turn", "average", "signature"]

Steps = Generator[Operation, Any, None]

S = TypeVar("S", bound="Strategy")


class Turn(NamedTuple):
    """A phase's turn within a step: a gradient and an update of its slices.

    Attributes
    ----------
    phase : str
    place : slice
        Of the whole vectors.
    last : bool
        Whether no other turn of this step follows.
    """

    phase: str
    place: slice
    last: bool


class Me(Protocol):
    """One worker, as its strategy sees it.

    Attributes
    ----------
    number, count : int
        This worker, and how many there are.
    layout : Layout
        Slices of the vectors.
    parameters, gradients : ndarray, float32
        ``gradients`` holds the sum over this worker's rows after `Compute`. Within a turn both are the phase's part of
        the vectors, otherwise whole.
    whole : ndarray, float32
        The parameters, always whole.
    trained : sequence of slice
        What phases of the stage train, ranges of the whole vectors: the rest is the same on all workers and stays so.
    samples : int
        Rows of this worker in the step; may be 0.
    samples_of_step : int
        Rows of the step of all workers.
    step : int
        Steps finished since the stage began; also after a resume.
    seed : int
        Key of everything random.
    vectors : dict of ndarray, float32
        One for each name in `Strategy.vectors`, whole, zero when a stage begins.
    counters : dict of int
        Numbers that the strategy wants to find again; none when a stage begins. Both are kept in checkpoints.
    clips : bool
        Whether the optimizer of the turn clips by norm.
    buffers : ndarray, float32
        State of the model that is not trained.
    replicas : sequence of Me
        Where `Strategy.replicas` says how many there are: those that live on this rank, in their order. Each has a
        number, rows, parameters, buffers and optimizer state of its own, and the gradients of this worker.
    """

    number: int
    count: int
    layout: Layout
    parameters: np.ndarray
    gradients: np.ndarray
    whole: np.ndarray
    trained: Sequence[slice]
    samples: int
    samples_of_step: int
    step: int
    seed: int
    vectors: dict[str, np.ndarray]
    counters: dict[str, int]
    buffers: np.ndarray

    @property
    def clips(self) -> bool: ...

    @property
    def replicas(self) -> Sequence[Me]: ...

    def turns(self) -> Iterator[Turn]:
        """The turns of this step, one after another: within the loop's body vectors are those of the phase."""

    def restart(self) -> None:
        """Forget the optimizer's state: the next update is its first."""

    def squared_norm(self) -> float:
        """In a turn: sum of squares of this worker's share of ``gradients``."""

    def merge_buffers(self, weights: Sequence[int] | None = None) -> Steps:
        """Operations that make the model's buffers one for all workers, by each slice's rule.

        ``weights`` are of this worker, or of its replicas where there are such; by default the rows seen since the last
        time.
        """


class Served(Protocol):
    """One server, as its strategy sees it: a share of the vector that workers fetch, in versions.

    `Update` and `add` write the next version, whole, beside the current one, which workers may be reading; the
    operation `Publish` puts it in its place, or, where nothing was written, only makes the progress known.

    Attributes
    ----------
    workers : int
        How many push to it.
    version : int
        The current one: how many have been published.
    steps : int
        Whole steps' worth of samples that have arrived since the stage began.
    sums : mapping of ndarray, float32
        By phase: memory for a sum of pushes.
    """

    workers: int
    version: int

    @property
    def sums(self) -> Mapping[str, np.ndarray]: ...

    @property
    def steps(self) -> int: ...

    def add(self, vector: np.ndarray) -> None:
        """The next version is the current one plus ``vector``."""

    def drop(self, arrived: Arrived) -> None:
        """This push will not be used: it is counted."""


class Strategy:
    """Base of all strategies: a name, a generator for the worker's side, and perhaps one for the server's.

    A strategy's constructor takes its own options, plain values, which are recorded with the run. One object serves
    every worker of a simulation: what belongs to a worker is in ``me``. docs/own_strategies.md shows a whole one.

    Attributes
    ----------
    name : str
        Public name; by default that of the class.
    synchronous : bool
        Whether all workers are in the same step at the same time, so that statistics of the whole batch have a meaning.
    together : bool
        Whether the gradient of a step is the sum over all workers, each of its slice.
    replicated : bool
        Whether the whole state is equal on all workers after each step (with servers: once it is settled after an
        epoch), so that any one stands for all.
    joint : bool
        Whether the workers train one model together: `settle` gives it, and losses of all of them count.
    needs : int
        The fewest workers it makes sense with; with servers, workers and servers.
    splits : bool
        Whether its workers may be model groups, several ranks each that hold one replica together.
    one_group : bool
        Whether all ranks are one model group, and so one worker.
    shards : bool
        Whether each worker keeps optimizer state for its share of the parameters only.
    updates_only : bool
        Whether in its steps nothing but `Update` changes the parameters: then what an update writes besides, the
        parameters in another type, stays true until the next one.
    sums_gradients : bool
        Whether what follows each `Compute` is the sum of ``me.gradients``, as they are, over all workers: then finished
        slices may start to travel during the backward pass.
    locks : bool
        Whether it yields `Lock`.
    replicas : int or None
        How many replicas all ranks together have, replica r on rank r mod P. None: each rank is one.
    vectors : tuple of str
        Names of the vectors that the strategy keeps for each worker.
    servers : int
        How many ranks, the first ones, are servers and no workers.
    tickets : bool
        Whether rows are handed out as *tickets*: ticket t of an epoch is slice t mod `slices` of its step t div
        `slices`, and goes to whichever worker is free. Otherwise worker w has slice w of each step.
    optimizes : bool
        Whether workers yield `Update`.
    server_rule : dict
        What the rule that servers update by has otherwise than the workers': ``optimizer``, its name, and options.
    """

    name: ClassVar[str]
    synchronous: ClassVar[bool] = False
    replicated: ClassVar[bool] = False
    joint: ClassVar[bool] = True
    needs: ClassVar[int] = 1
    splits: ClassVar[bool] = True
    one_group: ClassVar[bool] = False
    locks: ClassVar[bool] = False
    together: bool = False
    updates_only: bool = False
    sums_gradients: bool = False
    shards: bool = False
    replicas: int | None = None
    vectors: tuple[str, ...] = ()
    servers: int = 0
    tickets: bool = False
    optimizes: bool = True
    server_rule: Mapping[str, Any] = MappingProxyType({})
    _given: dict[str, Any]

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        if "name" not in cls.__dict__:
            cls.name = cls.__name__

    def __new__(cls: type[S], *given: Any, **named: Any) -> S:
        self = super().__new__(cls)  # type: ignore[misc]
        try:
            bound = signature(cls).bind(*given, **named)
        except TypeError:  # the constructor says it better; and copies are made without arguments
            return self
        bound.apply_defaults()
        self._given = dict(bound.arguments)
        return self

    def __init__(self) -> None:
        """Without options."""

    def options(self) -> dict[str, Any]:
        """What its constructor was given, by name, and the defaults of what was not: makes the same strategy again."""
        return dict(self._given)

    def __str__(self) -> str:
        """The name, and the mode where there are several."""
        return self.name

    def check(self, ranks: int, batch_size: int) -> None:
        """Raise `ParameterError` where the strategy makes no sense on so many ranks. Not collective.

        ``batch_size`` is what a step can have: the rows of all the data, where those are fewer.
        """
        if ranks < self.needs:
            raise ParameterError(f"strategy {self.name} needs {self.needs} ranks, and there is {ranks}: choose "
                                 f"strategy local, or start more ranks (pyddl train --ranks {self.needs})")

    def step_seconds(self, figures: Figures) -> float:
        """Predicted seconds of a step of all ranks, for strategy `auto`."""
        raise TypeError(f"{type(self).__name__} does not say how long its steps take")

    def check_stages(self, phases: Sequence[int]) -> None:
        """Raise `ParameterError` where the strategy cannot train stages of so many phases each. Not collective."""

    def idle(self, workers: int) -> range:
        """The workers that have nothing to compute."""
        return range(0)

    def slices(self, workers: int) -> int:
        """Into how many slices a step is cut."""
        return workers

    def worker(self, me: Me) -> Steps:
        """What one worker does in a stage, as operations: `BeginStep`, then for each of ``me.turns()`` `Compute` and
        what makes an `Update` of it, then `StepDone`."""
        raise StrategyError(f"{type(self).__name__} lacks its worker side: a method worker(self, me) that yields "
                            "operations (docs/own_strategies.md shows one)")

    def server(self, me: Served) -> Steps:
        """What one server does in a stage, as operations."""
        raise StrategyError(f"{type(self).__name__} has servers and lacks their side: a method server(self, me) that "
                            "yields operations")

    def settle(self, me: Me) -> Steps:
        """Operations that give ``me.parameters`` and buffers the values that training stands for: to evaluate, where a
        stage begins, and at the end. By default parameters stay as they are, and buffers are merged.

        Evaluation works on a copy, so that training does not depend on it.
        """
        yield from me.merge_buffers()


def signature(cls: Any) -> inspect.Signature:
    """What the constructor of a strategy takes."""
    whole = inspect.signature(cls.__init__)
    return whole.replace(parameters=list(whole.parameters.values())[1:])


def average(me: Me, out: np.ndarray, vectors: Sequence[np.ndarray], weights: Sequence[int], level: str = "world"
            ) -> Generator[Operation, Any, int]:
    """`Average` of whole vectors, but what nobody trains, which would move by rounding. The sum of the weights.

    A part of a strategy: ``weight = yield from average(me, me.parameters, [me.parameters], [samples])``.
    """
    total = 0
    for place in me.trained:
        mine = out[place]  # one object where it is the vector itself: a group may then work in place
        total = yield Average(mine, [mine if each is out else each[place] for each in vectors], weights, level)
    return total
