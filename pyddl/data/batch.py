"""Batch: what one turn of a step is about - the rows of one worker, and what a model may ask about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

__all__ = ["Batch", "Chains", "ModelGroup", "Ready"]

Ready = Callable[[int, int], None]


class ModelGroup(Protocol):
    """The ranks that hold one copy of a split model together: how its parts speak to each other. All collective.

    Letters: K ranks, B rows of the batch, N outputs of a layer, of which rank k holds [cuts[k], cuts[k + 1]).
    """

    def gather_columns(self, block: np.ndarray, cuts: Sequence[int], out: np.ndarray) -> None:
        """``out`` (B, N) becomes the blocks (B, columns of a rank) of all ranks, side by side."""

    def sum_columns(self, whole: np.ndarray, cuts: Sequence[int], out: np.ndarray) -> None:
        """``out`` (B, columns of this rank) becomes the sum of these columns of all ranks' ``whole`` (B, N)."""

    def room(self, rows: int, columns: int) -> np.ndarray:
        """Memory for the next ``whole``."""


class Chains(NamedTuple):
    """Which of a model's persistent chains one worker moves in a turn: rows of its buffers with merge rule ``rows``.

    Attributes
    ----------
    begin, end : int
        This worker's rows; none at all is legal.
    count : int
        Chains behind the gradient that the optimizer gets: those of all workers where their gradients are summed.
    """

    begin: int
    end: int
    count: int  # type: ignore[assignment]  # hides tuple.count


def _identity(vector: np.ndarray) -> np.ndarray:
    return vector


class Batch:
    """Rows of one turn, as one worker sees them.

    Attributes
    ----------
    rows : ndarray of shape (n, features), float32
        n may be 0. Valid until the next batch is asked for.
    labels : ndarray of shape (n,) or (n, targets), or None
        Of the rows, where the data have any, in their own type.
    index : ndarray of shape (n,), int64
        Global number of each row: the key of everything random that belongs to a row, so that results do not
        depend on which worker holds it.
    seed, step, turn : int
        Keys of everything random in this turn, equal on every rank. ``turn`` is its number within the step.
    phase : str
        Name of the phase that has its turn: only its slices of the gradient count.
    total : int
        Rows that the gradient will be divided by: those of the step of all workers where their gradients are summed,
        else this batch's own.
    chains : Chains or None
        Where the model keeps persistent chains: those to be moved here. A worker moves its chains at every turn, with
        rows or without.
    sum : callable
        ``batch.sum(vector)`` adds ``vector`` over all workers of the step, in place, and returns it: the
        identity unless the strategy is synchronous. For statistics of the whole batch. Collective: every
        worker calls it equally often, also with no rows.
    ready : callable or None
        ``ready(begin, end)`` may be called as soon as ``gradients[begin:end]`` is final, so that it can start to
        travel. Each element once at the most, in an order that does not depend on the rows; elements never
        announced are taken as final at the return.
    rounded : ndarray of shape (parameters,), uint16, or None
        The parameters in bfloat16 (their bits), where the trainer has them: an optimizer writes them in the pass that
        moves the parameters.
    group : ModelGroup or None
        Where the model is split: the ranks that hold the other parts of it, and see the same rows.
    """

    __slots__ = ("chains", "group", "index", "labels", "phase", "ready", "rounded", "rows", "seed", "step", "sum",
                 "total", "turn")

    def __init__(self, rows: np.ndarray, index: np.ndarray | None = None, *, labels: np.ndarray | None = None,
                 seed: int = 0, step: int = 0, turn: int = 0, phase: str = "all", total: int | None = None,
                 chains: Chains | None = None, sum: Callable[[np.ndarray], np.ndarray] = _identity,
                 ready: Ready | None = None, rounded: np.ndarray | None = None, group: ModelGroup | None = None):
        self.rows = rows
        self.labels = labels
        self.index = np.arange(len(rows), dtype=np.int64) if index is None else index
        self.seed = seed
        self.step = step
        self.turn = turn
        self.phase = phase
        self.total = len(rows) if total is None else total
        self.chains = chains
        self.sum = sum
        self.ready = ready
        self.rounded = rounded
        self.group = group

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, begin: int, end: int) -> Batch:
        """Rows [begin, end) of it, with all that belongs to the turn but ``ready``: a part's gradient is not final."""
        return Batch(self.rows[begin:end], self.index[begin:end],
                     labels=None if self.labels is None else self.labels[begin:end], seed=self.seed, step=self.step,
                     turn=self.turn, phase=self.phase, total=self.total, chains=self.chains, sum=self.sum,
                     rounded=self.rounded, group=self.group)
