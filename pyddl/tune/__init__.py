"""The search over runs: a space of options, the study of its trials, and what is seen of them."""

from __future__ import annotations

from typing import Any

from pyddl._names import lazily, offers

__all__ = ["Parameter", "Search", "Space", "Study", "Trial"]

_HOMES = {
    "Parameter": "pyddl.tune.parameter",
    "Space": "pyddl.tune.space",
    "Search": "pyddl.tune.search",
    "Study": "pyddl.tune.study",
    "Trial": "pyddl.tune.study",
}


def __getattr__(name: str) -> Any:
    return lazily(__name__, name, _HOMES)


__dir__ = offers(__name__)
