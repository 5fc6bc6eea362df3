"""The strategy that is fastest here: step times predicted from measured figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from pyddl import _check
from pyddl.errors import ParameterError
from pyddl.strategies.allreduce import Allreduce
from pyddl.strategies.averaging import Averaging
from pyddl.strategies.base import Strategy
from pyddl.strategies.elastic import Elastic
from pyddl.strategies.gossip import Gossip
from pyddl.strategies.local import Local
from pyddl.strategies.sequential import Sequential
from pyddl.strategies.server import Server
from pyddl.strategies.split import Split

__all__ = ["ALLOWED", "Auto", "Candidate", "Choice", "Figures", "Link", "candidates", "step_seconds"]

ALLOWED = ("synchronous", "any")
CLOSE = 0.02  # so much slower than the fastest counts as equally fast; then the first in the table wins


class Link(NamedTuple):
    """How long an operation of all ranks takes on vectors: ``latency + bytes / bandwidth``, in s and bytes/s."""

    latency: float
    bandwidth: float

    def seconds(self, nbytes: float) -> float:
        return self.latency + nbytes / self.bandwidth

    @classmethod
    def through(cls, short: tuple[int, float], long: tuple[int, float]) -> Link:
        """The line through two (bytes, seconds); never one that falls."""
        slope = max(long[1] - short[1], 0.01 * long[1]) / (long[0] - short[0])
        return cls(max(short[1] - short[0] * slope, 0.0), 1 / slope)


@dataclass(frozen=True)
class Figures:
    """What was measured on the ranks before training: seconds, of the slowest rank where ranks differ.

    Attributes
    ----------
    ranks, nodes : int
    crowding : float
        How much faster a rank's step is while the others are idle, 1 at least: what they take of cores and memory.
    rows : float
        Of one rank in one step.
    nbytes : int
        Of the parameters.
    apart : float
        A step, gradient and update, when no rank waits for another.
    together : float
        A step when all begin it together: until the last is done.
    per_row : float
        What each row of a rank adds to a step.
    update : float
        The optimizer's share of a step.
    hidden : float
        Share of a sum of the gradients that is over when the backward pass ends: between nodes slices travel meanwhile.
    split : float
        A step of the model split over all ranks; not finite where it cannot be split.
    links : dict of Link
        ``sum``, of the gradients; ``average``, and ``replicas``, of vectors that stay as they are; ``owners``, a sum to
        owners and a gather from them; ``exchange``, of
        pairs; ``pass``, one vector in memory added to another; ``served``, a push to rank 0 and a fetch of what it then
        publishes, of all others at once; and, where there are several nodes, ``node``, an average within each.
    """

    ranks: int
    nodes: int
    crowding: float
    rows: float
    nbytes: int
    apart: float
    together: float
    per_row: float
    update: float
    hidden: float
    split: float
    links: Mapping[str, Link]

    def link(self, name: str) -> float:
        """Seconds of an operation on a vector of the parameters' size."""
        return self.links[name].seconds(self.nbytes)

    def step(self, period: float) -> float:
        """A rank's own step where ranks wait for the slowest every ``period`` steps.

        What chance adds to one step evens out over several: the largest of the ranks' means over H steps lies above
        their common mean by 1/sqrt(H) of what it does for one.
        """
        return self.apart + (self.together - self.apart) / math.sqrt(period)

    def alone(self, rows: float) -> float:
        """A step of ``rows`` rows on one rank while the others are idle."""
        return max(self.apart + (rows - self.rows) * self.per_row, self.update) / self.crowding

    def minibatch(self, workers: int) -> float:
        """The gradient of a worker where so many share the rows of a step."""
        rows = self.ranks * self.rows / workers
        relief = max(1.0, self.crowding * workers / self.ranks) / self.crowding  # servers leave cores to workers
        return max(self.apart - self.update + (rows - self.rows) * self.per_row, 0.0) * relief

    def record(self) -> dict[str, Any]:
        """As plain values; those that are not finite are left out."""
        values = {name: value for name, value in asdict(self).items() if name != "split" or math.isfinite(value)}
        return {**values, "links": {name: link._asdict() for name, link in self.links.items()}}


# ---- what a step takes, by strategy ----------------------------------------------------------------------------------


