"""The group of commands: loads a command when it is called, and turns errors into messages and exit codes."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from pyddl import __version__, _check, _own
from pyddl.cli.output import any_characters, give_up
from pyddl.comm.abort import STOPPED, OnAllRanks, end_all, installed, told_by_another
from pyddl.comm.environment import started
from pyddl.errors import CommError, DataError, ParameterError, PyddlError, ShapeError
from pyddl.train.stop import NotBegun

__all__ = ["app", "say", "try_to_draw"]

COMMANDS = {
    "train": "Train a model on this process, or on MPI ranks.",
    "evaluate": "Scores of a trained model on data, loss and reconstruction error among them.",
    "generate": "Write samples of a trained model to a file or a picture.",
    "encode": "Write the codes of data to a file.",
    "reconstruct": "Write what a trained model makes of data, by way of its codes, to a file.",
    "plot": "Draw a run's curves and its reconstructions.",
    "tune": "Search over runs: train many, one after another or on groups of MPI ranks, and keep the best.",
    "simulate": "Show a strategy at many workers, on a virtual clock.",
    "bench": "Measure how fast pyddl is on this machine, and against whom.",
    "doctor": "Say what this machine offers, and what is wrong with it.",
    "fetch": "Download a data set into the user's cache.",
}
OF_ONE = ("encode", "reconstruct", "generate", "plot", "simulate", "fetch")  # on any number of ranks one does it all
FAILED, BAD_INPUT = 1, 2


class _Commands(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        if name in OF_ONE and not _first():
            return click.Command(name, callback=lambda: 0, add_help_option=False,
                                 context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
        return import_module(f"pyddl.cli.{name}").command

    def resolve_command(self, context: click.Context, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            context.fail(f"there is no command {args[0]!r}{_check.nearest(args[0], COMMANDS)}")
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):  # without loading any of them
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="pyddl", message="%(prog)s %(version)s")
def _commands() -> None:
    """Train unsupervised deep models over MPI ranks on CPUs."""


def say(text: str) -> None:
    """Print on the first rank only: ranks that find the same fault say it once."""
    if _first():
        _to_stderr(text)


def _to_stderr(text: str) -> None:
    with contextlib.suppress(OSError):  # full or gone: the exit status has to say it all
        click.echo(text, err=True)


def try_to_draw(draw: Callable[[], list[Path]]) -> list[Path]:
    """What ``draw`` gives; none, and a line that says why, where it fails: the work is done, and that is to be seen."""
    try:
        return draw()
    except Exception as error:
        say(f"pyddl: no pictures: {_check.first_line(error)}")
        return []


def _first() -> bool:
    """Whether this is the first rank, or the only process."""
    rank = started()
    return rank is None or not rank.rank


def _failed(error: Exception, text: str | None = None, status: int = FAILED) -> int:
    """Say what this rank fails by, of which perhaps only this one knows, unless another says the same."""
    rank = started()
    here = f"rank {rank.rank}: " if rank is not None and rank.size != 1 else ""
    if not told_by_another(error):
        _to_stderr(f"{_own.trace(error)}pyddl: {here}{text or error}")
    return status


def app() -> int:
    """Run the command that ``sys.argv`` names; return its exit status."""
    any_characters()
    try:
        return _commands.main(prog_name="pyddl", standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        say(error.format_message())
        return BAD_INPUT
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else "pyddl"
        say(f"{path}: {error.format_message()}\nSee '{path} --help'.")
        return BAD_INPUT
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.Abort:
        return 130
    except (ParameterError, ShapeError, DataError) as error:
        if installed() and not error.on_all_ranks:
            return _failed(error, status=BAD_INPUT)
        say(f"{_own.trace(error)}pyddl: {error}")
        return OnAllRanks(BAD_INPUT) if error.on_all_ranks else BAD_INPUT
    except PyddlError as error:
        if error.on_all_ranks:
            say(f"pyddl: {error}")
            return OnAllRanks(FAILED)
        if isinstance(error, CommError) and installed():
            raise  # only some ranks may know: the abort hook ends all
        return _failed(error)  # of a CommError: MPI has not come up
    except MemoryError as error:
        return _failed(error, f"out of memory: {error}. Choose fewer hidden units or a smaller batch_size, or let "
                              "ranks hold one copy of the model together (--split)")
    except BrokenPipeError:  # the reader of a pipe has left
        sys.stderr.close()
        return 0
    except OSError as error:
        return _failed(error, _of_system(error))
    except NotBegun as error:
        if not told_by_another(error):
            _to_stderr("pyddl: stopped on request before training began; start it again")
        if installed():
            end_all(STOPPED)
        os._exit(STOPPED)  # whatever threads still read


def _of_system(error: OSError) -> str:
    """What the operating system refuses, and where."""
    if error.filename is not None:
        return f"{_check.shown(error.filename)}: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO) and sys.stdout is not None:  # files have names
        give_up(sys.stdout)
        return f"standard output cannot be written: {error.strerror}"
    try:
        os.getcwd()
    except OSError:
        return "the working directory is no longer there: change to another one"
    return _check.first_line(error)
