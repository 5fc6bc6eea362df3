"""pyddl train MODEL: train a model on this process, or on MPI ranks."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import click

from pyddl import _check, models, options
from pyddl.cli.model_command import ModelCommand
from pyddl.cli.output import GoingOn
from pyddl.cli.start import on_ranks
from pyddl.comm.abort import STOPPED
from pyddl.errors import ParameterError

__all__ = ["command"]


def run(model: str | None, config: str | None, **given: Any) -> int:
    """Train MODEL on this process, or on MPI ranks.

    Under mpirun or srun all ranks train together; --ranks N starts mpirun by itself. SIGUSR1, SIGTERM and Ctrl-C end
    training at a step boundary with a checkpoint and exit status 75, and what comes before it at once; the same line
    with --resume goes on. With --resume, options that are not given are those of the run directory.
    """
    recorded = False
    if config is None and given["resume"] and given["out"] is not None:
        path = str(Path(given["out"]) / "config.toml")
        if os.path.exists(path):
            config, recorded = path, True
    settings = _settings(model, config, {name: value for name, value in given.items() if value is not None},
                         recorded=recorded)
    status = on_ranks(settings["ranks"], given=given["ranks"], threads=settings["threads"],
                      outlive=settings["on_failure"] == "continue", verbose=settings["verbose"])
    return _train(settings) if status is None else status


def _settings(model: str | None, config: str | None, given: dict[str, Any], *,
              recorded: bool = False) -> dict[str, Any]:
    """All options: flags over the file, which may be ``recorded`` by a run to go on with, over defaults."""
    from pyddl.train.run import read_config

    from_file: dict[str, Any] = {} if config is None else read_config(config)
    name = model or from_file.get("model")
    if name is None:
        raise ParameterError(f"which model? expected pyddl train MODEL, with one of {', '.join(models.TABLE)}")
    defaults = models.TABLE[_check.one_of("MODEL", name, models.TABLE)].defaults
    strategy = given.get("strategy")

    def accept(option: options.Option) -> bool:
        return option.section in options.OF_TRAIN

    from_file = _for(name, strategy, from_file, config)
    asked, below = ({}, from_file) if recorded else (from_file, {})
    options.resolve(asked, accept, where=f"{config}: ", model=name, strategy=strategy, defaults=defaults, below=below)
    settings = options.resolve(given, accept, model=name, defaults=defaults, below=from_file)
    if settings["resume"] and settings["out"] is None:
        raise ParameterError("--resume goes on with a run directory: name it with --out")
    return {"model": name, **settings}


def _for(model: str, strategy: str | None, from_file: dict[str, Any], where: str | None) -> dict[str, Any]:
    """The options of a file where the command line may have chosen another model or strategy: the file's own record of
    every option, as `pyddl train` writes it, must not stand in the way."""
    left = {name: value for name, value in from_file.items() if name not in ("model", "auto", "rows")}
    recorded = from_file.get("model")
    auto, chosen = from_file.get("auto"), None  # how an earlier run chose its strategy
    if auto is not None:
        chosen = auto.get("strategy") if isinstance(auto, dict) else auto
        options.resolve({"strategy": chosen}, where=f"{where}: auto: ")
    if chosen is not None and strategy == "auto":  # to be chosen again, or found in a checkpoint
        left = {name: value for name, value in left.items() if name not in options.defaults_of(chosen)}
    defaults = models.TABLE[recorded].defaults if recorded in models.TABLE else {}
    if recorded in (None, model):
        return options.fitting(left, defaults, strategy=strategy)
    return options.fitting(left, defaults, model=model, strategy=strategy, instead=models.TABLE[model].defaults)


def _train(settings: dict[str, Any]) -> int:
    from pyddl.comm.world import world
    from pyddl.train import named
    from pyddl.train.run import new_folder
    from pyddl.train.stop import StopRequest

    if sys.stdout is not None:
        sys.stdout = GoingOn(sys.stdout)  # type: ignore[assignment]
    stop = StopRequest(at_once=True)
    stop.for_good()  # none is lost during start-up
    here = world()
    out = settings["out"] or here.transport.gather_objects(new_folder(settings["model"]) if here.rank == 0 else "")[0]
    try:
        done = named.train({**settings, "out": out}, progress=_progress(settings["quiet"]), stop=stop)
    except BaseException:
        if settings["out"] is None and here.rank == 0:
            with contextlib.suppress(OSError):  # something is in it
                Path(out).rmdir()
                Path(out).parent.rmdir()
        raise
    result = done.result
    if here.rank == 0 and result.metrics:
        from pyddl.cli.app import try_to_draw
        from pyddl.data.joined import training_and_test
        from pyddl.train.report import draw, table

        tested = training_and_test(done.source, done.test, settings["validation"], settings["seed"])[1] or done.source
        vectors = (result.averaged, result.buffers)
        drawn = [] if done.stopped else try_to_draw(lambda: draw(out, result.model, *vectors, result.metrics, tested))
        if not settings["quiet"]:
            click.echo("\n".join([table(result.summary), f"written to {out}", *(f"picture {path}" for path in drawn)]))
    for text in result.summary.get("warnings", ()) if here.rank == 0 else ():
        click.echo(f"warning: {text}", err=True)
    if done.stopped and here.rank == 0:
        click.echo(f"stopped on request; go on with: pyddl train --resume --out {out}", err=True)
    return STOPPED if done.stopped else 0


def _progress(quiet: bool) -> Any:
    from pyddl.comm.environment import terminal
    from pyddl.train.progress import LiveProgress, PlainProgress, Progress

    return Progress() if quiet else LiveProgress() if terminal() else PlainProgress()


command = ModelCommand("train", run, sections=options.OF_TRAIN, own=lambda: [
    click.Option(["--config"], type=click.Path(), help="TOML file with options; flags win over it.")],
    defaults=lambda model: {} if model is None else models.TABLE[model].defaults)
