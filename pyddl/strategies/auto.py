"""The strategy that is fastest here: step times predicted from measured figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from pyddl import _check
from pyddl.errors import ParameterError
from pyddl.strategies.allreduce import Allreduce
from pyddl.strategies.averaging import Averaging
from pyddl.strategies.base import Strategy
from pyddl.strategies.elastic import Elastic
from pyddl.strategies.figures import Figures
from pyddl.strategies.gossip import Gossip
from pyddl.strategies.local import Local
from pyddl.strategies.sequential import Sequential
from pyddl.strategies.server import Server
from pyddl.strategies.split import Split

__all__ = ["ALLOWED", "Auto", "Candidate", "Choice", "candidates"]

ALLOWED = ("synchronous", "any")
DISTURBED = 0.1  # other work's share of the time that is worth a word
CLOSE = 0.02  # so much slower than the fastest counts as equally fast; then the first in the table wins


_OFFERED: dict[str, type[Strategy]] = {
    each.name: each for each in (Local, Allreduce, Averaging, Elastic, Gossip, Sequential, Server, Split)}

# ---- the choice ------------------------------------------------------------------------------------------------------


class Candidate(NamedTuple):
    """A strategy, by its name and the options that differ from their defaults."""

    name: str
    options: dict[str, Any]
    strategy: Strategy

    def __str__(self) -> str:
        return ", ".join([self.name, *(key if value is True else f"{key} {value}"
                                       for key, value in self.options.items())])

    @property
    def as_one(self) -> bool:
        """Whether it gives the result of one process, to rounding."""
        each = self.strategy
        return each.synchronous or (isinstance(each, Server) and each.mode == "sync" and not each.backup)

    @property
    def meaning(self) -> str:
        """What its result is, next to one process's."""
        if self.as_one:
            return "as one process, in parts" if self.strategy.one_group else "as one process"
        return "another algorithm" if self.strategy.joint else "replicas apart"


def candidates(nodes: int) -> list[Candidate]:
    """What there is to choose from, the simplest first."""
    found: list[tuple[type[Strategy], dict[str, Any]]] = [
        (Local, {}), (Allreduce, {}), (Allreduce, {"shard_optimizer": True}), (Averaging, {})]
    if nodes > 1:
        found.append((Averaging, {"node_period": 1}))
    found += [(Elastic, {}), (Gossip, {}), (Sequential, {}), (Server, {}), (Server, {"mode": "ssp"}),
              (Server, {"mode": "async"}), (Elastic, {"mode": "async"}), (Split, {})]
    return [Candidate(each.name, own, each(**own)) for each, own in found]


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why.

    Attributes
    ----------
    strategy : str
    options : dict
        Its own, where they differ from the defaults.
    reason : str
    ranks : int
    predicted : float or None
        Seconds per step; None where nothing was measured.
    table : tuple of dict
        Of each strategy ``strategy``, ``milliseconds`` per step, ``samples_per_second``, ``meaning``.
    figures : dict or None
        `Figures.record`.
    resumed : bool
        Whether it was made by an earlier session of the run.
    """

    strategy: str
    options: dict[str, Any]
    reason: str
    ranks: int
    predicted: float | None = None
    table: Sequence[Mapping[str, Any]] = ()
    figures: Mapping[str, Any] | None = None
    resumed: bool = False

    def record(self) -> dict[str, Any]:
        """As plain values, for files; what is not known is left out."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "resumed"}
        return {name: value for name, value in values.items() if value is not None}

    def beside(self, seconds: float, samples: int, ranks: int) -> dict[str, Any]:
        """The record, with the seconds that a step took in reality as ``measured``, where the two can be compared.

        ``seconds`` is how long ``samples`` samples took on ``ranks`` ranks.
        """
        record = self.record()
        if self.figures is not None and samples and ranks == self.ranks:
            record["measured"] = seconds / samples * self.figures["ranks"] * self.figures["rows"]
        return record

    @classmethod
    def recorded(cls, record: Mapping[str, Any]) -> Choice:
        """That of an earlier session."""
        return cls(**{name: value for name, value in record.items() if name != "measured"}, resumed=True)

    def build(self) -> Strategy:
        """The strategy itself."""
        return _OFFERED[self.strategy](**self.options)

    def text(self) -> str:
        """Table and reason, as lines; one line for a choice made before."""
        if self.resumed:
            return f"auto: {self.strategy}, as was chosen when training began"
        width = max([len("strategy"), *(len(row["strategy"]) for row in self.table)])
        lines = [f"auto: {self.reason}"]
        if self.table:
            lines.append(f"  {'strategy':<{width}}  ms per step   samples/s  meaning")
        lines += [f"  {row['strategy']:<{width}}  {row['milliseconds']:11.3f}  {row['samples_per_second']:10,.0f}  "
                  f"{row['meaning']}" for row in self.table]
        return "\n".join(lines)


