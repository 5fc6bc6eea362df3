"""Update rules and schedules. Each rule is one fused pass over flat vectors; see `Optimizer`."""

from __future__ import annotations

from typing import Any

from pyddl import _check, names
from pyddl._names import offers
from pyddl.optim.adadelta import AdaDelta
from pyddl.optim.adagrad import AdaGrad
from pyddl.optim.adam import Adam, AdamW
from pyddl.optim.base import Optimizer, make
from pyddl.optim.rmsprop import RMSProp
from pyddl.optim.schedules import Constant, Cosine, Linear, MomentumSchedule, Schedule, StepDecay, WarmUp, schedule
from pyddl.optim.sgd import SGD, Momentum, Nesterov

__all__ = [
    "OPTIMIZERS",
    "SGD",
    "AdaDelta",
    "AdaGrad",
    "Adam",
    "AdamW",
    "Constant",
    "Cosine",
    "Linear",
    "Momentum",
    "MomentumSchedule",
    "Nesterov",
    "Optimizer",
    "RMSProp",
    "Schedule",
    "StepDecay",
    "WarmUp",
    "optimizer",
    "schedule",
]

__dir__ = offers(__name__)

OPTIMIZERS: dict[str, type[Optimizer]] = {
    algorithm.name: algorithm
    for algorithm in (SGD, Momentum, Nesterov, AdaGrad, RMSProp, AdaDelta, Adam, AdamW)
}
"""The rules by name."""


def optimizer(name: str, **options: Any) -> Optimizer:
    """An optimizer by name, as the command line chooses it.

    Parameters
    ----------
    name : {"sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adadelta", "adam", "adamw"}
    **options
        Arguments of its constructor.

    Raises
    ------
    ParameterError
        Unknown name, an option that this rule does not have, or a value out of its range.

    Examples
    --------
    >>> optimizer("momentum", learning_rate=0.1)
    Momentum(learning_rate=0.1, momentum=0.9, weight_decay=0.0)
    """
    return make(OPTIMIZERS[_check.one_of("optimizer", name, names.RULES)], options)