def _local(s: Local, f: Figures) -> float:
    return f.apart


def _allreduce(s: Allreduce, f: Figures) -> float:
    if s.shards:  # each updates its share only
        return f.together - f.update * (1 - 1 / f.ranks) + f.link("owners")
    return f.together + (1 - f.hidden) * f.link("sum")


def _averaging(s: Averaging, f: Figures) -> float:
    within = f.link("node" if f.nodes > 1 else "average") if s.node_period else 0.0
    between = f.link("average") + (6 * f.link("pass") if s.vectors else 0.0)
    rare, often = 1 / s.period, 1 / s.node_period if s.node_period else 0.0
    return f.step(min(s.period, s.node_period or s.period)) + rare * between + max(0.0, often - rare) * within


def _elastic(s: Elastic, f: Figures) -> float:
    if s.servers:
        workers = f.ranks - s.servers
        meeting = f.link("served") + 3 * f.link("pass")
        return max(f.minibatch(workers) + f.update + meeting / s.tau, workers * f.link("pass") / s.tau)
    own = 5 * f.link("pass") if s.momentum else 0.0
    return f.step(s.tau) + own + (f.link("average") + 7 * f.link("pass")) / s.tau


def _gossip(s: Gossip, f: Figures) -> float:
    return f.step(s.period) + (f.link("exchange") + 2 * f.link("pass")) / s.period


def _server(s: Server, f: Figures) -> float:
    """Workers and servers at the same time: whichever takes longer."""
    workers = f.ranks - s.servers
    update = (f.update + f.link("pass")) / s.servers  # from one buffer into another
    moved = f.link("served") * (1 / s.push_every + 1 / s.fetch_every) / 2
    if s.mode == "sync":
        waiting = f.together - f.apart
        return f.minibatch(workers) + waiting + moved + workers * f.link("pass") / s.servers + update
    turn = f.minibatch(workers) + moved + update / s.push_every
    return max(turn, workers * (update + f.link("pass") / s.servers) / s.push_every)


def _sequential(s: Sequential, f: Figures) -> float:
    turn = f.alone(f.ranks * f.rows / s.replicas) + f.link("pass")  # those who wait for the lock sleep
    return s.replicas * turn + f.link("replicas")


_COSTS: dict[type[Strategy], Callable[[Any, Figures], float]] = {
    Local: _local, Allreduce: _allreduce, Averaging: _averaging, Elastic: _elastic, Gossip: _gossip,
    Sequential: _sequential, Server: _server, Split: lambda s, f: f.split}
_NAMED: dict[str, Callable[..., Strategy]] = {each.name: each for each in _COSTS}


def step_seconds(strategy: Strategy, figures: Figures) -> float:
    """Predicted seconds of a step of all ranks."""
    return _COSTS[type(strategy)](strategy, figures)


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
        return _NAMED[self.strategy](**self.options)

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

    Differences below 2 % are taken as none: then the simpler strategy wins.

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
        seconds = [step_seconds(each.strategy, figures) for each in offered]
        eligible = [(taken, each) for taken, each in zip(seconds, offered, strict=True)
                    if not each.strategy.one_group
                    and (each.as_one or (self.allow == "any" and each.strategy.joint))]
        least = min(taken for taken, _ in eligible)
        predicted, best = next(pair for pair in eligible if pair[0] <= least * (1 + CLOSE))
        others = [pair for pair in eligible if pair[1] is not best]
        batch = figures.ranks * figures.rows
        reason = f"{best} is the fastest{'' if self.allow == 'any' else ' that gives the result of one process'}"
        if others:
            taken, second = min(others, key=lambda pair: pair[0])
            close = taken <= predicted * (1 + CLOSE)
            reason += f"; {second} would take {'as long' if close else f'{taken / predicted:.2f} times as long'}"
        reason += f"; expected is {figures.alone(batch) / predicted:.2f} times the speed of one rank alone"
        table = [{"strategy": str(each), "milliseconds": 1e3 * taken, "samples_per_second": batch / taken,
                  "meaning": each.meaning} for taken, each in zip(seconds, offered, strict=True)]
        return Choice(best.name, best.options, reason, figures.ranks, predicted, table, figures.record())
