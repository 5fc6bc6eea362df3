"""ORC by pyarrow: numeric columns, or one column of lists.

One process of a node reads a file, and all map its values (`pyddl.data.kept`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyddl._check import first_line
from pyddl.data.columns import chosen, is_number, labels_in, named, rows_in, the_labels
from pyddl.data.formats import Format
from pyddl.data.kept import kept, state_of
from pyddl.data.labels import Labels
from pyddl.data.source import ArraySource, Source
from pyddl.errors import DataError, NoRowsError

__all__ = ["FORMAT", "open_orc"]


def open_orc(path: str | Path, columns: str = "", without: Sequence[str] = ()) -> Source:
    """Open an ORC file as rows; parameters and errors are those of `pyddl.data.parquet.open_parquet`."""
    file, place = _opened(path), Path(path)
    names = chosen(path, file.schema, named(path, file.schema.names, columns, without))
    source = ArraySource(kept(place, state_of(place), lambda: _blocks(path, file, names), ",".join(names)),
                         name=place.name, origin=str(path))
    if is_number(file.schema.field(names[0]).type):
        source.columns = tuple(names)
    else:
        source.inner, = names
    return source


def _labels(path: str, columns: str) -> Labels:
    file = _opened(path)
    names = the_labels(path, named(path, file.schema.names, columns), columns)
    table = _reading(path, lambda: file.read(columns=names))
    return _reading(path, lambda: labels_in(path, {name: table.column(name) for name in names}))


def _rows(path: str) -> int:
    return _opened(path).nrows


def _opened(path: str | Path) -> Any:
    try:
        import pyarrow.orc
    except ImportError as error:
        raise DataError(f"{path} needs pyarrow: pip install 'pyddl[parquet]'") from error
    try:
        file = pyarrow.orc.ORCFile(path)
        rows, _ = file.nrows, file.schema
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(f"{path} cannot be read as ORC: {first_line(error)}") from error
    if rows == 0:
        raise NoRowsError(f"{path} has no rows; expected at least one")
    return file


def _blocks(path: str | Path, file: Any, names: list[str]) -> Iterator[np.ndarray]:
    """The values of one stripe after another."""
    import pyarrow

    first, width, dtype = 0, None, np.dtype(np.float32)
    for stripe in range(file.nstripes):
        batch = _reading(path, lambda stripe=stripe: file.read_stripe(stripe, columns=names))
        columns = {name: pyarrow.chunked_array([batch.column(name)]) for name in names}
        rows = _reading(path, lambda columns=columns, stripe=stripe, first=first, width=width: rows_in(
            columns, str(path), f"stripe {stripe}", first, width))
        first, width = first + len(rows), rows.shape[1]
        yield rows.astype(dtype)


def _reading(path: str | Path, read: Any) -> Any:
    import pyarrow

    try:
        return read()
    except DataError:
        raise
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(f"{path} is damaged: {first_line(error)}") from error


FORMAT = Format(".orc", lambda path: path.lower().endswith(".orc"), open_orc, _labels, names=True, rows=_rows)
