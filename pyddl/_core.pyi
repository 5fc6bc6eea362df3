"""Compute kernels (csrc/kernels), one section per family. Arrays are C-contiguous and never copied or cast."""

import numpy as np

# ---- simd.hpp

def simd_level() -> int:
    """x86-64 level the vectorised kernels run on: 4, 3, 2; 0 on other processors."""

# ---- rows.hpp

def gather_rows(source: np.ndarray, index: np.ndarray, out: np.ndarray, scale: float = 1.0) -> int:
    """out[i] = float32(source[index[i]]) * scale; source (N, F) of uint8, float32 or float64, any strides.

    Returns the flat position in ``out`` of the first NaN or infinity, or -1. IndexError for an index outside.
    """

def random_rows(rows: int, index: np.ndarray, out: np.ndarray) -> None:
    """out[i] = uniform numbers of [0, 1) that depend on index[i], from 0 to rows - 1, and their column only."""

def reference_gather_rows(source: np.ndarray, index: np.ndarray, out: np.ndarray, scale: float = 1.0) -> None: ...

# ---- order.hpp

def order(positions: np.ndarray, out: np.ndarray, n: int, seed: int, epoch: int) -> None:
    """out[i] = sample at positions[i] of the epoch's pseudo-random order of n samples, int64. May be in place."""

def reference_order(position: int, n: int, seed: int, epoch: int) -> int: ...
