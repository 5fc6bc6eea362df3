"""What a person sees at the end of a search: a table of the best trials, all trials as a file, and pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyddl.train.run import written
from pyddl.tune.search import Search
from pyddl.tune.study import Study
from pyddl.tune.table import best_first, said

__all__ = ["draw", "table", "write_csv"]

MOST = 10  # trials of a table


def table(rows: Sequence[Mapping[str, Any]], search: Search) -> str:
    """The ten best trials in columns, the best first, and how many there were of each state."""
    best = best_first(rows, search.direction)[:MOST]
    names = list(dict.fromkeys(name for row in best for name in row["given"]))
    lines = [["trial", search.goal, *names],
             *([str(row["number"]), f"{row['value']:.4f}",
                *(said(row["given"][name]) if name in row["given"] else "" for name in names)] for row in best)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    states = [row["state"] for row in rows]
    words = {"complete": "complete", "pruned": "pruned", "failed": "failed", "running": "under way"}
    counts = ", ".join(f"{states.count(state)} {word}" for state, word in words.items() if state in states)
    shown = ["  ".join(text.rjust(width) if column < 2 else text.ljust(width)
                       for column, (text, width) in enumerate(zip(line, widths, strict=True))).rstrip()
             for line in lines]
    return "\n".join([*(shown if best else ["no trial is complete"]),
                      f"{len(rows)} trial{'s' * (len(rows) != 1)}: {counts or 'none begun'}"])


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A line for each trial, a column for each parameter; what a trial has not is empty.

    Raises
    ------
    CheckpointError
        It cannot be written.
    """
    names = list(dict.fromkeys(name for row in rows for name in row["given"]))
    text = io.StringIO()
    file = csv.writer(text, lineterminator="\n")
    own = ("number", "state", "value", "epochs", "seconds")
    file.writerow([*own, *names, "why"])
    for row in rows:
        given = (row["given"].get(name) for name in names)
        file.writerow([*(row[name] for name in own),
                       *(value if isinstance(value, float) else "" if value is None else said(value)
                         for value in given), row["why"]])
    with written(path):
        path.write_text(text.getvalue(), encoding="utf-8")


def draw(out: Path, study: Study) -> tuple[list[Path], list[str]]:
    """Draw the search's pictures into its folder ``plots``; return their paths, and lines on what they lack.

    Raises
    ------
    CheckpointError
        They cannot be written.
    """
    from pyddl.tune.plots import draw_curves, draw_importances, draw_parameters, draw_trials

    rows, search = study.rows(), study.search
    if not any(row["value"] is not None for row in rows):
        return [], ["no picture: no trial has come to the end of an epoch"]
    curves, goal = study.curves(), study.column
    importances, drawn, notes = study.importances(), [], []
    folder = out / "plots"
    with written(folder):
        folder.mkdir(exist_ok=True)
        drawn.append(draw_trials(folder / "trials.png", rows, search, goal))
        drawn.append(draw_parameters(folder / "parameters.png", rows, study.space.parameters, importances, search,
                                     goal))
        if curves:
            drawn.append(draw_curves(folder / "curves.png", rows, curves, search, goal))
        if importances is None:
            notes.append("no picture: importances need ten trials that did not fail, some of them better than others")
        else:
            notes += [f"importances are {importances}"] if importances.rough else []
            drawn.append(draw_importances(folder / "importances.png", importances))
    return drawn, notes
