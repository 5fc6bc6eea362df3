"""Strategies: every way to train together, one file each."""

from __future__ import annotations

import inspect
from typing import Any

from pyddl import _check
from pyddl.errors import ParameterError
from pyddl.strategies.allreduce import Allreduce
from pyddl.strategies.auto import Auto
from pyddl.strategies.averaging import Averaging
from pyddl.strategies.base import Me, Served, Steps, Strategy, Turn
from pyddl.strategies.elastic import Elastic
from pyddl.strategies.gossip import Gossip
from pyddl.strategies.local import Local
from pyddl.strategies.sequential import Sequential
from pyddl.strategies.server import Server
from pyddl.strategies.split import Split

__all__ = ["NAMES", "Allreduce", "Auto", "Averaging", "Elastic", "Gossip", "Local", "Me", "Sequential", "Served",
           "Server", "Split", "Steps", "Strategy", "Turn", "strategy"]

_BY_NAME: dict[str, type[Strategy]] = {
    s.name: s for s in (Local, Allreduce, Averaging, Server, Elastic, Gossip, Sequential, Split, Auto)}
NAMES = tuple(_BY_NAME)


def strategy(name: str, **options: Any) -> Strategy:
    """The strategy of that name, with its own options.

    Raises
    ------
    ParameterError
        No strategy has the name, or it has no such option (the nearest one is offered), or a value is out of range.

    Examples
    --------
    >>> strategy("averaging", period=4).period
    4
    """
    chosen = _BY_NAME[_check.one_of("strategy", name, NAMES)]
    own = [] if chosen.__init__ is object.__init__ else list(inspect.signature(chosen).parameters)
    for option in options:
        if option not in own:
            raise ParameterError(f"strategy {name} has no option {option!r}{_check.nearest(option, own)}")
    return chosen(**options)
