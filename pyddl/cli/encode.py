"""pyddl encode RUN: the codes of data, as a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from pyddl import models
from pyddl.cli.evaluate import for_pictures
from pyddl.errors import DataError

__all__ = ["able", "command", "of_all_rows"]

CHUNK = 4096  # rows that pass through the model at once


@click.command("encode")
@click.argument("run", type=click.Path())
@click.option("--data", help="What to encode; by default the run's own test data.")
@for_pictures
@click.option("--out", default=None, help="File to write: .npy, .csv or .parquet.  [RUN/codes.npy]")
def command(run: str, data: str | None, out: str | None, **pictures: Any) -> int:
    """Encode data with the model in RUN: a file of float32 values, a line of code units for each row."""
    from pathlib import Path

    from pyddl.data.written import check_ending, write_rows
    from pyddl.train.run import load_run

    target = check_ending(Path(run) / "codes.npy" if out is None else out)
    trained = load_run(run)
    source, codes = of_all_rows(trained, data, able(trained, "encode", "encodes nothing"), pictures)
    write_rows(target, codes, [f"code{i}" for i in range(codes.shape[1])])
    click.echo(f"{target}: {codes.shape[0]} codes of {codes.shape[1]} float32, of {source.describe()}")
    return 0


def able(trained: Any, member: str, lack: str) -> Callable[..., Any]:
    """A method of the trained model.

    Raises
    ------
    DataError
        It has none: ``lack`` says what that means, the model or this function what to do.
    """
    try:
        return getattr(trained.model, member)  # type: ignore[no-any-return]
    except AttributeError as error:
        name = trained.summary["model"]
        others = ", ".join(each for each in models.TABLE if hasattr(models.class_of(each), member))
        cure = f": {error}" if name == "torch" else f"; these do: {others}"
        raise DataError(f"the model in {trained.path}, {name}, {lack}{cure}") from None


def of_all_rows(trained: Any, data: str | None, function: Callable[..., Any],
                pictures: Mapping[str, Any]) -> tuple[Any, Any]:
    """The source that ``--data`` names, or the run's own; and ``function`` of the model on all its rows.
    ``pictures`` are options of `for_pictures`."""
    import numpy as np

    from pyddl.cli.evaluate import rows_for
    from pyddl.data.joined import LabelledSource
    from pyddl.train.evaluation import check_rows

    source = rows_for(trained, data, labelled=False, pictures=pictures)
    check_rows(trained.model, LabelledSource(source, None))  # any labels will do
    rows = np.empty((min(CHUNK, len(source)), source.features), dtype=np.float32)
    found = []
    for begin in range(0, len(source), CHUNK):
        index = np.arange(begin, min(begin + CHUNK, len(source)), dtype=np.int64)
        source.read(index, rows[: len(index)])
        found.append(function(trained.averaged, trained.buffers, rows[: len(index)]))
    return source, np.concatenate(found)
