"""What an HDF5 data set takes from other files, in whose place HDF5 silently gives zeros where they are gone."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from pyddl.errors import DataError

__all__ = ["check_sources"]

FIRST_BLOCK = "0"  # of names with a block's number in them, ``part-%b.h5``: how many there are, the files say


def check_sources(dataset: Any, name: str, seen: frozenset[tuple[str, str]] = frozenset()) -> None:
    """Refuse a data set that is virtual, or whose values lie in raw files, where one of its files is not whole.

    Parameters
    ----------
    dataset : h5py.Dataset
    name : str
        What messages call it.
    seen : set of (file, data set), optional
        What has been looked at on the way here.

    Raises
    ------
    DataError
        A file is missing, or ends too early; a data set in it is missing, or smaller than it should be; or nothing was
        ever written.
    """
    place = (dataset.file.filename, dataset.name)
    if place in seen:
        return
    _check_raw(dataset, name)
    if not dataset.is_virtual:
        if not dataset.external and dataset.size and not dataset.id.get_storage_size():
            raise DataError(f"{name} was made, and no values were written to it: HDF5 would give {dataset.fillvalue} "
                            "for each. Write it again")
        return
    for source in dataset.virtual_sources():
        _check_virtual(dataset, name, source, seen | {place})


def _check_raw(dataset: Any, name: str) -> None:
    left = dataset.nbytes
    for file, offset, size in dataset.external or ():
        prefix = os.environ.get("HDF5_EXTFILE_PREFIX", "").replace("${ORIGIN}", str(_folder(dataset)))
        path = Path(prefix, file)
        end = offset + min(size, left)
        found = path.stat().st_size if path.is_file() else None
        if found is None or found < end:
            how = "which is not there" if found is None else f"which ends at offset {found}, and should at {end}"
            raise DataError(f"{name} takes its values from {path}, {how}: put the whole file there")
        left -= min(size, left)
    if dataset.external and left:
        raise DataError(f"{name} is damaged: the raw files of its values lack {left} bytes")


def _check_virtual(dataset: Any, name: str, source: Any, seen: frozenset[tuple[str, str]]) -> None:
    import h5py

    numbered = "%b" in source.file_name or "%b" in source.dset_name
    file, inner = (text.replace("%b", FIRST_BLOCK).replace("%%", "%") for text in (source.file_name, source.dset_name))
    wanted = None if numbered else source
    if file == ".":
        _check_part(dataset.file, file, inner, name, wanted, seen)
        return
    folder = _folder(dataset)
    places = [Path(os.environ.get("HDF5_VDS_PREFIX", "").replace("${ORIGIN}", str(folder)), file), folder / file,
              Path(file), folder.resolve() / file]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise DataError(f"{name} takes rows from {folder / file}, which is not there: put the file there, or read the "
                        "others by their own names")
    try:
        part = h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{name} takes rows from {path}, which cannot be read as HDF5: {error}") from error
    with part:
        _check_part(part, str(path), inner, name, wanted, seen)


def _check_part(file: Any, path: str, inner: str, name: str, wanted: Any, seen: frozenset[tuple[str, str]]) -> None:
    part = file.get(inner)
    if part is None or not hasattr(part, "is_virtual"):
        raise DataError(f"{name} takes rows from {path}:{inner}, and there is no such data set")
    if wanted is not None:
        sizes, has = wanted.src_space.shape, part.shape or ()  # no sizes where all of the part is taken
        few = any(size > there for size, there in zip(sizes, has, strict=False)) if sizes else \
            math.prod(has) < wanted.vspace.get_select_npoints()
        if few:
            much = "x".join(map(str, sizes)) or wanted.vspace.get_select_npoints()
            raise DataError(f"{name} takes {much} values from {path}:{inner}, which has shape {has}: put the whole "
                            "file there")
    check_sources(part, name, seen)


def _folder(dataset: Any) -> Path:
    return Path(dataset.file.filename).parent
