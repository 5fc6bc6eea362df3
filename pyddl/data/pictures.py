"""Folders of pictures, PNG or JPEG, by Pillow: a row for each; sub folders are classes.

One process of a node decodes them, and all map what it has decoded (`pyddl.data.kept`).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyddl import _check
from pyddl.data.folders import files_below
from pyddl.data.kept import kept, require_room, state_of
from pyddl.data.labels import Labels
from pyddl.data.source import ArraySource, Source
from pyddl.errors import DataError, ParameterError

__all__ = ["ENDINGS", "are_pictures", "asked_of_pictures", "open_pictures", "picture_labels"]

ENDINGS = ".png, .jpg or .jpeg"
NAME = re.compile(r"\.(png|jpe?g)$", re.IGNORECASE)
BLOCK = 8 << 20  # bytes of pixels that are decoded at a time
GREY = ("1", "L", "LA", "I", "F")  # Pillow's modes of one channel begin with one of these; LAB does not occur here
ORIENTATION = 0x0112  # of EXIF
TURNED = 5  # from this one on, height and width change places


def are_pictures(path: Path) -> bool:
    """Whether this is a picture, or a folder in which, or in whose sub folders, is one."""
    if not path.is_dir():
        return NAME.search(path.name) is not None
    return any(NAME.search(file.name) for file in files_below(path))


def open_pictures(path: Path, image_size: str | Sequence[int] | None = None, grey: bool = False) -> Source:
    """Open pictures as rows, in the order of their paths: pixels / 255, kept as uint8.

    Rows have the shape (height, width) where all pictures are grey, else (height, width, 3). Opacity is left out.

    Parameters
    ----------
    path : Path
        A picture, or a folder. Where its pictures lie in sub folders, the names of these are the classes of the labels.
    image_size : str or sequence of int, optional
        Scale all to this height and width, such as ``"28x28"``, whatever shape they had.
    grey : bool, default=False
        Make grey pictures of coloured ones.

    Raises
    ------
    ParameterError
        ``image_size`` is no such size.
    DataError
        Pillow is not installed; a file is no picture, or a broken one; two sizes differ and there is no
        ``image_size``; there are pictures in sub folders and beside these.
    """
    size = _size(image_size)
    files = _files(path)
    labels = _labels(path, files)
    state = "\n".join(f"{file} {state_of(file)}" for file in files)
    rows = kept(path, state, lambda: _blocks(files, size, grey), f"{size} {grey}")
    return ArraySource(rows, scale=1 / 255, name=path.name or str(path), labels=labels, origin=str(path))


def asked_of_pictures(image_size: str | Sequence[int] | None, grey: bool) -> dict[str, Any]:
    """These options as a run records them, those that are given."""
    size = _size(image_size)
    return {**({} if size is None else {"image_size": f"{size[0]}x{size[1]}"}), **({"grey": True} if grey else {})}


def picture_labels(path: Path) -> Labels:
    """The names of the sub folders, by picture, as classes."""
    labels = _labels(path, _files(path))
    if labels is None:
        raise DataError(f"{path} has no sub folders, whose names would be the labels of the pictures in them")
    return labels


def _size(given: str | Sequence[int] | None) -> tuple[int, int] | None:
    if given is None:
        return None
    match = re.fullmatch(r"(\d+)x(\d+)", given) if isinstance(given, str) else None
    if isinstance(given, str) and not match:
        raise ParameterError(f"image_size is {given!r}; expected HEIGHTxWIDTH in pixels, as in 28x28")
    sizes = _check.integers("image_size", [int(part) for part in match.groups()] if match else given, at_least=1)
    if len(sizes) != 2:
        raise ParameterError(f"image_size is {given!r}; expected height and width in pixels, as in (28, 28)")
    return sizes[0], sizes[1]


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = list(files_below(path))
    other = next((file for file in files if not NAME.search(file.name)), None)
    if other is not None:
        first = next(file for file in files if NAME.search(file.name))
        raise DataError(f"{path} is a folder of several kinds of files: {first.relative_to(path)} and "
                        f"{other.relative_to(path)}; expected pictures only: {ENDINGS}")
    return files


def _labels(path: Path, files: Sequence[Path]) -> Labels | None:
    folders = [file.relative_to(path).parts[0] if file.parent != path and file != path else None for file in files]
    if None in folders:
        within = next((file for file, folder in zip(files, folders, strict=True) if folder is not None), None)
        if within is None:
            return None
        beside = files[folders.index(None)]
        raise DataError(f"{path} has pictures in sub folders, such as {within.relative_to(path)}, and beside them, "
                        f"such as {beside.relative_to(path)}; expected all in sub folders, their classes, or none")
    classes, values = np.unique(np.array(folders, dtype=object), return_inverse=True)
    return Labels(values.astype(np.int64), tuple(classes))


def _blocks(files: Sequence[Path], size: tuple[int, int] | None, grey: bool) -> Iterator[np.ndarray]:
    """The pictures, some at a time."""
    from concurrent.futures import ThreadPoolExecutor

    shape, coloured = _about(files[0])
    for file in files[1:]:
        other, also = _about(file)
        if other != shape and size is None:
            raise DataError(f"{files[0]} has {shape[0]} x {shape[1]} pixels, but {file} {other[0]} x {other[1]} "
                            f"(height x width); all need the same: --image-size {shape[0]}x{shape[1]} scales them")
        coloured |= also
    shape = size or shape
    mode = "RGB" if coloured and not grey else "L"
    require_room(len(files) * shape[0] * shape[1] * len(mode),
                 f"{len(files)} pictures of {shape[0]} x {shape[1]} pixels are", "choose a smaller image_size")
    at_a_time = max(1, BLOCK // (shape[0] * shape[1] * len(mode)))
    pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))  # Pillow lets go of the GIL while it decodes
    try:
        for begin in range(0, len(files), at_a_time):
            part = files[begin : begin + at_a_time]
            yield np.stack(list(pool.map(lambda file: _decoded(file, mode, shape), part)))
    finally:  # where that is early, by a signal perhaps, nobody waits for large pictures
        pool.shutdown(wait=False, cancel_futures=True)


def _about(file: Path) -> tuple[tuple[int, int], bool]:
    """Height and width, and whether it has colours: its header is all that is read."""
    with _opened(file) as image:
        width, height = image.size
        return (width, height) if _orientation(image) >= TURNED else (height, width), not image.mode.startswith(GREY)


def _decoded(file: Path, mode: str, shape: tuple[int, int]) -> np.ndarray:
    with _opened(file) as image:
        from PIL import Image, ImageOps

        if _orientation(image) != 1:
            image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits, which Pillow would cut at 255
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        image = image.convert(mode)
        if image.size != (shape[1], shape[0]):
            image = image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
        return np.asarray(image)


def _orientation(image: Any) -> int:
    """How a camera was held, 1 to 8; 1 of a PNG, which would be decoded to find out."""
    return image.getexif().get(ORIENTATION, 1) if image.format != "PNG" else 1


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(f"{file} needs Pillow: pip install pillow") from error
    try:
        with Image.open(file) as image:
            yield image
    except Exception as error:  # whatever a decoder raises: OSError, SyntaxError, struct.error, ...
        raise _broken(file, error) from error


def _broken(file: Path, error: Exception) -> DataError:
    from PIL import UnidentifiedImageError

    why = "it is none" if isinstance(error, UnidentifiedImageError) else str(error) or type(error).__name__
    return DataError(f"{file} cannot be read as a picture: {why.splitlines()[0]}; mend or remove it")
