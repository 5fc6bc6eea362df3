"""The IDX format of MNIST: a four-byte magic, big-endian sizes, then uint8 values; plain or in gzip.

Layout: bytes 0 and 1 are zero, byte 2 is the element type (8: uint8), byte 3 the number of dimensions, then
one big-endian uint32 per dimension, then the values, last dimension fastest. Format: Y. LeCun, C. Cortes, C.
Burges, the MNIST database.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pyddl.data.formats import Format
from pyddl.data.kept import kept, state_of
from pyddl.data.labels import as_labels
from pyddl.data.mapped import mapped
from pyddl.data.source import ArraySource, Source
from pyddl.errors import DataError, NoRowsError

__all__ = ["FORMAT", "read_idx", "read_idx_once"]

NAME = re.compile(r"(\.idx\d?|-ubyte)(\.gz)?$")
UINT8 = 8
ELEMENT_TYPES = {8: "uint8", 9: "int8", 11: "int16", 12: "int32", 13: "float32", 14: "float64"}
GZIP_MAGIC = b"\x1f\x8b"
LONGEST_HEADER = 4 + 4 * 255
PIECE = 1 << 24  # bytes unpacked at a time: a damaged header may promise any number


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Return the array of an IDX file of uint8 values, read-only.

    A plain file is mapped, so that the processes of a node share one copy; a gzip file is unpacked into
    memory.

    Raises
    ------
    DataError
        The file is missing, empty, no IDX file, of another element type, truncated, longer than its header
        says, or its gzip wrapping is damaged. The message names the file, the offset and what was expected
        there.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(LONGEST_HEADER)
            if not start:
                raise DataError(f"{path} is empty; expected an IDX file")
            if start[:2] == GZIP_MAGIC:
                return _read_gzip(path, file)
        shape, at = _header(path, start)
        _check_size(path, shape, at, path.stat().st_size)
        return mapped(path, np.uint8, shape, at)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def read_idx_once(path: Path) -> np.ndarray:
    """As `read_idx`, but one process of a node unpacks a gzip file, and all map what it has unpacked."""
    return kept(path, state_of(path), lambda: iter([read_idx(path)])) if path.suffix == ".gz" else read_idx(path)


def _read_gzip(path: Path, file: BinaryIO) -> np.ndarray:
    """As Python's gzip module reads it: member after member, with zeros between and after them."""
    file.seek(0)
    stream = gzip.GzipFile(fileobj=file)
    try:
        start = stream.read(LONGEST_HEADER)
        shape, at = _header(path, start)
        expected = at + math.prod(shape)
        pieces, found = [start], len(start)
        while found <= expected:  # one byte more than expected is enough to notice a longer file
            piece = stream.read(min(expected + 1 - found, PIECE))
            if not piece:
                break
            pieces.append(piece)
            found += len(piece)
    except EOFError:
        raise DataError(f"{path} is truncated: its gzip data break off at offset {path.stat().st_size}; expected their "
                        "closing checksum: fetch the file again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        if "Not a gzipped file" in str(error):
            raise DataError(f"{path} has bytes after its gzip data that are none ({error}); expected nothing more") \
                from None
        raise DataError(f"{path} is damaged: its gzip data cannot be unpacked ({error}); fetch the file "
                        "again") from error
    _check_size(path, shape, at, found)
    values = np.frombuffer(b"".join(pieces), dtype=np.uint8, offset=at)
    return values.reshape(shape)


def _header(path: Path, start: bytes) -> tuple[tuple[int, ...], int]:
    """Shape and offset of the first value."""
    magic = start[:4]
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in ELEMENT_TYPES or magic[3] == 0:
        raise DataError(f"{path} starts with {magic!r} at offset 0; expected the magic of an IDX file: "
                        "00 00, the element type 08, the number of dimensions")
    if magic[2] != UINT8:
        raise DataError(f"{path} holds {ELEMENT_TYPES[magic[2]]} values (type {magic[2]} at offset 2); "
                        "expected uint8 (type 8)")
    at = 4 + 4 * magic[3]
    if len(start) < at:
        raise DataError(f"{path} is truncated: it ends at offset {len(start)}; expected {magic[3]} sizes up "
                        f"to offset {at}")
    shape = struct.unpack(f">{magic[3]}I", start[4:at])
    if 0 in shape:
        axis = shape.index(0)
        error = NoRowsError if axis == 0 else DataError
        raise error(f"{path} has size 0 in dimension {axis} (offset {4 + 4 * axis}); expected at least 1")
    return shape, at


def _check_size(path: Path, shape: tuple[int, ...], at: int, found: int) -> None:
    expected = at + math.prod(shape)
    sizes = " x ".join(map(str, shape))
    if found < expected:
        raise DataError(f"{path} is truncated: it ends at offset {found}; its header promises {sizes} "
                        f"values, which end at offset {expected}")
    if found > expected:
        raise DataError(f"{path} goes on after offset {expected}, where the {sizes} values of its header "
                        "end; expected nothing more")


def _open(path: str, *_: object) -> Source:
    array = read_idx_once(Path(path))
    if array.ndim < 2:
        raise DataError(f"{path} has 1 dimension (offset 3), like a file of labels; expected rows of values")
    return ArraySource(array, scale=1 / 255, name=Path(path).name, origin=path)


FORMAT = Format(".idx or -ubyte (or these with .gz)", lambda path: NAME.search(path) is not None, _open,
                lambda path, _: as_labels(read_idx(path), path))
