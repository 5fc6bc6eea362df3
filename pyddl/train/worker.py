"""Worker: one replica. It owns the vectors and joins model, data and optimizer for the strategy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from inspect import signature
from math import isfinite
from time import perf_counter
from typing import Any

import numpy as np

from pyddl import _core
from pyddl.comm.group import shares
from pyddl.comm.model_group import ModelGroup
from pyddl.comm.operations import gather
from pyddl.data.batch import Batch
from pyddl.data.prefetch import Loader
from pyddl.data.sampler import Sampler
from pyddl.data.source import Source
from pyddl.errors import DataError, NotFiniteError, ParameterError
from pyddl.layout import Layout, Slice
from pyddl.models.protocol import Model, Ready
from pyddl.optim import Optimizer
from pyddl.strategies import Steps

__all__ = ["SHARDS", "Worker"]

SHARDS = 8  # micro-shards of a step under --reproducible: results are the same for every divisor of it


class Worker:
    """One worker of a strategy (see `pyddl.strategies.Me`), and the actor of its driver.

    Parameters
    ----------
    model : Model
    optimizer : Optimizer
    sampler : Sampler
        Which rows belong to which step.
    number, count : int
        This worker, and how many there are.
    seed : int
    reproducible : bool, default=False
        Compute the step in its `SHARDS` micro-shards, one by one, and add them along a binary tree.
    gradients : ndarray, optional
        Memory for the vector that travels: zeros, of the layout's size. Private memory by default.
    batch_sum : callable, optional
        What `Batch.sum` does; the identity by default.
    on_step : callable, optional
        Called without arguments after each finished step.
    vectors : sequence of str
        Names of the vectors that the strategy keeps.
    group : ModelGroup, optional
        Where ``model`` is a part of a split one: the ranks that hold the others, and act as one worker together.
    updates_only : bool, default=False
        Nothing but `update` changes the parameters between `open` and the end of training. Then a model that takes
        them in bfloat16 gets the copy that the latest update has written.
    sharded : bool, default=False
        Keep optimizer state for this worker's share of the parameters only, and update only that.

    Attributes
    ----------
    loader : Loader
        Gives this worker's part of each step; set when training begins.
    losses : list of float
        Sums of losses, one for each gradient since the epoch began.
    replicas : list of Worker
        Those that `host` has made.
    ready : callable or None
        Where the model announces finished slices of ``gradients``.
    """

    def __init__(
        self,
        model: Model,
        optimizer: Optimizer,
        sampler: Sampler,
        *,
        number: int = 0,
        count: int = 1,
        seed: int = 0,
        reproducible: bool = False,
        gradients: np.ndarray | None = None,
        batch_sum: Callable[[np.ndarray], np.ndarray] | None = None,
        on_step: Callable[[], None] = lambda: None,
        vectors: Sequence[str] = (),
        updates_only: bool = False,
        sharded: bool = False,
        group: ModelGroup | None = None,
    ):
        self.model, self.optimizer, self.sampler = model, optimizer, sampler
        self.loader: Loader
        self.number, self.count, self.seed = number, count, seed
        self.layout = model.layout
        self.parameters = model.layout.zeros()
        self.gradients = model.layout.zeros() if gradients is None else gradients
        self.buffers = model.buffers.zeros()
        self.merged = model.buffers.zeros()
        self.clips = optimizer.clip_norm is not None
        self.group = group
        bounds = shares(model.layout.size, count).tolist() if sharded else [0, model.layout.size]
        self.share = slice(*bounds[number : number + 2]) if sharded else slice(*bounds)
        self.state = [model.layout.zeros()[self.share].copy() if sharded else model.layout.zeros()
                      for _ in optimizer.state_names]
        self._rounded: np.ndarray | None = None  # the parameters in bfloat16
        self._rounded_is_current = False
        if updates_only and takes_rounded(model):
            self._rounded = model.layout.zeros().view(np.uint16)[: model.layout.size]
        self.vectors = {name: model.layout.zeros() for name in vectors}
        self.counters: dict[str, int] = {}
        self.step = 0
        self.samples = 0
        self.updates = 0
        self.losses: list[float] = []
        self.replicas: list[Worker] = []
        self.hosts = False
        self.compute_seconds = 0.0
        self._ranges = _within(model.layout.decayed_ranges(), self.share)
        self._shards = SHARDS // count if reproducible else 0
        self._partial = [model.layout.zeros() for _ in range(self._shards.bit_length() - 1)] if reproducible else []
        self._batch_sum = _no_sum_of_shards if reproducible else batch_sum
        self.on_step = on_step
        self.ready: Ready | None = None

    def host(self, replicas: int) -> None:
        """Make those of ``replicas`` replicas that live on this rank; the worker itself only holds what they share."""
        self.hosts = True
        for number in range(self.number, replicas, self.count):
            replica = Worker(self.model, self.optimizer, self.sampler, number=number, count=replicas, seed=self.seed,
                             gradients=self.gradients)
            replica.losses = self.losses
            self.replicas.append(replica)

    @property
    def rows(self) -> Sequence[Worker]:
        """Those who take rows of each step: the replicas, or the worker itself."""
        return self.replicas if self.hosts else (self,)

    def open(self, source: Source, first_step: int, steps: int, **options: Any) -> ExitStack:
        """Start the loaders of all `rows`; the context closes them. Until then anyone may have set the parameters."""
        self._rounded_is_current = False
        loaders = ExitStack()
        for each in self.rows:
            each.loader = loaders.enter_context(Loader(source, self.sampler, each.number, each.count,
                                                       first_step=first_step, steps=steps, **options))
        return loaders

    def seconds(self) -> tuple[float, float]:
        """Spent so far in computing, and in waiting for data."""
        return (sum(each.compute_seconds for each in self.rows), sum(each.loader.waited for each in self.rows))

    def compute(self) -> bool:
        """Gradient of this worker's rows of the next step; false at the end of the data."""
        batch = self.loader.next()
        if batch is None:
            return False
        if self._batch_sum is not None:
            batch.sum = self._batch_sum
        batch.group = self.group
        begin = perf_counter()
        self.samples = len(batch)
        if self._shards:
            first = self.number * self._shards
            self._gradient_of_shards(batch, first, first + self._shards, self.gradients)
        else:
            self._loss_of(batch, self.gradients)
        self.compute_seconds += perf_counter() - begin
        return True

    def update(self, *, scale: float, squared_norm: float | None = None) -> None:
        """Move the parameters by the optimizer's rule, with ``scale * gradients`` as the gradient."""
        begin = perf_counter()
        if self.clips and self.group is not None:
            squared_norm = self.group.total(self.squared_norm() if squared_norm is None else squared_norm)
        self.optimizer.update(self.parameters[self.share], self.gradients[self.share], self.state, self._ranges,
                              scale=scale, step=self.updates, squared_norm=squared_norm, rounded=self._rounded)
        self._rounded_is_current = self._rounded is not None
        self.updates += 1
        self.compute_seconds += perf_counter() - begin

    def squared_norm(self) -> float:
        """Sum of squares of this worker's share of the gradients."""
        return sum(_core.sum_of_squares(self.gradients[self.share][begin:end]) for begin, end, _ in self._ranges)

    def step_done(self) -> None:
        self.step += 1
        self.on_step()

    def merge_buffers(self, weights: Sequence[int]) -> Steps:
        """Make the buffers one for all `rows` of all workers, who give the samples each has seen since the last time.

        A ``mean`` is weighted by these; a ``sum`` adds what each worker has added since the last time.
        """
        if not self.buffers.size:
            return
        mine = [np.concatenate([[weight], each.buffers]) for weight, each in zip(weights, self.rows, strict=True)]
        gathered = yield gather(np.concatenate([np.zeros(0), *mine]))
        parts = [each.reshape(-1, 1 + self.buffers.size) for each in gathered]
        everyone = np.array([part[i] for i in range(max(map(len, parts))) for part in parts if i < len(part)])
        weight, buffers = everyone[:, 0], everyone[:, 1:]
        if weight.any():
            for s in self.model.buffers:
                values, last = buffers[:, s.begin : s.end], self.merged[s.begin : s.end]
                self.buffers[s.begin : s.end] = (
                    np.average(values, axis=0, weights=weight) if s.merge == "mean" else
                    last + (values - last).sum(axis=0) if s.merge == "sum" else values.max(axis=0))
        self.merged[:] = self.buffers

    def whole_state(self) -> list[np.ndarray]:
        """The optimizer's state vectors, of the layout's size: where state is sharded, new ones with this share."""
        if self.share == slice(0, self.layout.size):
            return self.state
        whole = [self.layout.zeros() for _ in self.state]
        for vector, share in zip(whole, self.state, strict=True):
            vector[self.share] = share
        return whole

    def tensors(self, state: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Every slice of parameters, optimizer state and buffers: ``parameters.encoder.0.weight``, ...

        ``state`` is the `whole_state`, filled from all shares.
        """
        return {f"{vector}.{name}": view for vector, layout, values in self._kept(state)
                for name, view in layout.views(values).items()}

    def slices(self) -> dict[str, Slice]:
        """What the `tensors` are slices of, under the same names and in the same order."""
        return {f"{vector}.{s.name}": s for vector, layout, _ in self._kept(self.state) for s in layout}

    def _kept(self, state: Sequence[np.ndarray]) -> Iterator[tuple[str, Layout, np.ndarray]]:
        """Name, layout and values of every vector that a checkpoint holds."""
        yield "parameters", self.layout, self.parameters
        for name, vector in zip(self.optimizer.state_names, state, strict=True):
            yield name, self.layout, vector
        for replica in self.replicas:
            for name, vector in zip(self.optimizer.state_names, replica.state, strict=True):
                yield f"replica.{replica.number}.{name}", self.layout, vector
        for name, vector in self.vectors.items():
            yield f"strategy.{name}", self.layout, vector
        yield "buffers", self.model.buffers, self.buffers
        yield "merged", self.model.buffers, self.merged

    def restore(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Copy what `tensors` gave back into the vectors.

        Raises
        ------
        DataError
            A tensor is missing or has another shape: it is of another model.
        """
        self._rounded_is_current = False
        state = self.whole_state()
        for name, view in self.tensors(state).items():
            tensor = tensors.get(name)
            if tensor is None or tensor.shape != view.shape:
                found = "no such tensor" if tensor is None else f"shape {tensor.shape}"
                raise DataError(
                    f"the checkpoint is of another model: {name} should have shape {view.shape}; found {found}"
                )
            view[...] = tensor
        if state is not self.state:
            for mine, whole in zip(self.state, state, strict=True):
                mine[:] = whole[self.share]

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
        shard = Batch(
            batch.rows[begin:end],
            batch.index[begin:end],
            seed=batch.seed,
            step=batch.step,
            phase=batch.phase,
            sum=batch.sum,
        )
        self._loss_of(shard, out)

    def _loss_of(self, batch: Batch, gradients: np.ndarray) -> None:
        given = {"rounded": self._rounded} if self._rounded_is_current else {}
        loss = self.model.gradient(self.parameters, gradients, self.buffers, batch, self.ready, **given)
        if not isfinite(loss):
            raise NotFiniteError(self._where_not_finite(loss, batch, gradients))
        self.losses.append(loss)

    def _where_not_finite(self, loss: float, batch: Batch, gradients: np.ndarray) -> str:
        message = f"step {batch.step}, rank {self.number}: the loss is {loss}"
        for name, vector in (("parameters", self.parameters), ("gradients", gradients)):
            at = _core.first_not_finite(vector)
            if at >= 0:
                inside = [s.name for s in self.layout if s.begin <= at < s.end]
                message += f"; the first bad value in {name} is in {inside[0] if inside else 'no slice'}"
                break
        return message + ": lower the learning rate, or set clip_norm"


def takes_rounded(model: Model) -> bool:
    """Whether the model's gradient can be given ``rounded``: also a subclass may have written its own without."""
    return getattr(model, "takes_rounded", False) and "rounded" in signature(model.gradient).parameters


def _within(ranges: list[tuple[int, int, bool]], share: slice) -> list[tuple[int, int, bool]]:
    """``ranges`` cut to ``share``, counted from its beginning."""
    cut = ((max(begin, share.start) - share.start, min(end, share.stop) - share.start, decay)
           for begin, end, decay in ranges)
    return [(begin, end, decay) for begin, end, decay in cut if begin < end]


def _no_sum_of_shards(vector: np.ndarray) -> np.ndarray:
    raise ParameterError(
        "this model uses statistics of the whole batch (batch.sum), which reproducible training cannot give: it "
        "computes a step in micro-shards, one after another; train without reproducible"
    )
