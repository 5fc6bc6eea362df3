"""AdaGrad: a step size per parameter that falls with the gradients it has seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyddl import _check, _core
from pyddl.optim.base import Optimizer
from pyddl.optim.schedules import Schedule

__all__ = ["AdaGrad"]


class AdaGrad(Optimizer):
    """AdaGrad [1]_: ``s += g ** 2; p -= learning_rate * g / (sqrt(s) + epsilon)``.

    Parameters
    ----------
    learning_rate : float or Schedule, default=0.01
    epsilon : float, default=1e-10
        Outside the root, as in PyTorch; at least 0.
    weight_decay, clip_norm, bound
        See `Optimizer`.

    References
    ----------
    .. [1] Duchi, Hazan, Singer (2011), Adaptive subgradient methods, JMLR 12, the diagonal form.
    """

    name = "adagrad"
    state_names = ("squared_sum",)

    def __init__(self, learning_rate: float | Schedule = 0.01, *, epsilon: float = 1e-10, **shared: Any):
        super().__init__(learning_rate, **shared)
        _check.number("epsilon", epsilon, at_least=0)
        self.epsilon = epsilon

    def rule(self, step: int, clock: int, reached: int) -> tuple[Callable[..., None], tuple[float, ...]]:
        return _core.adagrad, (self.epsilon,)
