"""A search as it runs: on one process, or on groups of the ranks of one MPI job."""

from __future__ import annotations

import math
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyddl.comm import abort, threads
from pyddl.comm.environment import outlives, started, terminal
from pyddl.comm.world import World, use, world
from pyddl.errors import ParameterError, PeerLost, PyddlError
from pyddl.train import trainer  # noqa: F401 (children of this process need not load it again)
from pyddl.train.agreement import agreement
from pyddl.train.run import CONFIG, claimed, written
from pyddl.train.stop import StopRequest
from pyddl.tune.collected import collect
from pyddl.tune.coordinator import Direct, Link, MakeDesk, connect, opened
from pyddl.tune.coordinator import start as start_coordinator
from pyddl.tune.desk import BEST, SUMMARY, TRIALS, Desk, folder_of
from pyddl.tune.goal import check_goal
from pyddl.tune.groups import groups_of, said
from pyddl.tune.messages import Outcome, Over, Split
from pyddl.tune.rows import Rows
from pyddl.tune.search import Search
from pyddl.tune.space import Space
from pyddl.tune.study import JOURNAL, Study
from pyddl.tune.trial import Asked, in_child, train

__all__ = ["report", "run", "table_of"]

CSV = "trials.csv"


def run(space: Space, search: Search, out: str, *, ranks_per_trial: int = 1, resume: bool = False,
        overwrite: bool = False, quiet: bool = False, say: Callable[[str], None] = print) -> tuple[int, str]:
    """Search ``space``, on the ranks of the world; the exit status, and the folder. Collective.

    Parameters
    ----------
    out : str
        The folder of the search, as rank 0 has it.
    resume, overwrite : bool
        Whether to go on with an earlier search there, or to replace it.
    quiet : bool
        Show no table.
    say : callable
        For lines, on rank 0.

    Raises
    ------
    PyddlError
        On every rank.
    """
    def make() -> MakeDesk:
        folder = Path(out)
        study = _study(space, search, folder, resume=resume, overwrite=overwrite)
        if not study.rows() and (folder / TRIALS).exists():
            say(collect(Desk(study, folder, [], table_of(study, True), lambda: None)))
        until = math.inf if search.minutes is None else time.monotonic() + 60 * search.minutes

        def desk(groups: Sequence[Sequence[int]], idle: Sequence[int]) -> Desk:
            table = table_of(study, quiet)
            table.begin()
            return Desk(study, folder, groups, table, lambda: report(study, folder, quiet, say), idle=idle, until=until)

        return desk

    asked = Asked()
    asked.for_good()  # a second signal must not kill it
    launched, rows = started(), Rows()
    several = launched is not None and launched.size != 1
    coordinator = start_coordinator(make) if several and launched is not None and launched.rank == 0 else None
    here = world()
    if several and here.rank == 0 and coordinator is None:  # this launcher numbers ranks in MPI only
        coordinator = start_coordinator(make)
    try:
        out = here.transport.gather_objects(out)[0]
        with agreement(here.transport):
            groups, idle = groups_of(here.transport.gather_objects(here.node), ranks_per_trial)
            space.check_ranks(ranks_per_trial)
        with agreement(here.transport):
            rows.open(space)
            if here.rank == 0:
                check_goal(space, search, rows)
        made = None if several else make()
        if several:
            opened(coordinator, here)
        if here.rank == 0:
            for text in (*space.notes, *_of_groups(groups, idle, here)):
                say(text)
        link: Link = Direct(made(groups, idle)) if made is not None else connect(coordinator, groups, idle, here)
        _limit_threads(here)
        if search.minutes is not None:
            signal.setitimer(signal.ITIMER_REAL, 60 * search.minutes)
        with closing(link):
            over = _work(link, space, Path(out), rows, asked, _communicator(here, groups))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if coordinator is not None:
        coordinator.wait()
    if over.deaths:
        abort.end_without_mpi(lambda: False)
    if over.error:
        error = (ParameterError if over.status == 2 else PyddlError)(over.error)
        error.on_all_ranks = True
        raise error
    return over.status, out


def _study(space: Space, search: Search, out: Path, *, resume: bool, overwrite: bool) -> Study:
    """The study of the folder, which has something left to be done."""
    there = os.path.exists(out / JOURNAL)
    if there and not (resume or overwrite):
        raise ParameterError(f"{out} already holds a search ({JOURNAL}); say --resume to go on with it, --overwrite to "
                             "replace it, or choose another --out")
    if not there and os.path.exists(out / TRIALS) and not (resume or overwrite):
        raise ParameterError(f"{out} already holds trials, and no {JOURNAL}; say --resume to take those that have "
                             "ended into one and go on, --overwrite to replace them, or choose another --out")
    if overwrite and not resume:
        _remove(out)
    study = Study(out, space, search)
    try:
        if there and resume and not study.running() and len(study.rows()) >= study.trials:
            raise ParameterError(f"no trial left: all {study.trials} of {out} have ended; give more by --trials, or "
                                 "choose another --out")
        (out / SUMMARY).unlink(missing_ok=True)  # stale until this session ends
    except BaseException:
        study.close()
        raise
    return study


