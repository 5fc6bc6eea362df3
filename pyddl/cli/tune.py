"""pyddl tune SPACE: search over runs, on this process or on groups of MPI ranks."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyddl import effects
from pyddl.cli.app import say
from pyddl.cli.flags import Grouped, flags_of
from pyddl.cli.output import GoingOn
from pyddl.cli.start import on_ranks
from pyddl.comm.abort import STOPPED
from pyddl.comm.environment import started
from pyddl.errors import ParameterError
from pyddl.options import Option, named
from pyddl.tune.search import OPTIONS

if TYPE_CHECKING:
    from pyddl.tune import Search, Space

__all__ = ["command"]

OWN = (
    *OPTIONS,
    replace(named("ranks"), help="MPI ranks to start on this machine; by default search where started"),
    Option("ranks_per_trial", "int", 1, "machine",
           "ranks that train a trial together; those of one are processes of their own", at_least=1),
    replace(named("out"), help="folder of the search; by default runs/tune-DATE-TIME"),
    replace(named("overwrite"), help="replace what an earlier search left there"),
    replace(named("resume"), help="go on with the search there: trials under way from their checkpoints"),
    replace(named("quiet"), help="show no table"),
    named("verbose"),
)

OF_A_SEARCH = {"--only": ("minutes", "resume", "overwrite", "ranks_per_trial", "quiet"),
               "--collect": ("minutes", "resume", "overwrite", "ranks_per_trial", "ranks", "verbose")}
"""What has no effect in what is less than a search."""


def run(space: str, dry_run: bool, only: int | None, collect: bool, **given: Any) -> int:
    """Search over runs: the options of `pyddl train` that the TOML file SPACE gives ranges and choices.

    Each trial is a training in a folder of its own, OUT/trials/0007, and OUT/best is a link to the best one. Under
    mpirun or srun groups of --ranks-per-trial ranks take a trial each; --ranks N starts mpirun by itself. SIGUSR1,
    SIGTERM and Ctrl-C stop the search with exit status 75; the same line with --resume goes on with it.
    """
    from pyddl.tune import Search, Space

    settings = {option.name: option.default if given[option.name] is None else given[option.name] for option in OWN}
    read = Space.read(space)
    search = Search.of(read.search, {option.name: given[option.name] for option in OPTIONS}, where=f"{space}: ")
    if settings["resume"] and given["out"] is None:
        raise ParameterError("--resume goes on with the search of a folder: name it with --out")
    if settings["resume"] and settings["overwrite"]:
        raise ParameterError("--resume goes on with the search that --overwrite removes: leave one of the two out")
    ways = [flag for flag, on in (("--dry-run", dry_run), ("--only", only is not None), ("--collect", collect)) if on]
    if len(ways) > 1:
        raise ParameterError(f"{ways[0]} and {ways[1]} are both given: leave one of the two out")
    for flag in ways:
        if flag in OF_A_SEARCH and given["out"] is None:
            raise ParameterError(f"{flag} is about the folder of a search: name it with --out")
        for name in OF_A_SEARCH.get(flag, ()):
            if given[name]:
                raise ParameterError(f"--{name.replace('_', '-')} has no effect with {flag}: leave one of the two out")
    if not ways:
        effects.check(given, lambda name: (None, named(name).default), among=("overwrite", "verbose"))
    if dry_run:
        return _dry_run(read, search, settings)
    if collect:
        from pyddl.tune.array import collect as collect_trials

        return collect_trials(read, search, Path(given["out"]), quiet=settings["quiet"], say=click.echo)
    status = on_ranks(settings["ranks"], given=given["ranks"], outlive=None, verbose=settings["verbose"])
    if status is not None:
        return status
    if sys.stdout is not None:
        sys.stdout = GoingOn(sys.stdout)  # type: ignore[assignment]
    if only is not None:
        from pyddl.tune.array import only as train_one

        return train_one(read, search, only, Path(given["out"]), say)
    return _search(read, search, settings)


def _dry_run(space: Space, search: Search, settings: Mapping[str, Any]) -> int:
    from pyddl.tune.estimate import estimate
    from pyddl.tune.goal import check_goal
    from pyddl.tune.groups import groups_of
    from pyddl.tune.rows import Rows

    launched = started()
    if launched is not None and launched.rank:
        return 0
    ranks = settings["ranks"] or (launched.size if launched is not None else None) or 1
    groups_of([0] * ranks, settings["ranks_per_trial"])
    space.check_ranks(settings["ranks_per_trial"])
    check_goal(space, search, Rows())
    for text in (*space.notes, *estimate(space, search, ranks, settings["ranks_per_trial"])):
        click.echo(text)
    return 0


def _search(space: Space, search: Search, settings: Mapping[str, Any]) -> int:
    from pyddl.train.run import new_folder
    from pyddl.tune.running import run as search_runs

    launched = started()
    out = settings["out"] or (new_folder("tune") if launched is None or not launched.rank else "")
    status, out = search_runs(space, search, out, ranks_per_trial=settings["ranks_per_trial"],
                              resume=settings["resume"], overwrite=settings["overwrite"], quiet=settings["quiet"],
                              say=click.echo)
    if status == STOPPED:
        say(f"stopped on request; go on with: pyddl tune {click.get_current_context().params['space']} --resume "
            f"--out {out}")
    return status


command = Grouped("tune", callback=run, help=run.__doc__, params=[
    click.Argument(["space"], metavar="SPACE"),
    click.Option(["--dry-run"], is_flag=True, help="Print the space, the groups and an estimated time, and end."),
    click.Option(["--only"], type=click.IntRange(min=0), metavar="N",
                 help="Train trial N of a random search, without a journal, as a task of a job array does."),
    click.Option(["--collect"], is_flag=True, help="Take trials that --only has trained into the journal, and report."),
    *flags_of(OWN)])
