"""pyddl simulate MODEL: a strategy at many workers, on a virtual clock."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import click

from pyddl import options
from pyddl.cli.flags import flags
from pyddl.errors import ParameterError

__all__ = ["command"]

LEFT_OUT = ("reproducible", "patience", "split")  # training options without a meaning here
HIDDEN, EPOCHS, BATCH = (32, 8), 5, 512  # smaller defaults than training's: hundreds of replicas in one process


@click.command("simulate")
@click.argument("model", default="autoencoder", metavar="MODEL")
@flags("data", "model", "training", "simulation")
@click.option("--out", type=click.Path(), help="Folder for table and picture; by default runs/simulate-DATE-TIME.")
def command(model: str, out: str | None, **given: Any) -> int:
    """Train MODEL (autoencoder) on simulated workers: loss against virtual time, bytes and waits.

    Gradients, vectors and results are real; seconds are those of a machine that --latency, --bandwidth,
    --sample-seconds and others describe. Next to the strategy runs allreduce, for comparison. Equal seeds give equal
    results.
    """
    from pyddl import data, models
    from pyddl.comm.simulated import Machine
    from pyddl.strategies import strategy
    from pyddl.train.plots import draw_simulations
    from pyddl.train.session import optimizer_of
    from pyddl.train.simulation import simulate

    given = {name: value for name, value in given.items() if value is not None}
    for name in LEFT_OUT:
        if name in given:
            raise ParameterError(f"{name} has no meaning in a simulation: leave it out")
    settings = options.resolve({"hidden": HIDDEN, "epochs": EPOCHS, "batch_size": BATCH, **given})
    source = data.load(settings["data"])
    test = data.load(settings["test"]) if settings["test"] is not None else source.test or source
    built = models.create(model, inputs=source.features,
                          **{option.name: settings[option.name] for option in options.of_section("model")})
    machine = Machine(**{field.name: settings[field.name] for field in dataclasses.fields(Machine)})
    steps = settings["epochs"] * -(-len(source) // settings["batch_size"])
    runs = []
    click.echo(f"{len(source):,} rows, batches of {settings['batch_size']}, {steps} steps, "
               f"{built.layout.count:,} parameters")
    click.echo(HEAD)
    for workers in settings["workers"]:
        for name in dict.fromkeys(("allreduce", settings["strategy"])):
            chosen = strategy(name, **(options.of_strategy(name, settings) if name == settings["strategy"] else {}))
            rules = [optimizer_of(rule, settings, steps)
                     for rule in (settings["optimizer"], chosen.server_optimizer or settings["optimizer"])]
            run = simulate(built, source, test, chosen, workers, rules[0], epochs=settings["epochs"],
                           batch_size=settings["batch_size"], seed=settings["seed"], machine=machine,
                           server_optimizer=rules[1])
            runs.append(run)
            click.echo(_line(run))
    folder = Path(out or time.strftime("runs/simulate-%Y%m%d-%H%M%S"))
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "curves.jsonl", "w", encoding="utf-8") as file:
        for run in runs:
            for point in run.curve:
                file.write(json.dumps({"strategy": run.strategy, "workers": run.workers, **point}) + "\n")
    (folder / "table.txt").write_text("\n".join([HEAD, *map(_line, runs)]) + "\n", encoding="utf-8")
    click.echo(f"picture {draw_simulations(folder / 'loss.png', runs)}")
    return 0


HEAD = (f"{'strategy':<12} {'workers':>7} {'virtual s':>10} {'test loss':>10} {'compute':>8} {'sending':>8} "
        f"{'waiting':>8} {'bytes/step/worker':>18}")


def _line(run: Any) -> str:
    loss = run.curve[-1].get("test_loss") if run.curve else None
    shares = " ".join(f"{run.share(part):8.1%}" for part in ("compute", "communication", "wait"))
    return (f"{run.strategy:<12} {run.workers:7} {run.seconds:10.4f} {'-' if loss is None else f'{loss:.4f}':>10} "
            f"{shares} {run.bytes_per_step:18,.0f}")