def _remove(out: Path) -> None:
    if not out.exists():
        return
    with written(out):
        lock = claimed(out, f"another search is writing to {out}: let it end, or choose another --out")
        for name in (JOURNAL, SUMMARY, CSV, BEST):
            (out / name).unlink(missing_ok=True)
        for name in (TRIALS, "plots"):
            shutil.rmtree(out / name, ignore_errors=True)
        lock.close()


def _of_groups(groups: list[list[int]], idle: list[int], here: World) -> list[str]:
    """What is to be said of them."""
    if here.size == 1:
        return []
    size = len(groups[0])
    lines = [said(len(groups), size)]
    if idle:
        are = "s {} are" if len(idle) > 1 else " {} is"
        lines.append(f"warning: rank{are.format(', '.join(map(str, idle)))} left over, and idle: start a multiple of "
                     f"{size}")
    return lines


def _limit_threads(here: World) -> None:
    """Let trials, who do not see the ranks of other groups, have no more than a rank's share of the cores. Collective.
    """
    if here.size == 1:
        return
    masks = here.transport.gather_objects((here.node, threads.cores()))
    mine = threads.default_threads([mask for node, mask in masks if node == here.node], here.node_rank,
                                   quota=threads.quota())
    os.environ.setdefault("OMP_NUM_THREADS", str(mine))
    threads.limit_numpy()


def _communicator(here: World, groups: list[list[int]]) -> Any:
    """That of this rank's group, where groups have several. Collective."""
    if here.mpi is None or len(groups[0]) == 1:
        return None
    number = next((number for number, group in enumerate(groups) if here.rank in group), len(groups))
    return here.mpi.Split(number, here.rank)


def _work(link: Link, space: Space, out: Path, rows: Rows, asked: Asked, group: Any) -> Over:
    """Train what the desk gives, until it is over."""
    outcome: Outcome | None = None
    while True:
        answer = link.next(outcome)
        if isinstance(answer, Over):
            return answer
        if isinstance(answer, Split):
            _leave(answer.why)
            continue
        if group is None and asked.stops:  # it came between two trials
            outcome = Outcome("stopped", asked=asked.requested)
            continue
        given, folder = space.settings(answer.given), folder_of(out, answer.number)
        if group is None:
            outcome = in_child(given, folder, resume=answer.resume, tell=link.epoch, asked=asked, opened=rows,
                               watched=link.connection, closed=() if link.connection is None else (link.connection,))
        else:
            if answer.deaths:
                group = group.Shrink()
            stop = StopRequest()  # without handlers, which are the search's

            def ask(stop: StopRequest = stop) -> None:
                stop.requested = True

            def among(group: Any = group) -> AbstractContextManager[Any]:
                return use(group) if group is not None else nullcontext()

            with asked.telling(ask):
                outcome = train(given, folder, resume=answer.resume, tell=link.epoch, stop=stop, opened=rows,
                                among=among)
        outcome = replace(outcome, asked=asked.requested)


def _leave(why: str) -> None:
    """End a rank whose group does not come back together; where ranks outlive it, as one that has died."""
    if outlives():
        os.write(2, f"pyddl: {why}; ending this rank, so that others go on\n".encode(errors="backslashreplace"))
        os.kill(os.getpid(), signal.SIGKILL)
    raise PeerLost(f"{why}; other ranks of the group wait for ever")


def table_of(study: Study, quiet: bool) -> Any:
    """What shows the search as it goes."""
    from pyddl.tune.table import LiveTable, PlainTable, Table

    return Table(study) if quiet else LiveTable(study) if terminal() else PlainTable(study)


def report(study: Study, out: Path, quiet: bool, say: Callable[[str], None]) -> None:
    """What a person sees at the end."""
    from pyddl.tune.report import draw, table, write_csv

    rows = study.rows()
    write_csv(out / CSV, rows)
    paths, notes = draw(out, study)
    if not quiet:
        say(table(rows, study.search))
        best = study.best()
        if best is not None:
            say(f"the best: {out / BEST}, which is trial {best['number']}; pyddl train --config "
                f"{out / BEST / CONFIG} trains it again")
        for path in (out / CSV, *paths):
            say(f"written to {path}")
    for text in notes:
        say(text)
