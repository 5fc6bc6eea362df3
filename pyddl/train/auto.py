"""Strategy `auto` becomes a real one, before training begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pyddl.comm.world import World
from pyddl.errors import ParameterError
from pyddl.strategies import Auto, Local, Strategy
from pyddl.strategies.auto import Choice, candidates
from pyddl.train.agreement import agreement
from pyddl.train.plan import Plan
from pyddl.train.rehearsal import rehearse

__all__ = ["choose", "recorded"]


def choose(auto: Auto, planned: Callable[[Strategy], Plan], here: World) -> Choice:
    """What `auto` stands for on these ranks, with these options. Collective.

    Parameters
    ----------
    auto : Auto
    planned : callable
        A plan with a strategy; what it refuses is not offered.
    here : World

    Raises
    ------
    ParameterError, ShapeError, DataError
        On every rank: no strategy can train so.
    """
    with agreement(here.transport):
        plan = planned(Local())
    if here.size == 1:
        return Choice("local", {}, "local, for there is one rank", 1)
    offered, division = [], None
    for each in candidates(here.nodes):
        try:
            tried = planned(each.strategy)
        except ParameterError:
            continue
        offered.append(each)
        if each.strategy.one_group:
            division = tried.division
    figures = rehearse(plan, here, division=division)
    return here.transport.gather_objects(auto.choose(figures, offered))[0]


def recorded(record: Mapping[str, Any] | None, here: World) -> Choice | None:
    """The choice in an earlier session's record, where it can go on here: `local` of one rank cannot on several."""
    if record is None or (record["strategy"] == "local" and here.size > 1):
        return None
    return Choice.recorded(record)
