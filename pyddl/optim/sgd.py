"""Stochastic gradient descent, plain and with momentum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyddl import _core
from pyddl.optim.base import Optimizer, at, value_or_schedule
from pyddl.optim.schedules import Schedule

__all__ = ["SGD", "Momentum", "Nesterov"]


class SGD(Optimizer):
    """``p -= learning_rate * g``.

    Parameters
    ----------
    learning_rate : float or Schedule, default=0.01
        Times the model's ``rate_scale`` where a `Trainer` takes the default; PyTorch has 0.001.
    weight_decay, clip_norm, bound
        See `Optimizer`.
    """

    name = "sgd"
    scale_free = False

    def __init__(self, learning_rate: float | Schedule = 0.01, **shared: Any):
        super().__init__(learning_rate, **shared)

    def rule(self, step: int, clock: int, reached: int) -> tuple[Callable[..., None], tuple[float, ...]]:
        return _core.sgd, ()


class Momentum(Optimizer):
    """Classical momentum [1]_, in the form of [2]_: ``v = momentum * v - learning_rate * g; p += v``.

    PyTorch keeps ``b = momentum * b + g`` and subtracts ``learning_rate * b``: the same steps while the
    learning rate is constant (v = -learning_rate * b). Here a change of the learning rate acts on new
    gradients only.

    Parameters
    ----------
    learning_rate : float or Schedule, default=0.003
        Times the model's ``rate_scale`` where a `Trainer` takes the default. With momentum 0.9 a gradient moves the
        parameters ten times as far in the end, three times as far as that of `SGD`; both bear about the same rate.
    momentum : float or Schedule, default=0.9
        From 0 to below 1; `MomentumSchedule` is the growing one of [2]_.
    weight_decay, clip_norm, bound
        See `Optimizer`.

    References
    ----------
    .. [1] Polyak (1964), Some methods of speeding up the convergence of iteration methods.
    .. [2] Sutskever, Martens, Dahl, Hinton (2013), On the importance of initialization and momentum in deep
       learning, ICML, equations 1 and 2.
    """

    name = "momentum"
    scale_free = False
    state_names = ("momentum",)

    def __init__(self, learning_rate: float | Schedule = 0.003, *, momentum: float | Schedule = 0.9,
                 **shared: Any):
        super().__init__(learning_rate, **shared)
        self.momentum = value_or_schedule("momentum", momentum, at_least=0, below=1)

    def rule(self, step: int, clock: int, reached: int) -> tuple[Callable[..., None], tuple[float, ...]]:
        return _core.momentum, (at(self.momentum, clock),)


class Nesterov(Momentum):
    """Nesterov's accelerated gradient in the form of [1]_, equations 3 and 4.

    The paper takes the gradient at a look-ahead point::

        v' = momentum * v - learning_rate * g(theta + momentum * v)
        theta' = theta + v'

    The parameters here *are* that point, p = theta + momentum * v, so that a gradient is always taken at the
    parameters::

        v' = momentum[t] * v - learning_rate * g(p)
        p' = p + momentum[t + 1] * v' - learning_rate * g(p)

    These are the paper's steps exactly, also while momentum changes; where updates share a step, or skip some, t is
    that which the update before looked ahead to. PyTorch's ``nesterov=True`` is the same for a constant learning rate
    and momentum (v = -learning_rate * b).

    Parameters
    ----------
    learning_rate, momentum, weight_decay, clip_norm, bound
        As in `Momentum`; ``bound`` clamps the look-ahead point.

    References
    ----------
    .. [1] Sutskever, Martens, Dahl, Hinton (2013), On the importance of initialization and momentum in deep
       learning, ICML.
    """

    name = "nesterov"

    def rule(self, step: int, clock: int, reached: int) -> tuple[Callable[..., None], tuple[float, ...]]:
        return _core.nesterov, (at(self.momentum, reached), at(self.momentum, clock + 1))
