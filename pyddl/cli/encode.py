"""pyddl encode RUN: the codes of data, as a .npy file."""

from __future__ import annotations

from typing import Any

import click

from pyddl.cli.evaluate import for_pictures
from pyddl.errors import DataError, ParameterError

__all__ = ["command"]

CHUNK = 4096  # rows encoded at once


@click.command("encode")
@click.argument("run", type=click.Path())
@click.option("--data", help="What to encode; by default the run's own test data.")
@for_pictures
@click.option("--out", default=None, help="File to write.  [RUN/codes.npy]")
def command(run: str, data: str | None, out: str | None, **pictures: Any) -> int:
    """Encode data with the model in RUN: a float32 .npy file of shape (rows, code units)."""
    from pathlib import Path

    import numpy as np

    from pyddl.cli.evaluate import rows_for
    from pyddl.data.joined import LabelledSource
    from pyddl.train.evaluation import check_rows
    from pyddl.train.run import load_run

    if out is not None and Path(out).suffix not in ("", ".npy"):
        raise ParameterError(f"--out is {out}; codes are written as NumPy's .npy: give a name that ends so")
    trained = load_run(run)
    if not hasattr(trained.model, "encode"):
        raise DataError(f"the model in {run}, {trained.summary['model']}, has no encoder")
    source = rows_for(trained, data, labelled=False, pictures=pictures)
    check_rows(trained.model, LabelledSource(source, None))  # any labels will do for codes
    target = Path(out) if out is not None else Path(run) / "codes.npy"
    rows = np.empty((min(CHUNK, len(source)), source.features), dtype=np.float32)
    codes = []
    for begin in range(0, len(source), CHUNK):
        index = np.arange(begin, min(begin + CHUNK, len(source)), dtype=np.int64)
        source.read(index, rows[: len(index)])
        codes.append(trained.model.encode(trained.averaged, trained.buffers, rows[: len(index)]))
    result = np.concatenate(codes)
    try:
        with open(target, "wb") as file:  # np.save would append .npy to a name given without it
            np.save(file, result)
    except OSError as error:
        raise ParameterError(f"cannot write {target}: {error.strerror}") from None
    click.echo(f"{target}: {result.shape[0]} codes of {result.shape[1]} float32, of {source.describe()}")
    return 0
