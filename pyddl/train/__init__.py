"""Training: the trainer, and what it joins the other parts with."""

from __future__ import annotations

from typing import Any

from pyddl._names import lazily, offers

__all__ = ["Result", "Run", "StopRequest", "Trainer", "evaluate", "load_run", "simulate"]

_HOMES = {
    "Result": "pyddl.train.result",
    "Trainer": "pyddl.train.trainer",
    "Run": "pyddl.train.run",
    "load_run": "pyddl.train.run",
    "StopRequest": "pyddl.train.stop",
    "evaluate": "pyddl.train.evaluation",
    "simulate": "pyddl.train.simulation",
}


def __getattr__(name: str) -> Any:  # the trainer loads the compute module: only when it is used
    return lazily(__name__, name, _HOMES)


__dir__ = offers(__name__)
