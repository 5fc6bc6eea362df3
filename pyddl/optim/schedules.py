"""Schedules: values that depend on the step, such as a learning rate that falls.

A schedule is called with the number of updates done so far, 0 at the first, and returns the value for this
update.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

from pyddl import _check, effects, names
from pyddl.errors import ParameterError

__all__ = ["Constant", "Cosine", "Linear", "MomentumSchedule", "Schedule", "StepDecay", "WarmUp", "schedule"]


class Schedule(ABC):
    """Base of the schedules: ``schedule(step)`` returns a float."""

    name: str

    @abstractmethod
    def __call__(self, step: int) -> float:
        """The value for the update after ``step`` others."""

    def options(self) -> dict[str, Any]:
        """Name and arguments as plain values, as they go into ``config.toml``."""
        values = {key: value.options() if isinstance(value, Schedule) else value
                  for key, value in vars(self).items()}
        return {"name": self.name, **values}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in vars(self).items())})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))


class Constant(Schedule):
    """The same value at every step.

    Parameters
    ----------
    value : float
        At least 0.
    """

    name = "constant"

    def __init__(self, value: float):
        self.value = _check.number("value", value, at_least=0)

    def __call__(self, step: int) -> float:
        return self.value


class StepDecay(Schedule):
    """``value * factor ** (step // every)``.

    Parameters
    ----------
    value : float
        At step 0; at least 0.
    every : int
        Steps between two falls.
    factor : float, default=0.5
        In (0, 1].
    """

    name = "step"

    def __init__(self, value: float, every: int, factor: float = 0.5):
        self.value = _check.number("value", value, at_least=0)
        self.every = _check.integer("every", every, at_least=1)
        self.factor = _check.number("factor", factor, above=0, at_most=1)

    def __call__(self, step: int) -> float:
        return self.value * self.factor ** (step // self.every)


class _Falling(Schedule):
    """From ``value`` at step 0 to ``minimum`` at step ``total``, and ``minimum`` after."""

    def __init__(self, value: float, total: int, minimum: float = 0.0):
        self.value = _check.number("value", value, at_least=0)
        self.total = _check.integer("total", total, at_least=1)
        self.minimum = _check.number("minimum", minimum, at_least=0, at_most=self.value)


class Cosine(_Falling):
    """Half a cosine from ``value`` at step 0 to ``minimum`` at step ``total`` and after [1]_.

    Parameters
    ----------
    value : float
        At least 0.
    total : int
        Steps until the minimum.
    minimum : float, default=0.0
        From 0 to ``value``.

    References
    ----------
    .. [1] Loshchilov, Hutter (2017), SGDR: stochastic gradient descent with warm restarts, equation 5, one
       period.
    """

    name = "cosine"

    def __call__(self, step: int) -> float:
        share = min(step / self.total, 1.0)
        return self.minimum + (self.value - self.minimum) * 0.5 * (1.0 + math.cos(math.pi * share))


class Linear(_Falling):
    """A straight line from ``value`` at step 0 to ``minimum`` at step ``total``, and ``minimum`` after.

    Chains of a Boltzmann machine keep up with parameters that come to rest [1]_.

    Parameters
    ----------
    value : float
        At least 0.
    total : int
        Steps until the minimum.
    minimum : float, default=0.0
        From 0 to ``value``.

    References
    ----------
    .. [1] Tieleman (2008), Training restricted Boltzmann machines using approximations to the likelihood gradient,
       ICML, section 4.
    """

    name = "linear"

    def __call__(self, step: int) -> float:
        return self.minimum + (self.value - self.minimum) * (1.0 - min(step / self.total, 1.0))


class WarmUp(Schedule):
    """A straight rise over ``steps`` updates to ``then(0)``, and ``then`` afterwards [1]_.

    Parameters
    ----------
    steps : int
        The first update has ``then(0) / steps``, number ``steps`` has ``then(0)``; 0 for no rise.
    then : Schedule
        Its step 0 is the first update after the rise.

    References
    ----------
    .. [1] Goyal et al. (2017), Accurate, large minibatch SGD, section 2.2.
    """

    name = "warmup"

    def __init__(self, steps: int, then: Schedule):
        self.steps = _check.integer("steps", steps, at_least=0)
        if not isinstance(then, Schedule):
            raise ParameterError(f"then is {then!r}; expected a Schedule, for example Constant(0.1)")
        self.then = then

    def __call__(self, step: int) -> float:
        if step < self.steps:
            return self.then(0) * ((step + 1) / self.steps)
        return self.then(step - self.steps)


class MomentumSchedule(Schedule):
    """Momentum that grows: ``min(1 - 2 ** (-1 - log2(step // every + 1)), maximum)``, equation 5 of [1]_.

    That is 1/2, 3/4, 5/6, 7/8, ... for ``every`` steps each, which follows Nesterov's 1 - 3 / (t + 5) for
    convex functions until ``maximum``.

    Parameters
    ----------
    maximum : float, default=0.99
        From 0 to below 1; the paper tries 0.9, 0.99, 0.995 and 0.999.
    every : int, default=250
        Steps between two rises.

    References
    ----------
    .. [1] Sutskever, Martens, Dahl, Hinton (2013), On the importance of initialization and momentum in deep
       learning, ICML.
    """

    name = "sutskever"

    def __init__(self, maximum: float = 0.99, every: int = 250):
        self.maximum = _check.number("maximum", maximum, at_least=0, below=1)
        self.every = _check.integer("every", every, at_least=1)

    def __call__(self, step: int) -> float:
        return min(1.0 - 0.5 / (step // self.every + 1), self.maximum)  # 2 ** (-1 - log2(k)) = 0.5 / k


def schedule(name: str, learning_rate: float, *, warmup_steps: int = 0, total_steps: int | None = None,
             step_every: int | None = None, step_factor: float = 0.5, minimum: float = 0.0) -> Schedule:
    """A schedule for the learning rate by name, as the command line chooses it.

    Parameters
    ----------
    name : {"constant", "step", "cosine", "linear"}
    learning_rate : float
        The highest value.
    warmup_steps : int, default=0
        Steps of a straight rise before the schedule begins.
    total_steps : int, optional
        All steps of the training, the rise included; ``cosine`` and ``linear`` need it and reach ``minimum`` there.
    step_every : int, optional
        ``step`` needs it: steps between two falls.
    step_factor : float, default=0.5
        Of ``step``.
    minimum : float, default=0.0
        Of ``cosine`` and ``linear``.

    Raises
    ------
    ParameterError
        Unknown name, a value out of range, one that the schedule needs is missing, or one belongs to another schedule.

    Examples
    --------
    >>> rate = schedule("cosine", 0.1, warmup_steps=10, total_steps=110)
    >>> rate(0), rate(9), round(rate(60), 12), rate(110)
    (0.010000000000000002, 0.1, 0.05, 0.0)
    """
    _check.one_of("schedule", name, names.SCHEDULES)
    own = {"step_every": None, "step_factor": 0.5, "minimum": 0.0}
    given = {"step_every": step_every, "step_factor": step_factor, "minimum": minimum}
    effects.check({"schedule": name, **given}, lambda option: (own[option],))
    warmup = _check.integer("warmup_steps", warmup_steps, at_least=0)
    then: Schedule
    if name == "constant":
        then = Constant(learning_rate)
    elif name == "step":
        if step_every is None:
            raise ParameterError("schedule 'step' needs step_every, the number of steps between two falls")
        then = StepDecay(learning_rate, _check.integer("step_every", step_every, at_least=1),
                         _check.number("step_factor", step_factor, above=0, at_most=1))
    else:
        if total_steps is None:
            raise ParameterError(f"schedule {name!r} needs total_steps, the steps of the whole training")
        total = _check.integer("total_steps", total_steps, at_least=1)
        then = {"cosine": Cosine, "linear": Linear}[name](learning_rate, max(total - warmup, 1), minimum)
    return WarmUp(warmup, then) if warmup else then
