"""From the training options to an optimizer."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from pyddl import _check
from pyddl.optim import OPTIMIZERS, MomentumSchedule, Optimizer, Schedule, optimizer, schedule
from pyddl.optim.base import argument_names, make

__all__ = ["optimizer_of"]

SCHEDULED = {"schedule": "constant", "warmup": 0, "step_every": 1000, "step_factor": 0.5, "minimum_rate": 0.0}
"""What makes a schedule of a learning rate, where nothing else is said."""

SAID = {**SCHEDULED, "learning_rate": None, "weight_decay": None, "clip_norm": None, "momentum": None,
        "momentum_schedule": "constant"}
"""The options that an optimizer is made from, where nothing else is said."""


def optimizer_of(given: str | Optimizer, options: Mapping[str, Any], total_steps: int, rate_scale: float = 1.0,
                 own: Mapping[str, Any] | None = None) -> Optimizer:
    """A new optimizer as the training options describe it, with its schedules.

    Parameters
    ----------
    given : str or Optimizer
        A rule's name; an object is taken as it is, with its own rate, schedule, decay and clipping.
    options : mapping
        Of training. ``learning_rate`` None is the rule's default.
    total_steps : int
        For schedules that know their end.
    rate_scale : float, default=1
        The model's: factor of the default learning rate of a rule that is not `Optimizer.scale_free`. It does not touch
        a learning rate that is given.
    own : mapping, optional
        What a phase wants otherwise: ``optimizer``, options, or arguments of the rule. ``usual`` are arguments that
        count where the rule has them, and an object was made with its defaults of them.
    """
    own, whole = dict(own or {}), given
    usual = own.pop("usual", {})
    given = own.pop("optimizer", given)
    if not isinstance(given, str):
        rule: Any = type(given)
        plain = rule()  # its arguments are as if they had not been given
        own = {**{name: value for name, value in usual.items()
                  if hasattr(plain, name) and getattr(given, name) == getattr(plain, name)}, **own}
        if not own:
            return copy.copy(given)
        arguments = {name: getattr(given, name) for name in argument_names(type(given))}
        wanted = {name: own.pop(name) for name in SCHEDULED if name in own}
        if wanted:
            peak = own.pop("learning_rate", given.learning_rate)
            own["learning_rate"] = _rate(peak, {**SCHEDULED, **wanted}, total_steps)
        return make(type(given), {**arguments, **own})
    options = {**SAID, **options}
    if given != whole:  # what belongs to the other rule alone is not meant for this one
        options = {**options, "momentum": None, "momentum_schedule": SAID["momentum_schedule"]}
    options |= {name: own.pop(name) for name in SAID if name in own}  # not bound: that of mode ssp is another
    arguments = {name: options[name] for name in ("weight_decay", "clip_norm", "momentum") if options[name] is not None}
    known = argument_names(OPTIMIZERS[_check.one_of("optimizer", given, OPTIMIZERS)])
    arguments |= {name: value for name, value in usual.items() if name in known}
    if options["momentum_schedule"] == "sutskever":
        largest = {"maximum": arguments["momentum"]} if "momentum" in arguments else {}
        arguments["momentum"] = MomentumSchedule(**largest)
    peak = options["learning_rate"]
    if peak is None:
        rule = OPTIMIZERS[given]
        peak = rule().learning_rate * (1 if rule.scale_free else rate_scale)
    return optimizer(given, **{"learning_rate": _rate(peak, options, total_steps), **arguments, **own})


def _rate(peak: Any, options: Mapping[str, Any], total_steps: int) -> float | Schedule:
    return schedule(options["schedule"], peak, warmup_steps=options["warmup"], total_steps=total_steps,
                    step_every=options["step_every"] if options["schedule"] == "step" else None,
                    step_factor=options["step_factor"], minimum=options["minimum_rate"])
