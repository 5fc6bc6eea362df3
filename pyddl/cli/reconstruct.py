"""pyddl reconstruct RUN: what a trained model makes of data, as a file."""

from __future__ import annotations

from typing import Any

import click

from pyddl.cli.evaluate import for_pictures

__all__ = ["command"]


@click.command("reconstruct")
@click.argument("run", type=click.Path())
@click.option("--data", help="What to reconstruct; by default the run's own test data.")
@for_pictures
@click.option("--out", default=None, help="File to write: .npy, .csv or .parquet.  [RUN/reconstructions.npy]")
def command(run: str, data: str | None, out: str | None, **pictures: Any) -> int:
    """Reconstruct data with the model in RUN: a file of float32 values like those of the data, row by row."""
    from pathlib import Path

    import numpy as np

    from pyddl.cli.encode import able, of_all_rows
    from pyddl.data.written import check_ending, names_of, write_rows
    from pyddl.train.run import load_run

    target = check_ending(Path(run) / "reconstructions.npy" if out is None else out)
    trained = load_run(run)
    source, rows = of_all_rows(trained, data, able(trained, "reconstruct", "reconstructs nothing"), pictures)
    write_rows(target, trained.unscaled(np.asarray(rows, dtype=np.float32)), names_of(source, rows))
    click.echo(f"{target}: {rows.shape[0]} reconstructions of {rows.shape[1]} float32, of {source.describe()}")
    return 0
