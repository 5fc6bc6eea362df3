"""Unpacked copies of packed files, in the user's cache, so that they can be mapped.

The processes of a node then share one copy in memory, and the next start need not unpack again: half a second and 47
MB for each rank with MNIST. Where the cache cannot be written, every process unpacks into memory of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from pathlib import Path

import numpy as np

from pyddl.data.download import cache_folder
from pyddl.data.idx import read_idx
from pyddl.errors import DataError

__all__ = ["read_idx_unpacked"]

WORTH_IT = 1 << 20  # bytes of values; smaller arrays are kept by each process


def read_idx_unpacked(path: Path) -> np.ndarray:
    """As `read_idx`, but values of a gzip file come from an unpacked copy where that is possible.

    The copy's name holds the file's path, size and time of change, so a changed file is unpacked again.
    """
    if path.suffix != ".gz":
        return read_idx(path)
    copy = _copy_of(path)
    with contextlib.suppress(DataError):  # none yet, or damaged
        return read_idx(copy)
    array = read_idx(path)
    if array.nbytes < WORTH_IT:
        return array
    with contextlib.suppress(OSError, DataError):
        _write(copy, array)
        return read_idx(copy)
    return array


def _copy_of(path: Path) -> Path:
    state = path.stat()
    key = hashlib.sha256(f"{path.resolve()}\n{state.st_size}\n{state.st_mtime_ns}".encode()).hexdigest()
    return cache_folder("unpacked") / f"{path.name.removesuffix('.gz')}-{key[:16]}"


def _write(copy: Path, array: np.ndarray) -> None:
    """Write an IDX file; several processes may do so at once, each puts a whole one in place."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    hidden = copy.with_name(f".{copy.name}.{os.uname().nodename}.{os.getpid()}.part")
    try:
        with open(hidden, "wb") as file:
            file.write(struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape))
            array.tofile(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(hidden, copy)
    finally:
        hidden.unlink(missing_ok=True)
