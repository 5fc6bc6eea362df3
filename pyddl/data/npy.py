"""NumPy's .npy files, mapped so that the processes of a node share one copy. Pickle is never read."""

from __future__ import annotations

import math
import os
from pathlib import Path
from tokenize import TokenError
from typing import BinaryIO

import numpy as np

from pyddl.data.formats import Format
from pyddl.data.labels import Labels, as_labels
from pyddl.data.source import ArraySource
from pyddl.errors import DataError, NoRowsError

__all__ = ["FORMAT", "open_npy"]

MAGIC = b"\x93NUMPY"

# What NumPy's parser lets through where the text of a header is no Python literal, or an absurd one.
_NOT_A_HEADER = (ValueError, EOFError, SyntaxError, TypeError, OverflowError, MemoryError, RecursionError, TokenError)


def open_npy(path: str | os.PathLike[str], labels: bool = False) -> np.ndarray:
    """Map an array of at least two dimensions of real numbers, read-only; one of ``labels`` may have one, or be text.

    Raises
    ------
    DataError
        The file is missing, no .npy file, truncated, or holds something else than real numbers in rows.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
            if magic != MAGIC:
                raise DataError(f"{path} starts with {magic!r} at offset 0; expected the magic of a .npy "
                                f"file, {MAGIC!r}")
            file.seek(0)
            shape, dtype, at = _header(file)
            expected, found = at + math.prod(shape) * dtype.itemsize, path.stat().st_size
        if (dtype.kind not in "fiub" or dtype.itemsize > 8) and not (labels and dtype.kind in "US"):
            raise DataError(f"{path} holds {dtype} values; expected real numbers: float32, float64 or uint8")
        if len(shape) < (1 if labels else 2) or 0 in shape:
            expected_shape = "(rows,) or (rows, targets)" if labels else "(rows, features), at least one of each"
            error = NoRowsError if shape[:1] == (0,) else DataError
            raise error(f"{path} has shape {shape}; expected {expected_shape}")
        if found < expected:
            raise DataError(f"{path} is truncated: it ends at offset {found}; its header promises an array "
                            f"of shape {shape}, {dtype}, which ends at offset {expected}")
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except DataError:
        raise
    except _NOT_A_HEADER as error:
        raise DataError(f"{path} is no usable .npy file: {error}") from error


def _header(file: BinaryIO) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, element type and offset of the first value."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype, file.tell()


def _labels(path: str, inner: str) -> Labels:
    return as_labels(open_npy(path, labels=True), path)


FORMAT = Format(".npy", lambda path: path.endswith(".npy"),
                lambda path, *_: ArraySource(open_npy(path), name=Path(path).name, origin=path), _labels)
