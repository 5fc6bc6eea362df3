"""Trials of a random search without a journal, one by one, as the tasks of a job array train them; and their journal,
made afterwards. They depend on the seed and their number only.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyddl.comm.abort import STOPPED
from pyddl.comm.world import world
from pyddl.errors import ParameterError, PyddlError
from pyddl.train.agreement import agreement
from pyddl.train.progress import PlainProgress
from pyddl.train.run import METRICS, SUMMARY, recorded_config
from pyddl.train.stop import StopRequest
from pyddl.tune.desk import TRIALS, Desk, folder_of
from pyddl.tune.messages import Outcome
from pyddl.tune.parameter import plain
from pyddl.tune.running import report, table_of
from pyddl.tune.search import Search
from pyddl.tune.space import Space
from pyddl.tune.study import Study, drawn
from pyddl.tune.trial import train

__all__ = ["collect", "only"]

FAILED = "failed.txt"  # why, in the folder of a trial


def only(space: Space, search: Search, number: int, out: Path, say: Callable[[str], None]) -> int:
    """Train trial ``number`` on all ranks of the world, or go on with it; the exit status. Collective.

    Raises
    ------
    ParameterError
        The search is not random, or has no such trial.
    PyddlError
        The trial has failed.
    """
    here = world()
    with agreement(here.transport):
        _check_random(search, "--only")
        if number >= search.trials:
            raise ParameterError(f"--only is {number}; this search has trials 0 to {search.trials - 1}: give more by "
                                 "--trials")
        given, folder = drawn(space, search, number), folder_of(out, number)
    if _finished(folder):
        say(f"trial {number} has ended")
        return 0
    with StopRequest() as stop:
        outcome = train(space.settings(given), folder, resume=True, tell=lambda line: "on", stop=stop,
                        shown=PlainProgress())
    if outcome.state == "failed":
        if here.rank == 0 and not outcome.lost:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / FAILED).write_text(outcome.why + "\n", encoding="utf-8")
        raise PyddlError(f"trial {number}: {outcome.why}")
    if here.rank == 0:
        (folder / FAILED).unlink(missing_ok=True)
    return STOPPED if outcome.state == "stopped" else 0


def collect(space: Space, search: Search, out: Path, *, quiet: bool, say: Callable[[str], None]) -> int:
    """Enter the trials that have ended into the journal, and report; the exit status.

    Raises
    ------
    ParameterError
        The search is not random; a directory is of another one.
    """
    _check_random(search, "--collect")
    study = Study(out, space, search)
    desk = Desk(study, out, [], table_of(study, True), lambda: report(study, out, quiet, say))
    say(_collect(study, desk))
    desk.finish()
    study.close()
    return 0


def _collect(study: Study, desk: Desk) -> str:
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
        for line in _metrics(folder):
            desk.saw(trial.number, line)
        desk.told(trial.number, outcome, _summary(folder).get("seconds"))
        found += 1
    left = len(study.running())
    return f"{found} trial{'s' * (found != 1)} taken into the journal" + (
        f"; {left} not yet at the end: train them by --only, or by --resume" if left else "")


def _check_random(search: Search, flag: str) -> None:
    if search.sampler != "random":
        raise ParameterError(f"{flag} is for trials that depend on the seed and their number only, and sampler is "
                             f"{search.sampler}: say --sampler random")


def _finished(folder: Path) -> bool:
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
    if _finished(folder):
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


def _compare(folder: Path, given: dict[str, Any]) -> None:
    recorded = recorded_config(folder)
    for name, value in given.items():
        if recorded and not isinstance(value, dict) and name in recorded and recorded[name] != plain(value):
            raise ParameterError(f"{folder} is of another space or seed: {name} is {recorded[name]} there, and "
                                 f"{plain(value)} in this search; choose another --out")
