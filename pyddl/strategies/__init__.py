"""Strategies: every way to train together, one file each."""

from __future__ import annotations

from pyddl import _check
from pyddl.strategies.allreduce import Allreduce
from pyddl.strategies.base import Me, Steps, Strategy
from pyddl.strategies.local import Local

__all__ = ["NAMES", "Allreduce", "Local", "Me", "Steps", "Strategy", "strategy"]

_BY_NAME: dict[str, type[Strategy]] = {s.name: s for s in (Local, Allreduce)}
NAMES = tuple(_BY_NAME)


def strategy(name: str) -> Strategy:
    """The strategy of that name.

    Raises
    ------
    ParameterError
        No strategy has the name; the nearest one is offered.
    """
    return _BY_NAME[_check.one_of("strategy", name, NAMES)]()
