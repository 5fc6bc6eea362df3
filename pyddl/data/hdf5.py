"""HDF5 by h5py: one data set of a file, ``file.h5:data set``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from pyddl import _check
from pyddl.data.blocks import BlockSource
from pyddl.data.source import ArraySource, Source
from pyddl.errors import DataError

__all__ = ["SUFFIXES", "open_hdf5"]

SUFFIXES = (".h5", ".hdf5", ".hdf")
BLOCK_BYTES = 1 << 20  # chunks are joined to blocks of about this size
LARGEST_BLOCK = 1 << 30  # bytes: a block is in memory as a whole
MOST_BLOCKS = 10**7  # 10 TB: a header that promises more is damaged
# What h5py raises for damaged files:
FAULTS = (OSError, RuntimeError, TypeError, KeyError, ValueError, OverflowError, MemoryError)


def open_hdf5(path: str | Path, dataset: str = "") -> Source:
    """Open a data set of an HDF5 file as rows.

    Where the values lie in one piece they are mapped, so that the processes of a node share one copy; chunked or
    packed data are read block by block (`BlockSource`).

    Parameters
    ----------
    path : str or Path
    dataset : str, optional
        Its name in the file; may be left out where there is only one of at least two dimensions.

    Raises
    ------
    DataError
        h5py is not installed; the file is missing, damaged or no HDF5; the data set is not in it, has no rows of real
        numbers, or cannot be read.
    """
    path = Path(path)
    h5py = _h5py(path)
    try:
        file = h5py.File(path, "r")
    except FAULTS as error:
        raise DataError(f"{path} cannot be read as HDF5: {getattr(error, 'strerror', None) or error}") from error
    try:
        with_name = _find(h5py, file, path, dataset)
        shape, dtype = with_name.shape, with_name.dtype
        at = with_name.id.get_offset() if with_name.chunks is None and not with_name.external else None
        name = f"{path.name}:{with_name.name.lstrip('/')}"
    except DataError:
        file.close()
        raise
    except FAULTS as error:
        file.close()
        raise DataError(f"{path} is damaged: {error}") from error
    if at is not None and dtype.isnative and dtype.kind in "fiub":
        file.close()
        end = at + math.prod(shape) * dtype.itemsize
        if path.stat().st_size < end:
            raise DataError(f"{path} is truncated: it ends at offset {path.stat().st_size}; {name} should end at {end}")
        return ArraySource(np.memmap(path, dtype=dtype, mode="r", offset=at, shape=shape), name=name, origin=str(path))
    return _Chunked(with_name, name, path)


class _Chunked(BlockSource):
    """A data set in chunks. The file stays open; h5py's own lock orders the threads that read."""

    def __init__(self, dataset: Any, name: str, path: Path):
        self._dataset = dataset
        rows, features = dataset.shape[0], math.prod(dataset.shape[1:])
        chunk = dataset.chunks[0] if dataset.chunks else 1
        per_block = chunk * max(1, BLOCK_BYTES // (chunk * features * dataset.dtype.itemsize))
        if per_block * features * dataset.dtype.itemsize > LARGEST_BLOCK:
            raise DataError(f"{path}: the chunks of {name} hold {chunk} rows each, too many to unpack together; write "
                            "it with chunks of fewer rows (h5repack -l)")
        if rows // per_block > MOST_BLOCKS:
            raise DataError(f"{path} is damaged: {name} should have {rows} rows")
        super().__init__(name, str(path), [*range(0, rows, per_block), rows], features,
                         image_shape=dataset.shape[1:] if dataset.ndim > 2 else None)

    def load(self, block: int) -> np.ndarray:
        begin, end = self._begins[block], self._begins[block + 1]
        try:
            rows = self._dataset[begin:end]
        except FAULTS as error:
            raise DataError(f"{self.origin} is damaged: rows {begin} to {end - 1} of {self.name} cannot be read "
                            f"({error})") from error
        return rows.reshape(len(rows), -1)


def _h5py(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise DataError(f"{path} needs h5py: pip install 'pyddl[hdf5]'") from error
    return h5py


def _find(h5py: Any, file: Any, path: Path, dataset: str) -> Any:
    there: dict[str, Any] = {}
    file.visititems(lambda name, item: there.update({name: item}) if isinstance(item, h5py.Dataset) else None)
    rows = [name for name, item in there.items() if len(item.shape or ()) >= 2]
    known = f"it has {', '.join(sorted(there))}" if there else "it has none"
    if not dataset:
        if len(rows) != 1:
            raise DataError(f"{path}: which data set? {known}; expected {path.name}:NAME with one of rows and features")
        dataset = rows[0]
    found = there.get(dataset.strip("/"))
    if found is None:
        raise DataError(f"{path} has no data set {dataset!r}; {known}{_check.nearest(dataset, there)}")
    if found.dtype.kind not in "fiub" or found.dtype.itemsize > 8:
        raise DataError(f"{path}: data set {dataset} holds {found.dtype} values; expected real numbers: float32, "
                        "float64 or uint8")
    if len(found.shape or ()) < 2 or 0 in found.shape:
        raise DataError(f"{path}: data set {dataset} has shape {found.shape}; expected (rows, features), at least "
                        "one of each")
    return found
