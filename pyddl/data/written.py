"""Rows written to a file, of the kind that its name's ending says: what `pyddl.data.load` reads again."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pyddl.data.parquet import _pyarrow_parquet
from pyddl.data.source import Source
from pyddl.errors import ParameterError

__all__ = ["check_ending", "names_of", "write_rows"]

ENDINGS = (".npy", ".csv", ".parquet")
AT_ONCE = 4096  # rows of text that are made at once


def check_ending(path: str | os.PathLike[str], *others: str) -> Path:
    """``path``, where its ending names a kind of file, of those here or ``others``; without one it is ``.npy``.

    Raises
    ------
    ParameterError
        It is of another kind.
    """
    target = Path(path)
    if target.suffix not in ("", *ENDINGS, *others):
        raise ParameterError(f"out is {os.fspath(path)}, and nothing is written as {target.suffix} here: expected a "
                             f"name that ends in {', '.join((*ENDINGS, *others))}")
    return target


def names_of(source: Source | None, rows: np.ndarray) -> Sequence[str]:
    """Names of the columns of ``rows``, which are like those of a source: its own, else x0, x1, ..."""
    known = getattr(source, "columns", None)
    return known or [f"x{i}" for i in range(rows.shape[1])]


def write_rows(path: Path, rows: np.ndarray, columns: Sequence[str]) -> None:
    """Write ``rows`` (rows, columns): ``.npy`` without names, ``.csv`` under a line of them, or ``.parquet``.

    Raises
    ------
    ParameterError
        The file cannot be written.
    DataError
        It is to be Parquet, and pyarrow is not installed.
    """
    try:
        if path.suffix == ".csv":
            _write_csv(path, rows, columns)
        elif path.suffix == ".parquet":
            _write_parquet(path, rows, columns)
        else:
            with open(path, "wb") as file:  # np.save would append .npy to a name given without it
                np.save(file, rows)
    except OSError as error:
        raise ParameterError(f"cannot write {path}: {error.strerror or error}") from None


def _write_csv(path: Path, rows: np.ndarray, columns: Sequence[str]) -> None:
    digits = f"%.{9 if rows.dtype == np.float32 else 17}g"  # so many that reading gives the same number
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerow(columns)
        for begin in range(0, len(rows), AT_ONCE):
            np.savetxt(file, rows[begin : begin + AT_ONCE], fmt=digits, delimiter=",")


def _write_parquet(path: Path, rows: np.ndarray, columns: Sequence[str]) -> None:
    parquet = _pyarrow_parquet(path)
    import pyarrow

    parquet.write_table(pyarrow.table(dict(zip(columns, rows.T, strict=True))), path)
