"""What people call an array: lists, DataFrames, masked arrays. What is empty there, or no number, is named."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyddl.errors import DataError, ShapeError

__all__ = ["as_array", "as_numbers", "column_names", "first_missing"]


class _NotANumber(DataError, TypeError):
    """For those, too, who look for what NumPy raises."""


def as_array(given: Any, name: str) -> np.ndarray:
    """``given`` as an array of any type, without a copy where that is possible.

    Raises
    ------
    DataError
        Values are masked.
    ShapeError
        Rows have unlike lengths.
    """
    if isinstance(given, np.ma.MaskedArray):
        hidden = np.ma.getmaskarray(given)
        if hidden.any():
            raise DataError(f"{name}: masked {_where(hidden)}; expected a value there: fill in (ma.filled) or drop "
                            "such rows")
        return given.data
    if isinstance(given, np.ndarray):
        return given  # also where it is mapped from a file
    try:
        return np.asarray(given)
    except ValueError as error:
        if "inhomogeneous" in str(error):
            raise ShapeError(f"{name} has rows of unlike lengths; expected as many values in each") from None
        raise


def as_numbers(given: Any, name: str) -> np.ndarray:
    """The same of real numbers: objects, as a DataFrame of several types gives, become float64.

    Raises
    ------
    DataError
        A value is no number, or is empty, with its place.
    """
    array = as_array(given, name)
    if array.dtype.kind != "O":
        return array
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        pass
    names = column_names(given)
    for place in np.ndindex(array.shape):
        value, why = array[place], ""
        try:
            float(value)
            continue
        except (TypeError, ValueError, OverflowError) as error:
            why = str(error)
        column = repr(names[place[1]]) if names is not None and len(place) == 2 else ", ".join(map(str, place[1:]))
        where = f"in row {place[0]}" + (f", column {column}" if column else "") if place else "where an array should be"
        if _is_missing(value):
            raise _NotANumber(f"{name} has an empty value, {value}, {where} ({why}); expected numbers: fill in "
                              "(SimpleImputer) or drop such rows")
        raise _NotANumber(f"{name} has {str(value)[:50]!r} {where} ({why}); expected numbers: encode or drop such "
                          "columns")
    raise ShapeError(f"{name} holds objects; expected real numbers")


def column_names(given: Any) -> tuple[str, ...] | None:
    """Names of the columns of a DataFrame, where all of them are text."""
    columns = getattr(given, "columns", None)
    if columns is None or not hasattr(given, "shape") or not all(isinstance(name, str) for name in columns):
        return None
    return tuple(columns) or None


def first_missing(values: np.ndarray) -> int | None:
    """The first row of a vector of objects that is empty: None, NaN, or what pandas has for these."""
    return next((row for row, value in enumerate(values) if _is_missing(value)), None)


def _is_missing(value: Any) -> bool:
    return value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float)
                                                                              and value != value)


def _where(wrong: np.ndarray) -> str:
    place = np.argwhere(wrong)[0]
    return f"in row {place[0]}" + (f", column {place[1]}" if len(place) > 1 else "")
