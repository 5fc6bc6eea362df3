"""Optimizer: what all update rules share - clipping, weight decay, projection, and the walk over ranges."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pyddl import _check, _core
from pyddl.errors import ParameterError, ShapeError
from pyddl.optim.schedules import Schedule

__all__ = ["Optimizer", "Range"]

Range = tuple[int, int, bool]


def value_or_schedule(name: str, value: float | Schedule, **limits: float) -> float | Schedule:
    """Return ``value`` as given, once it is known to be a schedule or a number within ``limits``."""
    if not isinstance(value, Schedule):
        _check.number(name, value, **limits)
    return value


def at(value: float | Schedule, step: int) -> float:
    """The value of a number or schedule at ``step``."""
    return value(step) if isinstance(value, Schedule) else value


class Optimizer(ABC):
    """Base of the update rules: how ``gradients`` move ``parameters``.

    An optimizer owns no vectors: parameters, gradients and state are handed to each `update`. Each update is
    one pass over memory, in C++ (``csrc/kernels/optimizers.hpp``), and its result does not depend on threads
    or on the cut into ranges. A subclass is one rule: its names, its own arguments, and `rule`.

    Parameters
    ----------
    learning_rate : float or Schedule
        Step size, at least 0; each rule says its default.
    weight_decay : float, default=0.0
        Adds ``weight_decay * parameters`` to the mean gradient (L2 penalty ``weight_decay / 2 * |p|^2``),
        where the layout says decay. AdamW decouples it.
    clip_norm : float, optional
        Where the Euclidean norm of the mean gradient is above it, the gradient is scaled down to this norm,
        before weight decay. Above 0.
    bound : float, optional
        After each update parameters are clamped to [-bound, bound] (the weight clipping of Wasserstein GANs).
        Above 0.

    Attributes
    ----------
    name : str
        As `pyddl.optim.optimizer` and the command line know it.
    state_names : tuple of str
        Names of the vectors that the rule keeps, each as long as the parameters and zero before the first
        update.
    scale_free : bool
        Whether steps stay as they are where all gradients are multiplied by one number. Default learning rates of rules
        whose steps grow with the gradients are multiplied by the model's ``rate_scale``.

    Raises
    ------
    ParameterError
        A value is out of its range.
    """

    name: str
    scale_free: bool = True
    state_names: tuple[str, ...] = ()

    def __init__(self, learning_rate: float | Schedule, *, weight_decay: float = 0.0,
                 clip_norm: float | None = None, bound: float | None = None):
        self.learning_rate = value_or_schedule("learning_rate", learning_rate, at_least=0)
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.bound = bound
        _check.number("weight_decay", weight_decay, at_least=0)
        if clip_norm is not None:
            _check.number("clip_norm", clip_norm, above=0)
        if bound is not None:
            _check.number("bound", bound, above=0)
        self._seen: list[Range] = []
        self._ranges = _core.Ranges([])

    @abstractmethod
    def rule(self, step: int, clock: int, reached: int) -> tuple[Callable[..., None], tuple[float, ...]]:
        """The kernel, and its own arguments after ``step`` updates, with schedules at ``clock``; the update before
        looked ahead to the clock ``reached``."""

    def options(self) -> dict[str, Any]:
        """Arguments as plain values, as they go into ``config.toml``; those that are None are left out."""
        values = ((key, getattr(self, key)) for key in argument_names(type(self)))
        return {key: value.options() if isinstance(value, Schedule) else value
                for key, value in values if value is not None}

    def __repr__(self) -> str:
        values = ((key, getattr(self, key)) for key in argument_names(type(self)))
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in values if v is not None)})"

    def update(self, parameters: np.ndarray, gradients: np.ndarray, state: Sequence[np.ndarray],
               ranges: Sequence[Range], *, scale: float, step: int, squared_norm: float | None = None,
               clock: int | None = None, reached: int | None = None, rate: float = 1.0,
               rounded: np.ndarray | None = None) -> None:
        """Move ``parameters`` by one step, in place.

        Parameters
        ----------
        parameters : ndarray of shape (size,), float32
        gradients : ndarray of shape (size,), float32
            Sum over samples; only read.
        state : sequence of ndarray of shape (size,), float32
            One vector for each of `state_names`; updated in place.
        ranges : sequence of (begin, end, decay)
            The elements to update, as `Layout.decayed_ranges` gives them, perhaps cut to a shard. Others are
            left alone.
        scale : float
            Factor that makes ``gradients`` a mean: 1 / samples of the step.
        step : int
            Updates done before this one.
        squared_norm : float, optional
            Sum of squares of ``gradients``, unscaled, over all that is clipped together. Needed for
            `clip_norm` where ``ranges`` are only a shard; taken over ``ranges`` by default.
        clock : int, optional
            Where schedules are: ``step`` by default. A server that updates with each push counts steps otherwise.
        reached : int, optional
            The clock after that of the update before: ``clock`` by default. Pushes of one step share a clock.
        rate : float, default=1
            Factor of the learning rate.
        rounded : ndarray of shape (size,), uint16, optional
            Receives the updated elements as bfloat16 (their bits), in the same pass.

        Raises
        ------
        ShapeError
            A vector has the wrong type or length, or there is one too many or too few.
        """
        if self.clip_norm is not None:
            if squared_norm is None:
                squared_norm = sum(_core.sum_of_squares(gradients[begin:end]) for begin, end, _ in ranges)
            norm = abs(scale) * math.sqrt(squared_norm)
            if norm > self.clip_norm:
                scale *= self.clip_norm / norm
        if ranges != self._seen:
            self._ranges = self._with_weight_decay(ranges)
            self._seen = list(ranges)
        clock = step if clock is None else clock
        bound = math.inf if self.bound is None else self.bound
        kernel, own = self.rule(step, clock, clock if reached is None else reached)
        try:
            kernel(parameters, gradients, *state, self._ranges, rate * at(self.learning_rate, clock), scale, bound,
                   *own, rounded)
        except (TypeError, ValueError):
            self._check_vectors(parameters, gradients, state, rounded)  # says which one is wrong
            raise

    def _with_weight_decay(self, ranges: Sequence[Range]) -> _core.Ranges:
        """``ranges`` as the kernels take them; neighbours that are treated alike become one longer pass."""
        merged: list[tuple[int, int, float]] = []
        for begin, end, decay in ranges:
            weight_decay = float(self.weight_decay) if decay else 0.0
            if merged and merged[-1][1:] == (begin, weight_decay):
                merged[-1] = (merged[-1][0], end, weight_decay)
            else:
                merged.append((begin, end, weight_decay))
        return _core.Ranges(merged)

    def _check_vectors(self, parameters: np.ndarray, gradients: np.ndarray,
                       state: Sequence[np.ndarray], rounded: np.ndarray | None) -> None:
        size = getattr(parameters, "size", 0)
        _check.vector("parameters", parameters, size)
        _check.vector("gradients", gradients, size)
        if rounded is not None and (rounded.dtype != np.uint16 or rounded.shape != (size,)):
            raise ShapeError(f"rounded has shape {rounded.shape} and dtype {rounded.dtype}; expected ({size},) and "
                             "uint16, which holds bfloat16")
        if len(state) != len(self.state_names):
            raise ShapeError(f"state has {len(state)} vectors; {self.name} keeps {len(self.state_names)}: "
                             f"{', '.join(self.state_names) or 'none'}")
        for name, vector in zip(self.state_names, state, strict=True):
            _check.vector(f"state {name!r}", vector, size)


def make(algorithm: type[Optimizer], options: Mapping[str, Any]) -> Optimizer:
    """An optimizer with these arguments of its constructor.

    Raises
    ------
    ParameterError
        It has no such argument, or a value is out of its range.
    """
    known = argument_names(algorithm)
    for option in options:
        if option not in known:
            raise ParameterError(f"optimizer {algorithm.name!r} has no option {option!r}; it has {', '.join(known)}"
                                 f"{_check.nearest(option, known)}")
    return algorithm(**options)


def argument_names(algorithm: type[Optimizer]) -> list[str]:
    """Names of the arguments of an optimizer's constructor, its own first."""
    names: dict[str, None] = {}
    for cls in algorithm.__mro__[:-1]:
        for parameter in list(inspect.signature(cls).parameters.values()):
            if parameter.kind is not parameter.VAR_KEYWORD:
                names.setdefault(parameter.name)
    return list(names)
