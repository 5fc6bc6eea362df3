"""Strategies as they are given: by name, by a file and class, or as objects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pyddl import _check, _own, options
from pyddl.errors import ParameterError, PyddlError
from pyddl.strategies.allreduce import Allreduce
from pyddl.strategies.auto import Auto
from pyddl.strategies.averaging import Averaging
from pyddl.strategies.base import Strategy, signature
from pyddl.strategies.elastic import Elastic
from pyddl.strategies.gossip import Gossip
from pyddl.strategies.local import Local
from pyddl.strategies.sequential import Sequential
from pyddl.strategies.server import Server
from pyddl.strategies.split import Split

__all__ = ["NAMES", "class_of", "described", "recorded", "strategy", "strategy_of"]

_BY_NAME: dict[str, type[Strategy]] = {
    s.name: s for s in (Local, Allreduce, Averaging, Server, Elastic, Gossip, Sequential, Split, Auto)}
NAMES = tuple(_BY_NAME)


def class_of(name: str) -> type[Strategy]:
    """The class of that name, one of `NAMES` or ``FILE.py:Class``.

    Raises
    ------
    ParameterError
        There is none; the nearest name is offered.
    """
    if _own.is_named(name):
        return _own.class_named("strategy", name, Strategy)
    return _BY_NAME[_check.one_of("strategy", name, (*NAMES, _own.PATTERN))]


def strategy(name: str, **given: Any) -> Strategy:
    """The strategy of that name, with its own options.

    Parameters
    ----------
    name : str
        One of `NAMES`, or ``FILE.py:Class`` for one of your own.
    **given
        What its constructor takes.

    Raises
    ------
    ParameterError
        No strategy has the name, or it has no such option (the nearest one is offered), or a value is out of range.

    Examples
    --------
    >>> strategy("averaging", period=4).period
    4
    """
    chosen = class_of(name)
    own = list(signature(chosen).parameters)
    for option in given:
        if option not in own:
            raise ParameterError(f"strategy {name} has no option {option!r}{_check.nearest(option, own)}")
    try:
        return chosen(**given)
    except PyddlError:
        raise
    except Exception as error:
        if chosen in _BY_NAME.values():
            raise
        raise _own.failed(f"strategy {name} cannot be made: {_own.said(error, name.rpartition(':')[0])}") from error


def strategy_of(given: str | Strategy, values: Mapping[str, Any]) -> Strategy:
    """What was given as strategy, an object or a name; then ``values``, training options, hold its own."""
    _check.name_or_object("strategy", given, Strategy)
    if isinstance(given, Strategy):
        return given
    return strategy(given, **options.of_strategy(given, values))


def described(chosen: Strategy) -> str | None:
    """A strategy of one's own in a text, with its constructor's arguments; None for those of pyddl.

    Two that print alike do the same.
    """
    if type(chosen) in _BY_NAME.values():
        return None
    return f"{type(chosen).__name__}({', '.join(f'{name}={value!r}' for name, value in chosen.options().items())})"


def recorded(chosen: Strategy) -> dict[str, Any]:
    """Options that make the same strategy again, those that differ from their defaults."""
    own = chosen.options()
    if type(chosen) in _BY_NAME.values():
        defaults = options.defaults_of(chosen.name)
        return {"strategy": chosen.name, **{key: value for key, value in own.items() if value != defaults.get(key)}}
    return {"strategy": _own.name_of(type(chosen)) or chosen.name, **({"strategy_options": own} if own else {})}


def check_recordable(chosen: Strategy) -> None:
    """Refuse a strategy whose constructor's arguments no file holds."""
    try:
        json.dumps(chosen.options())
    except (TypeError, ValueError) as error:
        raise ParameterError(f"strategy {chosen.name} was made with values that a file of JSON cannot hold ({error}): "
                             "expected plain numbers, texts, lists and mappings of them") from None
