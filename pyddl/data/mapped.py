"""Arrays in files, mapped, so that the processes of a node share one copy."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from pyddl import _core

__all__ = ["mapped"]


def mapped(path: str | os.PathLike[str], dtype: Any, shape: Sequence[int], offset: int = 0,
           order: str = "C") -> np.memmap:
    """The values that begin at ``offset`` of a file, read-only.

    Unlike NumPy's own it holds no file descriptor, so that a folder may have any number of files; and where the file is
    cut while it is mapped, the process ends with a line that names it, and no bus error.

    Raises
    ------
    OSError
        The file cannot be opened or mapped.
    """
    dtype = np.dtype(dtype)
    raw = _core.map_file(os.fsencode(path), offset, math.prod(shape) * dtype.itemsize)
    return raw.view(dtype).reshape(tuple(shape), order=order).view(np.memmap)  # type: ignore[call-overload]
