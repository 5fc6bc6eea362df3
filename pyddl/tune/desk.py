"""Desk: gives trials to groups of ranks, and enters what becomes of them into the study."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pyddl.comm.abort import STOPPED
from pyddl.errors import ParameterError
from pyddl.train.run import MODEL, write_whole, written
from pyddl.tune.messages import Outcome, Over, Split, Task
from pyddl.tune.study import Study, Trial

__all__ = ["BEST", "SUMMARY", "TRIALS", "Desk", "folder_of"]

TRIALS, BEST, SUMMARY = "trials", "best", "summary.json"
PATIENCE = 60.0  # seconds that ranks of a group have to come back from a trial that has failed on another: a long step
AGAIN = 2  # attempts after which a trial that took its job with it is given up

Answers = list[tuple[int, Any]]
"""To which rank what is said."""


def folder_of(out: Path, number: int) -> Path:
    """The run directory of a trial."""
    return out / TRIALS / f"{number:04d}"


class Desk:
    """Answers ranks, one after another. No method waits.

    Parameters
    ----------
    study : Study
    out : Path
    groups : sequence of sequence of int
        The ranks of each group.
    idle : sequence of int
        Ranks of no group.
    table : LiveTable
    report : callable
        What is done when the last trial has ended: it draws and prints.
    until : float
        Clock of `time.monotonic` after which no trial begins.
    clock : callable
        For tests.
    """

    def __init__(self, study: Study, out: Path, groups: Sequence[Sequence[int]], table: Any,
                 report: Callable[[], None], *, idle: Sequence[int] = (), until: float = math.inf,
                 clock: Callable[[], float] = time.monotonic):
        self.study, self.out, self.table = study, out, table
        self._report, self._until, self._clock = report, until, clock
        self._living = {number: set(group) for number, group in enumerate(groups)}
        self._group_of = {rank: number for number, group in enumerate(groups) for rank in group}
        self._trials: dict[int, Trial] = {}  # under way, by group
        self._began: dict[int, float] = {}
        self._idle = set(idle)
        self._waiting: dict[int, Outcome | None] = {}
        self._since: dict[int, float] = {}  # when the first of a group came back from a failure
        self._dead: dict[int, list[int]] = {number: [] for number in self._living}  # since its last trial
        self._deaths = self._over = False
        self._asked = False
        self._error: tuple[int, str] | None = None
        self._begun = clock()
        self._noted: set[str] = set()
        self._resuming: list[Trial] | None = None  # what an earlier session has left

    # ---- what ranks say
    def next(self, rank: int, outcome: Outcome | None) -> Answers:
        """A rank has come to the end of a trial, or wants its first."""
        self._waiting[rank] = outcome
        if rank in self._idle:
            return self._end()
        if outcome is not None:
            self._asked |= outcome.asked
            if outcome.fatal:
                self._fail(1, outcome.why)
            group = self._group_of[rank]
            if outcome.state == "failed" and len(self._living[group]) > 1:
                self._since.setdefault(group, self._clock())
        return self._serve(self._group_of[rank])

    def epoch(self, rank: int, line: Mapping[str, Any]) -> str:
        """An epoch of a rank's trial has ended; whether it goes ``on``, or is to ``prune`` or ``stop``."""
        number = self._trials[self._group_of[rank]].number
        if line["epoch"] < 1:  # of an earlier stage, whose figures mean something else
            return "stop" if self._stops else "on"
        prune, value = self.saw(number, line)
        self.table.epoch(number, line["epoch"], value)
        return "prune" if prune else "stop" if self._stops else "on"

    def saw(self, number: int, line: Mapping[str, Any]) -> tuple[bool, float | None]:
        """Enter an epoch of a trial; whether the trial shall end here, and what is sought."""
        value = self._value(line)
        return value is not None and self.study.report(number, line["epoch"], value), value

    def silent(self, rank: int) -> None:
        """A rank has died, perhaps with its whole job."""
        self._waiting.pop(rank, None)

    def gone(self, rank: int) -> Answers:
        """It has, and the others live."""
        self._deaths = True
        if rank in self._idle:
            self._idle.remove(rank)
            return self._end()
        group = self._group_of[rank]
        if rank in self._living[group]:
            self.table.note(f"rank {rank} has died")
            self._lose(group, rank)
        return self._serve(group)

    def _lose(self, group: int, rank: int) -> None:
        self._living[group].remove(rank)
        self._dead[group].append(rank)

    def tick(self) -> Answers:
        """Time has passed: groups of which some do not come back are told to end."""
        answers: Answers = []
        for group, since in list(self._since.items()):
            if self._clock() - since > PATIENCE:
                number, outcome = self._trials[group].number, self._outcome(group)
                self._enter(group, outcome)
                for rank in sorted(self._living[group] & self._waiting.keys()):
                    answers.append((rank, Split(f"trial {number}: {outcome.why}")))
                    del self._waiting[rank]
                    self._lose(group, rank)
        return answers

    @property
    def waits(self) -> bool:
        """Whether `tick` has something to wait for."""
        return bool(self._since)

    # ---- what they are told
    @property
    def _stops(self) -> bool:
        return self._asked or self._error is not None or self._clock() >= self._until

    def _serve(self, group: int) -> Answers:
        """The next trial of a group all of whose ranks wait for it."""
        living = self._living[group]
        if not living <= self._waiting.keys():
            return []
        if group in self._trials:
            self._enter(group, self._outcome(group))
        trial, resume = (None, False) if self._stops or not living else self._next()
        if trial is None:
            return self._end()
        task = Task(trial.number, trial.given, resume, bool(self._dead[group]))
        self._trials[group], self._began[group] = trial, self._clock()
        self._dead[group].clear()
        self.study.begin(trial.number)
        self.table.started(trial.number, trial.given, sorted(living))
        for rank in living:
            del self._waiting[rank]
        return [(rank, task) for rank in sorted(living)]

    def _next(self) -> tuple[Trial | None, bool]:
        """The next trial, and whether it was under way before."""
        if self._resuming is None:
            self._resuming = self.study.resume()
        while self._resuming:
            trial = self._resuming.pop(0)
            if trial.attempts < AGAIN:
                return trial, True
            self.told(trial.number, Outcome("failed", why=f"was under way when its job died, {trial.attempts} times",
                                             learn=False))
        return self.study.ask(), False

    def _end(self) -> Answers:
        """Where nobody is at work any more, the end of all."""
        living = self._idle.union(*self._living.values())
        if self._over or self._trials or not living <= self._waiting.keys():
            return []
        self._over = True
        over = self.finish()
        return [(rank, over) for rank in sorted(self._waiting)]

    # ---- what becomes of trials
    def _outcome(self, group: int) -> Outcome:
        """Of a group: of those that failed the one that knows why."""
        found = [outcome for rank in sorted(self._living[group]) if (outcome := self._waiting.get(rank)) is not None]
        failed = [outcome for outcome in found if outcome.state == "failed"]
        if self._dead[group] and (failed or not found):
            ranks = self._dead[group]
            who = f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))} died"
            return Outcome("failed", why=who, learn=False)
        return next((outcome for outcome in failed if not outcome.lost), failed[0]) if failed else found[0]

    def _enter(self, group: int, outcome: Outcome) -> None:
        trial = self._trials.pop(group)
        self._since.pop(group, None)
        if outcome.state == "stopped" or outcome.fatal:
            self.study.rest(trial.number, self._clock() - self._began[group])
            self.table.ended(trial.number, "stopped", None, "")
        else:
            self.told(trial.number, outcome, self._clock() - self._began[group])

    def told(self, number: int, outcome: Outcome, seconds: float | None = None) -> None:
        """Enter the end of a trial; then what its directory holds for going on is of no use."""
        value = None if outcome.line is None else self._value(outcome.line)
        if self._error is not None and outcome.state == "complete" and value is None:
            self.study.rest(number)
            return
        self.study.tell(number, outcome.state, value if outcome.state == "complete" else None, outcome.why or None,
                        seconds, learn=outcome.learn)
        folder = folder_of(self.out, number)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        if outcome.state != "complete":
            (folder / MODEL).unlink(missing_ok=True)
        self.table.ended(number, outcome.state, value, outcome.why)
        if outcome.state == "complete":
            self.point_to_best()

    def _value(self, line: Mapping[str, Any]) -> float | None:
        """What is sought; None where there is no such column, which ends the search."""
        try:
            column = self.study.search.column(line)
            if column != self.study.search.goal and column not in self._noted:
                self._noted.add(column)
                self.study.name_column(column)
                self.table.note(f"there is no {self.study.search.goal}: {column} stands in its place")
            return self.study.search.value(line)
        except ParameterError as error:
            self._fail(2, str(error))
            return None

    def _fail(self, status: int, why: str) -> None:
        self._error = self._error or (status, why)

    def point_to_best(self) -> None:
        """Let ``best`` be a link to the directory of the best trial."""
        best = self.study.best()
        if best is None:
            return
        link, part = self.out / BEST, self.out / f".{BEST}.part"
        target = folder_of(Path(), best["number"])
        with suppress(OSError):
            if Path(os.readlink(link)) == target:
                return
        with written(link):
            part.unlink(missing_ok=True)
            part.symlink_to(target)
            os.replace(part, link)

    # ---- the end
    def close(self) -> None:
        """Leave the terminal as it was, and the folder to others."""
        self.table.end()
        self.study.close()

    def finish(self) -> Over:
        """Write ``summary.json``, and report."""
        rows = self.study.rows()
        left = len(rows) < self.study.trials or any(row["state"] == "running" for row in rows)
        self.table.end()
        self.point_to_best()
        self._summary(rows, left)
        if self._error is not None:
            return Over(self._error[0], self._error[1], self._deaths)
        self._report()
        if self._asked and left:
            return Over(STOPPED, deaths=self._deaths)
        failed = [row for row in rows if row["state"] == "failed"]
        if failed and len(failed) == len(rows) and not left:
            return Over(1, f"all {len(rows)} trials have failed, trial {failed[0]['number']}: {failed[0]['why']}",
                        self._deaths)
        return Over(0, deaths=self._deaths)

    def _summary(self, rows: Sequence[Mapping[str, Any]], left: bool) -> None:
        states = [row["state"] for row in rows]
        search = self.study.search
        summary = {
            "goal": search.goal, "direction": search.direction, "sampler": search.sampler, "pruner": search.pruner,
            "seed": search.seed, "trials": self.study.trials,
            **{state: states.count(state) for state in ("complete", "pruned", "failed", "running")},
            "best": self.study.best(), "groups": len(self._living), "seconds": self._clock() - self._begun,
            "stopped": None if not left else "error" if self._error else "request" if self._asked else "minutes",
            "finished": None if left or self._error else datetime.now(timezone.utc).isoformat(timespec="seconds")}
        write_whole(self.out / SUMMARY, json.dumps(summary, indent=2) + "\n")
