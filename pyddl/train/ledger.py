"""Ledger: how far a training has come, and what is written down of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyddl.comm.transport import Transport
from pyddl.errors import ParameterError
from pyddl.train.checkpoint import Checkpoints, Saved
from pyddl.train.plan import Plan
from pyddl.train.progress import Progress
from pyddl.train.run import RunDirectory
from pyddl.train.stop import EarlyStopping
from pyddl.train.timing import PARTS
from pyddl.train.watchdog import clear

__all__ = ["Ledger"]


class Ledger:
    """The books of a session: where it is, its metrics, and its files.

    Parameters
    ----------
    plan : Plan
    progress : Progress

    Attributes
    ----------
    step : int
        The next one.
    row : int
        Where there are servers: first position of the epoch that is still to be done.
    stage : int
        Number of the stage.
    begun : bool
        Whether it has begun: its ``begin`` is not to be called again.
    rows : int
        Of the epochs that are closed.
    dropped : int
        Those of all rows of the run that went into no update.
    metrics : list of dict
    seconds_before : dict of float
        Of earlier sessions of this run, mean over the ranks.
    per_rank_before : list of dict of float
        The same of each rank, by its number.
    patience : EarlyStopping
        Of this stage.
    deaths : list of dict
    directory : RunDirectory or None
        On rank 0, where there is one.
    checkpoints : Checkpoints or None
    """

    def __init__(self, plan: Plan, progress: Progress):
        self.plan, self.progress = plan, progress
        self.step = self.row = self.stage = self.rows = self.dropped = 0
        self.begun = False
        self.metrics: list[dict[str, Any]] = []
        self.seconds_before = dict.fromkeys(PARTS, 0.0)
        self.per_rank_before: list[Mapping[str, float]] = []
        self.patience = EarlyStopping(plan.options["patience"])
        self.deaths: list[dict[str, Any]] = []
        self.directory: RunDirectory | None = None
        self.checkpoints: Checkpoints | None = None
        if plan.out is not None:
            self.checkpoints = Checkpoints(plan.out, plan.about(), plan.division.number)

    def open(self, config: Mapping[str, Any]) -> None:
        """Make the run directory, on rank 0. To be called once no rank has found a fault.

        Nothing is changed in one that holds another run than the one to go on with.
        """
        plan = self.plan
        if plan.out is None or plan.world.rank:
            return
        if self.checkpoints is not None and plan.options["resume"]:
            self._check_books(self.checkpoints.verify())
        self.directory = RunDirectory(plan.out, overwrite=plan.options["overwrite"], resume=plan.options["resume"])
        self.directory.config(dict(config))
        clear(self.directory.path / "log")

    def _check_books(self, books: Mapping[str, Any]) -> None:
        """Refuse a checkpoint, by its books, that this strategy cannot go on after."""
        row = books.get("row", 0)
        if row % self.plan.options["batch_size"] and not self.plan.strategy.tickets:
            raise ParameterError(f"the run was stopped within a step, after row {row} of an epoch, where only strategy "
                                 "server in modes ssp and async and elastic in mode async can go on: resume with one")

    @property
    def epoch(self) -> int:
        """That of the next step, from 0."""
        return self.step // self.plan.sampler.steps_per_epoch

    @property
    def samples(self) -> int:
        """That went into updates, of the whole run so far."""
        open_epoch = self.row or self.plan.sampler.consumed(self.step) - self.epoch * self.plan.sampler.rows
        return self.rows + open_epoch - self.dropped

    def enter(self, stage: int) -> None:
        """The next stage follows; it has not begun yet."""
        self.stage, self.begun = stage, False
        self.patience = EarlyStopping(self.plan.options["patience"])

    def close_epoch(self, line: dict[str, Any]) -> bool:
        """Enter an epoch's line; whether it is the best of its stage."""
        self.rows += self.plan.calendar.rows_of(line["epoch"] - 1)
        self.metrics.append(line)
        if self.directory is not None:
            self.directory.metrics(line)
        self.progress.epoch(line)
        return self.patience.see(line)

    def note_deaths(self, ranks: list[int], of: int) -> int:
        """Some have died; the epoch in which that was."""
        self.deaths.append({"epoch": self.epoch + 1, "ranks": ranks, "of": of})
        return self.epoch + 1

    def save(self, saved: Saved, transport: Transport, *, best: bool = False) -> None:
        """Write a checkpoint. Collective."""
        if self.checkpoints is not None:
            sampler, served = self.plan.sampler, self.plan.strategy.servers > 0
            row = self.row if served else sampler.consumed(self.step) - self.epoch * sampler.rows
            saved.books |= {"step": self.step, "row": row, "stage": self.stage, "begun": self.begun,
                            "rows": self.rows, "dropped": self.dropped, "metrics": self.metrics}
            self.checkpoints.save(saved, transport, best=best)

    def restore(self, books: Mapping[str, Any]) -> None:
        """Be where a checkpoint was made."""
        self.step, self.rows, self.dropped = books["step"], books["rows"], books["dropped"]
        self.row = books["row"] if self.plan.strategy.servers else 0  # where steps are whole, they say it all
        self.stage, self.begun = books["stage"], books["begun"]
        self.metrics, self.seconds_before = books["metrics"], books["seconds"]
        self.per_rank_before = books.get("seconds_per_rank", [])  # earlier versions kept the mean only
        self._see_again()
        if self.directory is not None:
            self.directory.rewrite_metrics(self.metrics)

    def go_on(self, metrics: list[dict[str, Any]], summary: Mapping[str, Any]) -> None:
        """Be where an earlier training in this process ended."""
        self.metrics, self.seconds_before = list(metrics), dict(summary["time"])
        self.per_rank_before = list(summary["time_per_rank"])
        epochs = [line["epoch"] for line in metrics]
        self.rows = sum(self.plan.calendar.rows_of(epoch - 1) for epoch in epochs)
        self.step = max(epochs, default=0) * self.plan.sampler.steps_per_epoch
        spans = self.plan.calendar.spans
        self.stage = self.plan.calendar.span_of(self.step).number
        self.begun = self.step > spans[self.stage].first
        self._see_again()

    def _see_again(self) -> None:
        first = self.plan.calendar.spans[self.stage].first // self.plan.sampler.steps_per_epoch
        self.patience.restore([line for line in self.metrics if line["epoch"] > first])
