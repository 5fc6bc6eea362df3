"""Worker: a replica that computes. It joins model, data and optimizer for the strategy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from math import isfinite
from time import perf_counter
from typing import Any

import numpy as np

from pyddl import _core
from pyddl.comm.model_group import ModelGroup
from pyddl.comm.operations import Version
from pyddl.data.batch import Batch, Ready
from pyddl.data.prefetch import Loader
from pyddl.data.sampler import Sampler
from pyddl.data.source import Source
from pyddl.data.tickets import SliceLoader, TicketLoader
from pyddl.errors import NotFiniteError, ParameterError
from pyddl.models.protocol import Model
from pyddl.optim import Optimizer
from pyddl.train.replica import Replica

__all__ = ["SHARDS", "Worker"]

SHARDS = 8  # micro-shards of a step under --reproducible: results are the same for every divisor of it


class Worker(Replica):
    """One worker of a strategy (see `pyddl.strategies.Me`), and the actor of its driver.

    Parameters
    ----------
    model : Model
    optimizer : Optimizer
    sampler : Sampler
        Which rows belong to which step.
    reproducible : bool, default=False
        Compute the step in its `SHARDS` micro-shards, one by one, and add them along a binary tree.
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
        Gives this worker's part of each step, or its tickets; set when training begins.
    replicas : list of Worker
        Those that `host` has made.
    ready : callable or None
        Where the model announces finished slices of ``gradients``.
    last_fetched : tuple of int
    spreads : Counter
        Where there are several servers: the versions of the last fetch, and how many fetches had versions so far apart.
    """

    loader: Loader | SliceLoader | TicketLoader

    def __init__(self, model: Model, optimizer: Optimizer, sampler: Sampler, *, reproducible: bool = False,
                 batch_sum: Callable[[np.ndarray], np.ndarray] | None = None,
                 on_step: Callable[[], None] = lambda: None, group: ModelGroup | None = None,
                 rank: int | None = None, updates_only: bool = False, **own: Any):
        super().__init__(model, optimizer, **own)
        self.sampler, self.group = sampler, group
        self.rank = self.number if rank is None else rank
        self._rounded: np.ndarray | None = None  # the parameters in bfloat16
        self._rounded_is_current = False
        if updates_only and getattr(model, "takes_rounded", False):
            self._rounded = model.layout.zeros().view(np.uint16)[: model.layout.size]
        self.replicas: list[Worker] = []
        self.hosts = False
        self.compute_seconds = 0.0
        self._shards = SHARDS // self.count if reproducible else 0
        self._partial = [model.layout.zeros() for _ in range(self._shards.bit_length() - 1)] if reproducible else []
        self._batch_sum = _no_sum_of_shards if reproducible else batch_sum
        self.on_step = on_step
        self.ready: Ready | None = None
        self.last_fetched: Version = ()
        self.spreads: Counter[int] = Counter()

    def host(self, replicas: int) -> None:
        """Make those of ``replicas`` replicas that live on this rank; the worker itself only holds what they share."""
        self.hosts = True
        for number in range(self.number, replicas, self.count):
            replica = Worker(self.model, self.optimizer, self.sampler, number=number, count=replicas, seed=self.seed,
                             gradients=self.gradients, rank=self.rank)
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
        begin = self._clock()
        self.samples = len(batch)
        self.rows_seen += self.samples
        if self._shards:
            first = self.number * self._shards
            self._gradient_of_shards(batch, first, first + self._shards, self.gradients)
        else:
            self._loss_of(batch, self.gradients)
        self.compute_seconds += self._clock() - begin
        return True

    def update(self, *, scale: float, squared_norm: float | None = None) -> None:
        """Move the parameters by the optimizer's rule, with ``scale * gradients`` as the gradient."""
        begin = self._clock()
        if self.clips and self.group is not None:
            squared_norm = self.group.total(self.squared_norm() if squared_norm is None else squared_norm)
        self.optimizer.update(self.parameters[self.share], self.gradients[self.share], self.state, self._ranges,
                              scale=scale, step=self.updates, squared_norm=squared_norm, rounded=self._rounded)
        self._rounded_is_current = self._rounded is not None
        self.updates += 1
        self.compute_seconds += self._clock() - begin

    def _clock(self) -> float:
        """Seconds, without those that a model group takes within a gradient or an update."""
        return perf_counter() - (0.0 if self.group is None else self.group.seconds)

    def restart(self) -> None:
        """Forget the optimizer's state."""
        self.updates = 0
        for vector in self.state:
            vector[:] = 0

    def fetched(self, version: Version) -> None:
        """Remember from how many versions the parameters are, where there are several servers."""
        if isinstance(version, tuple):
            self.last_fetched = version
            self.spreads[max(version) - min(version)] += 1

    def step_done(self) -> None:
        self.step += 1
        self.on_step()

    def restore(self, tensors: Mapping[str, np.ndarray]) -> None:
        self._rounded_is_current = False
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
        self._loss_of(batch.part(begin, end), out)

    def _loss_of(self, batch: Batch, gradients: np.ndarray) -> None:
        batch.ready, batch.rounded = self.ready, self._rounded if self._rounded_is_current else None
        loss = self.model.gradient(self.parameters, gradients, self.buffers, batch)
        if not isfinite(loss):
            raise NotFiniteError(self._where_not_finite(loss, batch, gradients))
        self.losses.append(loss)

    def _where_not_finite(self, loss: float, batch: Batch, gradients: np.ndarray) -> str:
        message = f"step {batch.step}, rank {self.rank}: the loss is {loss}"
        for name, vector in (("parameters", self.parameters), ("gradients", gradients)):
            at = _core.first_not_finite(vector)
            if at >= 0:
                inside = [s.name for s in self.layout if s.begin <= at < s.end]
                message += f"; the first bad value in {name} is in {inside[0] if inside else 'no slice'}"
                break
        return message + ": lower the learning rate, or set clip_norm"


def _no_sum_of_shards(vector: np.ndarray) -> np.ndarray:
    raise ParameterError(
        "this model uses statistics of the whole batch (batch.sum), which reproducible training cannot give: it "
        "computes a step in micro-shards, one after another; train without reproducible"
    )
