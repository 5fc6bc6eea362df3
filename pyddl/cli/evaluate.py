"""pyddl evaluate RUN: loss and reconstruction error of a trained model."""

from __future__ import annotations

import json
from typing import Any

import click

from pyddl.errors import DataError

__all__ = ["command", "rows_for"]


@click.command("evaluate")
@click.argument("run", type=click.Path())
@click.option("--data", help="What to evaluate on; by default the run's own test data.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(run: str, data: str | None, as_json: bool) -> int:
    """Loss and reconstruction error of the model in RUN, means over the rows."""
    from pyddl.train.evaluation import evaluate
    from pyddl.train.run import load_run

    trained = load_run(run)
    source = rows_for(trained, data)
    scores = evaluate(trained.model, trained.parameters, trained.buffers, source)
    if as_json:
        click.echo(json.dumps({"rows": len(source), **scores}))
    else:
        click.echo(f"on {source.describe()}")
        for name, value in scores.items():
            click.echo(f"{name:<14} {value:.4f}")
    return 0


def rows_for(trained: Any, data: str | None) -> Any:
    """The source that ``--data`` names, or the test data that the run recorded; of the model's width."""
    from pyddl.data import load
    from pyddl.data.joined import training_and_test

    if data is not None:
        source = load(data)
    elif trained.config.get("test"):
        source = load(trained.config["test"])
    elif trained.config.get("data"):
        source = load(trained.config["data"])
        tested = training_and_test(source, None, trained.config.get("validation"), trained.config["seed"])[1]
        source = source if tested is None else tested
    else:
        raise DataError(f"{trained.path} does not record its data; name some with --data")
    wanted = getattr(trained.model, "inputs", source.features)
    if source.features != wanted:
        raise DataError(
            f"{source.describe()} has {source.features} features; the model in {trained.path} expects {wanted}"
        )
    return source
