"""IDX files: what is whole is read; what is damaged is refused with file, offset and expectation."""

import gzip
import struct
import tracemalloc

import numpy as np
import pytest
from damage import damage
from hypothesis import given, settings
from hypothesis import strategies as st
from idx_files import idx_bytes

from pyddl.data.idx import read_idx
from pyddl.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("idx")


def write(folder, content):
    path = folder / "images-idx3-ubyte"
    path.unlink(missing_ok=True)  # a mapped file must not change under its readers
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("shape", [(7,), (1, 1), (7, 5, 3), (40, 28, 28), (2, 3, 4, 5)])
def test_whole_files_are_read(folder, pack, shape):
    array = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    got = read_idx(write(folder, pack(idx_bytes(array))))
    np.testing.assert_array_equal(got, array)
    assert got.dtype == np.uint8 and not got.flags.writeable


def test_a_plain_file_is_mapped(folder):
    assert isinstance(read_idx(write(folder, idx_bytes(IMAGES))), np.memmap)


FAULTS = {
    "empty": (b"", "is empty; expected an IDX file"),
    "short magic": (b"\0\0\x08", r"starts with b'\\x00\\x00\\x08' at offset 0; expected"),
    "text": (b"5,0,3,1\n", r"starts with b'5,0,' at offset 0; expected the magic"),
    "no dimensions": (b"\0\0\x08\0", "expected the magic"),
    "unknown type": (b"\0\0\x07\x03" + bytes(99), "expected the magic"),
    "float32": (idx_bytes(IMAGES, 13), r"holds float32 values \(type 13 at offset 2\); expected uint8"),
    "sizes cut": (idx_bytes(IMAGES)[:13], "it ends at offset 13; expected 3 sizes up to offset 16"),
    "no values": (idx_bytes(IMAGES)[:16], "promises 7 x 5 x 3 values, which end at offset 121"),
    "one byte short": (idx_bytes(IMAGES)[:-1], "ends at offset 120; its header promises 7 x 5 x 3 values"),
    "one byte long": (idx_bytes(IMAGES) + b"\0", "goes on after offset 121, where the 7 x 5 x 3 values"),
    "size 0": (idx_bytes(IMAGES[:0]), r"has size 0 in dimension 0 \(offset 4\)"),
    "huge sizes": (struct.pack(">4B3I", 0, 0, 8, 3, *[2**32 - 1] * 3), "promises 4294967295 x 4294967295 x"),
}


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(folder, pack, fault):
    content, message = FAULTS[fault]
    if fault == "empty" and pack is gzip.compress:
        message = "starts with b'' at offset 0"
    path = write(folder, pack(content))
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(folder):
    with pytest.raises(DataError, match="absent-ubyte cannot be read: No such file"):
        read_idx(folder / "absent-ubyte")


PACKED = gzip.compress(idx_bytes(IMAGES), mtime=0)


@given(length=st.integers(1, len(PACKED) - 1))
@settings(max_examples=60)
def test_a_gzip_file_cut_anywhere_is_refused(folder, length):
    message = "is truncated: its gzip data break off" if length > 1 else "expected the magic"
    with pytest.raises(DataError, match=message):
        read_idx(write(folder, PACKED[:length]))


@given(at=st.integers(10, len(PACKED) - 1), flip=st.integers(1, 255))
@settings(max_examples=60)
def test_a_garbled_gzip_file_is_never_misread(folder, at, flip):
    """Every byte after gzip's own header is covered by its checksum."""
    garbled = bytearray(PACKED)
    garbled[at] ^= flip
    path = write(folder, bytes(garbled))
    try:
        np.testing.assert_array_equal(read_idx(path), IMAGES)  # a few bits of the format mean nothing
    except DataError as error:
        assert str(path) in str(error)


@given(content=st.binary(max_size=300))
@settings(max_examples=60)
def test_any_bytes_give_an_array_or_a_data_error(folder, content):
    for start in (b"", b"\0\0\x08\x01", b"\x1f\x8b\x08\0"):
        try:
            array = read_idx(write(folder, start + content))
        except DataError:
            continue
        assert idx_bytes(array) == start + content


@pytest.mark.parametrize("after", [b"abc", b"\0\0\0a", b"\x1f"])
def test_bytes_after_the_gzip_data_are_refused(folder, after):
    with pytest.raises(DataError, match="has bytes after its gzip data that are none"):
        read_idx(write(folder, PACKED + after))


@pytest.mark.parametrize("cut", [0, 1, 16, 60, 121])
@pytest.mark.parametrize("end", [b"", bytes(700), gzip.compress(b""), bytes(9) + gzip.compress(b"") * 2 + bytes(3)])
def test_several_gzip_members_are_one_file(folder, cut, end):
    """As pigz, bgzip, ``cat a.gz b.gz`` and tapes leave them."""
    plain = idx_bytes(IMAGES)
    content = gzip.compress(plain[:cut]) + bytes(cut) + gzip.compress(plain[cut:]) + end
    np.testing.assert_array_equal(read_idx(write(folder, content)), IMAGES)
    with pytest.raises(DataError, match="goes on after offset 121"):
        read_idx(write(folder, content + gzip.compress(b"more")))


def test_a_gzip_bomb_is_not_unpacked(folder):
    """The header says 7 x 5 x 3: no more than that is ever unpacked."""
    path = write(folder, gzip.compress(idx_bytes(IMAGES) + bytes(32 << 20)))
    tracemalloc.start()
    with pytest.raises(DataError, match="goes on after offset 121"):
        read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.long
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_50000_damaged_files_are_refused_or_hold_what_they_say(folder, pack):
    random = np.random.default_rng(2)
    whole = pack(idx_bytes(IMAGES))
    for _ in range(50_000):
        content = damage(random, whole)
        try:
            array = read_idx(write(folder, content))
        except DataError:
            continue
        plain = content if pack is bytes else gzip.decompress(content)
        assert idx_bytes(array) == plain
