"""RMSProp: gradients divided by a running root of their mean square."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyddl import _check, _core
from pyddl.optim.base import Optimizer
from pyddl.optim.schedules import Schedule

__all__ = ["RMSProp"]


class RMSProp(Optimizer):
    """RMSProp [1]_: ``s = decay * s + (1 - decay) * g ** 2; p -= learning_rate * g / (sqrt(s) + epsilon)``.

    Parameters
    ----------
    learning_rate : float or Schedule, default=0.001
        PyTorch has 0.01.
    decay : float, default=0.9
        As in the lecture (PyTorch: ``alpha=0.99``); from 0 to below 1.
    epsilon : float, default=1e-8
        Outside the root, as in PyTorch; at least 0.
    weight_decay, clip_norm, bound
        See `Optimizer`. Wasserstein GANs use ``learning_rate=5e-5, bound=0.01``.

    References
    ----------
    .. [1] Tieleman, Hinton (2012), Neural networks for machine learning, lecture 6.5.
    """

    name = "rmsprop"
    state_names = ("mean_square",)

    def __init__(self, learning_rate: float | Schedule = 0.001, *, decay: float = 0.9, epsilon: float = 1e-8,
                 **shared: Any):
        super().__init__(learning_rate, **shared)
        _check.number("decay", decay, at_least=0, below=1)
        _check.number("epsilon", epsilon, at_least=0)
        self.decay = decay
        self.epsilon = epsilon

    def rule(self, step: int, clock: int, reached: int) -> tuple[Callable[..., None], tuple[float, ...]]:
        return _core.rmsprop, (self.decay, self.epsilon)
