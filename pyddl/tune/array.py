"""Trials of a random search without a journal, one by one, as the tasks of a job array train them; and their journal,
made afterwards. They depend on the seed and their number only.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pyddl.comm.abort import STOPPED
from pyddl.comm.world import world
from pyddl.errors import ParameterError, PyddlError
from pyddl.train.agreement import agreement
from pyddl.train.progress import PlainProgress
from pyddl.train.stop import StopRequest
from pyddl.tune.collected import FAILED, check_random, finished
from pyddl.tune.collected import collect as collect_trials
from pyddl.tune.desk import Desk, folder_of
from pyddl.tune.running import report, table_of
from pyddl.tune.search import Search
from pyddl.tune.space import Space
from pyddl.tune.study import Study, drawn
from pyddl.tune.trial import train

__all__ = ["collect", "only"]


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
        check_random(search, "--only is")
        if number >= search.trials:
            raise ParameterError(f"--only is {number}; this search has trials 0 to {search.trials - 1}: give more by "
                                 "--trials")
        given, folder = drawn(space, search, number), folder_of(out, number)
    if finished(folder):
        say(f"trial {number} has ended")
        return 0
    stop = StopRequest()
    stop.for_good()
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
    check_random(search, "--collect is")
    study = Study(out, space, search)
    desk = Desk(study, out, [], table_of(study, True), lambda: report(study, out, quiet, say))
    say(collect_trials(desk))
    desk.finish()
    desk.close()
    return 0