class Auto(Strategy):
    """The fastest of the strategies here, by measured figures; chosen before training and kept until its end.

    A rehearsal on throwaway vectors measures gradient, update and the operations of all ranks; from these a step of
    every strategy is predicted, with its default options. Chosen is the fastest of those that give the result of one
    process: `allreduce`, with or without ``shard_optimizer``, and `server` in mode sync. One rank trains by `local`.
    `split`, which leaves each rank with a part of the model, is predicted but not chosen.

    Differences below 2 %, or below what could be measured where other work disturbed it, are taken as none: then the
    simpler strategy wins.

    Parameters
    ----------
    allow : {"synchronous", "any"}, default="synchronous"
        ``any``: also strategies that are other algorithms than one process; they need more samples to the same error.
    """

    name = "auto"

    def __init__(self, allow: str = "synchronous"):
        self.allow = _check.one_of("allow", allow, ALLOWED)

    def check(self, workers: int, batch_size: int) -> None:
        raise ParameterError("strategy auto chooses by what it measures on real ranks, and here are none: name the "
                             f"strategy itself, for example {Allreduce.name}")

    def choose(self, figures: Figures, offered: Sequence[Candidate]) -> Choice:
        """The best of what is ``offered``, which runs with these options on these ranks."""
        seconds = [each.strategy.step_seconds(figures) for each in offered]
        eligible = [(taken, each) for taken, each in zip(seconds, offered, strict=True)
                    if not each.strategy.one_group
                    and (each.as_one or (self.allow == "any" and each.strategy.joint))]
        least, alike = min(taken for taken, _ in eligible), 1 + max(CLOSE, figures.unsure)
        predicted, best = next(pair for pair in eligible if pair[0] <= least * alike)
        others = [pair for pair in eligible if pair[1] is not best]
        batch = figures.ranks * figures.rows
        reason = f"{best} is the fastest{'' if self.allow == 'any' else ' that gives the result of one process'}"
        if others:
            taken, second = min(others, key=lambda pair: pair[0])
            longer = "as long" if taken <= predicted * alike else f"{taken / predicted:.2f} times as long"
            reason += f"; {second} would take {longer}"
        reason += f"; expected is {figures.alone(batch) / predicted:.2f} times the speed of one rank alone"
        if figures.unsure > CLOSE:
            reason += f"; steps are measured to {figures.unsure:.0%}, and what is closer counts as equally fast"
        if figures.disturbed > DISTURBED:
            reason += (f"; other work on the machine had the cores for {figures.disturbed:.0%} of the time, which is "
                       "taken off here, but slows training while it lasts")
        table = [{"strategy": str(each), "milliseconds": 1e3 * taken, "samples_per_second": batch / taken,
                  "meaning": each.meaning} for taken, each in zip(seconds, offered, strict=True)]
        return Choice(best.name, best.options, reason, figures.ranks, predicted, table, figures.record())
