"""What a person sees of a search while it runs: the best trials and those under way on a terminal, lines in a log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

from pyddl.tune.parameter import shown
from pyddl.tune.study import Study

__all__ = ["LiveTable", "PlainTable", "Table", "best_first", "said"]


class Table:
    """Shows nothing, and keeps the books that others show: the base, and what --quiet asks for.

    Parameters
    ----------
    study : Study
    """

    def __init__(self, study: Study):
        self._study, self._search = study, study.search
        self._ended = [row for row in study.rows() if row["state"] != "running"]
        self._running: dict[int, dict[str, Any]] = {}
        self._here = 0  # trials that have ended since it began
        self._begun = perf_counter()

    def begin(self, title: str = "") -> None:
        """The search begins, or goes on."""
        self._begun = perf_counter()

    def started(self, number: int, given: Mapping[str, Any], ranks: Sequence[int]) -> None:
        """These ranks begin a trial, or go on with it."""
        self._running[number] = {"number": number, "given": given, "ranks": ranks, "epoch": 0, "value": None,
                                 "epochs": self._study.space.epochs(given)}

    def epoch(self, number: int, epoch: int, value: float | None) -> None:
        """A trial has come to the end of an epoch."""
        self._running[number] |= {"epoch": epoch, "value": value}

    def ended(self, number: int, state: str, value: float | None, why: str) -> None:
        """A trial is over, or has been ``stopped`` and will go on in another session."""
        trial = self._running.pop(number, {"number": number, "given": {}, "epoch": 0})
        if state != "stopped":
            self._here += 1
            self._ended.append({"number": number, "state": state, "value": value, "given": trial["given"], "why": why,
                                "epochs": trial["epoch"]})

    def note(self, text: str) -> None:
        """Something has happened that people should know."""

    def end(self) -> None:
        """The search is over, or stopped."""

    # ---- what is shown
    def _best(self) -> list[dict[str, Any]]:
        return best_first(self._ended, self._search.direction)

    def _counts(self) -> str:
        """How far it is."""
        parts = [f"{len(self._ended)} of {self._study.trials} trials"]
        states = [row["state"] for row in self._ended]
        parts += [f"{states.count(state)} {state}" for state in ("complete", "pruned", "failed") if state in states]
        left = self._study.trials - len(self._ended)
        if self._here and left > 0:
            passed = perf_counter() - self._begun
            limit = float("inf") if self._search.minutes is None else max(0.0, 60 * self._search.minutes - passed)
            parts.append(f"about {_time(min(passed / self._here * left, limit))} left")
        return ", ".join(parts)


def best_first(rows: Sequence[Mapping[str, Any]], direction: str) -> list[dict[str, Any]]:
    """The complete ones of these rows, the best first, of equal ones the earliest."""
    sign = 1 if direction == "minimize" else -1
    return sorted((dict(row) for row in rows if row["state"] == "complete"),
                  key=lambda row: (sign * row["value"], row["number"]))


def said(value: Any) -> str:
    """A drawn value for people, as the command line takes it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ",".join(f"{name}={said(each)}" for name, each in value.items()) or "none"
    return ",".join(map(said, value)) or "none" if isinstance(value, list | tuple) else shown(value)


def _given(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {said(value)}" for name, value in given.items())


def _time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class PlainTable(Table):
    """A line for each trial that ends, and for each that is the best so far; for logs."""

    def begin(self, title: str = "") -> None:
        super().begin(title)
        if title:
            print(title, flush=True)

    def ended(self, number: int, state: str, value: float | None, why: str) -> None:
        trial = self._running.get(number, {"epoch": 0, "epochs": None, "given": {}})
        super().ended(number, state, value, why)
        parts = [f"trial {number}: {state}{f', {why}' if why else ''}"]
        if value is not None:
            parts.append(f"{self._search.goal} {value:.4f}")
        parts.append(f"epoch {trial['epoch']}/{trial['epochs']}" if trial["epochs"] else "")
        print("  ".join(filter(None, [*parts, _given(trial["given"])])), flush=True)
        best = self._best()
        if state == "complete" and best[0]["number"] == number:
            print(f"  the best of {self._counts()}", flush=True)

    def note(self, text: str) -> None:
        print(text, flush=True)


class LiveTable(Table):
    """The best trials, what runs, and how far the search is, on a terminal; lines that stay for what is new."""

    INTERVAL = 0.1  # seconds between two redraws
    MOST = 5  # of the best

    def begin(self, title: str = "") -> None:
        from rich.console import Console
        from rich.live import Live

        from pyddl.comm.environment import live_output

        super().begin(title)
        self._console = Console(force_terminal=True, file=live_output())
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        if title:
            self.note(title)
        self._live.start()
        self._next = perf_counter()
        self._draw()

    def started(self, number: int, given: Mapping[str, Any], ranks: Sequence[int]) -> None:
        super().started(number, given, ranks)
        self._draw()

    def epoch(self, number: int, epoch: int, value: float | None) -> None:
        super().epoch(number, epoch, value)
        if perf_counter() >= self._next:
            self._draw()

    def ended(self, number: int, state: str, value: float | None, why: str) -> None:
        trial = self._running.get(number, {"given": {}})
        super().ended(number, state, value, why)
        if state == "failed":
            self.note(f"trial {number} failed: {why}")
        elif state == "complete" and self._best()[0]["number"] == number:
            self.note(f"trial {number} is the best so far: {self._search.goal} {value:.4f}  {_given(trial['given'])}")
        self._draw()

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)

    def end(self) -> None:
        if hasattr(self, "_live"):
            self._live.stop()

    def _draw(self) -> None:
        from rich.console import Group
        from rich.table import Table as Grid
        from rich.text import Text

        self._next = perf_counter() + self.INTERVAL
        best, goal = self._best()[: self.MOST], self._search.goal
        names = list(dict.fromkeys(name for row in [*best, *self._running.values()] for name in row["given"]))
        grid = Grid(box=None, pad_edge=False)
        for name in ("trial", goal, "epoch", "ranks"):  # where there is no room parameters are cut, not these
            grid.add_column(Text(name), justify="right" if name in ("trial", goal) else "left", no_wrap=True)
        for name in names:
            grid.add_column(Text(name))

        def add(row: Mapping[str, Any], epoch: str, ranks: str) -> None:
            value = "" if row["value"] is None else f"{row['value']:.4f}"
            given = (said(row["given"][name]) if name in row["given"] else "" for name in names)
            grid.add_row(*map(Text, (str(row["number"]), value, epoch, ranks, *given)))

        for row in best:
            add(row, "best" if row is best[0] else "", "")
        if best and self._running:
            grid.add_section()
        for number in sorted(self._running):
            row = self._running[number]
            of = f"{row['epoch']}/{row['epochs']}"
            add(row, of, ",".join(map(str, row["ranks"])))
        self._live.update(Group(grid, Text(self._counts())), refresh=True)
