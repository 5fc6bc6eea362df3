"""What lies in a folder of data, and below it; among it parts as Spark writes them, in sub folders ``COLUMN=VALUE``."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from pyddl import _check
from pyddl.data.source import Source
from pyddl.errors import DataError

__all__ = ["Part", "WithColumns", "files_below", "kind_of", "left_to_files", "partition_number", "parts_of"]

NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


def kind_of(path: str) -> str:
    """What is there: "file", "folder" or "".

    Raises
    ------
    DataError
        It is a link that leads nowhere, or may not be looked at.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        if os.path.islink(path):
            raise DataError(f"{path} is a link to {os.readlink(path)}, which is not there") from None
        return ""
    except (OSError, ValueError) as error:
        raise DataError(f"{_check.shown(path)} cannot be read: {getattr(error, 'strerror', error)}") from None
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else ""


def files_below(folder: Path, _above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """All files of a folder, then those of its sub folders, each in the order of their names.

    Names that begin with a dot or an underscore are marks of other programs, and left out.

    Raises
    ------
    DataError
        A folder cannot be read; a link leads nowhere, or back to a folder that it is in.
    """
    here = (*_above, folder.resolve())
    try:
        with os.scandir(folder) as found:
            entries = sorted((entry for entry in found if not entry.name.startswith((".", "_"))),
                             key=lambda entry: (entry.is_dir(), entry.name))
        for entry in entries:
            path = folder / entry.name
            if entry.is_dir() and path.resolve() in here:
                raise _strange(folder, entry.name, "link to a folder that it lies in")
            if not entry.is_dir() and not entry.is_file():
                raise _strange(folder, entry.name, f"link to {os.readlink(path)}, which is not there"
                               if entry.is_symlink() else "device or socket")
    except OSError as error:
        raise DataError(f"{error.filename or folder} cannot be read: {error.strerror or error}") from error
    for entry in entries:
        if entry.is_dir():
            yield from files_below(folder / entry.name, here)
        else:
            yield folder / entry.name


def _strange(folder: Path, name: str, what: str) -> DataError:
    return DataError(f"{folder} holds {name}, a {what}; expected files of data, all of one kind, and nothing else: "
                     "move it away, or begin its name with a dot or underscore")


@dataclass(frozen=True)
class Part:
    """A file of a folder of data.

    Attributes
    ----------
    path : Path
    values : mapping of str
        By column, what its sub folders say of all its rows.
    """

    path: Path
    values: Mapping[str, str]


def parts_of(folder: Path) -> list[Part]:
    """The files in a folder, and in sub folders that have the name of a column and its value.

    Raises
    ------
    DataError
        There are none; a sub folder has another name; parts lie in unlike sub folders; and as `files_below`.
    """
    files = list(files_below(folder))
    parts = []
    for file in files:
        above = file.relative_to(folder).parent.parts
        plain = next((i for i, name in enumerate(above) if "=" not in name[1:]), None)
        if plain is not None:
            within = "beside files, whose rows would be left out" if files[0].parent == folder else "and has no files"
            raise _strange(folder, str(Path(*above[: plain + 1])), f"folder, {within}")
        parts.append(Part(file, {name.partition("=")[0]: unquote(name.partition("=")[2]) for name in above}))
    if not parts:
        raise DataError(f"{folder} is a folder without files; expected files of data, all of one kind")
    for part in parts:
        if list(part.values) != list(parts[0].values):
            raise DataError(f"{folder} has unlike partitions: {parts[0].path.relative_to(folder)} and "
                            f"{part.path.relative_to(folder)}; expected the same columns in all")
    return parts


def partition_number(part: Part, name: str, folder: Path) -> float:
    """What a sub folder says of a column, as a number."""
    text = part.values[name]
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not abs(value) <= np.finfo(np.float32).max:
        shown = "empty" if text == NO_VALUE else repr(text)
        raise DataError(f"{folder}: {name} is {shown} in {part.path.parent.name}, no finite number; leave it out "
                        f"({folder.name}:-{name}), or take it for labels (--labels {folder.name}:{name})")
    return value


class WithColumns(Source):
    """The rows of a source, and behind them columns that have one value each.

    Parameters
    ----------
    whole : Source
        A table.
    values : mapping of float
        By name of the column.
    """

    def __init__(self, whole: Source, values: Mapping[str, float]):
        self._whole, self._values = whole, np.array(list(values.values()), dtype=np.float32)
        self.name, self.shape = whole.name, (len(whole), whole.features + len(values))
        self.columns = None if whole.columns is None else (*whole.columns, *values)

    @property
    def minimum(self) -> float:
        """The smallest of the rows and of the columns."""
        return min(self._whole.minimum, float(self._values.min()))

    @property
    def maximum(self) -> float:
        """The largest of the rows and of the columns."""
        return max(self._whole.maximum, float(self._values.max()))

    def read(self, index: np.ndarray, out: np.ndarray) -> None:
        rows = np.empty((len(index), self._whole.features), dtype=np.float32)
        self._whole.read(index, rows)
        out[:, : self._whole.features] = rows
        out[:, self._whole.features :] = self._values

    def describe(self) -> str:
        return f"{self._whole.describe()}, and {len(self._values)} columns of its sub folders"


def left_to_files(inner: str, without: Sequence[str], keys: Sequence[str]) -> tuple[str, list[str]]:
    """What is named of the columns within the files, and which of ``keys``, those of sub folders, are features.

    Raises
    ------
    DataError
        Columns are named both with a minus and without.
    """
    names = inner.split(",") if inner else []
    excluded = [name[1:] for name in names if name.startswith("-")]
    if len(excluded) < len(names) and set(excluded) & set(keys):
        raise DataError(f"{inner} names columns to take and columns to leave out; expected one of the two")
    if len(excluded) < len(names):
        return ",".join(name for name in names if name not in keys), [name for name in names if name in keys]
    return (",".join(name for name in names if name[1:] not in keys),
            [key for key in keys if key not in (*excluded, *without)])
