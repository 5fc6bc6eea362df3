"""What does one model learn under each data-parallel strategy, at equal samples? The table of docs/models.md.

Simulated workers, whose rows, chains and results are those of so many MPI ranks (a server's workers are besides it), so
that all strategies meet in one process. Options of data, model and training are those of ``pyddl train MODEL``; those
not given are the model's row in `RECIPES`, else its defaults.

A row is a strategy: workers, the score (the median of the seeds, least and largest), its quotient to allreduce's.
Allreduce is the reference, and `local` what a worker learns from its own share of the rows.

    python -m benchmarks.models MODEL [--score NAME] [--measure NAME] [--workers N] [--seeds N] [--only TEXT]
                                [--size quick|node|cluster] [OPTIONS OF pyddl train MODEL]
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks import harness
from benchmarks.harness import Record
from pyddl import models, options
from pyddl.cli.flags import flags
from pyddl.data import Source
from pyddl.data.joined import training_and_test
from pyddl.optim.given import optimizer_of
from pyddl.strategies import strategy
from pyddl.train.crew import Crew
from pyddl.train.named import for_data, source_of
from pyddl.train.simulation import simulate

__all__ = ["RECIPES", "Recipe", "main", "strategies"]

SECTIONS = ("data", "model", "training")
SEEDS = {"quick": 1, "node": 1, "cluster": 3}
QUICK = ("allreduce", "averaging", "server async")  # the rows of size quick, which trains for one epoch


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a model's table is made from where the command line does not say otherwise.

    Parameters
    ----------
    score : str, default="test_loss"
        One of the model's scores, with ``test_`` before it, or a figure of the measure.
    measure : str, optional
        Of the model, as for ``pyddl evaluate --measure``.
    options : mapping, default={}
        Of ``pyddl train MODEL``, by their Python names.
    """

    score: str = "test_loss"
    measure: str | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


RECIPES = {
    "autoencoder": Recipe("test_squared_error", options={
        "conv": "conv8,pool2,conv16", "hidden": (10,), "batch_norm": "synchronised", "corrupt": 0.1, "epochs": 15,
        "batch_size": 60, "learning_rate": 0.004, "schedule": "cosine"}),
    "rbm": Recipe("log_likelihood", "likelihood", {
        "hidden": (16,), "binarise": "threshold", "epochs": 60, "batch_size": 40, "chains": 40}),
    "ssrbm": Recipe(options={"hidden": (80,), "pool": 2, "epochs": 15, "batch_size": 48}),
    "vae": Recipe("iwae_500", "likelihood", {"hidden": (64, 8), "epochs": 60, "batch_size": 40}),
    "gan": Recipe("energy_distance", "energy_distance", {
        "generator": (64, 64), "discriminator": (64,), "noise": 16, "average": 0.99, "epochs": 60, "batch_size": 60,
        "learning_rate": 0.008}),
    "stacked_gan": Recipe("energy_distance", "energy_distance", {  # --encoder RUN besides
        "generator": (32,), "discriminator": (32,), "noise": 4, "penalty": 0.3, "average": 0.98,
        "pretrain_epochs": (15,), "epochs": 20, "batch_size": 60, "learning_rate": 0.006}),
    "dbn": Recipe("test_squared_error", options={
        "hidden": (64, 16), "finetune": "autoencoder", "pretrain_epochs": (5,), "epochs": 20, "batch_size": 40,
        "optimizer": "momentum", "learning_rate": 0.005}),
}
"""A new model's row may be missing: then its defaults on digits are trained, and test losses compared."""


def strategies(workers: int) -> dict[str, dict[str, Any]]:
    """The rows of the table: a strategy's name and its options, by what a reader calls it."""
    return {
        "allreduce": {"strategy": "allreduce"},
        "averaging, period 4": {"strategy": "averaging", "period": 4},
        "elastic, tau 4": {"strategy": "elastic", "tau": 4},
        "gossip": {"strategy": "gossip"},
        f"sequential, {workers} replicas": {"strategy": "sequential", "replicas": workers},
        **{f"server {mode}": {"strategy": "server", "mode": mode} for mode in ("sync", "ssp", "async")},
        "local": {"strategy": "local"},
    }


