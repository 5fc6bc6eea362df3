"""Columns of tables that pyarrow reads: which of them are features, and which labels; and what they hold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyddl import _check
from pyddl.data.labels import Labels, as_labels
from pyddl.errors import DataError

__all__ = ["chosen", "is_list", "is_number", "labels_in", "named", "pandas_index", "rows_in",
           "the_labels"]


def named(path: str | Path, known: Sequence[str], columns: str, without: Sequence[str] = (),
          hidden: Sequence[str] = ()) -> list[str]:
    """The columns that are named with commas; by default all, and all but those that are named with a minus before.

    Parameters
    ----------
    path : str or Path
        For messages.
    known : sequence of str
        All columns that there are.
    columns : str
        Such as ``a,b`` or ``-id,-date``; may be empty.
    without : sequence of str
        What is left out of all.
    hidden : sequence of str
        The same, unless it is named.

    Raises
    ------
    DataError
        One is not there, or two have one name; columns are named both with a minus and without.
    """
    if len(set(known)) < len(known):
        raise DataError(f"{path} has two columns of one name; expected each once")
    wanted = columns.split(",") if columns else []
    left_out = [name[1:] for name in wanted if name.startswith("-") and name not in known]
    if left_out and len(left_out) < len(wanted):
        raise DataError(f"{path}: {columns} names columns to take and columns to leave out; expected one of the two")
    for name in left_out or wanted:
        if name not in known:
            raise DataError(f"{path} has no column {name!r}; it has {', '.join(known)}{_check.nearest(name, known)}")
    if wanted and not left_out:
        return wanted
    return [name for name in known if name not in (*left_out, *without, *hidden)]


def pandas_index(schema: Any) -> list[str]:
    """Names of columns that pandas, which wrote the file, has marked as the index of its rows."""
    try:
        about = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))
        return [name for name in about.get("index_columns", ()) if isinstance(name, str)]  # a range is no column
    except (ValueError, AttributeError, TypeError):  # damaged: pyarrow's own reader asks nothing of it
        return []


def chosen(path: str | Path, schema: Any, names: list[str]) -> list[str]:
    """These columns, all numbers or one of lists of them, as features.

    Raises
    ------
    DataError
        They are something else.
    """
    kinds = [schema.field(name).type for name in names]
    if names and (all(is_number(kind) for kind in kinds) or (len(kinds) == 1 and is_list(kinds[0]))):
        return names
    unlike = [f"{name} ({kind})" for name, kind in zip(names, kinds, strict=True) if not is_number(kind)]
    shown = ", ".join(unlike[:5]) + (" and more" if len(unlike) > 5 else "")
    file = str(path).rsplit("/", 1)[-1]
    raise DataError(f"{path}: {shown or 'no column'} cannot be read as numbers; expected columns of numbers, or one "
                    f"column of lists of them: choose some with {file}:NAME,NAME, or leave some out with {file}:-NAME")


def rows_in(columns: Mapping[str, Any], at: str, where: str, first: int, width: int | None = None) -> np.ndarray:
    """The values of columns of numbers, or of one column of lists, as rows.

    Parameters
    ----------
    columns : mapping of pyarrow.ChunkedArray
        By name.
    at, where : str
        The file, and the part of it that they are read from, for messages.
    first : int
        Number of their first row in the file.
    width : int, optional
        Of lists; by default that of the first.

    Raises
    ------
    DataError
        A value is missing, or lists have unlike lengths.
    """
    for name, column in columns.items():
        if column.null_count:
            raise DataError(f"{at}: column {name} has {column.null_count} empty values in {where}; expected numbers: "
                            "fill or drop them")
    (name, column), *more = columns.items()
    if more or is_number(column.type):
        return np.column_stack([column.to_numpy() for column in columns.values()])
    lists = column.combine_chunks()
    values = lists.flatten()
    if values.null_count:
        raise DataError(f"{at}: column {name} has {values.null_count} empty values in its lists in {where}; expected "
                        "numbers: fill or drop them")
    lengths = np.diff(lists.offsets.to_numpy()) if hasattr(lists, "offsets") else np.array([lists.type.list_size])
    expected = lengths[0] if width is None else width
    if (lengths != expected).any():
        row = int(np.flatnonzero(lengths != expected)[0])
        raise DataError(f"{at}: the list in row {first + row} has {lengths[row]} values; the first row has {expected}, "
                        "and all need the same")
    return values.to_numpy(zero_copy_only=False).reshape(len(lists), -1)


def the_labels(path: str, names: list[str], columns: str) -> list[str]:
    """The columns of labels, where ``columns`` names them or there is one alone.

    Raises
    ------
    DataError
        There are several and none is named.
    """
    if len(names) > 1 and not columns:
        raise DataError(f"{path}: which column holds the labels? It has {', '.join(names)}: "
                        f"{path.rsplit('/', 1)[-1]}:NAME")
    return names


def labels_in(path: str, columns: Mapping[str, Any]) -> Labels:
    """The labels in one column or several of numbers, or in one of text or of lists."""
    values = [_label_column(path, name, column, alone=len(columns) == 1) for name, column in columns.items()]
    return as_labels(values[0] if len(values) == 1 else np.column_stack([each.values for each in values]),
                     f"{path}:{','.join(columns)}")


def _label_column(path: str, name: str, column: Any, alone: bool) -> Labels:
    """One column: integers and booleans as int64, floats as they are, text as classes."""
    import pyarrow

    kind, at = column.type, f"{path}: column {name}"
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise DataError(f"{at} has {column.null_count} empty values, the first in row {row}; expected labels: fill or "
                        "drop them")
    if is_text(kind):
        if not alone:
            raise DataError(f"{at} holds text ({kind}); expected numbers: only a column that is the only one of labels "
                            "may be text")
        text = column if pyarrow.types.is_dictionary(kind) else column.dictionary_encode()
        text = text.unify_dictionaries().combine_chunks()
        codes, numbered = text.indices.to_numpy(), as_labels(text.dictionary.to_pylist(), at)
        return _only_used(numbered.values[codes], numbered.classes or ())
    if alone and is_list(kind):
        lists = column.combine_chunks()
        lengths = np.diff(lists.offsets.to_numpy()) if hasattr(lists, "offsets") else np.array([kind.list_size])
        if (lengths != lengths[0]).any():
            row = int(np.flatnonzero(lengths != lengths[0])[0])
            raise DataError(f"{at}: the list in row {row} has {lengths[row]} values; the first row has {lengths[0]}, "
                            "and all need the same")
        flat = _label_column(path, name, pyarrow.chunked_array([lists.flatten()]), alone=False).values
        return Labels(flat.reshape(len(column), -1))
    if not is_number(kind):
        raise DataError(f"{at} holds {kind}; expected numbers{', or text' if alone else ''}")
    if pyarrow.types.is_floating(kind):
        return Labels(column.to_numpy())
    return Labels(column.cast(pyarrow.int64()).to_numpy())


def _only_used(values: np.ndarray, classes: tuple[str, ...]) -> Labels:
    """Without the classes of a dictionary that no row has."""
    used, values = np.unique(values, return_inverse=True)
    return Labels(values.astype(np.int64, copy=False), tuple(classes[i] for i in used))


def is_number(kind: Any) -> bool:
    import pyarrow

    types = pyarrow.types
    return types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind)


def is_list(kind: Any) -> bool:
    import pyarrow

    types = pyarrow.types
    return ((types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))
            and is_number(kind.value_type))


def is_text(kind: Any) -> bool:
    import pyarrow

    types = pyarrow.types
    return (types.is_string(kind) or types.is_large_string(kind)
            or (types.is_dictionary(kind) and is_text(kind.value_type)))


