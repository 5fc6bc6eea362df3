"""Parquet by pyarrow: numeric columns, or one column of lists; local files and fsspec addresses."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyddl import _check
from pyddl.data.blocks import BlockSource, open_files
from pyddl.data.formats import Format
from pyddl.data.labels import Labels, as_labels
from pyddl.data.source import Source
from pyddl.errors import DataError, NoRowsError

__all__ = ["FORMAT", "open_parquet"]

SUFFIXES = (".parquet", ".pq")


def open_parquet(path: str | Path, columns: str = "", without: Sequence[str] = ()) -> Source:
    """Open a Parquet file as rows.

    Parameters
    ----------
    path : str or Path
        A file, or an address that fsspec knows: ``s3://...``, ``hdfs://...``.
    columns : str, optional
        Names with commas; all but pandas' index by default. They must be numbers, each a feature, or one column of
        lists of equal lengths, whose entries are the features.
    without : sequence of str, optional
        Columns that are no features where none are named.

    Raises
    ------
    DataError
        pyarrow or fsspec is not installed; the file is missing, damaged or no Parquet; a column is missing, holds text
        or empty values; there are no rows.
    """
    file, groups, faults = _opened(path)
    schema = file.schema_arrow
    file.close()
    names = _chosen(path, schema, columns, without)
    if sum(groups) == 0:
        raise NoRowsError(f"{path} has no rows; expected at least one")
    filled = [i for i, size in enumerate(groups) if size]
    return _Grouped(path, schema, names, [groups[i] for i in filled], filled, faults)


def _labels(path: str, columns: str) -> Labels:
    """The labels in one column or several of numbers, or in one of text or of lists."""
    file, groups, faults = _opened(path)
    names = _named(path, file.schema_arrow, columns)
    if len(names) > 1 and not columns:
        raise DataError(f"{path}: which column holds the labels? It has {', '.join(names)}: "
                        f"{path.rsplit('/', 1)[-1]}:NAME")
    if sum(groups) == 0:
        raise NoRowsError(f"{path} has no rows; expected at least one")
    try:
        table = file.read(columns=names)
        values = [_label_column(path, name, table.column(name), alone=len(names) == 1) for name in names]
    except faults as error:
        raise DataError(f"{path} is damaged: {_check.first_line(error)}") from error
    return as_labels(values[0] if len(values) == 1 else np.column_stack([each.values for each in values]),
                     f"{path}:{','.join(names)}")


def _label_column(path: str, name: str, column: Any, alone: bool) -> Labels:
    """One column: integers and booleans as int64, floats as they are, text as classes."""
    import pyarrow

    kind, at = column.type, f"{path}: column {name}"
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise DataError(f"{at} has {column.null_count} empty values, the first in row {row}; expected labels: fill or "
                        "drop them")
    if _is_text(kind):
        if not alone:
            raise DataError(f"{at} holds text ({kind}); expected numbers: only a column that is the only one of labels "
                            "may be text")
        text = column if pyarrow.types.is_dictionary(kind) else column.dictionary_encode()
        text = text.unify_dictionaries().combine_chunks()
        codes, numbered = text.indices.to_numpy(), as_labels(text.dictionary.to_pylist(), at)
        return _only_used(numbered.values[codes], numbered.classes or ())
    if alone and _is_list(kind):
        lists = column.combine_chunks()
        lengths = np.diff(lists.offsets.to_numpy()) if hasattr(lists, "offsets") else np.array([kind.list_size])
        if (lengths != lengths[0]).any():
            row = int(np.flatnonzero(lengths != lengths[0])[0])
            raise DataError(f"{at}: the list in row {row} has {lengths[row]} values; the first row has {lengths[0]}, "
                            "and all need the same")
        flat = _label_column(path, name, pyarrow.chunked_array([lists.flatten()]), alone=False).values
        return Labels(flat.reshape(len(column), -1))
    if not _is_number(kind):
        raise DataError(f"{at} holds {kind}; expected numbers{', or text' if alone else ''}")
    if pyarrow.types.is_floating(kind):
        return Labels(column.to_numpy())
    return Labels(column.cast(pyarrow.int64()).to_numpy())


def _only_used(values: np.ndarray, classes: tuple[str, ...]) -> Labels:
    """Without the classes of a dictionary that no row has."""
    used, values = np.unique(values, return_inverse=True)
    return Labels(values.astype(np.int64, copy=False), tuple(classes[i] for i in used))


def _opened(path: str | Path) -> tuple[Any, list[int], tuple[type[BaseException], ...]]:
    """A Parquet file, the rows of its row groups, and what is raised where it is damaged."""
    parquet = _pyarrow_parquet(path)
    import pyarrow

    faults = (pyarrow.ArrowException, OSError, ValueError)
    try:
        file = parquet.ParquetFile(_remote(str(path)) if "://" in str(path) else path)
        about = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        groups = [group.num_rows for group in about]
        if min(groups, default=0) < 0 or sum(groups) != file.metadata.num_rows:
            raise DataError(f"{path} is damaged: its row groups have {sum(groups)} rows in all, but it says "
                            f"{file.metadata.num_rows}")
        _ = file.schema_arrow
    except DataError:
        raise
    except faults as error:
        raise DataError(f"{path} cannot be read as Parquet: {_check.first_line(error)}") from error
    return file, groups, faults


class _Grouped(BlockSource):
    """A Parquet file: each row group is a block."""

    def __init__(self, path: str | Path, schema: Any, names: list[str], sizes: list[int], groups: list[int],
                 faults: tuple[type[BaseException], ...]):
        self._path, self._names, self._groups, self._faults = path, names, groups, faults
        self._lists = len(names) == 1 and not _is_number(schema.field(names[0]).type)
        self.origin = str(path)
        features = self._width() if self._lists else len(names)
        if self._lists:
            self.inner, = names
        else:
            self.columns = tuple(names)
        super().__init__(str(path).rsplit("/", 1)[-1], str(path), [0, *itertools.accumulate(sizes)], features)

    def load(self, block: int) -> np.ndarray:
        table = self._of_file(lambda file: file.read_row_group(self._groups[block], columns=self._names))
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
            raise DataError(f"{self.origin} is damaged: {_check.first_line(error)}") from error


def _is_number(kind: Any) -> bool:
    import pyarrow

    types = pyarrow.types
    return types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind)


def _is_list(kind: Any) -> bool:
    import pyarrow

    types = pyarrow.types
    return ((types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))
            and _is_number(kind.value_type))


def _is_text(kind: Any) -> bool:
    import pyarrow

    types = pyarrow.types
    return (types.is_string(kind) or types.is_large_string(kind)
            or (types.is_dictionary(kind) and _is_text(kind.value_type)))


def _named(path: str | Path, schema: Any, columns: str) -> list[str]:
    """The columns that are named, else all but pandas' index, which numbers rows and says nothing of them."""
    known: list[str] = schema.names
    if len(set(known)) < len(known):
        raise DataError(f"{path} has two columns of one name; expected each once")
    names = columns.split(",") if columns else [name for name in known if name not in _index(schema)]
    for name in names:
        if name not in known:
            raise DataError(f"{path} has no column {name!r}; it has {', '.join(known)}{_check.nearest(name, known)}")
    return names


def _index(schema: Any) -> list[str]:
    """Columns that pandas, which wrote the file, has marked as the index of its rows."""
    try:
        about = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
        return [name for name in about.get("index_columns", ()) if isinstance(name, str)]  # a range is no column
    except (ValueError, AttributeError, TypeError):  # damaged: pyarrow's own reader asks nothing of it
        return []


def _chosen(path: str | Path, schema: Any, columns: str, without: Sequence[str]) -> list[str]:
    """The columns that are features."""
    names = [name for name in _named(path, schema, columns) if columns or name not in without]
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


def _remote(address: str) -> Any:
    try:
        import fsspec
    except ImportError as error:
        raise DataError(f"{address} needs fsspec: pip install 'pyddl[parquet]'") from error
    try:
        return fsspec.open(address, "rb").open()
    except ImportError as error:  # each kind of storage has a package of its own, which the message names
        raise DataError(f"{address} cannot be opened: {error}") from error


FORMAT = Format(".parquet or .pq", lambda path: path.endswith(SUFFIXES), open_parquet, _labels, names=True,
                addresses=True)
