"""What the loss of a PyTorch module gets: the rows of a turn as tensors, and random numbers that belong to them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import torch

from pyddl import _core, random
from pyddl.data.batch import Batch

__all__ = ["TensorBatch", "generator_seed", "tensor_of"]

BITS = (1 << 64) - 1
TURNS = 256  # of a step, at most: the draws of one turn have substeps of their own


class TensorBatch:
    """Rows of one turn, as tensors.

    Attributes
    ----------
    rows : Tensor of shape (n, features), float32
        Valid until the loss returns.
    labels : Tensor of shape (n,) or (n, targets), or None
        Of the rows, where the data have any: whole numbers as int64, others as float32.
    index : Tensor of shape (n,), int64
        Global number of each row, whichever rank holds it.
    seed, step, turn : int
        Of training, of this step, and of the phase within it: the same on every rank.
    phase : str
        Name of the phase whose turn it is; ``all`` where the model has one.
    total : int
        Rows that the gradient will be divided by: those of all ranks' part of the step, where they are summed.
    """

    def __init__(self, batch: Batch, phase: str, turn: int):
        self.rows = tensor_of(batch.rows)
        self.seed, self.step, self.total = batch.seed, batch.step, batch.total
        self.phase, self.turn = phase, turn
        self.lacks_labels = False  # and was asked for some
        self._batch, self._draws = batch, 0

    def __len__(self) -> int:
        return len(self._batch)

    @property
    def labels(self) -> torch.Tensor | None:
        labels = self._batch.labels
        if labels is None:
            self.lacks_labels = True
            return None
        return torch.from_numpy(labels.astype(np.float32 if labels.dtype.kind == "f" else np.int64))

    @property
    def index(self) -> torch.Tensor:
        return tensor_of(self._batch.index)

    def normal(self, *shape: int) -> torch.Tensor:
        """Standard normal numbers (n, *shape), float32, which depend on seed, step, turn and each row's number only:
        the same on any number of ranks. Each call draws others."""
        return self._drawn(_core.normal, shape)

    def uniform(self, *shape: int) -> torch.Tensor:
        """The same, uniform in [0, 1)."""
        return self._drawn(_core.uniform, shape)

    def _drawn(self, draw: Callable[..., None], shape: tuple[int, ...]) -> torch.Tensor:
        batch = self._batch
        out = np.empty((len(batch), math.prod(shape)), dtype=np.float32)
        draw(out, batch.index, batch.seed, random.NOISE, batch.step, self.turn + TURNS * self._draws)
        self._draws += 1
        return torch.from_numpy(out).reshape(len(batch), *shape)


def tensor_of(array: np.ndarray) -> torch.Tensor:
    """The same memory as a tensor. Some may only be read, such as a file's that is mapped: nobody writes to it here."""
    if array.flags.writeable:
        return torch.from_numpy(array)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.from_numpy(array)


def generator_seed(batch: Batch, turn: int) -> int:
    """What PyTorch's own generator begins with in a turn: its key, mixed as in splitmix64 [1]_, in 32 bits, for it
    takes no more.

    References
    ----------
    .. [1] Steele, Lea, Flood (2014), Fast splittable pseudorandom number generators, OOPSLA'14.
    """
    mixed = batch.seed
    for part in (batch.step, turn, int(batch.index[0])):
        mixed = ((mixed ^ part) + 0x9E3779B97F4A7C15) & BITS
        mixed = ((mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9) & BITS
        mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & BITS
        mixed ^= mixed >> 31
    return mixed & 0xFFFFFFFF
