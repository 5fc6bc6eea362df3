"""The named data sets. A new one is one entry of `NAMED`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pyddl.data.cifar import open_cifar10
from pyddl.data.download import Files, existing, locate, places
from pyddl.data.idx import read_idx_once
from pyddl.data.joined import JoinedSource
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
        What to download; None for a set that pyddl cannot download.
    by_hand : str
        Where ``files`` is None: what to do about a set that is not there.
    """

    find: Callable[[], Path | None]
    read: Callable[[Path, str], Source]
    files: Files | None = None
    by_hand: str = ""


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
    array = read_idx_once(path)
    if array.ndim != dimensions:
        raise DataError(f"{path} has {array.ndim} dimensions (offset 3); expected {dimensions}")
    return array


# ---- cifar10: 3 planes of 32 x 32 pixels, 50000 to train and 10000 to test ---------------------------------

ARCHIVE = "cifar-10-batches-bin"  # the folder in the archive that its authors give


def _find_cifar10() -> Path | None:
    for place in places("cifar10"):
        for folder in (place, place / ARCHIVE):
            if any(folder.glob("data_batch_*.bin")):
                return folder
    return None


def _read_cifar10(folder: Path, part: str) -> Source:
    has_test = (folder / "test_batch.bin").is_file()
    if part == "test" and not has_test:
        raise DataError(f"cifar10 has no test part here: {folder / 'test_batch.bin'} is missing. Put it there, or keep "
                        "back some of the training rows: --validation 0.1")
    origin = str(folder) if has_test else f"{folder}, which has no test_batch.bin: no test part, but see --validation"
    files = sorted(folder.glob("data_batch_*.bin")) if part == "train" else [folder / "test_batch.bin"]
    test = (lambda: _read_cifar10(folder, "test")) if part == "train" and has_test else None
    name = _title("cifar10", part)
    one = len(files) == 1
    batches = [open_cifar10(file, name=name if one else file.name, origin=origin, test=test if one else None)
               for file in files]
    return batches[0] if one else JoinedSource(batches, name=name, origin=origin, test=test)


def _title(name: str, part: str) -> str:
    return name if part == "train" else f"{name}:{part}"


NAMED: dict[str, NamedSet] = {
    "cifar10": NamedSet(_find_cifar10, _read_cifar10, by_hand=(
        "fetch its binary version, cifar-10-binary.tar.gz (162 MB, md5 c32a1d4ab5d03f1284b67883e8d87530), from its "
        "authors' page, www.cs.toronto.edu/~kriz/cifar.html, and unpack it in one of these folders")),
    "digits": NamedSet(_find_digits, _read_digits, by_hand=(
        "install scikit-learn, which brings it: pip install scikit-learn")),
    "mnist": NamedSet(lambda: locate(MNIST), _read_mnist, MNIST),
}


def missing(name: str, reason: str = "") -> DataError:
    """The one error for a set that is nowhere, which says every place that was tried."""
    named = NAMED[name]
    looked = ", ".join(str(p) for p in places(name))
    variable = "$PYDDL_DATA" if os.environ.get("PYDDL_DATA") else "$PYDDL_DATA (not set)"
    where = f"{name} is not on this machine: looked under {variable} and in the user cache ({looked})"
    if named.files is None:
        return DataError(f"{where}. pyddl does not download it: {named.by_hand}")
    return DataError(f"{where}, then {reason}. Put {', '.join(named.files.sha256)} into one of these folders, "
                     f"or run `pyddl fetch {name}` where there is a network")
