"""Replica: the vectors of one rank, as trainer, strategies and checkpoints know them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from pyddl import _core
from pyddl.comm.group import shares
from pyddl.comm.operations import Epoch, gather
from pyddl.errors import DataError
from pyddl.layout import Layout, Slice
from pyddl.models.protocol import Model
from pyddl.optim import Optimizer
from pyddl.strategies import Steps

__all__ = ["Replica"]


class Replica:
    """Parameters, gradients, buffers and optimizer state of one worker or server.

    Parameters
    ----------
    model : Model
    optimizer : Optimizer
    number, count : int
        This worker or server, and how many there are of its kind.
    seed : int
    vectors : sequence of str
        Names of the vectors that the strategy keeps.
    sharded : bool, default=False
        Keep optimizer state for this one's share of the parameters only, and update only that.
    kept : bool, default=True
        Whether checkpoints hold this one's optimizer state and the strategy's vectors; else they are worth nothing
        between two epochs.
    gradients, parameters : ndarray, optional
        Memory for vectors that travel: zeros, of the layout's size. Private memory by default.

    Attributes
    ----------
    rows : sequence of Replica
        Those who take rows of each step, each with an optimizer state of its own.
    losses : list of float
        Sums of losses, one for each gradient since the epoch began.
    on_epoch : callable
        What `next_epoch` does: it gives the epoch that begins, or None. Set where the strategy has servers.
    """

    def __init__(self, model: Model, optimizer: Optimizer, *, number: int = 0, count: int = 1, seed: int = 0,
                 vectors: Sequence[str] = (), sharded: bool = False, kept: bool = True,
                 gradients: np.ndarray | None = None, parameters: np.ndarray | None = None):
        self.model, self.optimizer = model, optimizer
        self.number, self.count, self.seed, self.kept = number, count, seed, kept
        self.layout = model.layout
        self.parameters = model.layout.zeros() if parameters is None else parameters
        self.gradients = model.layout.zeros() if gradients is None else gradients
        self.buffers = model.buffers.zeros()
        self.merged = model.buffers.zeros()
        self.clips = optimizer.clip_norm is not None
        bounds = shares(model.layout.size, count).tolist() if sharded else [0, model.layout.size]
        self.share = slice(*bounds[number : number + 2]) if sharded else slice(*bounds)
        # Pages of other shares are never touched, so they take no memory; copies would all begin alike in a page.
        self.state = [model.layout.zeros()[self.share] for _ in optimizer.state_names]
        self.vectors = {name: model.layout.zeros() for name in vectors}
        self.counters: dict[str, int] = {}
        self.step = 0
        self.samples = 0
        self.updates = 0
        self.losses: list[float] = []
        self.rows_seen = 0  # those of the losses
        self.on_epoch: Callable[[], Epoch | None] = lambda: None
        self._ranges = _within(model.layout.decayed_ranges(), self.share)

    @property
    def rows(self) -> Sequence[Replica]:
        return (self,)

    def next_epoch(self) -> Epoch | None:
        return self.on_epoch()

    def squared_norm(self) -> float:
        """Sum of squares of this one's share of the gradients."""
        return sum(_core.sum_of_squares(self.gradients[self.share][begin:end]) for begin, end, _ in self._ranges)

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
        if not self.kept or self.share == slice(0, self.layout.size):
            return self.state
        whole = [self.layout.zeros() for _ in self.state]
        for vector, share in zip(whole, self.state, strict=True):
            vector[self.share] = share
        return whole

    def tensors(self, state: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Every slice of parameters, optimizer state and buffers: ``parameters.encoder.0.weight``, ...

        ``state`` is the `whole_state`, filled from all shares.
        """
        return {f"{vector}.{name}": view for vector, layout, values in self._vectors(state)
                for name, view in layout.views(values).items()}

    def slices(self) -> dict[str, Slice]:
        """What the `tensors` are slices of, under the same names and in the same order."""
        return {f"{vector}.{s.name}": s for vector, layout, _ in self._vectors(self.state) for s in layout}

    def _vectors(self, state: Sequence[np.ndarray]) -> Iterator[tuple[str, Layout, np.ndarray]]:
        """Name, layout and values of every vector that a checkpoint holds."""
        yield "parameters", self.layout, self.parameters
        if self.kept:
            for name, vector in zip(self.optimizer.state_names, state, strict=True):
                yield name, self.layout, vector
            for replica in self.rows:
                for name, vector in zip(self.optimizer.state_names, replica.state, strict=True):
                    if replica is not self:
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
        for vector, layout, values in self._vectors(self.state):
            part = values.size < layout.size
            whole = self._whole_vector() if part else values
            for name, view in layout.views(whole).items():
                tensor = tensors.get(f"{vector}.{name}")
                if tensor is None or tensor.shape != view.shape:
                    found = "no such tensor" if tensor is None else f"shape {tensor.shape}"
                    raise DataError(f"the checkpoint is of another model: {vector}.{name} should have shape "
                                    f"{view.shape}; found {found}")
                view[...] = tensor
            if part:
                values[:] = whole[self.share]

    def _whole_vector(self) -> np.ndarray:
        """Memory for one whole vector: that of the gradients between two steps, where they are whole."""
        return self.gradients if self.gradients.size == self.layout.size else self.layout.zeros()


def _within(ranges: list[tuple[int, int, bool]], share: slice) -> list[tuple[int, int, bool]]:
    """``ranges`` cut to ``share``, counted from its beginning."""
    cut = ((max(begin, share.start) - share.start, min(end, share.stop) - share.start, decay)
           for begin, end, decay in ranges)
    return [(begin, end, decay) for begin, end, decay in cut if begin < end]
