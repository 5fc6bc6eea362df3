"""Training: the trainer, and what it joins the other parts with."""

from __future__ import annotations

from typing import Any

__all__ = ["Result", "Run", "StopRequest", "Trainer", "evaluate", "load_run", "simulate"]

_HOMES = {
    "Result": "result",
    "Trainer": "trainer",
    "Run": "run",
    "load_run": "run",
    "StopRequest": "stop",
    "evaluate": "evaluation",
    "simulate": "simulation",
}


def __getattr__(name: str) -> Any:  # the trainer loads the compute module: only when it is used
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"pyddl.train.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
