"""What scikit-learn's users may give as X and y, checked as scikit-learn does it, without importing it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from pyddl.data import Source
from pyddl.data.arrays import as_array, as_numbers, first_missing
from pyddl.errors import DataError, ParameterError, ShapeError
from pyddl.estimators.warned import warn

__all__ = ["CHUNK", "check_classes", "check_rows", "check_targets", "chunks"]

CHUNK = 4096  # rows that pass through a model at once: bounds the memory of transform


def check_rows(X: Any) -> tuple[np.ndarray | Source, np.ndarray | None]:
    """X as an array of finite real numbers with two dimensions, or the source that it is; and its columns' names.

    Raises
    ------
    ShapeError, DataError, ParameterError, TypeError
        It is neither; sparse; has no rows or features; holds text, complex numbers, NaN or infinity.
    """
    if isinstance(X, Source):
        return X, None if X.columns is None else np.asarray(X.columns, dtype=object)
    if isinstance(X, str | os.PathLike):
        raise ParameterError(f"X is {X!r}; expected rows: pyddl.data.load({str(X)!r}) gives those of a named set or "
                             "file")
    if hasattr(X, "toarray"):
        raise TypeError("X is sparse; expected a dense array: use X.toarray(), or a source of pyddl.data")
    names = _names(X)
    array = as_numbers(X, "X")
    if array.dtype.kind == "c":
        raise ShapeError(f"Complex data not supported: X holds {array.dtype} values; expected real numbers")
    if array.dtype.kind not in "fiub":
        raise ShapeError(f"X holds {array.dtype} values; expected real numbers")
    if array.ndim != 2:
        raise ShapeError(f"Expected 2D array, got {array.ndim}D array instead: X has shape {array.shape}. Reshape your "
                         "data: X.reshape(-1, 1) for one feature, X.reshape(1, -1) for one row, X.reshape(len(X), -1) "
                         "for images" + (f", whose shape convolutions are told by image_shape={array.shape[1:]}"
                                         if array.ndim in (3, 4) else ""))
    rows, features = array.shape
    if rows == 0 or features == 0:
        what = "sample" if rows == 0 else "feature"
        raise ShapeError(f"X has 0 {what}(s) (shape={array.shape}) while a minimum of 1 is required.")
    if array.dtype.kind == "f":
        _refuse_not_finite(array, names)
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


def _refuse_not_finite(array: np.ndarray, names: np.ndarray | None) -> None:
    limit = float(np.finfo(np.float32).max)
    if max(abs(float(array.min())), abs(float(array.max()))) <= limit:  # false for NaN
        return
    row, column = np.argwhere(~(np.abs(array) <= limit))[0]
    value = array[row, column]
    what = "NaN" if np.isnan(value) else "infinity" if np.isinf(value) else f"{value}, infinity for a float32"
    where = column if names is None else repr(names[column])
    raise DataError(f"X has {what} in row {row}, column {where}; expected finite numbers: fill in (SimpleImputer) or "
                    "drop such rows")


def check_classes(y: Any, rows: int) -> np.ndarray:
    """y as a vector of ``rows`` labels of any type: classes, not quantities.

    Raises
    ------
    ParameterError, ShapeError, DataError
        There is none; it has another shape; NaN; numbers that are not whole.
    """
    y = _target(y, rows)
    if y.ndim == 2 and y.shape[1] == 1:
        from sklearn.exceptions import DataConversionWarning  # only who makes this mistake pays for the import

        warn("A column-vector y was passed when a 1d array was expected. Please change the shape of y to "
             "(n_samples,), for example using ravel().", DataConversionWarning)
        y = y.ravel()
    if y.ndim != 1:
        raise ShapeError(f"y should be a 1d array of labels, one for each row; it has shape {y.shape}")
    if y.dtype.kind == "f" and (y != np.floor(y)).any():
        raise ParameterError(f"Unknown label type: continuous. y holds {y[y != np.floor(y)][0]}; expected classes: "
                             "whole numbers or text. For quantities take a regressor")
    return y


def check_targets(y: Any, rows: int) -> np.ndarray:
    """y as float64 of shape (rows,) or (rows, targets), or raise as `check_classes`."""
    y = _target(y, rows)
    if y.dtype.kind not in "fiub":
        try:
            y = y.astype(np.float64)
        except (TypeError, ValueError):
            raise ParameterError(f"y holds {y.dtype} values; expected real numbers: for classes take a classifier") \
                from None
        _refuse_nan(y)
    if y.ndim > 2:
        raise ShapeError(f"y has shape {y.shape}; expected (rows,) or (rows, targets)")
    return y.astype(np.float64)


def _target(y: Any, rows: int) -> np.ndarray:
    if y is None:
        raise ParameterError("this estimator requires y to be passed, but the target y is None")
    if hasattr(y, "toarray"):
        raise TypeError("y is sparse; expected a dense array: use y.toarray()")
    array = as_array(y, "y")
    if array.ndim == 0:
        raise ShapeError(f"y should be a 1d array of labels, one for each row; it is {y!r}")
    if len(array) != rows:
        raise ShapeError(f"X has {rows} rows, and y has {len(array)}; expected a label for each row")
    if array.dtype.kind == "c":
        raise ShapeError(f"Complex data not supported: y holds {array.dtype} values; expected real numbers")
    _refuse_nan(array)
    if array.dtype.kind == "O" and array.ndim == 1 and (row := first_missing(array)) is not None:
        raise DataError(f"y has an empty value, {array[row]}, in row {row}; expected a label for each row: drop "
                        "such rows")
    return array


def _refuse_nan(y: np.ndarray) -> None:
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        row = int(np.argwhere(~np.isfinite(y))[0][0])
        raise DataError(f"y has NaN or infinity in row {row}; expected a finite label for each row: drop such rows")


def chunks(rows: np.ndarray | Source, dtype: Any = np.float32) -> Iterator[tuple[slice, np.ndarray]]:
    """Consecutive parts of ``rows`` as (place, rows of ``dtype``), each valid until the next; those of a source are
    float32 before."""
    source = rows if isinstance(rows, Source) else None
    buffer = np.empty((min(CHUNK, rows.shape[0]), rows.shape[1]), dtype=dtype if source is None else np.float32)
    for begin in range(0, rows.shape[0], CHUNK):
        place = slice(begin, min(begin + CHUNK, rows.shape[0]))
        part = buffer[: place.stop - begin]
        if source is None:
            with np.errstate(under="ignore"):  # not about the yield: it would hold for the caller
                part[...] = rows[place]  # type: ignore[index]
        else:
            source.read(np.arange(begin, place.stop, dtype=np.int64), part)
        yield place, part.astype(dtype, copy=False)
