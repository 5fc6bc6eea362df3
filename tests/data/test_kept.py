"""Kept rows: mapped, made once, never stale, and not needed."""

import gzip
import os

import numpy as np
import pytest
from idx_files import idx_bytes

from pyddl.data import kept
from pyddl.data.idx import read_idx_once
from pyddl.errors import DataError

BIG = np.random.default_rng(0).integers(0, 256, (2000, 28, 28), dtype=np.uint8)


@pytest.fixture
def packed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx_bytes(BIG), 1))
    return path


def copies(packed):
    folder = packed.parent / "cache/pyddl/unpacked"
    return sorted(folder.iterdir()) if folder.exists() else []


def test_the_copy_is_mapped_and_made_once(packed, monkeypatch):
    first = read_idx_once(packed)
    assert isinstance(first, np.memmap) and np.array_equal(first, BIG)
    monkeypatch.setattr(kept, "_write", None)  # not called again
    assert np.array_equal(read_idx_once(packed), BIG)
    assert len(copies(packed)) == 1


def test_a_changed_file_is_unpacked_again(packed):
    read_idx_once(packed)
    packed.write_bytes(gzip.compress(idx_bytes(255 - BIG), 2))
    assert np.array_equal(read_idx_once(packed), 255 - BIG)


def test_a_damaged_copy_is_replaced(packed):
    read_idx_once(packed)
    copies(packed)[0].write_bytes(b"\0\0\x08\x03 cut")
    assert np.array_equal(read_idx_once(packed), BIG)


def test_without_a_cache_the_values_are_in_memory(packed):
    (packed.parent / "cache").write_text("a file where the folder should be")
    array = read_idx_once(packed)
    assert not isinstance(array, np.memmap) and np.array_equal(array, BIG)


def test_a_damaged_file_is_named_and_leaves_nothing(packed):
    packed.write_bytes(packed.read_bytes()[:-100])
    with pytest.raises(DataError, match="is truncated"):
        read_idx_once(packed)
    assert copies(packed) == []


def test_what_a_killed_process_began_goes(packed):
    read_idx_once(packed)
    copy = copies(packed)[0]
    copy.unlink()
    node, living = os.uname().nodename, os.getppid()
    for whose in (f"{node}.4194305", f"{node}.{living}", "elsewhere.7"):  # Linux has no process 4194305
        copy.with_name(f".{copy.name}.{whose}.part").write_bytes(b"half")
    assert np.array_equal(read_idx_once(packed), BIG)
    assert sorted(each.name.split(".")[-2] for each in copies(packed) if each != copy) == sorted(["7", str(living)])


def test_small_files_get_no_copy(packed):
    packed.write_bytes(gzip.compress(idx_bytes(BIG[:10])))
    assert np.array_equal(read_idx_once(packed), BIG[:10]) and copies(packed) == []
