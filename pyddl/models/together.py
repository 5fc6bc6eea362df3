"""Rows that a model is asked about, so that what it says of one does not depend on how many others come with it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["together"]

ROWS_ALIKE = 33  # products of fewer rows may add in another order, and in float32 (csrc/kernels/few_rows.hpp)


def together(function: Callable[[np.ndarray, np.ndarray], None], rows: np.ndarray, columns: int) -> np.ndarray:
    """``function(rows, out)`` of a number of rows from which on products add in one order."""
    count = len(rows)
    if count < ROWS_ALIKE:
        rows = np.concatenate([rows, np.zeros((ROWS_ALIKE - count, rows.shape[1]), dtype=np.float32)])
    out = np.empty((len(rows), columns), dtype=np.float32)
    function(rows, out)
    return out[:count]
