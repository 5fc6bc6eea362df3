"""What people call an array: lists, DataFrames, masked arrays. What is empty there, or no number, is named."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyddl.errors import DataError, NotANumberError, ShapeError

__all__ = ["as_array", "as_numbers", "column_names", "first_missing"]


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
        A value is text, missing or anything else that is no number, with its column and row.
    ShapeError
        All are numbers, as text.
    """
    array = as_array(given, name)
    if array.dtype.kind != "O" and not (array.dtype.kind == "U" and array.ndim == 2):
        return array
    try:
        numbers = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        names = getattr(given, "columns", None)
        for place in np.ndindex(array.shape):
            _refuse_no_number(array[place], name, place, names)
        raise ShapeError(f"{name} holds objects that are no numbers: {error}") from None
    if array.dtype.kind == "U":
        raise ShapeError(f"{name} holds numbers as text ({array.dtype}); expected real numbers: .astype(float)")
    return numbers


def _refuse_no_number(value: Any, name: str, place: tuple[int, ...], names: Any) -> None:
    try:
        float(value)
        return
    except (TypeError, ValueError, OverflowError) as error:
        why = str(error)
    if not place:
        raise NotANumberError(f"{name} is {str(value)[:50]!r}; expected an array of numbers ({why})")
    at = [f"column {(place[1] if names is None else names[place[1]])!r}"] if len(place) > 1 else []
    where, row = ": ".join([name, *at]), f"in row {place[0]}"
    if _is_missing(value):
        raise NotANumberError(f"{where} has no value {row}; expected numbers: fill in (SimpleImputer) or drop "
                          f"such rows ({why})")
    if isinstance(value, str):
        raise DataError(f"{where} holds text, {value[:50]!r} {row}; expected numbers: leave the column out, or make "
                        "numbers of it (OneHotEncoder, pandas.get_dummies)")
    if hasattr(value, "isoformat"):
        raise NotANumberError(f"{where} holds dates or times, {str(value)[:50]!r} {row}; expected numbers: leave "
                              "the column out, or make numbers of it (of a DataFrame's column .dt.dayofyear, for "
                              "example)")
    raise NotANumberError(f"{where} holds {str(value)[:50]!r} {row}; expected numbers ({why})")


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
