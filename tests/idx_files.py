"""Small IDX files for the tests."""

import gzip
import struct
from pathlib import Path

import numpy as np

MNIST_FILES = ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", "t10k-images-idx3-ubyte.gz",
               "t10k-labels-idx1-ubyte.gz")


def idx_bytes(array: np.ndarray, element_type: int = 8) -> bytes:
    """The plain IDX file of an array of uint8."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, element_type, array.ndim, *array.shape) + array.tobytes()


def write_mnist(folder: Path, *, packed: bool = True, train: int = 6, test: int = 3) -> dict[str, np.ndarray]:
    """Write a data set like MNIST, of a few random images; return the arrays by file name."""
    random = np.random.default_rng(0)
    shapes = [(train, 28, 28), (train,), (test, 28, 28), (test,)]
    arrays = {}
    folder.mkdir(parents=True, exist_ok=True)
    for name, shape in zip(MNIST_FILES, shapes, strict=True):
        arrays[name] = random.integers(0, 256 if len(shape) == 3 else 10, shape, dtype=np.uint8)
        content = idx_bytes(arrays[name])
        if packed:
            (folder / name).write_bytes(gzip.compress(content))
        else:
            (folder / name.removesuffix(".gz")).write_bytes(content)
    return arrays
