"""From a specification on a command line to a source."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pyddl import _check
from pyddl.data import hdf5, parquet
from pyddl.data.cifar import open_cifar10
from pyddl.data.download import TIMEOUT, Progress, download
from pyddl.data.idx import read_idx
from pyddl.data.joined import JoinedSource
from pyddl.data.named import NAMED, missing
from pyddl.data.npy import open_npy
from pyddl.data.source import ArraySource, RandomSource, Source
from pyddl.errors import DataError, ParameterError

__all__ = ["fetch", "find", "load"]

PARTS = ("train", "test")
IDX_NAME = re.compile(r"(\.idx\d?|-ubyte)(\.gz)?$")
CIFAR10_NAME = re.compile(r"(data|test)_batch[^/]*\.bin$")  # as its authors call them


def load(spec: Any, part: str | None = None) -> Source:
    """Open a data set.

    Parameters
    ----------
    spec : str, path, array or Source
        A name (``digits``, ``mnist``, ``cifar10``), also with ``:train`` or ``:test``; the path of a file: ``.npy``,
        IDX (``.idx``, ``-ubyte``, plain or ``.gz``; values / 255), a binary batch of CIFAR-10 (``data_batch_N.bin``),
        HDF5 (``.h5``, ``.hdf5``; ``FILE:DATASET`` where it has several) or Parquet (``FILE:COLUMN,COLUMN`` for some
        columns; also an address that fsspec knows, such as ``s3://...``); a folder of files of one of these
        kinds, whose rows are joined in the order of the names; or ``random:ROWSxFEATURES``. An array becomes an
        `ArraySource`, a source is returned as it is.
    part : {"train", "test"}, optional
        Of a named set; "train" by default, whose ``test`` is the other.

    Returns
    -------
    Source

    Raises
    ------
    ParameterError
        The part is unknown or given twice.
    DataError
        Nothing of that name, or the file is damaged. A named set that is not on this machine is fetched into
        the user cache; without a network the message lists every place that was tried.

    Examples
    --------
    >>> load("random:1000000x784").shape
    (1000000, 784)
    """
    if isinstance(spec, Source):
        return spec
    if not isinstance(spec, str | os.PathLike):
        return ArraySource(spec)
    text = os.fspath(spec)
    name, colon, suffix = text.partition(":")
    if name == "random" and colon:
        _no_part(text, part)
        return _random(text, suffix)
    if name in NAMED:
        if colon and part not in (None, suffix):
            raise ParameterError(f"data is {text!r} and part is {part!r}; give one of the two")
        return _named(name, _check.one_of("part", suffix if colon else part or "train", PARTS))
    _no_part(text, part)
    return _file(text)


def find(name: str) -> Path | None:
    """The folder in which a named set lies on this machine, or None. Downloads nothing."""
    return NAMED[_check.one_of("name", name, NAMED)].find()


def fetch(name: str, folder: str | os.PathLike[str] | None = None, *, mirrors: Sequence[str] | None = None,
          progress: Progress | None = None, timeout: float = TIMEOUT) -> Path:
    """Download a named set, unless it is there already; return its folder.

    See `pyddl.data.download.download` for the parameters. A set that comes with a package is only looked up.
    """
    files = NAMED[_check.one_of("name", name, NAMED)].files
    if files is None:
        folder = find(name)
        if folder is None:
            raise missing(name)
        return Path(folder)
    target = None if folder is None else Path(folder)
    return download(files, target, mirrors=mirrors, progress=progress, timeout=timeout)


def _named(name: str, part: str) -> Source:
    named = NAMED[name]
    folder = named.find()
    if folder is None and named.files is not None:
        try:
            folder = download(named.files)
        except DataError as error:
            raise missing(name, str(error)) from error
    if folder is None:
        raise missing(name)
    return named.read(folder, part)


def _random(text: str, sizes: str) -> Source:
    match = re.fullmatch(r"(\d+)x(\d+)", sizes)
    if not match or int(match[1]) < 1 or int(match[2]) < 1:
        raise ParameterError(f"data is {text!r}; expected random:ROWSxFEATURES, both at least 1, as in "
                             "random:10000x784")
    return RandomSource(int(match[1]), int(match[2]))


def _file(text: str) -> Source:
    text, inner = _inner(text)
    if "://" in text:
        return _open(text, inner)
    path = Path(text)
    if text and path.is_dir():
        return _folder(path, inner)
    if not path.is_file():
        raise DataError(f"data {text!r} is neither a known data set nor a file; expected {', '.join(sorted(NAMED))} "
                        "(with :train or :test), random:ROWSxFEATURES, or the path of a file or folder of data"
                        f"{_check.nearest(text.partition(':')[0], NAMED)}")
    return _open(text, inner)


def _inner(text: str) -> tuple[str, str]:
    """``file.h5:name`` -> (``file.h5``, ``name``)."""
    path, colon, inner = text.rpartition(":")
    if colon and not os.path.exists(text) and (os.path.isdir(path) or path.endswith(hdf5.SUFFIXES + parquet.SUFFIXES)):
        return path, inner
    return text, ""


def _folder(folder: Path, inner: str) -> Source:
    """The files of a folder as one source. Names that begin with a dot or underscore are marks of other programs."""
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith((".", "_")))
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}") from error
    if not files:
        raise DataError(f"{folder} is a folder without files; expected files of data, all of one kind")
    first = _kind(str(files[0]))
    for file in files:
        if _kind(str(file)) is not first:
            raise DataError(f"{folder} is a folder of several kinds of files: {files[0].name} and {file.name}; "
                            "expected one kind")
    sources = [_open(str(file), inner) for file in files]
    return JoinedSource(sources, name=folder.name or str(folder), origin=str(folder))


def _open(path: str, inner: str) -> Source:
    return _kind(path)(path, inner)


def _kind(path: str) -> Callable[[str, str], Source]:
    """How a file of this name is opened."""
    if path.endswith(parquet.SUFFIXES):
        return parquet.open_parquet
    if "://" in path:
        raise DataError(f"{path} is of no supported kind; expected an address that ends in .parquet")
    if path.endswith(".npy"):
        return _open_npy
    if IDX_NAME.search(path):
        return _open_idx
    if path.endswith(hdf5.SUFFIXES):
        return hdf5.open_hdf5
    if CIFAR10_NAME.search(path):
        return _open_cifar10
    raise DataError(f"{path} is of no supported kind; expected a name that ends in .npy, .idx, -ubyte (or one of the "
                    "last two with .gz), .h5, .hdf5 or .parquet, or CIFAR-10's data_batch_N.bin")


def _nothing_inside(path: str, inner: str) -> None:
    if inner:
        raise DataError(f"{path} has no parts with names, such as {inner!r}; only HDF5 and Parquet files have: leave "
                        f"out :{inner}")


def _open_cifar10(path: str, inner: str) -> Source:
    _nothing_inside(path, inner)
    return open_cifar10(path, name=Path(path).name, origin=path)


def _open_npy(path: str, inner: str) -> Source:
    _nothing_inside(path, inner)
    return ArraySource(open_npy(path), name=Path(path).name, origin=path)


def _open_idx(path: str, inner: str) -> Source:
    _nothing_inside(path, inner)
    array = read_idx(path)
    if array.ndim < 2:
        raise DataError(f"{path} has 1 dimension (offset 3), like a file of labels; expected rows of values")
    return ArraySource(array, scale=1 / 255, name=Path(path).name, origin=path)


def _no_part(text: str, part: str | None) -> None:
    if part is not None:
        raise ParameterError(f"data {text!r} has no part {part!r}; only named sets have parts: "
                             f"{', '.join(sorted(NAMED))}")
