"""The named data sets. A new one is one entry of `NAMED`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pyddl.data.download import Files, existing, locate, places
from pyddl.data.idx import read_idx
from pyddl.data.source import ArraySource, Source
from pyddl.errors import DataError

__all__ = ["NAMED", "NamedSet", "missing"]

DIGITS_TRAIN = 1500  # of 1797 rows in scikit-learn's order; the other 297 are the test part


@dataclass(frozen=True)
class NamedSet:
    """How one named data set is found and read.

    Attributes
    ----------
    find : callable
        ``find() -> Path | None``: where it lies on this machine; downloads nothing.
    read : callable
        ``read(folder, part) -> Source`` for part "train" or "test".
    files : Files or None
        What to download; None for a set that comes with a package.
    """

    find: Callable[[], Path | None]
    read: Callable[[Path, str], Source]
    files: Files | None = None


# ---- digits: 8 x 8 pixels of 0..16, shipped with scikit-learn ----------------------------------------------

def _find_digits() -> Path | None:
    from importlib.util import find_spec

    spec = find_spec("sklearn")
    return Path(spec.origin).parent if spec and spec.origin else None


def _read_digits(folder: Path, part: str) -> Source:
    table = folder / "datasets" / "data" / "digits.csv.gz"
    if table.is_file():  # load_digits gives the same numbers, after a second of importing scikit-learn
        values = np.loadtxt(table, delimiter=",", dtype=np.uint8)
        pixels, labels = values[:, :-1], values[:, -1].astype(np.int64)
    else:
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
    rows = slice(0, DIGITS_TRAIN) if part == "train" else slice(DIGITS_TRAIN, None)
    return ArraySource(np.ascontiguousarray(pixels[rows], dtype=np.uint8), scale=1 / 16,
                       name=_title("digits", part), image_shape=(8, 8), labels=labels[rows],
                       origin="scikit-learn",
                       test=(lambda: _read_digits(folder, "test")) if part == "train" else None)


# ---- mnist: 28 x 28 pixels, 60000 to train and 10000 to test -----------------------------------------------

MNIST = Files(
    name="mnist",
    sha256={
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
    mirrors=("https://ossci-datasets.s3.amazonaws.com/mnist",
             "https://storage.googleapis.com/cvdf-datasets/mnist"),
)


def _read_mnist(folder: Path, part: str) -> Source:
    prefix = "train" if part == "train" else "t10k"
    images = _idx_file(folder, f"{prefix}-images-idx3-ubyte.gz", dimensions=3)
    labels = _idx_file(folder, f"{prefix}-labels-idx1-ubyte.gz", dimensions=1)
    if len(labels) != len(images):
        raise DataError(f"{folder} has {len(images)} {part} images but {len(labels)} labels; expected as "
                        "many: fetch mnist again")
    return ArraySource(images, scale=1 / 255, name=_title("mnist", part), labels=labels.astype(np.int64),
                       origin=str(folder),
                       test=(lambda: _read_mnist(folder, "test")) if part == "train" else None)


def _idx_file(folder: Path, file: str, dimensions: int) -> np.ndarray:
    path = existing(folder, file)
    if path is None:
        raise DataError(f"{folder / file} is missing; fetch mnist again")
    array = read_idx(path)
    if array.ndim != dimensions:
        raise DataError(f"{path} has {array.ndim} dimensions (offset 3); expected {dimensions}")
    return array


def _title(name: str, part: str) -> str:
    return name if part == "train" else f"{name}:{part}"


NAMED: dict[str, NamedSet] = {
    "digits": NamedSet(_find_digits, _read_digits),
    "mnist": NamedSet(lambda: locate(MNIST), _read_mnist, MNIST),
}


def missing(name: str, files: Files | None, reason: str) -> DataError:
    """The one error for a set that is nowhere, which says every place that was tried."""
    if files is None:
        return DataError(f"{name} comes with scikit-learn, which is not installed: pip install scikit-learn")
    looked = ", ".join(str(p) for p in places(name))
    variable = "$PYDDL_DATA" if os.environ.get("PYDDL_DATA") else "$PYDDL_DATA (not set)"
    return DataError(f"{name} is not on this machine: looked under {variable} and in the user cache "
                     f"({looked}), then {reason}. Put {', '.join(files.sha256)} into one of these folders, "
                     f"or run `pyddl fetch {name}` where there is a network")
