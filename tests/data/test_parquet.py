"""Parquet: numeric columns or one of lists, in row groups; faults named."""

import io
import sys

import numpy as np
import pytest
from damage import damage
from hypothesis import given, settings
from hypothesis import strategies as st

from pyddl.data import load
from pyddl.errors import DataError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
ROWS = np.random.default_rng(0).random((50, 4))


def write(path, columns, **options):
    pq.write_table(pa.table(columns), path, **{"row_group_size": 13, **options})
    return str(path)


def columns(rows, names="abcdefgh"):
    return dict(zip(names, rows.T, strict=False))


@pytest.mark.parametrize("dtype", ["f4", "f8", "u1", "i8", "?", "f2"])
def test_numeric_columns_are_features(tmp_path, dtype):
    rows = (ROWS * 3).astype(dtype)
    source = load(write(tmp_path / "x.parquet", columns(rows)))
    np.testing.assert_array_equal(np.asarray(source), rows.astype(np.float32))
    index, out = np.array([49, 0, 12, 13, 12]), np.empty((5, 4), dtype=np.float32)
    source.read(index, out)
    np.testing.assert_array_equal(out, rows[index].astype(np.float32))
    assert (source.minimum, source.maximum) == (np.float32(rows.min()), np.float32(rows.max()))


def test_columns_of_several_types_are_joined(tmp_path):
    table = {"a": ROWS[:, 0], "b": np.arange(50), "c": (ROWS[:, 1] * 9).astype("u1")}
    source = load(write(tmp_path / "x.parquet", table))
    np.testing.assert_allclose(np.asarray(source)[:, 1], np.arange(50))


LISTS = [pa.list_(pa.float32()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 4)]


@pytest.mark.parametrize("kind", LISTS, ids=str)
def test_one_column_of_lists(tmp_path, kind):
    images = pa.array(ROWS.astype(np.float32).tolist(), type=kind)
    path = write(tmp_path / "x.parquet", {"image": images, "label": np.arange(50)})
    np.testing.assert_array_equal(np.asarray(load(path + ":image")), ROWS.astype(np.float32))
    with pytest.raises(DataError, match=r"image \(.*list.*\) cannot be read as numbers; .*x.parquet:NAME"):
        load(path)


def test_columns_can_be_chosen(tmp_path):
    path = write(tmp_path / "x.parquet", {**columns(ROWS), "name": ["x"] * 50})
    np.testing.assert_allclose(np.asarray(load(path + ":c,a")), ROWS[:, [2, 0]], rtol=1e-6)
    with pytest.raises(DataError, match=r"name \(string\) cannot be read as numbers; expected columns of numbers"):
        load(path)
    with pytest.raises(DataError, match=r"has no column 'nam'; it has a, b, c, d, name; did you mean 'name'"):
        load(path + ":nam")


@pytest.mark.parametrize(("table", "message"), [
    ({"a": [1.0, None]}, "column a has 1 empty values in row group 0"),
    ({"a": [[1.0, 2.0], None]}, "column a has 1 empty values in row group 0"),
    ({"a": [[1.0, 2.0], [1.0, None]]}, "column a has 1 empty values in its lists"),
    ({"a": [[1.0, 2.0], [1.0]]}, "the list in row 1 has 1 values; the first row has 2"),
    ({"a": [[], []]}, "lists|the list in row 0"),
    ({"a": [0.0, float("nan")]}, "the value in row 1, column 0 is nan"),
    ({"a": pa.array([], pa.float32())}, "has no rows"),
    ({"a": ["x", "y"]}, r"a \(string\) cannot be read as numbers"),
    ({}, "no column cannot be read|has no rows"),
])
def test_bad_tables_are_refused(tmp_path, table, message):
    path = write(tmp_path / "x.parquet", table)
    with pytest.raises(DataError, match=message) as caught:
        np.asarray(load(path))
    assert "x.parquet" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"PAR1" + bytes(40) + b"PAR1"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "x.parquet"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x.parquet cannot be read as Parquet"):
        load(path)


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "x.parquet", columns(ROWS))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match=r"x.parquet needs pyarrow: pip install 'pyddl\[parquet\]'"):
        load(path)


def test_shards_of_parquet(tmp_path):
    for i in range(3):
        write(tmp_path / f"part-{i}.parquet", columns(ROWS[i * 10 : i * 10 + 10]))
    np.testing.assert_allclose(np.asarray(load(tmp_path)), ROWS[:30], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(load(f"{tmp_path}:b")), ROWS[:30, 1:2], rtol=1e-6)


# ---- damage ---------------------------------------------------------------------------------------------------------

def whole(**options):
    buffer = io.BytesIO()
    write(buffer, columns(ROWS), **options)
    return buffer.getvalue()


WHOLE = {"plain": whole(use_dictionary=False, compression="none"), "packed": whole(write_page_checksum=True)}


def check_damaged(folder, content):
    path = folder / "damaged.parquet"
    path.write_bytes(content)
    try:
        source = load(path)
        rows = np.empty((min(len(source), 100), source.features), dtype=np.float32)  # it may claim any number
        source.read(np.arange(len(rows)), rows)
    except DataError as error:
        assert "damaged.parquet" in str(error)
        return
    assert rows.ndim == 2 and rows.dtype == np.float32 and np.isfinite(rows).all()


@pytest.mark.parametrize("form", WHOLE)
@given(part=st.floats(0, 1, exclude_max=True))
@settings(max_examples=40)
def test_a_file_cut_anywhere_is_refused(tmp_path_factory, form, part):
    path = tmp_path_factory.getbasetemp() / "cut.parquet"
    path.write_bytes(WHOLE[form][: int(part * len(WHOLE[form]))])
    with pytest.raises(DataError, match=r"cut.parquet"):
        load(path)


@pytest.mark.parametrize("form", WHOLE)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=100)
def test_damaged_files_are_refused_or_give_rows(tmp_path_factory, form, seed):
    check_damaged(tmp_path_factory.getbasetemp(), damage(np.random.default_rng(seed), WHOLE[form]))


@pytest.mark.long
@pytest.mark.parametrize("form", WHOLE)
def test_50000_damaged_files_are_refused_or_give_rows(tmp_path, form):
    random = np.random.default_rng(3)
    for _ in range(50_000):
        check_damaged(tmp_path, damage(random, WHOLE[form]))
