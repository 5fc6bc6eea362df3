"""Parquet by pyarrow: numeric columns, or one column of lists."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyddl._check import first_line
from pyddl.data.blocks import BlockSource, open_files
from pyddl.data.columns import chosen, is_number, labels_in, named, pandas_index, rows_in, the_labels
from pyddl.data.formats import Format
from pyddl.data.labels import Labels
from pyddl.data.source import Source
from pyddl.errors import DataError, NoRowsError

__all__ = ["FORMAT", "open_parquet"]

SUFFIXES = (".parquet", ".pq")


def open_parquet(path: str | Path, columns: str = "", without: Sequence[str] = ()) -> Source:
    """Open a Parquet file as rows.

    Parameters
    ----------
    path : str or Path
    columns : str, optional
        Names with commas, or those to leave out, each with a minus before; all but pandas' index by default. They must
        be numbers, each a feature, or one column of lists of equal lengths, whose entries are the features.
    without : sequence of str, optional
        Columns that are no features where none are named.

    Raises
    ------
    DataError
        pyarrow is not installed; the file is missing, damaged or no Parquet; a column is missing, holds text
        or empty values; there are no rows.
    """
    file, groups, faults = _opened(path)
    schema = file.schema_arrow
    file.close()
    names = chosen(path, schema, named(path, schema.names, columns, without, pandas_index(schema)))
    if sum(groups) == 0:
        raise NoRowsError(f"{path} has no rows; expected at least one")
    filled = [i for i, size in enumerate(groups) if size]
    return _Grouped(path, schema, names, [groups[i] for i in filled], filled, faults)


def _labels(path: str, columns: str) -> Labels:
    """The labels in one column or several of numbers, or in one of text or of lists."""
    file, groups, faults = _opened(path)
    schema = file.schema_arrow
    names = the_labels(path, named(path, schema.names, columns, hidden=pandas_index(schema)), columns)
    if sum(groups) == 0:
        raise NoRowsError(f"{path} has no rows; expected at least one")
    try:
        table = file.read(columns=names)
        return labels_in(path, {name: table.column(name) for name in names})
    except DataError:
        raise
    except faults as error:
        raise DataError(f"{path} is damaged: {first_line(error)}") from error


def _rows(path: str) -> int:
    return sum(_opened(path)[1])


def _opened(path: str | Path) -> tuple[Any, list[int], tuple[type[BaseException], ...]]:
    """A Parquet file, the rows of its row groups, and what is raised where it is damaged."""
    parquet = _pyarrow_parquet(path)
    import pyarrow

    faults = (pyarrow.ArrowException, OSError, ValueError)
    try:
        file = parquet.ParquetFile(path)
        about = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        groups = [group.num_rows for group in about]
        if min(groups, default=0) < 0 or sum(groups) != file.metadata.num_rows:
            raise DataError(f"{path} is damaged: its row groups have {sum(groups)} rows in all, but it says "
                            f"{file.metadata.num_rows}")
        _ = file.schema_arrow
    except DataError:
        raise
    except faults as error:
        raise DataError(f"{path} cannot be read as Parquet: {first_line(error)}") from error
    return file, groups, faults


class _Grouped(BlockSource):
    """A Parquet file: each row group is a block."""

    def __init__(self, path: str | Path, schema: Any, names: list[str], sizes: list[int], groups: list[int],
                 faults: tuple[type[BaseException], ...]):
        self._path, self._names, self._groups, self._faults = path, names, groups, faults
        self._lists = len(names) == 1 and not is_number(schema.field(names[0]).type)
        self.origin = str(path)
        features = self._width() if self._lists else len(names)
        if self._lists:
            self.inner, = names
        else:
            self.columns = tuple(names)
        super().__init__(str(path).rsplit("/", 1)[-1], str(path), [0, *itertools.accumulate(sizes)], features)

    def load(self, block: int) -> np.ndarray:
        table = self._of_file(lambda file: file.read_row_group(self._groups[block], columns=self._names))
        columns = {name: table.column(name) for name in self._names}
        return self._reading(lambda: rows_in(columns, self.origin, f"row group {self._groups[block]}",
                                             int(self._begins[block]), self.features))

    def _width(self) -> int:
        """Length of the first list, which is that of all."""
        first = self._of_file(lambda file: next(file.iter_batches(1, [self._groups[0]], self._names)))
        value = first.column(0)[0].as_py()
        if not value:
            raise DataError(f"{self.origin}: the list in row 0 of column {self._names[0]} is empty; expected numbers")
        return len(value)

    def _of_file(self, read: Callable[[Any], Any]) -> Any:
        return self._reading(lambda: open_files.use(self, lambda: _opened(self._path)[0], read))

    def _reading(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except DataError:
            raise
        except self._faults as error:
            raise DataError(f"{self.origin} is damaged: {first_line(error)}") from error


def _pyarrow_parquet(path: str | Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"{path} needs pyarrow: pip install 'pyddl[parquet]'") from error
    return pyarrow.parquet


FORMAT = Format(".parquet or .pq", lambda path: path.endswith(SUFFIXES), open_parquet, _labels,
                names=True, rows=_rows)
