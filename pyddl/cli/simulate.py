"""pyddl simulate MODEL: a strategy at many workers, on a virtual clock."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from pyddl import _check, models, options
from pyddl.cli.model_command import ModelCommand
from pyddl.errors import ParameterError

__all__ = ["DEFAULTS", "command"]

SECTIONS = ("data", "model", "training", "simulation")
DEFAULTS = {"epochs": 40, "batch_size": 512}  # for hundreds of replicas in one process
MODEL = "autoencoder"  # where none is named


def _defaults(model: str | None) -> dict[str, Any]:
    entry = None if model is None else models.TABLE[model]
    return DEFAULTS if entry is None else {**entry.defaults, **DEFAULTS, **entry.simulated}


def run(model: str | None, config: str | None, out: str | None, **given: Any) -> int:
    """Train MODEL (by default autoencoder) on simulated workers: loss against virtual time, bytes and waits.

    Gradients, vectors and results are real; seconds are those of a machine that --latency, --bandwidth,
    --sample-seconds and others describe. Next to the strategy runs allreduce, for comparison. Equal seeds give equal
    results.
    """
    from pyddl.cli.app import try_to_draw
    from pyddl.comm.machine import Machine
    from pyddl.comm.world import world
    from pyddl.data.joined import training_and_test
    from pyddl.optim.given import optimizer_of
    from pyddl.strategies.given import strategy_of
    from pyddl.train.named import for_data, scaled_as, source_of
    from pyddl.train.plots import draw_simulations
    from pyddl.train.run import new_folder, written
    from pyddl.train.simulation import check, simulate

    name, settings = _settings(model, config, {name: value for name, value in given.items() if value is not None})
    source, built = for_data(name, scaled_as(source_of(settings), settings, world()), settings)
    source, test = training_and_test(source, source_of(settings, "test", "test_labels"), settings["validation"],
                                     settings["seed"])
    machine = Machine(**{field.name: settings[field.name] for field in dataclasses.fields(Machine)})
    steps = settings["epochs"] * -(-len(source) // settings["batch_size"])
    strategies = [strategy_of(each, settings) for each in dict.fromkeys(("allreduce", settings["strategy"]))]
    wanted = [(workers, chosen) for workers in settings["workers"] for chosen in strategies]
    rows = min(settings["batch_size"], len(source))
    for workers, chosen in wanted:  # all, before the first has taken its time
        check(chosen, workers, rows, source)
        if workers > rows:
            raise ParameterError(f"a step has {rows} rows, and {workers} workers would not all have work: simulate at "
                                 f"most {rows}, or give a larger batch_size, if the data have more rows")
    simulations = []
    click.echo(f"{len(source):,} rows, batches of {settings['batch_size']}, {steps} steps, "
               f"{built.layout.count:,} parameters")
    click.echo(HEAD)
    for workers, chosen in wanted:
        rules = [optimizer_of(settings["optimizer"], settings, steps, getattr(built, "rate_scale", 1.0), own)
                 for own in (None, chosen.server_rule)]
        simulation = simulate(built, source, test or source, chosen, workers, rules[0], epochs=settings["epochs"],
                              batch_size=settings["batch_size"], seed=settings["seed"], machine=machine,
                              server_optimizer=rules[1], seen=_Progress(str(chosen), workers))
        simulations.append(simulation)
        click.echo(_line(simulation))
    folder = Path(out or new_folder("simulate"))
    with written(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "curves.jsonl", "w", encoding="utf-8") as file:
            for each in simulations:
                for point in each.curve:
                    file.write(json.dumps({"strategy": each.strategy, "workers": each.workers, **point}) + "\n")
        (folder / "table.txt").write_text("\n".join([HEAD, *map(_line, simulations)]) + "\n", encoding="utf-8")
    for path in try_to_draw(lambda: [draw_simulations(folder / "loss.png", simulations)]):
        click.echo(f"picture {path}")
    return 0


class _Progress:
    """Says on standard error how far a simulation is that takes long, on a terminal and in a pipe."""

    EVERY = 5  # seconds

    def __init__(self, strategy: str, workers: int):
        self._what, self._said = f"{strategy}, {workers} workers", time.monotonic()

    def __call__(self, point: Mapping[str, Any], end: int) -> None:
        now = time.monotonic()
        if now - self._said >= self.EVERY:
            self._said = now
            click.echo(f"{self._what}: step {point['step']} of {end}", err=True)


def _settings(model: str | None, config: str | None, given: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The model, and all options: flags over the file over defaults."""
    from pyddl.train.run import read_config

    from_file = {} if config is None else read_config(config)
    recorded = from_file.get("model", MODEL)
    name = _check.one_of("MODEL", model or recorded, models.TABLE)
    elsewhere = {"model", "auto", "rows", *(option.name for option in options.of_section("machine", "output"))}
    from_file = {key: value for key, value in from_file.items() if key not in elsewhere}
    if recorded != name and recorded in models.TABLE:  # a run's record of every option of its own model
        from_file = options.fitting(from_file, models.TABLE[recorded].defaults, model=name,
                                    instead=models.TABLE[name].defaults)
    for option in options.TABLE:
        for where, values in (("", given), (f"{config}: ", from_file)):
            if not option.simulated and values.get(option.name, option.default) != option.default:
                raise ParameterError(f"{where}{option.name} has no meaning in a simulation: leave it out")

    def accept(option: options.Option) -> bool:
        return option.section in SECTIONS

    options.resolve(from_file, accept, where=f"{config}: ", model=name, strategy=given.get("strategy"),
                    defaults=models.TABLE[name].defaults)
    return name, options.resolve(given, accept, model=name, defaults=_defaults(name), below=from_file)


command = ModelCommand("simulate", run, sections=SECTIONS, defaults=_defaults,
                       shown=lambda option: option.simulated, own=lambda: [
    click.Option(["--config"], type=click.Path(),
                 help="TOML file with options, for example a run's; flags win over it. What it says of real ranks and "
                      "of files is of no effect."),
    click.Option(["--out"], type=click.Path(),
                 help="Folder for table and picture; by default runs/simulate-DATE-TIME.")])

HEAD = (f"{'strategy':<12} {'workers':>7} {'virtual s':>10} {'test loss':>10} {'compute':>8} {'sending':>8} "
        f"{'waiting':>8} {'bytes/step/worker':>18}")


def _line(run: Any) -> str:
    loss = run.curve[-1].get("test_loss") if run.curve else None
    shares = " ".join(f"{run.share(part):8.1%}" for part in ("compute", "communication", "wait"))
    return (f"{run.strategy:<12} {run.workers:7} {run.seconds:10.4f} {'-' if loss is None else f'{loss:.4f}':>10} "
            f"{shares} {run.bytes_per_step:18,.0f}")
