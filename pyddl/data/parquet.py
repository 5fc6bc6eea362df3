"""Parquet by pyarrow: numeric columns, or one column of lists; local files and fsspec addresses."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pyddl import _check
from pyddl.data.blocks import BlockSource
from pyddl.data.source import Source
from pyddl.errors import DataError

__all__ = ["SUFFIXES", "open_parquet"]

SUFFIXES = (".parquet", ".pq")


def open_parquet(path: str | Path, columns: str = "") -> Source:
    """Open a Parquet file as rows.

    Parameters
    ----------
    path : str or Path
        A file, or an address that fsspec knows: ``s3://...``, ``hdfs://...``.
    columns : str, optional
        Names with commas; all by default. They must be numbers, each a feature, or one column of lists of equal
        lengths, whose entries are the features.

    Raises
    ------
    DataError
        pyarrow or fsspec is not installed; the file is missing, damaged or no Parquet; a column is missing, holds text
        or empty values; there are no rows.
    """
    parquet = _pyarrow_parquet(path)
    import pyarrow

    faults = (pyarrow.ArrowException, OSError, ValueError)
    try:
        file = parquet.ParquetFile(_opened(str(path)) if "://" in str(path) else path)
        about = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        groups = [group.num_rows for group in about]
        if min(groups, default=0) < 0 or sum(groups) != file.metadata.num_rows:
            raise DataError(f"{path} is damaged: its row groups have {sum(groups)} rows in all, but it says "
                            f"{file.metadata.num_rows}")
        schema = file.schema_arrow
    except DataError:
        raise
    except faults as error:
        raise DataError(f"{path} cannot be read as Parquet: {_first_line(error)}") from error
    names = _chosen(path, pyarrow, schema, columns)
    if sum(groups) == 0:
        raise DataError(f"{path} has no rows; expected at least one")
    return _Grouped(path, file, names, [size for size in groups if size], [i for i, size in enumerate(groups) if size],
                    faults)


class _Grouped(BlockSource):
    """A Parquet file: each row group is a block."""

    def __init__(self, path: str | Path, file: Any, names: list[str], sizes: list[int], groups: list[int],
                 faults: tuple[type[BaseException], ...]):
        self._file, self._names, self._groups, self._faults = file, names, groups, faults
        self._lists = len(names) == 1 and not _is_number(file.schema_arrow.field(names[0]).type)
        self.origin = str(path)
        features = self._width() if self._lists else len(names)
        super().__init__(str(path).rsplit("/", 1)[-1], str(path), [0, *itertools.accumulate(sizes)], features)

    def load(self, block: int) -> np.ndarray:
        table = self._reading(lambda: self._file.read_row_group(self._groups[block], columns=self._names))
        columns = [table.column(name) for name in self._names]
        for name, column in zip(self._names, columns, strict=True):
            if column.null_count:
                raise DataError(f"{self.origin}: column {name} has {column.null_count} empty values in row group "
                                f"{self._groups[block]}; expected numbers: fill or drop them")
        if not self._lists:
            return np.column_stack([self._reading(column.to_numpy) for column in columns])
        lists = self._reading(columns[0].combine_chunks)
        values, rows = self._reading(lists.flatten), len(lists)
        if values.null_count:
            raise DataError(f"{self.origin}: column {self._names[0]} has {values.null_count} empty values in its lists "
                            f"in row group {self._groups[block]}; expected numbers: fill or drop them")
        if not hasattr(lists, "offsets") or (np.diff(lists.offsets.to_numpy()) == self.features).all():
            return values.to_numpy(zero_copy_only=False).reshape(rows, -1)
        lengths = np.diff(lists.offsets.to_numpy())
        row = int(np.flatnonzero(lengths != self.features)[0])
        raise DataError(f"{self.origin}: the list in row {self._begins[block] + row} has {lengths[row]} values; the "
                        f"first row has {self.features}, and all need the same")

    def _width(self) -> int:
        """Length of the first list, which is that of all."""
        first = self._reading(lambda: next(self._file.iter_batches(1, [self._groups[0]], self._names)))
        value = first.column(0)[0].as_py()
        if not value:
            raise DataError(f"{self.origin}: the list in row 0 of column {self._names[0]} is empty; expected numbers")
        return len(value)

    def _reading(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except self._faults as error:
            raise DataError(f"{self.origin} is damaged: {_first_line(error)}") from error


def _is_number(kind: Any) -> bool:
    import pyarrow

    types = pyarrow.types
    return types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind)


def _is_list(kind: Any) -> bool:
    import pyarrow

    types = pyarrow.types
    return ((types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))
            and _is_number(kind.value_type))


def _chosen(path: str | Path, pyarrow: Any, schema: Any, columns: str) -> list[str]:
    if len(set(schema.names)) < len(schema.names):
        raise DataError(f"{path} has two columns of one name; expected each once")
    names = columns.split(",") if columns else list(schema.names)
    for name in names:
        if name not in schema.names:
            raise DataError(f"{path} has no column {name!r}; it has {', '.join(schema.names)}"
                            f"{_check.nearest(name, schema.names)}")
    kinds = [schema.field(name).type for name in names]
    if names and (all(_is_number(kind) for kind in kinds) or (len(kinds) == 1 and _is_list(kinds[0]))):
        return names
    unlike = [f"{name} ({kind})" for name, kind in zip(names, kinds, strict=True) if not _is_number(kind)]
    shown = ", ".join(unlike[:5]) + (" and more" if len(unlike) > 5 else "")
    raise DataError(f"{path}: {shown or 'no column'} cannot be read as numbers; expected columns of numbers, or one "
                    f"column of lists of them: choose some with {str(path).rsplit('/', 1)[-1]}:NAME,NAME")


def _pyarrow_parquet(path: str | Path) -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"{path} needs pyarrow: pip install 'pyddl[parquet]'") from error
    return pyarrow.parquet


def _opened(address: str) -> Any:
    try:
        import fsspec
    except ImportError as error:
        raise DataError(f"{address} needs fsspec: pip install 'pyddl[parquet]'") from error
    try:
        return fsspec.open(address, "rb").open()
    except ImportError as error:  # each kind of storage has a package of its own, which the message names
        raise DataError(f"{address} cannot be opened: {error}") from error


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
