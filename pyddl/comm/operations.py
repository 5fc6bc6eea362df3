"""The operations that strategies yield: what happens, never how.

A strategy is a generator; a driver carries out each operation it yields and sends the answer back. The same
generators run over MPI and on the simulator's clock.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Compute", "Operation", "StepDone", "Sum", "compute", "step_done", "sum_over_workers"]


class Operation:
    """Base of all operations."""

    __slots__ = ()


class Compute(Operation):
    """The gradient of this worker's next rows. Answer: False at the end of the data, else True."""

    __slots__ = ()


@dataclass(slots=True, eq=False)
class Sum(Operation):
    """``vector`` becomes its sum over all workers, on all workers. Answer: the sum of ``count``."""

    vector: np.ndarray
    count: int


class StepDone(Operation):
    """A step is over: the trainer may look at the vectors, evaluate and save. Answer: None."""

    __slots__ = ()


_COMPUTE = Compute()
_STEP_DONE = StepDone()


def compute() -> Compute:
    """Compute the gradient of my next rows into ``me.gradients``; false at the end of the data."""
    return _COMPUTE


def sum_over_workers(vector: np.ndarray, count: int = 0) -> Sum:
    """Sum ``vector`` over all workers, in place; the answer is the sum of ``count``. Every worker calls it."""
    return Sum(vector, count)


def step_done() -> StepDone:
    """Tell the trainer that parameters are those of a finished step."""
    return _STEP_DONE
