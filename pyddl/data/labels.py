"""Labels: what is known of each row - its class, or one number or several - in an array that is kept as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pyddl.data.arrays import as_array, first_missing
from pyddl.errors import DataError, ShapeError

__all__ = ["Labels", "as_labels", "renumbered", "take"]

CHUNK = 1 << 20  # rows that are searched at a time for what is not finite


class Labels(NamedTuple):
    """Labels of all rows.

    Attributes
    ----------
    values : ndarray of shape (rows,) or (rows, targets)
        Integers or floats, in the machine's byte order.
    classes : tuple of str or None
        Where the labels were text: its values in sorted order, which the integers number.
    """

    values: np.ndarray
    classes: tuple[str, ...] | None = None


def as_labels(given: Any, name: str, rows: int | None = None) -> Labels:
    """``given`` as labels, without a copy where that is possible.

    One column becomes (rows,). Integers and floats keep their type, booleans become 0 and 1 (uint8), text becomes
    classes 0 to K - 1 in sorted order.

    Parameters
    ----------
    given : array_like or Labels
        Floats are searched once, from beginning to end, also in a mapped file.
    name : str
        Of what the labels belong to, for messages.
    rows : int, optional
        How many there must be.

    Raises
    ------
    ShapeError
        Another number of rows, no labels at all, or more than two dimensions.
    DataError
        A label is NaN or infinite, with its row; or neither a number nor text.
    """
    given, classes = given if isinstance(given, Labels) else (given, None)
    values = as_array(given, f"labels of {name}")
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim not in (1, 2) or 0 in values.shape:
        raise ShapeError(f"labels of {name} have shape {values.shape}; expected (rows,) or (rows, targets)")
    if rows is not None and len(values) != rows:
        raise ShapeError(f"labels of {name} have {len(values)} rows, the data {rows}; expected one for each row, in "
                         "the same order")
    if values.dtype.kind in "OSUT":
        values, classes = _numbered(values, name)
    elif values.dtype.kind == "b":
        values = values.view(np.uint8)
    elif values.dtype.kind not in "fiu" or values.dtype.itemsize > 8:
        raise DataError(f"labels of {name} are {values.dtype}; expected integers, floats, booleans or text")
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    if not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    if values.dtype.kind == "f":
        _refuse_not_finite(values, name)
    return Labels(values, classes)


def renumbered(values: np.ndarray, own: Sequence[str], classes: Sequence[str], name: str) -> np.ndarray:
    """Labels that number the classes ``own``, as labels that number ``classes``.

    Raises
    ------
    DataError
        ``classes`` lacks one of those that occur.
    """
    number = {each: i for i, each in enumerate(classes)}
    unknown = [each for each in own if each not in number]
    if unknown:
        raise DataError(f"{name} has labels of class {unknown[0]!r}, which is none of the {len(classes)} classes of "
                        f"the training data: {', '.join(classes[:10])}{', ...' if len(classes) > 10 else ''}")
    return np.array([number[each] for each in own], dtype=np.int64)[values]


def take(values: np.ndarray, index: np.ndarray, out: np.ndarray) -> None:
    """``out[i] = values[index[i]]``, with nothing allocated where ``values`` are contiguous.

    Raises
    ------
    IndexError
        An index lies outside; ``out`` is untouched.
    """
    if index.size and not (index.min() >= 0 and index.max() < len(values)):
        raise IndexError(f"labels of rows {index.min()} to {index.max()} are asked for; there are {len(values)}")
    if values.flags.c_contiguous:
        np.take(values, index, axis=0, out=out, mode="clip")  # "raise" would fill a copy of ``out`` first
    else:  # where take would make all of them contiguous first
        out[...] = values[index]


def _numbered(text: np.ndarray, name: str) -> Labels:
    if text.ndim > 1:
        raise DataError(f"labels of {name} are text in {text.shape[1]} columns; expected one column of classes")
    if text.dtype.kind == "S":
        text = text.astype(np.str_)
    if text.dtype.kind == "O":
        if (row := first_missing(text)) is not None:
            raise DataError(f"the label of row {row} of {name} is {text[row]}; expected text or a number: drop "
                            "such rows")
        strange = next((row for row, each in enumerate(text) if not isinstance(each, str)), None)
        if strange is not None:
            raise DataError(f"the label of row {strange} of {name} is {text[strange]!r}; expected text, as in the rows "
                            "before, or numbers only")
    classes, values = np.unique(text, return_inverse=True)
    return Labels(values.astype(np.int64, copy=False), tuple(map(str, classes)))


def _refuse_not_finite(values: np.ndarray, name: str) -> None:
    for begin in range(0, len(values), CHUNK):
        wrong = ~np.isfinite(values[begin : begin + CHUNK])
        if wrong.any():
            row = begin + int(np.argmax(wrong.reshape(len(wrong), -1).any(axis=1)))
            raise DataError(f"the label of row {row} of {name} is {values[row]}; expected finite numbers: drop such "
                            "rows")
