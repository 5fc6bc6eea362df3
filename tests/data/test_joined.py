"""Folders of shards, and a validation part drawn by chance."""

import gzip
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from idx_files import idx_bytes

from pyddl.data import ArraySource, RandomSource, load, split
from pyddl.errors import DataError, ParameterError

ROWS = np.random.default_rng(0).random((10, 3)).astype(np.float32)


@pytest.fixture
def shards(tmp_path):
    for name, rows in (("b.npy", ROWS[4:7]), ("a.npy", ROWS[:4]), ("c.npy", ROWS[7:])):
        np.save(tmp_path / name, rows)
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / ".a.npy.crc").touch()
    return tmp_path


def test_a_folder_is_read_in_the_order_of_the_names(shards):
    source = load(shards)
    np.testing.assert_array_equal(np.asarray(source), ROWS)
    out = np.empty((4, 3), dtype=np.float32)
    source.read(np.array([9, 0, 4, 9]), out)
    np.testing.assert_array_equal(out, ROWS[[9, 0, 4, 9]])
    assert (source.minimum, source.maximum) == (ROWS.min(), ROWS.max())
    assert "10 x 3 of 3 files" in source.describe()


def test_idx_shards_are_images(tmp_path):
    images = np.arange(24, dtype=np.uint8).reshape(6, 2, 2)
    (tmp_path / "1-ubyte").write_bytes(idx_bytes(images[:2]))
    (tmp_path / "2-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images[2:])))
    source = load(tmp_path)
    assert source.image_shape == (2, 2)
    np.testing.assert_allclose(np.asarray(source), images.reshape(6, 4) / 255, rtol=2e-7)


def test_shards_of_unequal_width_are_refused_with_both_names(shards):
    np.save(shards / "b.npy", np.zeros((3, 4)))
    with pytest.raises(DataError, match=r"b.npy has 4 features but a.npy has 3; all need the same"):
        load(shards)


@pytest.mark.parametrize(("name", "content", "message"), [
    ("d.npy", b"no array", r"d.npy starts with b'no arr' at offset 0"),
    ("d.npy", b"", r"d.npy starts with b'' at offset 0"),
    ("d-ubyte", b"", r"folder of several kinds of files: a.npy and d-ubyte"),
    ("README.txt", b"rows", r"folder of several kinds of files: README.txt and a.npy"),
    ("README", b"rows", r"README is of no supported kind"),
])
def test_a_bad_shard_is_named(shards, name, content, message):
    (shards / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(shards)


def test_a_folder_without_files_is_refused(tmp_path):
    with pytest.raises(DataError, match="is a folder without files"):
        load(tmp_path)


def test_nan_in_a_shard_is_named_when_it_is_read(shards):
    bad = ROWS[4:7].copy()
    bad[1, 2] = np.nan
    np.save(shards / "b.npy", bad)
    with pytest.raises(DataError, match=r"b.npy: the value in row 1, column 2 is nan"):
        np.asarray(load(shards))


@pytest.mark.parametrize("index", [[10], [-1], [0, 99]])
def test_rows_outside_are_refused(shards, index):
    for source in (load(shards), *split(load(shards), 0.5)):
        out = np.empty((len(index), 3), dtype=np.float32)
        with pytest.raises(IndexError):
            source.read(np.array(index), out)


@given(rows=st.integers(2, 300), fraction=st.floats(0.001, 0.999), seed=st.integers(0, 2**64 - 1))
def test_a_split_has_every_row_once(rows, fraction, seed):
    whole = ArraySource(np.arange(rows, dtype=np.float32)[:, None], labels=np.arange(rows))
    train, valid = split(whole, fraction, seed)
    assert len(train) >= 1 and len(valid) >= 1 and abs(len(valid) - fraction * rows) <= 1
    values = np.concatenate([np.asarray(train), np.asarray(valid)])[:, 0]
    assert sorted(values.tolist()) == list(range(rows))
    np.testing.assert_array_equal(train.labels, np.asarray(train)[:, 0])


def test_a_split_follows_the_seed_alone():
    whole = ArraySource(np.arange(100, dtype=np.float32)[:, None])
    parts = [np.asarray(split(whole, 0.2, seed)[1])[:, 0].tolist() for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]
    assert parts[0] != sorted(parts[0]), "not the first rows"


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan"), "much"])
def test_impossible_fractions_are_refused(fraction):
    with pytest.raises(ParameterError, match="validation is"):
        split(RandomSource(10, 2), fraction)


def test_one_row_cannot_be_split():
    with pytest.raises(ParameterError, match="has 1 row; a validation part needs at least 2"):
        split(RandomSource(1, 2), 0.5)


def test_empty_parts_are_parts(shards):
    np.save(shards / "aa.npy", np.zeros((0, 3)))
    np.testing.assert_array_equal(np.asarray(load(shards)), ROWS)
    labels = shards.parent / f"{shards.name}-labels"
    labels.mkdir()
    for name, rows in (("a", 4), ("aa", 0), ("b", 6)):
        np.save(labels / f"{name}.npy", np.arange(rows))
    assert load(shards, labels=labels).labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4, 5]
    for name in "abc":
        np.save(shards / f"{name}.npy", np.zeros((0, 3)))
    with pytest.raises(DataError, match=r"shape \(0, 3\); expected \(rows, features\), at least one of each"):
        load(shards)


def test_what_lies_beside_parts_is_named(shards):
    (shards / "_temporary").mkdir()  # as Spark has it while it writes
    (shards / ".b.npy").symlink_to("nowhere")
    os.symlink(shards / "a.npy", shards / "d.npy")
    assert len(load(shards)) == 14
    link = shards / "e.npy"
    link.symlink_to("gone.npy")
    with pytest.raises(DataError, match=r"holds e.npy, a link to gone.npy, which is not there; expected files of data"):
        load(shards)
    link.unlink()
    (shards / "more").mkdir()
    np.save(shards / "more/a.npy", np.zeros((2, 3)))
    with pytest.raises(DataError, match=r"holds more, a folder, beside files, whose rows would be left out"):
        load(shards)
