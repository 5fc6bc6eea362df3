"""Which samples belong to which step of which worker."""

from __future__ import annotations

import numpy as np

from pyddl import _check, _core

__all__ = ["Sampler"]


class Sampler:
    """The order of samples, cut into steps and the steps into workers' parts.

    A *position* is a place in an epoch, from 0 to rows - 1; `index` says which sample stands there.
    Everything is computed from the arguments: there is no state, so any step can be asked for at any time, by
    any worker, and the order does not depend on the number of workers.

    Parameters
    ----------
    rows : int
        Samples of the data set, at least 1.
    batch_size : int
        Samples per step of all workers together, from 1 to 2**62. The last step of an epoch has the rest.
    seed : int, default=0
        At least 0.
    shuffle : bool, default=True
        A new pseudo-random order each epoch [1]_; else always 0, 1, 2 and so on.
    together : int, default=1
        Neighbours in a step, counted from its beginning, that one worker has. Where they do not divide the step, the
        rest of it belongs to the worker of the last of them.

    Attributes
    ----------
    steps_per_epoch : int

    Examples
    --------
    >>> sampler = Sampler(rows=10, batch_size=4, shuffle=False)
    >>> sampler.steps_per_epoch, [sampler.rows_of(step) for step in range(4)]
    (3, [(0, 4), (4, 8), (8, 10), (0, 4)])
    >>> [sampler.part(0, worker, 3) for worker in range(3)]
    [(0, 1), (1, 2), (2, 4)]
    >>> [Sampler(rows=10, batch_size=7, together=2).part(0, worker, 2) for worker in range(2)]
    [(0, 2), (2, 7)]

    References
    ----------
    .. [1] Mitchell, Stokes, Frank, Holmes (2022), Bandwidth-optimal random shuffling for GPUs, ACM TOPC 9(1).
    """

    def __init__(self, rows: int, batch_size: int, seed: int = 0, shuffle: bool = True, together: int = 1):
        self.rows = _check.integer("rows", rows, at_least=1)
        self.batch_size = _check.integer("batch_size", batch_size, at_least=1, at_most=2**62)
        self.seed = _check.integer("seed", seed, at_least=0, at_most=2**64 - 1)
        self.shuffle = bool(shuffle)
        self.together = _check.integer("together", together, at_least=1)
        self.steps_per_epoch = -(-self.rows // self.batch_size)

    def epoch_of(self, step: int) -> int:
        """Epoch to which a global step belongs; both count from 0."""
        return step // self.steps_per_epoch

    def rows_in(self, step: int) -> int:
        """How many rows a global step has: a whole batch, but in the last one of an epoch."""
        if (step + 1) % self.steps_per_epoch:
            return self.batch_size
        return self.rows - (self.steps_per_epoch - 1) * self.batch_size

    def rows_of(self, step: int) -> tuple[int, int]:
        """Begin and end of a global step's positions in its epoch."""
        begin = step % self.steps_per_epoch * self.batch_size
        return begin, min(begin + self.batch_size, self.rows)

    def consumed(self, step: int) -> int:
        """Samples that all steps before ``step`` hold."""
        return self.epoch_of(step) * self.rows + self.rows_of(step)[0]

    def reached(self, samples: int) -> int:
        """How many whole steps so many samples are: the inverse of `consumed`."""
        return samples // self.rows * self.steps_per_epoch + samples % self.rows // self.batch_size

    def part(self, step: int, worker: int, workers: int) -> tuple[int, int]:
        """Begin and end of one worker's positions in a step; none at all is legal.

        Sizes differ by one at the most, counted in rows that are ``together``. With ``n`` of them in the step worker w
        has [n w // P, n (w + 1) // P), so that parts of 8 micro-shards are made of whole micro-shards on 1, 2, 4 and 8
        workers.
        """
        return self.cut(*self.rows_of(step), worker, workers)

    def cut(self, begin: int, end: int, part: int, parts: int) -> tuple[int, int]:
        """The same of other positions than a whole step's."""
        groups = (end - begin) // self.together
        first, last = (begin + groups * each // parts * self.together for each in (part, part + 1))
        return first, end if part == parts - 1 else last

    def most(self, parts: int) -> int:
        """Rows that such a part has at most."""
        rows = min(self.batch_size, self.rows)
        return min(rows, -(-(rows // self.together) // parts) * self.together + self.together - 1)

    def index(self, epoch: int, begin: int, end: int) -> np.ndarray:
        """Samples at positions [begin, end) of an epoch, int64."""
        positions = np.arange(begin, end, dtype=np.int64)
        self.order(epoch, positions)
        return positions

    def order(self, epoch: int, positions: np.ndarray) -> None:
        """Replace positions of an epoch, int64, by the samples that stand there."""
        if self.shuffle:
            _core.order(positions, positions, self.rows, self.seed, epoch)