def trained(name: str, settings: Mapping[str, Any], row: Mapping[str, Any], workers: int, data: Source,
            test: Source, measure: str | None) -> dict[str, Any]:
    """Scores, and figures of the measure, of what these workers have learnt together."""
    data, model = for_data(name, data, settings)
    given = dict(row)
    chosen = strategy(given.pop("strategy"), **given)
    steps = settings["epochs"] * -(-len(data) // settings["batch_size"])
    rules = [optimizer_of(settings["optimizer"], settings, steps, getattr(model, "rate_scale", 1.0), own)
             for own in (None, chosen.server_rule)]
    found = simulate(model, data, test, chosen, workers, rules[0], epochs=settings["epochs"],
                     batch_size=settings["batch_size"], seed=settings["seed"], server_optimizer=rules[1], points=1)
    scores = {key: value for key, value in found.curve[-1].items() if key.startswith("test_")}
    if measure is not None:
        scores |= model.measures[measure](found.averaged, found.buffers, test, Crew())
    return scores


def main(given: Sequence[str] | None = None) -> Record:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=list(models.TABLE))
    parser.add_argument("--size", choices=harness.SIZES, default="node")
    parser.add_argument("--out", type=Path, default=harness.RESULTS, help="folder of the JSON lines")
    parser.add_argument("--score", help="figure that is compared")
    parser.add_argument("--measure", help="measure of the model that has it")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seeds", type=int, help="so many, from 0 on; by default 3 in size cluster, else 1")
    parser.add_argument("--only", help="rows whose names begin so, beside allreduce")
    own, rest = parser.parse_known_args(given)
    recipe = RECIPES.get(own.model, Recipe())
    score, measure = own.score or recipe.score, own.measure or (None if own.score else recipe.measure)
    settings = _settings(own.model, recipe, rest)
    if own.size == "quick":
        settings["epochs"] = 1
    data, test = training_and_test(source_of(settings), source_of(settings, "test", "test_labels"),
                                   settings["validation"], settings["seed"])
    seeds = own.seeds or SEEDS[own.size]
    record = Record(f"models-{own.model}", own.size, own.out, model=own.model, score=score, measure=measure,
                    workers=own.workers, seeds=seeds, options={key: value for key, value in settings.items()
                                                               if value is not None})
    rows: list[list[object]] = []
    reference = None
    for title, row in strategies(own.workers).items():
        wanted = QUICK if own.size == "quick" and not own.only else (own.only,) if own.only else ("",)
        if title != "allreduce" and not title.startswith(wanted):
            continue
        found = [trained(own.model, {**settings, "seed": seed}, row, own.workers, data, test or data, measure)
                 for seed in range(seeds)]
        if score not in found[0]:
            raise SystemExit(f"there is no figure {score}; there are {', '.join(found[0])}")
        values = [each[score] for each in found]
        middle = statistics.median(values)
        reference = middle if reference is None else reference
        record.add(name=title, workers=own.workers, value=middle, values=values, ratio=middle / reference,
                   scores=found)
        spread = f" ({min(values):.4g}, {max(values):.4g})" if seeds > 1 else ""
        rows.append([f"`{row['strategy']}`{title[len(row['strategy']):]}", own.workers, f"{middle:.4g}{spread}",
                     f"{middle / reference:.3f}"])
        harness.show(" | ".join(map(str, rows[-1])))
    harness.show(harness.table(["strategy", "workers", score.replace("_", " "), "of allreduce's"], rows))
    return record


def _settings(model: str, recipe: Recipe, rest: Sequence[str]) -> dict[str, Any]:
    """All options: the command line's over the recipe's over the model's defaults."""
    command = click.Command(model, params=flags(*SECTIONS, model=model), add_help_option=False)
    context = command.make_context(model, list(rest))
    given = {name: value for name, value in context.params.items() if value is not None}
    return options.resolve({**recipe.options, **given}, lambda option: option.section in SECTIONS, model=model,
                           defaults=models.TABLE[model].defaults)


if __name__ == "__main__":
    main()
