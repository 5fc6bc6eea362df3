"""Which options a trial has a use for: by its model, its strategy and its optimizer, and what else they take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pyddl import effects, models, options
from pyddl.optim import OPTIMIZERS
from pyddl.optim.base import argument_names
from pyddl.options import Option

__all__ = ["HEADS", "RULES_OF", "default", "known", "option", "read", "usable", "why_not"]

HEADS = ("model", "strategy", "optimizer")
"""Options that take some of the others each, and have no use for the rest."""

RULES_OF = {name: [rule for rule, algorithm in OPTIMIZERS.items() if "momentum" in argument_names(algorithm)]
            for name in ("momentum", "momentum_schedule")}
"""Options that only some optimizers take, and these."""

MODEL = Option("model", "str", None, "model", "model to train")


def known() -> list[str]:
    """Names of the options of `pyddl train`, ``model`` among them."""
    return ["model", *(each.name for each in options.of_section(*options.OF_TRAIN))]


def option(name: str) -> Option:
    """The option of that name; ``model`` is one too, here."""
    return replace(MODEL, choices=tuple(models.TABLE)) if name == "model" else options.named(name)


def default(name: str, model: str) -> Any:
    """What the option is where it is not given."""
    return models.TABLE[model].defaults.get(name, option(name).default)


def read(name: str | None, model: str, strategy: str) -> list[str]:
    """The options of these that decide, beside `HEADS`, whether one, or any, has an effect."""
    there = {*known()} - {*HEADS}
    return [other for other in effects.reads(name)
            if other in there and not options.stranger(other, model=model, strategy=strategy)]


def usable(name: str, heads: Mapping[str, Any]) -> bool:
    """Whether model, strategy and optimizer, and what else it reads, as far as ``heads`` has them, have a use for the
    option."""
    if options.stranger(name, model=heads.get("model"), strategy=heads.get("strategy")):
        return False
    if effects.why_none(name, heads):
        return False
    return heads.get("optimizer") is None or heads["optimizer"] in RULES_OF.get(name, OPTIMIZERS)


def why_not(name: str, ways: Sequence[Mapping[str, Any]]) -> str:
    """Why none of these has a use for the option, as a sentence."""
    for way in ways:
        if why := options.stranger(name, model=way["model"], strategy=way["strategy"]) or effects.why_none(name, way):
            return why
    return (f"{name} is an option of optimizer {' and '.join(RULES_OF[name])}; the optimizer here is "
            f"{' or '.join(dict.fromkeys(way['optimizer'] for way in ways))}: leave it out, or choose another one")
