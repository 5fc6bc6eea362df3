"""What lies in a folder of data, and below it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pyddl.errors import DataError

__all__ = ["files_below"]


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
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}") from error
    for entry in entries:
        path = folder / entry.name
        if entry.is_dir():
            if path.resolve() in here:
                raise DataError(f"{path} is a link to a folder that it lies in; remove it")
            yield from files_below(path, here)
        elif entry.is_file():
            yield path
        else:
            raise DataError(f"{path} is {'a link that leads nowhere' if entry.is_symlink() else 'no file'}; remove it, "
                            "or give it a name that begins with a dot")
