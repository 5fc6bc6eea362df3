"""Replica: the vectors of one rank, as trainer, strategies and checkpoints know them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from pyddl import _core
from pyddl.comm.cut import shares
from pyddl.comm.operations import Average, Epoch, Gather
from pyddl.data.batch import Chains
from pyddl.errors import DataError, NotFiniteError, ParameterError
from pyddl.layout import Layout, Slice
from pyddl.models.protocol import Model
from pyddl.models.stages import Phase, Stage
from pyddl.optim import Optimizer
from pyddl.strategies import Steps, Strategy
from pyddl.train.phase import PhaseState

__all__ = ["NOT_FINITE_CURE", "Replica", "chains_of", "checked_buffers", "not_finite"]

NOT_FINITE_CURE = "lower the learning rate, or set clip_norm"

Rules = Callable[[Phase], Optimizer]
"""The optimizer of a phase, new at each call."""


class Replica:
    """Parameters, gradients, buffers and optimizer state of one worker or server.

    Parameters
    ----------
    model : Model
    number, count : int
        This worker or server, and how many there are of its kind.
    seed : int
    vectors : sequence of str
        Names of the vectors that the strategy keeps.
    joint : bool, default=True
        Whether this one and the others of its kind train one model together.
    sharded : bool, default=False
        Keep optimizer state for this one's share of each phase only, and update only that.
    counted : bool, default=True
        Whether slices that other parts of a split model hold as well count in this part's norm.
    kept : bool, default=True
        Whether checkpoints hold this one's optimizer state and the strategy's vectors; else they are worth nothing
        between two epochs.
    gradients, parameters : ndarray, optional
        Memory for vectors that travel: zeros, of the layout's size. Private memory by default.

    Attributes
    ----------
    rows : sequence of Replica
        Those who take rows of each step, each with an optimizer state of its own.
    hosts : bool
        Whether these are others than itself.
    owners : int
        Among how many totals and chains are shared out: workers, replicas, or this one alone.
    phases : list of PhaseState
        Of the stage. Set by `enter`.
    trained : sequence of slice
        What they train, neighbours as one.
    losses : dict of list of float
        By phase: sums of losses, one for each gradient since the epoch began; and as ``phase.name`` of what else the
        model's gradient sums up.
    on_epoch : callable
        What `next_epoch` does: it gives the epoch that begins, or None. Set where the strategy has servers.
    diverged : callable
        What is told of a value that is not finite; it raises, by default at once.
    """

    def __init__(self, model: Model, *, number: int = 0, count: int = 1, seed: int = 0, vectors: Sequence[str] = (),
                 joint: bool = True, sharded: bool = False, counted: bool = True, kept: bool = True,
                 gradients: np.ndarray | None = None, parameters: np.ndarray | None = None):
        self.model, self.number, self.count, self.seed, self.kept = model, number, count, seed, kept
        self.layout = model.layout
        self.whole = model.layout.zeros() if parameters is None else parameters
        self.whole_gradients = model.layout.zeros() if gradients is None else gradients
        self.parameters, self.gradients = self.whole, self.whole_gradients
        self.buffers = model.buffers.zeros()
        self.merged = model.buffers.zeros()
        self.vectors = {name: model.layout.zeros() for name in vectors}
        self.counters: dict[str, int] = {}
        self.phases: list[PhaseState] = []
        self.trained: Sequence[slice] = ()
        self.step = 0
        self.samples = self.samples_of_step = 0
        self.seen = 0  # rows since buffers were merged
        self.losses: dict[str, list[float]] = defaultdict(list)
        self.rows_seen: Counter[str] = Counter()  # those of the losses
        self.on_epoch: Callable[[], Epoch | None] = lambda: None
        self.diverged: Callable[[NotFiniteError], None] = _raise
        self.hosts = False
        self.owners = count if joint else 1
        self._sharded, self._counted = sharded, counted

    @property
    def rows(self) -> Sequence[Replica]:
        return (self,)

    def enter(self, stage: Stage, rules: Rules) -> None:
        """Begin a stage: optimizer state, the strategy's vectors and counters are new."""
        self.phases = [self._state_of(phase, number, rules(phase)) for number, phase in enumerate(stage.phases)]
        self._by_name = {each.name: each for each in self.phases}
        self.trained = joined([each.place for each in self.phases])
        self.step = 0
        self.counters = {}
        for vector in self.vectors.values():
            vector[:] = 0

    def _state_of(self, phase: Phase, number: int, optimizer: Optimizer) -> PhaseState:
        begin, end = self.layout.range_of(phase.groups)
        bounds = shares(end - begin, self.count).tolist() if self._sharded else [0, end - begin]
        share = slice(*bounds[self.number : self.number + 2]) if self._sharded else slice(*bounds)
        return PhaseState(phase, number, optimizer, self.layout, share, self._counted)

    def begin_averages(self) -> None:
        """Averaged copies begin as the parameters."""
        for each in self.phases:
            each.begin_average(self.whole[each.place][each.share])

    def place_of(self, phase: str) -> tuple[int, int]:
        """Begin and end of a phase's range."""
        return self._by_name[phase].begin, self._by_name[phase].end

    def next_epoch(self) -> Epoch | None:
        return self.on_epoch()

    # ---- buffers

    def merge_buffers(self, weights: Sequence[int] | None = None) -> Steps:
        """Make the buffers one for all `rows` of all workers, who give the samples each has seen since the last time.

        See `pyddl.layout.Slice` for the rules. Tables of chains stay cut; `gather_chains` joins them.
        """
        members = self._members
        weights = [each.seen for each in members] if weights is None else weights[: len(members)]
        for each in members:
            each.seen = 0
        shared = [s for s in self.model.buffers if s.merge not in ("rows", "equal")]
        if shared:
            mine = [np.concatenate([[weight], each.buffers]) for weight, each in zip(weights, members, strict=True)]
            gathered = yield Gather(np.concatenate([np.zeros(0), *mine]))
            parts = [each.reshape(-1, 1 + self.buffers.size) for each in gathered]
            everyone = np.array([part[i] for i in range(max(map(len, parts))) for part in parts if i < len(part)])
            self._merge(shared, everyone[:, 0], everyone[:, 1:])
            self.merged[:] = self.buffers
        if self.hosts:  # replicas begin each turn with what this rank holds
            yield from self.gather_chains()

    def _merge(self, slices: Sequence[Slice], weights: np.ndarray, buffers: np.ndarray) -> None:
        for s in slices:
            values, last = buffers[:, s.begin : s.end], self.merged[s.begin : s.end]
            if s.merge == "total":
                self.buffers[s.begin : s.end] = values.mean(axis=0)
            elif weights.any():
                self.buffers[s.begin : s.end] = (
                    np.average(values, axis=0, weights=weights) if s.merge == "mean" else
                    last + (values - last).sum(axis=0) if s.merge == "sum" else values.max(axis=0))

    def gather_chains(self) -> Steps:
        """Give all ranks the whole tables of chains, of which each worker has moved its own."""
        for s in self.model.buffers:
            if s.merge == "rows":
                gathered = yield Gather(np.concatenate([np.zeros(0), *(_own_rows(s, each) for each in self._members)]))
                for part in gathered:
                    while part.size:
                        begin, end = part[:2].astype(int)
                        mine, part = np.split(part[2:], [end - begin])
                        self.buffers[s.begin + begin : s.begin + end] = mine

    @property
    def _members(self) -> Sequence[Replica]:
        """Those of `rows` whose buffers count."""
        return self.rows

    def buffers_as_one(self) -> np.ndarray:
        """The merged buffers as one process would have them: `total` is the sum over all workers."""
        return scaled_totals(self.model.buffers, self.buffers, self.owners)

    def take_buffers(self, buffers: np.ndarray) -> None:
        """Begin with buffers as one process has them."""
        self.buffers[:] = scaled_totals(self.model.buffers, buffers, 1 / self.owners)
        self.merged[:] = self.buffers

    # ---- averaged copies

    def settle_averages(self) -> Steps:
        """Make the averaged copies one for all `rows` of all workers, who count alike."""
        for number, phase in enumerate(self.phases):
            if phase.copies:
                mine = [each.phases[number].average for each in self.rows]
                yield Average(phase.average, mine, [int(len(self._members) > 0)] * len(mine))

    def averaged(self) -> np.ndarray:
        """The parameters, with averaged copies in the place of those that have one: themselves where none has."""
        if not any(each.copies for each in self.phases):
            return self.whole
        out = self.whole.copy()
        for each in self.phases:
            if each.copies:
                out[each.place][each.share] = each.average
        return out

    # ---- checkpoints

    def whole_state(self) -> dict[str, np.ndarray]:
        """The optimizers' state, by phase and name, each of the phase's size: where state is sharded, new vectors with
        this share."""
        return {f"{each.name}.{name}": self._whole_of(each, vector) for each in self.phases
                for name, vector in zip(each.names, each.state, strict=True)}

    def _whole_of(self, phase: PhaseState, vector: np.ndarray) -> np.ndarray:
        if not self.kept or vector.size == phase.size:
            return vector
        whole = self.layout.zeros()[phase.place]
        whole[phase.share] = vector
        return whole

    def tensors(self, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Every slice of parameters, optimizer state and buffers: ``parameters.encoder.0.weight``,
        ``phase.all.momentum.encoder.0.weight``, ...

        ``state`` is the `whole_state`, filled from all shares.
        """
        return {f"{vector}.{s.name}": s.view(values, begin)
                for vector, slices, values, begin in self._vectors(state) for s in slices}

    def slices(self) -> dict[str, Slice]:
        """What the `tensors` are slices of, under the same names and in the same order."""
        return {f"{vector}.{s.name}": s for vector, slices, _, _ in self._vectors({}) for s in slices}

    def _vectors(self, state: Mapping[str, np.ndarray]) -> Iterator[tuple[str, list[Slice], np.ndarray, int]]:
        """Name, slices and values of every vector that a checkpoint holds, and where in the layout the values begin."""
        layout = self.layout
        yield "parameters", list(layout), self.whole, 0
        if self.kept:
            for replica in dict.fromkeys((self, *self.rows)):
                whose = "" if replica is self else f"replica.{replica.number}."
                for each in replica.phases:
                    slices = [s for s in layout if each.begin <= s.begin < each.end]
                    for name, vector in zip(each.names, each.state, strict=True):
                        values = state.get(f"{each.name}.{name}", vector) if replica is self else vector
                        yield f"{whose}phase.{each.name}.{name}", slices, values, each.begin
            for name, vector in self.vectors.items():
                yield f"strategy.{name}", list(layout), vector, 0
        yield "buffers", list(self.model.buffers), self.buffers, 0
        yield "merged", list(self.model.buffers), self.merged, 0

    def restore(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Copy what `tensors` gave back into the vectors.

        Raises
        ------
        DataError
            A tensor is missing or has another shape: it is of another model.
        """
        shares = {id(vector): each for each in self.phases for vector in each.state}
        for vector, slices, values, begin in self._vectors({}):
            phase = shares.get(id(values))
            part = phase is not None and values.size < phase.size
            whole = self._whole_range(phase) if phase is not None and part else values
            for s in slices:
                tensor = tensors.get(f"{vector}.{s.name}")
                if tensor is None or tensor.shape != s.shape:
                    found = "no such tensor" if tensor is None else f"shape {tensor.shape}"
                    raise DataError(f"the checkpoint is of another model: {vector}.{s.name} should have shape "
                                    f"{s.shape}; found {found}")
                s.view(whole, begin)[...] = tensor
            if phase is not None and part:
                values[:] = whole[phase.share]

    def _whole_range(self, phase: PhaseState) -> np.ndarray:
        """Memory for a whole vector of the phase: that of the gradients between two steps, where they are whole."""
        gradients = self.whole_gradients
        return (gradients if gradients.size == self.layout.size else self.layout.zeros())[phase.place]


def _raise(error: NotFiniteError) -> None:
    raise error


def joined(places: Sequence[slice]) -> list[slice]:
    """Ranges in their order, neighbours as one."""
    out: list[slice] = []
    for place in sorted(places, key=lambda place: place.start):
        if out and out[-1].stop == place.start:
            out[-1] = slice(out[-1].start, place.stop)
        else:
            out.append(place)
    return out


def _own_rows(s: Slice, each: Replica) -> np.ndarray:
    """A worker's chains: where in the slice they begin and end, and their values."""
    chains, width = s.shape[0], s.size // max(1, s.shape[0])
    begin, end = (width * (chains * number // each.count) for number in (each.number, each.number + 1))
    return np.concatenate([[begin, end], each.buffers[s.begin + begin : s.begin + end]])


def scaled_totals(layout: Layout, buffers: np.ndarray, factor: float) -> np.ndarray:
    """A copy of ``buffers``, slices with merge rule ``total`` multiplied; the same vector where there are none."""
    if factor == 1 or not any(s.merge == "total" for s in layout):
        return buffers
    out = buffers.copy()
    for s in layout:
        if s.merge == "total":
            out[s.begin : s.end] *= np.float32(factor)
    return out


def chains_of(buffers: Layout, number: int, count: int, *, together: bool) -> Chains | None:
    """The chains that worker ``number`` of ``count`` owns, of the buffers with merge rule ``rows``."""
    tables = [s for s in buffers if s.merge == "rows"]
    if not tables:
        return None
    chains = tables[0].shape[0]
    begin, end = chains * number // count, chains * (number + 1) // count
    return Chains(begin, end, chains if together else end - begin)


def checked_buffers(buffers: Layout, strategy: Strategy, workers: int, *, reproducible: bool = False) -> None:
    """Raise `ParameterError` where buffers have no meaning."""
    tables = [s for s in buffers if s.merge == "rows"]
    if any(not s.shape or s.shape[0] != tables[0].shape[0] for s in tables):
        raise ParameterError(f"buffers {', '.join(s.name for s in tables)} are tables of chains, but their numbers of "
                             "rows differ: every chain has a row in each")
    apart = 1 if strategy.together or not strategy.joint else strategy.replicas or workers
    if tables and tables[0].shape[0] < apart:
        chains = "1 persistent chain" if tables[0].shape[0] == 1 else f"{tables[0].shape[0]} persistent chains"
        raise ParameterError(f"this model keeps {chains} for {apart} workers, each of whom needs some for gradients of "
                             f"its own: give at least {apart}, or choose strategy allreduce")
    alike = [s.name for s in buffers if s.merge == "equal"]
    alone = not strategy.joint or ((strategy.replicas or workers) == 1 and not strategy.servers)
    if alike and not strategy.synchronous and not alone:
        raise ParameterError(f"this model keeps buffers ({', '.join(alike)}) that all workers must have alike; it "
                             f"moves them by sums over all rows of a step, and strategy {strategy.name} has none: "
                             "choose strategy allreduce, or a model without them (an rbm with chain pcd)")
    moved = [s.name for s in buffers if s.merge != "rows"]
    if reproducible and moved:
        raise ParameterError(f"this model keeps buffers ({', '.join(moved)}), which reproducible training would move "
                             "once in each micro-shard of a step, other than one process does: train without "
                             "reproducible")


def not_finite(name: str, vector: np.ndarray, layout: Layout) -> str:
    """Where its first NaN or infinite value is, in words; nothing where all are finite."""
    at = _core.first_not_finite(vector)
    return "" if at < 0 else f"the first bad value in {name} is in {layout.name_at(at)}"
