"""Rows that take long to make, kept in the user's cache, so that they can be mapped.

The processes of a node then share one copy in memory, one of them makes it, and the next start need not: half a second
and 47 MB for each rank with MNIST, minutes with a folder of pictures. Where the cache cannot be written, every process
makes them in memory of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pyddl.data.download import cache_folder
from pyddl.data.npy import MAGIC, open_npy
from pyddl.errors import DataError

__all__ = ["begun", "kept", "one_at_a_time", "require_room", "state_of"]

WORTH_IT = 1 << 20  # bytes of values; smaller arrays are kept by each process
MADE_AS = 1  # counts the ways in which copies were ever made: another number, and none that is there is taken
HEADER = 128  # bytes of a .npy file before its rows

log = logging.getLogger("pyddl")


def require_room(wanted: int, what: str, cure: str = "", folder: Path | None = None) -> None:
    """Refuse what takes more bytes than are free in ``folder``, by default where copies are kept, or would be.

    Raises
    ------
    DataError
        It begins with ``what``; ``cure`` is one beside another folder.
    """
    folder = folder or cache_folder("unpacked")
    free = shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.exists())).free
    if wanted > free:
        raise DataError(f"{what} {wanted:,} bytes, and {folder} has room for {free:,}: {cure and cure + '; '}"
                        "XDG_CACHE_HOME names another folder")


def kept(place: Path, state: object, blocks: Callable[[], Iterator[np.ndarray]], how: str = "") -> np.ndarray:
    """The rows that ``blocks`` gives, one after another: mapped, unless they are few.

    Parameters
    ----------
    place : Path
        The file or folder that they are made from.
    state : object
        Whose text tells a changed file from what it was, as `state_of`; copies of what it was are removed.
    blocks : callable
        Gives arrays of equal element type and row shape; the memory of one is all that is needed, but for a copy that
        cannot be written. What it raises passes, and leaves nothing.
    how : str, optional
        Tells apart what else is made from the same place, as with other options.

    Returns
    -------
    ndarray
        Read-only where it is mapped. Of no blocks: of shape (0, 0).
    """
    folder = cache_folder("unpacked")
    of_place = f"{place.name[:100]}-{_digest(place.resolve(), how)}"
    copy = folder / f"{of_place}-{_digest(state, MADE_AS)}.npy"
    with contextlib.suppress(DataError):  # none yet, or damaged
        return open_npy(copy)
    with one_at_a_time(copy):
        with contextlib.suppress(DataError):  # none when this process came, but one now
            return open_npy(copy)
        coming, few, size = blocks(), [], 0
        for block in coming:
            few.append(block)
            size += block.nbytes
            if size >= WORTH_IT:
                break
        else:
            return _together(few)
        try:
            _write(copy, _chained(few, coming))
            for old in folder.glob(f"{of_place}-*.npy"):
                if old != copy:
                    old.unlink(missing_ok=True)
            return open_npy(copy)
        except OSError as error:
            log.warning("%s cannot be kept in %s (%s): each process has it in memory of its own; XDG_CACHE_HOME names "
                        "another folder", place, folder, error.strerror or error)
    return _together(list(blocks()))


def state_of(path: Path) -> str:
    """Size and time of change of a file.

    Raises
    ------
    DataError
        It is not there.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    return f"{found.st_size} {found.st_mtime_ns}"


@contextlib.contextmanager
def one_at_a_time(copy: Path) -> Iterator[None]:
    """Wait until no other process of this node makes ``copy``. Where files cannot be locked, several do, each a whole
    one.
    """
    import fcntl

    lock = copy.with_name(f".{copy.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = open(lock, "w")  # noqa: SIM115 (closed below)
    except OSError:
        yield
        return
    with file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                lock.unlink(missing_ok=True)  # who still waits for it finds what has been made


def begun(copy: Path) -> Path:
    """Where this process writes what is to become ``copy``. What others of this node have begun and left goes, as when
    they were killed."""
    name = f".{copy.name}.{os.uname().nodename}."
    for left in copy.parent.iterdir():
        pid = left.name.removeprefix(name).removesuffix(".part")
        if left.name == f"{name}{pid}.part" and pid.isdigit() and not os.path.exists(f"/proc/{pid}"):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    return copy.with_name(f"{name}{os.getpid()}.part")


def _digest(*parts: object) -> str:
    return hashlib.sha256("\n".join(map(str, parts)).encode(errors="surrogateescape")).hexdigest()[:16]


def _together(blocks: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(blocks) if len(blocks) > 1 else blocks[0] if blocks else np.empty((0, 0), np.float32)


def _chained(first: list[np.ndarray], rest: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    while first:
        yield first.pop(0)  # and forget it
    yield from rest


def _write(copy: Path, blocks: Iterator[np.ndarray]) -> None:
    """Write a .npy file; several processes may do so at once, each puts a whole one in place."""
    hidden = begun(copy)
    try:
        with open(hidden, "wb") as file:
            _write_rows(file, blocks)
            file.flush()
            os.fsync(file.fileno())
        os.replace(hidden, copy)
    finally:
        hidden.unlink(missing_ok=True)


def _write_rows(file: BinaryIO, blocks: Iterator[np.ndarray]) -> None:
    """Rows first, then the header, which says how many there are."""
    rows, block = 0, np.empty(0)
    file.seek(HEADER)
    for block in blocks:
        np.ascontiguousarray(block).tofile(file)
        rows += len(block)
    shape = (rows, *block.shape[1:])
    text = repr({"descr": block.dtype.str, "fortran_order": False, "shape": shape}).encode()
    start = MAGIC + b"\1\0" + (HEADER - len(MAGIC) - 4).to_bytes(2, "little") + text
    file.seek(0)
    file.write(start.ljust(HEADER - 1) + b"\n")
