"""Adam and AdamW: running means of the gradient and of its square."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyddl import _check, _core
from pyddl.optim.base import Optimizer
from pyddl.optim.schedules import Schedule

__all__ = ["Adam", "AdamW"]


class Adam(Optimizer):
    """Adam [1]_, algorithm 1.

    An update by a gradient g, with t = step + 1::

        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g ** 2
        p -= learning_rate * m / (1 - beta1 ** t) / (sqrt(v / (1 - beta2 ** t)) + epsilon)

    Parameters
    ----------
    learning_rate : float or Schedule, default=0.001
    beta1 : float, default=0.9
        From 0 to below 1.
    beta2 : float, default=0.999
        From 0 to below 1.
    epsilon : float, default=1e-8
        Outside the root of the corrected second moment, as in algorithm 1 and in PyTorch; at least 0.
    weight_decay, clip_norm, bound
        See `Optimizer`.

    References
    ----------
    .. [1] Kingma, Ba (2015), Adam: a method for stochastic optimization, ICLR.
    """

    name = "adam"
    state_names = ("first_moment", "second_moment")

    def __init__(self, learning_rate: float | Schedule = 0.001, *, beta1: float = 0.9, beta2: float = 0.999,
                 epsilon: float = 1e-8, **shared: Any):
        super().__init__(learning_rate, **shared)
        _check.number("beta1", beta1, at_least=0, below=1)
        _check.number("beta2", beta2, at_least=0, below=1)
        _check.number("epsilon", epsilon, at_least=0)
        self.beta1 = beta1
        self.beta2 = beta2
        self.epsilon = epsilon

    def rule(self, step: int, clock: int, reached: int) -> tuple[Callable[..., None], tuple[float, ...]]:
        return _core.adam, (self.beta1, self.beta2, self.epsilon, step)


class AdamW(Adam):
    """Adam with decoupled weight decay [1]_: ``p *= 1 - learning_rate * weight_decay``, then Adam's step.

    The decay is multiplied by the learning rate, schedule included, as in PyTorch; the paper multiplies it by
    the schedule alone. The factor is a float32: where learning_rate * weight_decay is below 6e-8 it is 1.

    Parameters
    ----------
    learning_rate, beta1, beta2, epsilon, clip_norm, bound
        As in `Adam`.
    weight_decay : float, default=0.01

    References
    ----------
    .. [1] Loshchilov, Hutter (2019), Decoupled weight decay regularization, ICLR, algorithm 2.
    """

    name = "adamw"

    def __init__(self, learning_rate: float | Schedule = 0.001, *, weight_decay: float = 0.01, **shared: Any):
        super().__init__(learning_rate, weight_decay=weight_decay, **shared)

    def rule(self, step: int, clock: int, reached: int) -> tuple[Callable[..., None], tuple[float, ...]]:
        return _core.adamw, (self.beta1, self.beta2, self.epsilon, step)
