"""Trials that were trained without a journal, as tasks of a job array are, and how they come into one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pyddl.errors import ParameterError
from pyddl.train.run import METRICS, SUMMARY, recorded_config
from pyddl.tune.desk import TRIALS, Desk, folder_of
from pyddl.tune.messages import Outcome
from pyddl.tune.parameter import plain
from pyddl.tune.search import Search

__all__ = ["FAILED", "check_random", "collect", "finished"]

FAILED = "failed.txt"  # why, in the folder of a trial


def check_random(search: Search, what: str) -> None:
    """Refuse a search whose trials depend on each other.

    Raises
    ------
    ParameterError
    """
    if search.sampler != "random":
        raise ParameterError(f"{what} for trials that depend on the seed and their number only, and sampler is "
                             f"{search.sampler}: say --sampler random")


def collect(desk: Desk) -> str:
    """Enter the trials that have ended into the desk's study, and ask for those before them; what was found, in words.

    Raises
    ------
    ParameterError
        The search is not random; a directory is of another one.
    """
    study = desk.study
    check_random(study.search, f"trials in {desk.out / TRIALS} without a journal are")
    folders = [path for path in (desk.out / TRIALS).glob("[0-9]*") if path.is_dir()]
    last = max((int(path.name) for path in folders if path.name.isdigit()), default=-1)
    while len(study.rows()) <= last and study.ask() is not None:
        pass
    found = 0
    for trial in study.resume():
        folder = folder_of(desk.out, trial.number)
        outcome = _outcome(folder)
        if outcome is None:
            continue
        _compare(folder, trial.given)
        for line in _of_last_stage(_metrics(folder)):
            desk.saw(trial.number, line)
        desk.told(trial.number, outcome, _summary(folder).get("seconds"))
        found += 1
    left = len(study.running())
    return f"{found} trial{'s' * (found != 1)} taken into the journal" + (
        f"; {left} not yet at the end: train them by --only, or by --resume" if left else "")


def finished(folder: Path) -> bool:
    """Whether the trial of this folder has come to its end."""
    return _summary(folder).get("finished") is not None


def _summary(folder: Path) -> dict[str, Any]:
    """What the run says of itself; nothing where it has not ended."""
    try:
        said = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        return {**said, "seconds": sum(said["time"].values())}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _outcome(folder: Path) -> Outcome | None:
    """What became of a trial; None where it has not ended."""
    if finished(folder):
        lines = _metrics(folder)
        return Outcome("complete", lines[-1] if lines else None)
    try:
        return Outcome("failed", why=(folder / FAILED).read_text(encoding="utf-8").strip())
    except OSError:
        return None


def _metrics(folder: Path) -> list[dict[str, Any]]:
    try:
        text = (folder / METRICS).read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]
    except (OSError, ValueError):
        return []


def _of_last_stage(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As `pyddl.tune.trial.Reporting` tells them."""
    before = sum(line.get("stage") != lines[-1].get("stage") for line in lines)
    return [{**line, "epoch": line["epoch"] - before} for line in lines[before:]]


def _compare(folder: Path, given: dict[str, Any]) -> None:
    recorded = recorded_config(folder)
    for name, value in given.items():
        if recorded and not isinstance(value, dict) and name in recorded and recorded[name] != plain(value):
            raise ParameterError(f"{folder} is of another space or seed: {name} is {recorded[name]} there, and "
                                 f"{plain(value)} in this search; choose another --out")
