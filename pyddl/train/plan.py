"""Plan: what a training is to be - checked facts, the same on every rank, before anything is made."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from pyddl.comm.world import World
from pyddl.data import Source
from pyddl.data.joined import reach, reaches_beyond
from pyddl.data.sampler import Sampler
from pyddl.data.statistics import Statistics
from pyddl.errors import DataError, ParameterError, ShapeError
from pyddl.models.protocol import Model, described
from pyddl.models.stages import Phase, stages_of
from pyddl.optim import Optimizer
from pyddl.optim.given import optimizer_of
from pyddl.strategies import Strategy
from pyddl.strategies.auto import Choice
from pyddl.strategies.given import check_recordable
from pyddl.strategies.given import described as strategy_described
from pyddl.train.calendar import Calendar, Span
from pyddl.train.division import Division
from pyddl.train.evaluation import check_labels
from pyddl.train.replica import checked_buffers
from pyddl.train.worker import SHARDS

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """A training on this rank. Making one checks it; nothing in that is collective, so it may fail on some ranks only.

    Parameters
    ----------
    whole_model : Model
        As it was given: where it is split, each rank trains a part, the division's ``model``.
    strategy : Strategy
    given_optimizer : str or Optimizer
    options : dict
        All training options, checked.
    world : World
    data : Source
    test : Source or None
    config : dict
        What ``config.toml`` records of data and model.
    out : str or None
        The run directory.
    passes : int, optional
        Stop after so many epochs of all stages together.
    choice : Choice, optional
        How strategy `auto` came to this one.
    division : Division, optional
        Of the ranks into workers; made here by default.

    Raises
    ------
    ParameterError, ShapeError, DataError
    """

    whole_model: Model
    strategy: Strategy
    given_optimizer: str | Optimizer
    options: dict[str, Any]
    world: World
    data: Source
    test: Source | None
    config: dict[str, Any] = field(default_factory=dict)
    out: str | None = None
    passes: int | None = None
    choice: Choice | None = None
    division: Division = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.division is None:
            made = Division(self.world, self.whole_model, self.strategy, self.options)
            object.__setattr__(self, "division", made)
        self._check_data()
        self._check_model()
        self._check_ranks()
        for span in self.calendar.spans:
            for phase in span.stage.phases:
                if phase.every > span.end - span.first:
                    raise ParameterError(f"phase {phase.name} has a turn in every {phase.every} steps, and its stage "
                                         f"has {span.end - span.first}: it would never have one. Train for longer, "
                                         "or let it have turns more often (in a gan: generator_every, --critic-steps)")
                self._check_rule(self.rule(span, phase))
                if self.strategy.servers:
                    self._check_rule(self.rule(span, phase, served=True))

    # ---- what follows from it

    @property
    def model(self) -> Model:
        return self.division.model

    @cached_property
    def sampler(self) -> Sampler:
        return Sampler(len(self.data), self.options["batch_size"], self.options["seed"],
                       together=getattr(self.whole_model, "rows_together", 1))

    @cached_property
    def calendar(self) -> Calendar:
        return Calendar(self.sampler, stages_of(self.model), self.options["epochs"])

    @cached_property
    def end(self) -> int:
        """The step at which training is over."""
        return min(self.calendar.end, (self.passes or self.calendar.epochs) * self.sampler.steps_per_epoch)

    @property
    def epochs(self) -> int:
        """Of all stages together."""
        return min(self.calendar.epochs, self.passes or self.calendar.epochs)

    @property
    def workers(self) -> int:
        """Who take rows: servers do not."""
        return self.division.count - self.strategy.servers

    def rule(self, span: Span, phase: Phase, *, served: bool = False) -> Optimizer:
        """A new optimizer for a phase, of workers or of servers."""
        own = {**self.strategy.server_rule, **phase.optimizer} if served else phase.optimizer
        return optimizer_of(self.given_optimizer, self.options, span.end - span.first,
                            getattr(self.model, "rate_scale", 1.0), own)

    def rules(self, span: Span, *, served: bool = False) -> Callable[[Phase], Optimizer]:
        """The same for all phases of a stage."""
        return lambda phase: self.rule(span, phase, served=served)

    @cached_property
    def optimizer(self) -> Optimizer:
        """The workers', without what phases want otherwise: for people and files."""
        last = self.calendar.spans[-1]
        return optimizer_of(self.given_optimizer, self.options, last.end - last.first)

    @cached_property
    def server_optimizer(self) -> Optimizer:
        """The servers'."""
        last = self.calendar.spans[-1]
        return optimizer_of(self.given_optimizer, self.options, last.end - last.first, own=self.strategy.server_rule)

    def statistics(self) -> Statistics:
        """Of the training rows; all ranks share the work."""
        return Statistics(self.data, self.world.rank, self.world.size, self.world.transport.gather_objects)

    def about(self) -> dict[str, Any]:
        """What a run that goes on must have in common with the one that wrote its checkpoint."""
        return {**described(self.whole_model), "rows": len(self.data), "features": self.data.features,
                **{name: self.options[name] for name in ("batch_size", "seed", "reproducible")},
                "fingerprint of the data": self.data.fingerprint(), "fingerprint of the labels": self._of_labels(),
                "optimizer": (self.server_optimizer if self.strategy.servers else self.optimizer).name,
                "own strategy": strategy_described(self.strategy),
                "replicas": 1 if self.strategy.replicated else self.division.count}

    def _of_labels(self) -> int | None:
        """Of those of all training rows, where the model needs them."""
        if not getattr(self.whole_model, "needs_labels", False) or self.data.labels is None:
            return None
        return zlib.crc32(np.ascontiguousarray(self.data.labels).data)

    @property
    def continues(self) -> bool:
        """Whether ranks that die are left behind."""
        return self.options["on_failure"] == "continue"

    # ---- checks

    def _check_data(self) -> None:
        model = self.whole_model
        for name, source in (("training", self.data), ("test", self.test)):
            if source is None:
                continue
            wanted = getattr(model, "inputs", source.features)
            if source.features != wanted:
                raise ShapeError(f"the {name} data have {source.features} features; the model expects {wanted}")
            limits = getattr(model, "input_range", None)
            if limits is not None and reaches_beyond(source, *limits):
                raise ParameterError(
                    f"the {name} data reach from {reach(source)}; this model's loss needs values in [{limits[0]:g}, "
                    f"{limits[1]:g}]: scale the data ({_fitting_scale(source)}), or "
                    f"{getattr(model, 'range_cure', 'use loss mse')}")
            check_labels(model, source, f"the {name} data")

    def _check_model(self) -> None:
        checked_buffers(self.model.buffers, self.strategy, self.workers, reproducible=self.options["reproducible"])
        check_recordable(self.strategy)
        self.strategy.check_stages([len(span.stage.phases) for span in self.calendar.spans])

    def _check_rule(self, optimizer: Optimizer) -> None:
        if optimizer.clip_norm is None:
            return
        if self.options["reproducible"] and self.strategy.shards:
            raise ParameterError("with shard_optimizer clip_norm adds up the squares of the ranks' shares, which are "
                                 "others on another number of ranks: leave out reproducible, clip_norm or "
                                 "shard_optimizer")
        if self.strategy.servers > 1:
            raise ParameterError(f"clip_norm is by the norm of the whole gradient, of which each of "
                                 f"{self.strategy.servers} servers has a share only: use one server, or leave out "
                                 "clip_norm")

    def _check_ranks(self) -> None:
        strategy, options = self.strategy, self.options
        if self.continues:
            if not (strategy.servers and strategy.tickets):
                raise ParameterError(f"on_failure is continue, but workers of strategy {strategy.name} as given "
                                     "wait for one another: choose strategy server with mode ssp or async, or elastic "
                                     "with mode async; or leave on_failure out")
            self.world.check_outlives()
        if not strategy.one_group:
            strategy.check(self.division.count, min(options["batch_size"], len(self.data)))
        workers = self.workers
        who = "ranks" if self.division.parts == 1 else f"groups of {self.division.parts} ranks"
        least = workers * self.sampler.together
        if options["batch_size"] < least:
            apart = "" if least == workers else f", of which {self.sampler.together} stay together"
            raise ParameterError(
                f"batch_size is {options['batch_size']}, the samples of a step of all ranks together{apart}; "
                f"{workers} {who} would not all have work: give at least {least}, or use fewer ranks")
        if len(self.data) < workers:
            raise DataError(f"the training data have {len(self.data)} rows for {workers} {who}; expected at least one "
                            "for each: use fewer ranks")
        if options["reproducible"] and strategy.servers:
            raise ParameterError(f"reproducible has no meaning with strategy {strategy.name} on servers, which "
                                 "add as workers come: leave it out, or choose strategy allreduce")
        if options["reproducible"] and SHARDS % self.world.size != 0:
            raise ParameterError(f"reproducible training runs on 1, 2, 4 or 8 ranks; this world has {self.world.size}")


def _fitting_scale(source: Source) -> str:
    """How such data come to be within [0, 1], on the command line and in Python."""
    kind = "pixels" if source.minimum >= 0 and 1 < source.maximum <= 255 and source.image_shape else "minmax"
    return f"--scale {kind}, or pyddl.data.load(..., scale='{kind}')"
