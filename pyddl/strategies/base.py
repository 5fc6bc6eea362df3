"""Strategy: how vectors travel between workers, and when. It sees flat vectors, never a model."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, ClassVar, Protocol

import numpy as np

from pyddl.comm.operations import Operation
from pyddl.layout import Layout

__all__ = ["Me", "Steps", "Strategy"]

Steps = Generator[Operation, Any, None]


class Me(Protocol):
    """One worker, as its strategy sees it.

    Attributes
    ----------
    number, count : int
        This worker, and how many there are.
    layout : Layout
        Slices of the vectors.
    parameters, gradients : ndarray, float32
        ``gradients`` holds the sum over this worker's rows after `compute`.
    samples : int
        Rows that the last gradient was summed over; may be 0.
    """

    number: int
    count: int
    layout: Layout
    parameters: np.ndarray
    gradients: np.ndarray
    samples: int

    def update(self, *, scale: float) -> None:
        """Let the optimizer move ``parameters`` by ``scale * gradients``."""


class Strategy:
    """Base of all strategies: a name, and a generator for the worker's side.

    Attributes
    ----------
    name : str
        Public name.
    synchronous : bool
        Whether all workers are in the same step at the same time, so that statistics of the whole batch have a meaning.
    replicated : bool
        Whether parameters are equal on all workers after each step, so that any one stands for all.
    """

    name: ClassVar[str]
    synchronous: ClassVar[bool] = False
    replicated: ClassVar[bool] = False

    def worker(self, me: Me) -> Steps:
        """What one worker does, as operations."""
        raise TypeError(f"{type(self).__name__} lacks its worker side")
