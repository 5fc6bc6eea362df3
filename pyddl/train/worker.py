"""Worker: a replica that computes. It joins model, data and optimizer for the strategy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import isfinite
from time import perf_counter
from typing import Any

import numpy as np

from pyddl import _core
from pyddl.comm.model_group import ModelGroup
from pyddl.comm.operations import Update, Version
from pyddl.data.batch import Batch, Ready
from pyddl.data.prefetch import Loader
from pyddl.data.sampler import Sampler
from pyddl.data.source import Source
from pyddl.data.tickets import SliceLoader, TicketLoader
from pyddl.errors import NotFiniteError, ParameterError, StrategyError
from pyddl.models.protocol import Model
from pyddl.models.stages import Stage
from pyddl.strategies import Turn
from pyddl.train.phase import PhaseState
from pyddl.train.replica import NOT_FINITE_CURE, Replica, Rules, chains_of, not_finite

__all__ = ["SHARDS", "Worker"]


@dataclass
class _Before:
    """What a worker had before a step."""

    buffers: np.ndarray
    seen: int = 0
    rows_seen: Mapping[str, int] = field(default_factory=dict)
    counters: Mapping[str, Any] = field(default_factory=dict)
    losses: Mapping[str, int] = field(default_factory=dict)
    """How many of each kind."""

    def take(self, worker: Worker) -> None:
        self.buffers[:] = worker.buffers
        self.seen, self.rows_seen, self.counters = worker.seen, dict(worker.rows_seen), dict(worker.counters)
        self.losses = {name: len(sums) for name, sums in worker.losses.items()}

    def give(self, worker: Worker) -> None:
        worker.buffers[:] = self.buffers
        worker.seen = self.seen
        worker.rows_seen.clear()
        worker.rows_seen.update(self.rows_seen)
        worker.counters.update(self.counters)
        for name, sums in worker.losses.items():
            del sums[self.losses.get(name, 0) :]


SHARDS = 8  # micro-shards of a step under --reproducible: results are the same for every divisor of it


class Worker(Replica):
    """One worker of a strategy (see `pyddl.strategies.Me`), and the actor of its driver.

    Parameters
    ----------
    model : Model
    sampler : Sampler
        Which rows belong to which step.
    reproducible : bool, default=False
        Compute the step in its `SHARDS` micro-shards, one by one, and add them along a binary tree.
    together : bool, default=False
        Whether the gradients of all workers are summed, each of its slice of the step.
    batch_sum : callable, optional
        What `Batch.sum` does; the identity by default.
    on_step : callable, optional
        Called without arguments after each finished step.
    group : ModelGroup, optional
        Where ``model`` is a part of a split one: the ranks that hold the others, and act as one worker together.
    rank : int, optional
        Where it lives, for messages; by default its number.
    updates_only : bool, default=False
        Nothing but `update` changes the parameters between `open` and the end of training. Then a model that takes
        them in bfloat16 gets the copy that the latest update has written.
    **own
        As in `Replica`.

    Attributes
    ----------
    loader : Loader, SliceLoader or TicketLoader
        Gives this worker's part of each step, or its tickets; set when a stage begins.
    replicas : list of Worker
        Those that `host` has made.
    travels : callable or None
        ``travels(gradients, slices)`` gives what to announce finished slices of a phase's gradients to, or None.
    last_fetched : tuple of int
    spreads : Counter
        Where there are several servers: the versions of the last fetch, and how many fetches had versions so far apart.
    """

    loader: Loader | SliceLoader | TicketLoader

    def __init__(self, model: Model, sampler: Sampler, *, reproducible: bool = False, together: bool = False,
                 batch_sum: Callable[[np.ndarray], np.ndarray] | None = None,
                 on_step: Callable[[], None] = lambda: None, group: ModelGroup | None = None,
                 rank: int | None = None, updates_only: bool = False, **own: Any):
        super().__init__(model, **own)
        self.sampler, self.group, self.together = sampler, group, together
        self.rank = self.number if rank is None else rank
        self._rounded: np.ndarray | None = None  # the parameters in bfloat16
        self._rounded_phases: set[str] = set()  # of which phases it is current
        if updates_only and getattr(model, "takes_rounded", False):
            self._rounded = model.layout.zeros().view(np.uint16)[: model.layout.size]
        self.replicas: list[Worker] = []
        self.compute_seconds = 0.0
        self._shards = SHARDS // self.count if reproducible else 0
        self._partial = [model.layout.zeros() for _ in range(self._shards.bit_length() - 1)] if reproducible else []
        self._sum_over_batch = batch_sum
        self._sum_seconds = 0.0
        self._batch_sum = _no_sum_of_shards if reproducible else None if batch_sum is None else self._timed_sum
        mine = self.number if self.owners == self.count else 0
        self._begun: _Before  # these three under a server only
        self._before: _Before
        self._awaited: int  # the version that says that the step which `_before` is of has been made
        self._asked = True  # whether this step has fetched, where that matters
        self._chains = chains_of(model.buffers, mine, self.owners, together=together)
        self.on_step = on_step
        self.travels: Callable[[np.ndarray, list[tuple[int, int]]], Ready | None] = lambda gradients, slices: None
        self.announces: list[Ready | None] = []
        self._first_step = 0
        self._batch = Batch(np.empty((0, 0), dtype=np.float32))
        self._computed: bool | None = None  # whether the rows of the step have had their gradient; None between steps
        self._phase: PhaseState | None = None  # whose turn it is
        self.last_fetched: Version = ()
        self.spreads: Counter[int] = Counter()

    def host(self, replicas: int) -> None:
        """Make those of ``replicas`` replicas that live on this rank; the worker itself only holds what they share."""
        self.hosts, self.owners = True, replicas
        for number in range(self.number, replicas, self.count):
            replica = Worker(self.model, self.sampler, number=number, count=replicas, seed=self.seed,
                             gradients=self.whole_gradients, rank=self.rank)
            replica.losses, replica.rows_seen = self.losses, self.rows_seen
            replica.diverged = lambda error: self.diverged(error)
            self.replicas.append(replica)

    @property
    def rows(self) -> Sequence[Worker]:
        """Those who take rows of each step: the replicas, or the worker itself."""
        return self.replicas if self.hosts else (self,)

    def enter(self, stage: Stage, rules: Rules) -> None:
        super().enter(stage, rules)
        for replica in self.replicas:
            replica.enter(stage, rules)
        self._rounded_phases = set()
        self._covered = sum(each.size for each in self.phases) == self.layout.size
        rounded = self._rounded
        self._of_phases = [(self.whole[each.place], self.whole_gradients[each.place]) for each in self.phases]
        self._of_shares = [(parameters[each.share], gradients[each.share],
                            None if rounded is None else rounded[each.place][each.share])
                           for each, (parameters, gradients) in zip(self.phases, self._of_phases, strict=True)]
        self.announce()

    def announce(self) -> None:
        """From now on finished slices are announced, where that gains anything."""
        self.announces = [self._travelling(each) for each in self.phases]

    def _travelling(self, phase: PhaseState) -> Ready | None:
        """Where the model announces finished slices of a phase, by their places in the whole vector."""
        begin = phase.begin
        travels = self.travels(self.whole_gradients[phase.place], [
            (s.begin - begin, s.end - begin) for s in self.layout if begin <= s.begin < phase.end])
        if travels is None or begin == 0:
            return travels
        return lambda first, last: travels(first - begin, last - begin)

    def open(self, source: Source, first_step: int, steps: int, *, stage_began: int = 0, **options: Any) -> ExitStack:
        """Start the loaders of all `rows`; the context closes them. Until then anyone may have set the parameters.

        Steps are counted from the beginning of training; the stage's are those from ``stage_began`` on.
        """
        self._rounded_phases = set()
        loaders = ExitStack()
        for each in self.rows:
            each._first_step = stage_began
            each.loader = loaders.enter_context(Loader(source, self.sampler, each.number, each.count,
                                                       first_step=first_step, steps=steps, **options))
        return loaders

    def take(self, loader: SliceLoader | TicketLoader, stage_began: int) -> None:
        """The same with a loader that is given."""
        self._rounded_phases = set()
        self.loader, self._first_step = loader, stage_began
        if isinstance(loader, SliceLoader):
            self._begun, self._before = _Before(self.buffers.copy()), _Before(self.buffers.copy())
            self._awaited = 0

    def seconds(self) -> tuple[float, float]:
        """Spent so far in computing, and in waiting for data."""
        return (sum(each.compute_seconds for each in self.rows), sum(each.loader.waited for each in self.rows))

    # ---- a step

    def begin_step(self) -> bool:
        """Have the rows of the next step; false at the end of the data."""
        batch = self.loader.next()
        if batch is None:
            return False
        if self._batch_sum is not None:
            batch.sum = self._batch_sum
        batch.group, batch.chains = self.group, self._chains
        self.samples = len(batch)
        self.samples_of_step = self.sampler.rows_in(batch.step)
        batch.total = self.samples_of_step if self.together else self.samples
        if isinstance(self.loader, SliceLoader):
            self._begun.take(self)
            self._asked = False
        self.seen += self.samples
        self._batch = batch
        self._computed = self.samples == 0
        return True

    def take_back(self) -> None:
        """What was done since the first step began whose update, and any later one, a server in mode sync has not made:
        a worker has gone, whose push was needed. The others may have begun further steps, of old parameters."""
        self._before.give(self)

    def _due(self) -> list[PhaseState]:
        """The phases that have a turn in this step, whose number is the batch's: tickets come in any order."""
        step = self._batch.step - self._first_step
        return [each for each in self.phases if each.is_due(step)]

    def turns(self) -> Iterator[Turn]:
        """The turns of this step: until the next one is asked for, vectors are those of the phase."""
        batch, due = self._batch, self._due()
        try:
            for each in due:
                self._phase = each
                batch.phase, batch.turn, batch.ready = each.name, each.number, self.announces[each.number]
                self.parameters, self.gradients = self._of_phases[each.number]
                yield each.turns[each is due[-1]]
        finally:  # also where the loop's body has left it
            self._phase = None
            self.parameters, self.gradients = self.whole, self.whole_gradients

    def _in_turn(self, what: str) -> PhaseState:
        """The phase whose turn it is."""
        if self._phase is None:
            raise StrategyError(f"the strategy asked for {what} outside a turn: it belongs into the loop "
                                "for turn in me.turns():")
        return self._phase

    @property
    def clips(self) -> bool:
        return self._in_turn("clips").clips

    def compute(self) -> None:
        """The gradient of the turn's phase, of this worker's rows."""
        self._in_turn("Compute")
        self._computed = True
        begin = self._clock()
        batch = self._batch
        self.rows_seen[batch.phase] += self.samples
        if self._shards:
            first = self.number * self._shards
            self._gradient_of_shards(batch, first, first + self._shards, self.whole_gradients)
        else:
            self._loss_of(batch, self.whole_gradients)
        self.compute_seconds += self._clock() - begin

    def update(self, operation: Update) -> None:
        """Move this worker's share of the phase's parameters by the optimizer's rule."""
        begin = self._clock()
        phase = self._in_turn("Update")
        if phase.clips and self.group is not None:
            norm = operation.squared_norm
            operation.squared_norm = self.group.total(self.squared_norm() if norm is None else norm)
        phase.update(*self._of_shares[phase.number], operation, self._batch.step - self._first_step)
        self._rounded_phases.add(phase.name)
        self.compute_seconds += self._clock() - begin

    def squared_norm(self) -> float:
        """Sum of squares of this one's share of the phase's gradients."""
        phase = self._in_turn("squared_norm")
        return phase.squared_norm(self.whole_gradients[phase.place])

    def _clock(self) -> float:
        """Seconds, without those of communication within a gradient or an update: a model group's, a batch sum's."""
        return perf_counter() - self._sum_seconds - (0.0 if self.group is None else self.group.seconds)

    def _timed_sum(self, vector: np.ndarray) -> np.ndarray:
        begin = perf_counter()
        assert self._sum_over_batch is not None
        out = self._sum_over_batch(vector)
        self._sum_seconds += perf_counter() - begin
        return out

    def restart(self) -> None:
        """Forget the optimizer's state."""
        for each in self.phases:
            each.restart()

    def fetched(self, version: Version) -> None:
        """Remember from how many versions the parameters are, where there are several servers; and what was before this
        step, where all earlier ones have been made."""
        if isinstance(version, tuple):
            self.last_fetched = version
            self.spreads[max(version) - min(version)] += 1
        first = version[0] if isinstance(version, tuple) else version
        if not self._asked and first >= self._awaited:
            self._before, self._begun = self._begun, self._before
            self._awaited = first + len(self._due())
        self._asked = True

    def step_done(self) -> None:
        for each in self.rows:
            if each._computed is None:
                raise StrategyError("the strategy yielded StepDone without BeginStep: each step begins with that")
            if not each._computed and each._due():
                raise StrategyError("the strategy yielded StepDone in a step without Compute: in each of me.turns() it "
                                    "belongs before what makes an Update of the gradient")
            each._computed = None
        self.step += 1
        self.on_step()

    def restore(self, tensors: Mapping[str, np.ndarray]) -> None:
        self._rounded_phases = set()
        super().restore(tensors)

    def _gradient_of_shards(self, batch: Batch, first: int, last: int, out: np.ndarray) -> None:
        """``out`` becomes the gradient of micro-shards [first, last), summed along a binary tree.

        The tree goes on between ranks (ordered sums), so its shape does not depend on where the shards are computed.
        """
        if last - first > 1:
            middle = (first + last) // 2
            right = self._partial[(last - first).bit_length() - 2]
            self._gradient_of_shards(batch, first, middle, out)
            self._gradient_of_shards(batch, middle, last, right)
            _core.add(out, right)
            return
        mine, _ = self.sampler.part(batch.step, self.number, self.count)
        begin, end = (position - mine for position in self.sampler.part(batch.step, first, SHARDS))
        part = batch.part(begin, end)
        if self._chains is not None:
            part.chains = chains_of(self.model.buffers, first, SHARDS, together=True)
        self._loss_of(part, out)

    def _loss_of(self, batch: Batch, gradients: np.ndarray) -> None:
        batch.rounded = self._rounded if self._is_rounded else None
        found = self.model.gradient(self.whole, gradients, self.buffers, batch)
        sums = dict(found) if isinstance(found, Mapping) else {"loss": found}
        loss: Any = sums.pop("loss", found)
        try:
            finite = isfinite(loss)
        except TypeError:
            raise ParameterError(f"gradient of {type(self.model).__name__} returned {loss!r}; expected a number, the "
                                 "sum of the losses of the batch's rows; or a mapping of such sums, loss among them"
                                 ) from None
        if not finite:
            self.diverged(NotFiniteError(self._where_not_finite(loss, batch, gradients)))
        self.losses[batch.phase].append(loss)
        for name, value in sums.items():
            self.losses[f"{batch.phase}.{name}"].append(value)

    @property
    def _is_rounded(self) -> bool:
        """Whether the copy in bfloat16 is true of all parameters."""
        return len(self._rounded_phases) == len(self.phases) > 0 and self._covered

    def _where_not_finite(self, loss: float, batch: Batch, gradients: np.ndarray) -> str:
        vectors = {"parameters": self.whole, "gradients": gradients}
        found = (not_finite(name, vector, self.layout) for name, vector in vectors.items())
        where = next(filter(None, found), "")
        moved = batch.step or batch.turn
        cure = NOT_FINITE_CURE if moved else "the data or the first weights are too large: scale the data"
        return f"step {batch.step}, rank {self.rank}: the loss is {loss}{where and '; '}{where}: {cure}"


def _no_sum_of_shards(vector: np.ndarray) -> np.ndarray:
    raise ParameterError(
        "this model uses statistics of the whole batch (batch.sum), which reproducible training cannot give: it "
        "computes a step in micro-shards, one after another; train without reproducible"
    )
