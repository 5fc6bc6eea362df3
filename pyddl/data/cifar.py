"""The binary form of CIFAR-10: records of 3073 bytes, a label and the red, green and blue planes of 32 x 32 pixels.

Source: A. Krizhevsky (2009), Learning multiple layers of features from tiny images, technical report, Toronto.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from pyddl.data.formats import Format
from pyddl.data.labels import as_labels
from pyddl.data.source import ArraySource, Source
from pyddl.errors import DataError, NoRowsError

__all__ = ["FORMAT", "IMAGE_SHAPE", "open_cifar10", "read_cifar10"]

IMAGE_SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32  # bytes
CLASSES = 10
NAME = re.compile(r"(data|test)_batch[^/]*\.bin$")  # as its authors call them


def read_cifar10(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (rows, 3072), uint8, and labels (rows,), int64, of a binary batch. The pixels are mapped, not read.

    Raises
    ------
    DataError
        The file is missing, empty, not a whole number of records, or a label is not a class.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size == 0:
            raise NoRowsError(f"{path} is empty; expected records of {RECORD} bytes")
        if size % RECORD:
            raise DataError(f"{path} ends at offset {size}, inside record {size // RECORD}; expected whole records of "
                            f"{RECORD} bytes, the binary form of CIFAR-10: it is truncated, or another kind of file")
        records = np.memmap(path, dtype=np.uint8, mode="r", shape=(size // RECORD, RECORD))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    labels = records[:, 0].astype(np.int64)
    wrong = np.flatnonzero(labels >= CLASSES)
    if wrong.size:
        raise DataError(f"{path} has label {labels[wrong[0]]} at offset {wrong[0] * RECORD}; expected 0 to "
                        f"{CLASSES - 1}: it is no binary batch of CIFAR-10")
    return records[:, 1:], labels


def open_cifar10(path: str | os.PathLike[str], **described: Any) -> Source:
    """The pixels of a binary batch as rows in [0, 1], with their labels; ``described`` is handed to `ArraySource`."""
    pixels, labels = read_cifar10(path)
    return ArraySource(pixels, scale=1 / 255, image_shape=IMAGE_SHAPE, labels=labels, **described)


FORMAT = Format("CIFAR-10's data_batch_N.bin", lambda path: NAME.search(path) is not None,
                lambda path, *_: open_cifar10(path, name=Path(path).name, origin=path),
                lambda path, _: as_labels(read_cifar10(path)[1], path))
