"""Batch: the rows of one worker's part of one step, and what a model may ask about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

__all__ = ["Batch", "ModelGroup"]


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


def _identity(vector: np.ndarray) -> np.ndarray:
    return vector


class Batch:
    """Rows of one step, as one worker sees them.

    Attributes
    ----------
    rows : ndarray of shape (n, features), float32
        n may be 0. Valid until the next batch is asked for.
    index : ndarray of shape (n,), int64
        Global number of each row: the key of everything random that belongs to a row, so that results do not
        depend on which worker holds it.
    seed, step : int
        Keys of everything random in this step, equal on every rank.
    phase : str
        The group of parameters to train.
    sum : callable
        ``batch.sum(vector)`` adds ``vector`` over all workers of the step, in place, and returns it: the
        identity unless the strategy is synchronous. For statistics of the whole batch. Collective: every
        worker calls it equally often, also with no rows.
    group : ModelGroup or None
        Where the model is split: the ranks that hold the other parts of it, and see the same rows.
    """

    __slots__ = ("group", "index", "phase", "rows", "seed", "step", "sum")

    def __init__(self, rows: np.ndarray, index: np.ndarray | None = None, *, seed: int = 0, step: int = 0,
                 phase: str = "all", sum: Callable[[np.ndarray], np.ndarray] = _identity,
                 group: ModelGroup | None = None):
        self.rows = rows
        self.index = np.arange(len(rows), dtype=np.int64) if index is None else index
        self.seed = seed
        self.step = step
        self.phase = phase
        self.sum = sum
        self.group = group

    def __len__(self) -> int:
        return len(self.rows)
