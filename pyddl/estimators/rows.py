"""What scikit-learn's users may give as X, checked as scikit-learn does it, without importing it."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from pyddl.data import Source
from pyddl.errors import DataError, ParameterError, ShapeError

__all__ = ["check_rows"]


def check_rows(X: Any) -> tuple[np.ndarray | Source, np.ndarray | None]:
    """X as an array of finite real numbers with two dimensions, or the source that it is; and its columns' names.

    Raises
    ------
    ShapeError, DataError, ParameterError, TypeError
        It is neither; sparse; has no rows or features; holds text, complex numbers, NaN or infinity.
    """
    if isinstance(X, Source):
        return X, None
    if isinstance(X, str | os.PathLike):
        raise ParameterError(f"X is {X!r}; expected rows: pyddl.data.load({str(X)!r}) gives those of a named set or "
                             "file")
    if hasattr(X, "toarray"):
        raise TypeError("X is sparse; expected a dense array: use X.toarray(), or a source of pyddl.data")
    names = _names(X)
    array = np.asarray(X)
    if array.dtype.kind == "c":
        raise ShapeError(f"Complex data not supported: X holds {array.dtype} values; expected real numbers")
    if array.dtype.kind == "O":
        array = array.astype(np.float64)  # numbers in object arrays, as of mixed DataFrames
    if array.dtype.kind not in "fiub":
        raise ShapeError(f"X holds {array.dtype} values; expected real numbers")
    if array.ndim != 2:
        raise ShapeError(f"Expected 2D array, got {array.ndim}D array instead: X has shape {array.shape}. Reshape your "
                         "data: X.reshape(-1, 1) for one feature, X.reshape(1, -1) for one row, X.reshape(len(X), -1) "
                         "for images")
    rows, features = array.shape
    if rows == 0 or features == 0:
        what = "sample" if rows == 0 else "feature"
        raise ShapeError(f"X has 0 {what}(s) (shape={array.shape}) while a minimum of 1 is required.")
    if array.dtype.kind == "f":
        _refuse_not_finite(array)
    return array, names


def _names(X: Any) -> np.ndarray | None:
    columns = getattr(X, "columns", None)
    if columns is None or not hasattr(X, "shape"):
        return None
    kinds = {isinstance(name, str) for name in columns}
    if kinds == {True, False}:
        raise TypeError("some columns of X have names that are text and some have others; Feature names are only "
                        "supported if all input features have string names: use X.columns = X.columns.astype(str)")
    return np.asarray(list(columns), dtype=object) if kinds == {True} else None


def _refuse_not_finite(array: np.ndarray) -> None:
    limit = float(np.finfo(np.float32).max)
    if max(abs(float(array.min())), abs(float(array.max()))) <= limit:  # false for NaN
        return
    row, column = np.argwhere(~(np.abs(array) <= limit))[0]
    value = array[row, column]
    what = "NaN" if np.isnan(value) else "infinity" if np.isinf(value) else f"{value}, infinity for a float32"
    raise DataError(f"X has {what} in row {row}, column {column}; expected finite numbers: fill in (SimpleImputer) or "
                    "drop such rows")
