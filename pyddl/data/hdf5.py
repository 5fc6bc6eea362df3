"""HDF5 by h5py: one data set of a file, ``file.h5:data set``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyddl import _check
from pyddl.data.blocks import BlockSource
from pyddl.data.formats import Format
from pyddl.data.labels import Labels, as_labels
from pyddl.data.source import ArraySource, Source
from pyddl.errors import DataError, NoRowsError

__all__ = ["FORMAT", "open_hdf5"]

SUFFIXES = (".h5", ".hdf5", ".hdf")
BLOCK_BYTES = 1 << 20  # chunks are joined to blocks of about this size
LARGEST_BLOCK = 1 << 30  # bytes: a block is in memory as a whole
MOST_PACKED = 2000  # times smaller than they are can gzip make values; more is a damaged header
MOST_BLOCKS = 10**7  # 10 TB: a header that promises more is damaged
# What h5py raises for damaged files:
FAULTS = (OSError, RuntimeError, TypeError, KeyError, ValueError, OverflowError, MemoryError)


def open_hdf5(path: str | Path, dataset: str = "", without: Sequence[str] = ()) -> Source:
    """Open a data set of an HDF5 file as rows.

    Where the values lie in one piece they are mapped, so that the processes of a node share one copy; chunked or
    packed data are read block by block (`BlockSource`).

    Parameters
    ----------
    path : str or Path
    dataset : str, optional
        Its name in the file; may be left out where there is only one of at least two dimensions.
    without : sequence of str, optional
        Names that do not count where it is left out.

    Raises
    ------
    DataError
        h5py is not installed; the file is missing, damaged or no HDF5; the data set is not in it, has no rows of real
        numbers, or cannot be read.
    """
    path = Path(path)
    found, name = _opened(path, dataset, without)
    mapped = _mapped(path, found, name)
    source = _Chunked(found, name, path) if mapped is None else ArraySource(mapped, name=name, origin=str(path))
    source.inner = name.partition(":")[2]
    return source


def _labels(path: str, dataset: str) -> Labels:
    """The labels in a data set of one or two dimensions: mapped where they lie in one piece, else read."""
    found, name = _opened(Path(path), dataset, (), labels=True)
    values = _mapped(Path(path), found, name)
    if values is None:
        try:
            stored = found.id.get_storage_size()
            if found.nbytes > max(MOST_PACKED * stored, 1 << 24):
                raise DataError(f"{path} is damaged: {name} should have shape {found.shape}, but {stored} bytes are "
                                "all that is stored")
            values = found.asstr()[:] if _is_text(found) else found[:]
        except DataError:
            raise
        except FAULTS as error:
            raise DataError(f"{path} is damaged: {name} cannot be read ({error})") from error
        finally:
            found.file.close()
    return as_labels(values, f"{path}:{dataset}" if dataset else path)


def _opened(path: Path, dataset: str, without: Sequence[str], labels: bool = False) -> tuple[Any, str]:
    """The data set in its open file, and what messages call it."""
    h5py = _h5py(path)
    try:
        file = h5py.File(path, "r")
    except FAULTS as error:
        raise DataError(f"{path} cannot be read as HDF5: {getattr(error, 'strerror', None) or error}") from error
    try:
        found = _find(h5py, file, path, dataset, without, labels)
        return found, f"{path.name}:{found.name.lstrip('/')}"
    except DataError:
        file.close()
        raise
    except FAULTS as error:
        file.close()
        raise DataError(f"{path} is damaged: {error}") from error


def _mapped(path: Path, dataset: Any, name: str) -> np.ndarray | None:
    """A data set of numbers that lie in one piece, its file closed; else None."""
    try:
        shape, dtype = dataset.shape, dataset.dtype
        at = dataset.id.get_offset() if dataset.chunks is None and not dataset.external else None
    except FAULTS as error:
        dataset.file.close()
        raise DataError(f"{path} is damaged: {error}") from error
    if at is None or not dtype.isnative or dtype.kind not in "fiub":
        return None
    dataset.file.close()
    end = at + math.prod(shape) * dtype.itemsize
    if path.stat().st_size < end:
        raise DataError(f"{path} is truncated: it ends at offset {path.stat().st_size}; {name} should end at {end}")
    return np.memmap(path, dtype=dtype, mode="r", offset=at, shape=shape)


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


def _is_text(dataset: Any) -> bool:
    import h5py

    return h5py.check_string_dtype(dataset.dtype) is not None


def _find(h5py: Any, file: Any, path: Path, dataset: str, without: Sequence[str], labels: bool) -> Any:
    """The data set of that name; without a name, the only one of rows, or of labels."""
    there: dict[str, Any] = {}
    file.visititems(lambda name, item: there.update({name: item}) if isinstance(item, h5py.Dataset) else None)
    left_out = [name.strip("/") for name in without]
    rows = [name for name, item in there.items() if len(item.shape or ()) >= (1 if labels else 2)
            and name not in left_out]
    known = f"it has {', '.join(sorted(there))}" if there else "it has none"
    if not dataset:
        if len(rows) != 1:
            raise DataError(f"{path}: which data set? {known}; expected {path.name}:NAME with one of "
                            f"{'labels' if labels else 'rows and features'}")
        dataset = rows[0]
    found = there.get(dataset.strip("/"))
    if found is None:
        raise DataError(f"{path} has no data set {dataset!r}; {known}{_check.nearest(dataset, there)}")
    if (found.dtype.kind not in "fiub" or found.dtype.itemsize > 8) and not (labels and _is_text(found)):
        raise DataError(f"{path}: data set {dataset} holds {found.dtype} values; expected real numbers: float32, "
                        "float64 or uint8")
    if len(found.shape or ()) < (1 if labels else 2) or 0 in found.shape:
        error = NoRowsError if (found.shape or ())[:1] == (0,) else DataError
        raise error(f"{path}: data set {dataset} has shape {found.shape}; expected "
                        f"{'(rows,) or (rows, targets)' if labels else '(rows, features)'}, at least one of each")
    return found


FORMAT = Format(".h5, .hdf5 or .hdf", lambda path: path.endswith(SUFFIXES), open_hdf5, _labels, names=True)
