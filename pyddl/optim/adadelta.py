"""AdaDelta: steps in the unit of the parameters, without a learning rate to tune."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyddl import _check, _core
from pyddl.optim.base import Optimizer
from pyddl.optim.schedules import Schedule

__all__ = ["AdaDelta"]


class AdaDelta(Optimizer):
    """AdaDelta [1]_, algorithm 1.

    An update by a gradient g::

        s = decay * s + (1 - decay) * g ** 2
        change = g * sqrt(c + epsilon) / sqrt(s + epsilon)
        c = decay * c + (1 - decay) * change ** 2
        p -= learning_rate * change

    Parameters
    ----------
    learning_rate : float or Schedule, default=1.0
        1 is the paper's algorithm.
    decay : float, default=0.95
        As in the paper (PyTorch: ``rho=0.9``); from 0 to below 1.
    epsilon : float, default=1e-6
        Inside both roots, as in the paper and in PyTorch; above 0, for it starts the motion.
    weight_decay, clip_norm, bound
        See `Optimizer`.

    References
    ----------
    .. [1] Zeiler (2012), ADADELTA: an adaptive learning rate method, arXiv 1212.5701.
    """

    name = "adadelta"
    state_names = ("mean_square", "mean_square_change")

    def __init__(self, learning_rate: float | Schedule = 1.0, *, decay: float = 0.95, epsilon: float = 1e-6,
                 **shared: Any):
        super().__init__(learning_rate, **shared)
        _check.number("decay", decay, at_least=0, below=1)
        _check.number("epsilon", epsilon, above=0)
        self.decay = decay
        self.epsilon = epsilon

    def rule(self, step: int, clock: int, reached: int) -> tuple[Callable[..., None], tuple[float, ...]]:
        return _core.adadelta, (self.decay, self.epsilon)
