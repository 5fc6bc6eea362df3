"""pyddl generate RUN: samples of a trained model, as a .npy file or a picture."""

from __future__ import annotations

from typing import Any

import click

from pyddl import _check
from pyddl.errors import DataError, ParameterError

__all__ = ["command"]


@click.command("generate")
@click.argument("run", type=click.Path())
@click.option("--count", type=click.IntRange(min=1), default=50, help="How many.  [50]")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of everything random.  [0]")
@click.option("--out", default=None,
              help="File to write: .npy, .csv or .parquet, or .png of at most 50 samples.  [RUN/samples.npy]")
@click.option("--label", help="Class of the samples, of a model that is conditional on labels.  [all in turn]")
def command(run: str, count: int, seed: int, out: str | None, label: str | None) -> int:
    """Draw samples from the model in RUN: a file of float32 values, a line of features for each, or a picture."""
    from pathlib import Path

    import numpy as np

    from pyddl.cli.encode import able
    from pyddl.cli.evaluate import rows_for
    from pyddl.data.written import check_ending, names_of, write_rows
    from pyddl.train.plots import draw_pictures
    from pyddl.train.run import ROWS, load_run, written

    target = check_ending(Path(run) / "samples.npy" if out is None else out, ".png")
    trained = load_run(run)
    sample = able(trained, "sample", "generates nothing")
    given = {} if label is None else {"labels": np.full(count, _place(trained.model, label))}
    samples = trained.unscaled(sample(trained.averaged, trained.buffers, count, seed, **given))
    try:
        source = rows_for(trained, None, labelled=False, says=False)
    except DataError:  # the data are not here: curves
        source = None
    with written(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == ".png":
        with written(target):
            draw_pictures(target, "samples", samples, source and source.image_shape)
    else:
        write_rows(target, samples, trained.config.get(ROWS, {}).get("columns") or names_of(source, samples))
    click.echo(f"{target}: {count} samples of {samples.shape[1]} float32")
    return 0


def _place(model: Any, label: str) -> int:
    """The number of the class of that name."""
    if not getattr(model, "conditional", False):
        raise ParameterError("--label is given, and the model was trained without labels: leave it out, or train "
                             "one that sees them (gan --conditional, or a stacked_gan on a classifier)")
    names = model.class_names or tuple(map(str, range(model.classes)))
    return names.index(_check.one_of("label", label, names))
