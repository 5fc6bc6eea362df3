"""From training options to an optimizer with its schedules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyddl import _check
from pyddl.optim import OPTIMIZERS, optimizer
from pyddl.optim.base import Optimizer
from pyddl.optim.schedules import MomentumSchedule, schedule

__all__ = ["optimizer_of"]


def optimizer_of(given: str | Optimizer, options: Mapping[str, Any], total_steps: int,
                 rate_scale: float = 1.0) -> Optimizer:
    """The optimizer that the training options describe, with its schedules; an object is taken as it is.

    Parameters
    ----------
    given : str or Optimizer
    options : mapping
        ``learning_rate`` None is the rule's default.
    total_steps : int
        Of the training, for schedules.
    rate_scale : float, default=1
        The model's: factor of the default learning rate of a rule that is not `Optimizer.scale_free`. It does not touch
        a learning rate that is given.
    """
    if not isinstance(given, str):
        return given
    own = {name: options[name] for name in ("weight_decay", "clip_norm", "momentum") if options[name] is not None}
    if options["momentum_schedule"] == "sutskever":
        own["momentum"] = MomentumSchedule(**({"maximum": own["momentum"]} if "momentum" in own else {}))
    peak = options["learning_rate"]
    if peak is None:
        rule: Any = OPTIMIZERS[_check.one_of("optimizer", given, OPTIMIZERS)]
        peak = rule().learning_rate * (1 if rule.scale_free else rate_scale)
    rate = schedule(options["schedule"], peak, warmup_steps=options["warmup"], step_every=options["step_every"],
                    step_factor=options["step_factor"], minimum=options["minimum_rate"], total_steps=total_steps)
    return optimizer(given, learning_rate=rate, **own)
