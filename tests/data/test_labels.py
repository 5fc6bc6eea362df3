"""Labels: from arrays and files of every kind to the batches of every worker, always those of the row."""

import io
import tracemalloc
from functools import cache

import numpy as np
import pytest
from damage import damage
from hypothesis import given, settings
from hypothesis import strategies as st
from idx_files import idx_bytes

from pyddl.data import ArraySource, JoinedSource, Loader, RandomSource, Sampler, load, split
from pyddl.data.joined import training_and_test
from pyddl.data.labels import as_labels, take
from pyddl.data.tickets import TicketLoader, Tickets
from pyddl.errors import DataError, ShapeError

ROWS = np.random.default_rng(0).random((50, 3)).astype(np.float32)


def numbered(rows, targets=None, dtype=np.int64):
    """A source whose rows and labels say their own number."""
    x = np.repeat(np.arange(rows, dtype=np.float32)[:, None], 3, axis=1)
    labels = np.arange(rows, dtype=dtype)
    return ArraySource(x, labels=labels if targets is None else labels[:, None] * 10 + np.arange(targets, dtype=dtype))


# ---- arrays ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("given_", "expected", "dtype", "classes"), [
    ([3, 1, 2], [3, 1, 2], np.int64, None),
    (np.array([3, 1, 2], np.uint8), [3, 1, 2], np.uint8, None),
    (np.array([3, 1, 2], ">i4"), [3, 1, 2], np.int32, None),
    (np.array([[3], [1], [2]]), [3, 1, 2], np.int64, None),
    (np.array([True, False, True]), [1, 0, 1], np.uint8, None),
    (np.array([0.5, 1, 2], np.float16), [0.5, 1, 2], np.float32, None),
    ([[1.5, 2], [3, 4], [5, 6]], [[1.5, 2], [3, 4], [5, 6]], np.float64, None),
    (["no", "yes", "no"], [0, 1, 0], np.int64, ("no", "yes")),
    (np.array(["b", "a", "b"], object), [1, 0, 1], np.int64, ("a", "b")),
    (np.array([b"b", b"a", b"b"]), [1, 0, 1], np.int64, ("a", "b")),
])
def test_arrays_become_labels(given_, expected, dtype, classes):
    source = load(ROWS[:3], labels=given_)
    np.testing.assert_array_equal(source.labels, expected)
    assert (source.labels.dtype, source.classes) == (dtype, classes)
    assert source.label_type == (np.shape(expected)[1:], dtype)
    np.testing.assert_array_equal(np.asarray(source), ROWS[:3])


@pytest.mark.parametrize(("given_", "error", "message"), [
    (np.zeros(49), ShapeError, "labels of array have 49 rows, the data 50; expected one for each row"),
    (np.zeros((50, 2, 2)), ShapeError, r"labels of array have shape \(50, 2, 2\); expected \(rows,\) or"),
    (np.zeros((50, 0)), ShapeError, "shape"),
    (np.where(np.arange(50) == 7, np.nan, 1), DataError, "the label of row 7 of array is nan; expected finite"),
    (np.where(np.arange(100).reshape(50, 2) == 99, np.inf, 1), DataError, "the label of row 49 of array"),
    (np.zeros(50, complex), DataError, "labels of array are complex128; expected integers"),
    ([["a", "b"]] * 50, DataError, "are text in 2 columns"),
    (np.array(["a"] * 9 + [None] + ["b"] * 40, object), DataError, "the label of row 9 of array is None; expected"),
])
def test_wrong_labels_are_refused(given_, error, message):
    with pytest.raises(error, match=message):
        load(ROWS, labels=given_)


def test_labels_that_are_given_come_before_those_of_the_set_whose_test_part_then_has_none():
    own, other = load("digits"), load("digits", labels=np.arange(1500) % 2)
    assert own.label_type == own.test.label_type == ((), np.int64)
    np.testing.assert_array_equal(other.labels, np.arange(1500) % 2)
    assert other.test.shape == (297, 64) and other.test.labels is None and other.test.label_type is None
    assert other.describe() == "digits: 1500 x 64 uint8 (8 x 8 images), from scikit-learn; int64 labels from memory"
    assert (other.minimum, other.maximum, other.fingerprint()) == (own.minimum, own.maximum, own.fingerprint())
    assert other.checksum() != own.checksum() == load("digits").checksum()
    assert load(own, labels=own.labels[::-1].copy()) is not own and own.labels[0] == 0  # the source is left as it was


def test_sources_and_named_sets_give_labels():
    digits = load("digits")
    np.testing.assert_array_equal(load(np.ones((1500, 2)), labels="digits").labels, digits.labels)
    np.testing.assert_array_equal(load(np.ones((1500, 2)), labels=digits).labels, digits.labels)
    targets = load(ROWS, labels=ArraySource(np.arange(100).reshape(50, 2).astype(np.float64)))
    np.testing.assert_array_equal(targets.labels, np.arange(100).reshape(50, 2))
    assert load(ROWS, labels=RandomSource(50, 1)).label_type == ((), np.float32)
    assert load("random:50x4", labels="random:50x2").label_type == ((2,), np.float32)


# ---- files ----------------------------------------------------------------------------------------------------------

def test_npy_labels_are_mapped_not_read(tmp_path):
    np.save(tmp_path / "x.npy", ROWS)
    np.save(tmp_path / "y.npy", np.arange(100, dtype=np.int16).reshape(50, 2))
    source = load(tmp_path / "x.npy", labels=tmp_path / "y.npy")
    assert source.label_type == ((2,), np.int16) and isinstance(source.labels, np.memmap)
    assert source.describe().endswith(f"int16 labels, 2 in a row from {tmp_path}/y.npy")
    np.save(tmp_path / "names.npy", np.array(["x", "a"] * 25))
    assert load(tmp_path / "x.npy", labels=str(tmp_path / "names.npy")).classes == ("a", "x")
    np.save(tmp_path / "short.npy", np.zeros(49))
    with pytest.raises(ShapeError, match=r"labels of x.npy have 49 rows, the data 50"):
        load(tmp_path / "x.npy", labels=tmp_path / "short.npy")
    with pytest.raises(DataError, match=r"labels 'nothing.npy' are neither"):
        load(tmp_path / "x.npy", labels="nothing.npy")


def test_large_mapped_labels_are_not_copied(tmp_path):
    rows = 2_000_000
    np.save(tmp_path / "y.npy", np.arange(rows))
    tracemalloc.start()
    source = load(RandomSource(rows, 2), labels=tmp_path / "y.npy")
    train, valid = split(source, 0.1)
    joined = JoinedSource([source, source], name="two", origin="here")
    for each in (source, train, valid, joined):
        with Loader(each, Sampler(len(each), 100), steps=3, background=False) as loader:
            assert len(loader.next().labels) == 100
    assert tracemalloc.get_traced_memory()[1] < rows * 8 / 2
    tracemalloc.stop()


def test_idx_labels(tmp_path):
    (tmp_path / "images-ubyte").write_bytes(idx_bytes(np.zeros((4, 2, 2), dtype=np.uint8)))
    (tmp_path / "labels-ubyte").write_bytes(idx_bytes(np.array([3, 1, 9, 255], dtype=np.uint8)))
    source = load(tmp_path / "images-ubyte", labels=tmp_path / "labels-ubyte")
    assert source.labels.tolist() == [3, 1, 9, 255]


def test_hdf5_labels(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["x"], file["y"] = ROWS, np.arange(100).reshape(50, 2)
        file.create_dataset("packed", data=np.arange(50, dtype=np.int64) + 2**40, chunks=(7,), compression="gzip")
        file["names"] = ["cat", "dog"] * 25
    for name, expected in (("y", np.arange(100).reshape(50, 2)), ("packed", np.arange(50) + 2**40),
                           ("names", np.arange(50) % 2)):
        source = load(f"{path}:x", labels=f"{path}:{name}")
        np.testing.assert_array_equal(source.labels, expected)
        np.testing.assert_array_equal(np.asarray(source), ROWS)
    assert source.classes == ("cat", "dog")
    np.testing.assert_array_equal(np.asarray(load(path, labels=f"{path}:y")), ROWS)  # the only one of rows then
    with pytest.raises(DataError, match=r"which data set\? it has names, packed, x, y; expected x.h5:NAME with one"):
        load(f"{path}:x", labels=path)
    with pytest.raises(DataError, match=r"has no data set 'nams'; .* did you mean 'names'"):
        load(f"{path}:x", labels=f"{path}:nams")


def test_a_folder_of_labels_is_joined(tmp_path):
    (tmp_path / "y").mkdir()
    for i in range(2):
        np.save(tmp_path / "y" / f"{i}.npy", np.array([["a", "c"], ["b", "c"]][i]))
    source = load(ROWS[:4], labels=tmp_path / "y")
    assert (source.classes, source.labels.tolist()) == (("a", "b", "c"), [0, 2, 1, 2])
    np.save(tmp_path / "y" / "2.npy", np.zeros(3))
    with pytest.raises(DataError, match="labels of different kinds"):
        load(ROWS[:7], labels=tmp_path / "y")


@pytest.fixture
def table(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")

    def write(name="f.parquet", begin=0, **more):
        x = ROWS[begin:]
        columns = {"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "y": np.arange(begin, 50, dtype=np.uint8),
                   "z": np.arange(begin, 50) * 0.5, "word": ["pear", "fig"] * 25 if not begin else ["kiwi"] * len(x),
                   **more}
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({key: value for key, value in columns.items() if value is not None}), tmp_path / name,
                       row_group_size=13)
        return str(tmp_path / name)

    write.pa = pa
    return write


def test_parquet_features_and_labels_by_name(table):
    path = table()
    source = load(f"{path}:a,b,c", labels=f"{path}:y")
    np.testing.assert_array_equal(np.asarray(source), ROWS)
    np.testing.assert_array_equal(source.labels, np.arange(50))
    assert source.labels.dtype == np.int64
    source = load(f"{path}:c,a", labels=f"{path}:z,y")
    np.testing.assert_array_equal(source.labels, np.column_stack([np.arange(50) * 0.5, np.arange(50)]))
    source = load(f"{path}:a", labels=f"{path}:word")
    assert source.classes == ("fig", "pear") and source.labels[:3].tolist() == [1, 0, 1]


def test_a_column_of_labels_is_no_feature_where_none_are_named(table):
    path = table(word=None)
    source = load(path, labels=f"{path}:y,z")
    assert source.shape == (50, 3)
    assert source.describe().endswith(f"float64 labels, 2 in a row from {path}:y,z (left out of the features: y, z)")
    assert load(f"{path}:a,y", labels=f"{path}:y").shape == (50, 2)  # asked for
    path = table(z=None)
    assert load(path, labels=f"{path}:word").shape == (50, 4)  # text, which without labels is refused


def test_parquet_booleans_categories_and_lists(table):
    pa = table.pa
    path = table(flag=np.arange(50) % 2 == 0, kind=pa.array(["u", "v"] * 25).dictionary_encode(),
                 pair=pa.array(np.arange(100).reshape(50, 2).tolist()))
    assert load(f"{path}:a", labels=f"{path}:flag").labels[:3].tolist() == [1, 0, 1]
    assert load(f"{path}:a", labels=f"{path}:kind").classes == ("u", "v")
    np.testing.assert_array_equal(load(f"{path}:a", labels=f"{path}:pair").labels, np.arange(100).reshape(50, 2))


@pytest.mark.parametrize(("column", "labels", "message"), [
    ({}, "yy", r"has no column 'yy'; it has .*did you mean 'y'"),
    ({}, "", r"which column holds the labels\? It has a, b, c"),
    ({}, "y,word", r"column word holds text \(string\); expected numbers: only a column that is the only one"),
    ({"bad": [None if i == 17 else 1 for i in range(50)]}, "bad", "column bad has 1 empty values, the first in row 17"),
    ({"bad": np.where(np.arange(50) == 17, np.nan, 1)}, "bad", "the label of row 17 of .*:bad is nan"),
    ({"bad": [[1]] * 17 + [[1, 2]] * 33}, "bad", "the list in row 17 has 2 values; the first row has 1"),
    ({"bad": np.arange(50).astype("M8[s]")}, "bad", "column bad holds timestamp"),
])
def test_wrong_columns_of_labels_are_refused(table, column, labels, message):
    path = table(**column)
    with pytest.raises(DataError, match=message):
        load(f"{path}:a", labels=f"{path}:{labels}" if labels else path)


def test_a_column_without_its_file_is_told_the_file(table):
    path = table()
    with pytest.raises(DataError, match=rf"labels 'y' are neither .*; did you mean '{path}:y'\?"):
        load(f"{path}:a,y", labels="y")
    with pytest.raises(DataError, match=r"did you mean 'digits'\?"):
        load(f"{path}:a,y", labels="digit")


def test_labels_at_an_address(table):
    pytest.importorskip("fsspec")
    path = f"file://{table()}"
    source = load(path, labels=f"{path}:word")
    assert source.shape == (50, 5) and source.classes == ("fig", "pear")


@given(kind=st.sampled_from(["npy", "h5", "parquet"]), seed=st.integers(0, 2**32))
@settings(max_examples=150)
def test_damaged_labels_are_refused_or_labels(tmp_path_factory, kind, seed):
    path = tmp_path_factory.getbasetemp() / f"damaged.{kind}"
    path.write_bytes(damage(np.random.default_rng(seed), whole(kind)))
    try:
        source = load(RandomSource(50, 2), labels=f"{path}:y" if kind != "npy" else path)
    except (DataError, ShapeError) as error:
        assert f"damaged.{kind}" in str(error) or "rows" in str(error)
        return
    assert len(source.labels) == 50


@cache
def whole(kind):
    """A file of labels."""
    buffer = io.BytesIO()
    if kind == "npy":
        np.save(buffer, np.arange(50.0))
    elif kind == "h5":
        with pytest.importorskip("h5py").File(buffer, "w") as file:
            text = np.array([b"cat", b"dog"] * 25)  # of one length: HDF5 hangs in damaged heaps of others
            file.create_dataset("y", data=text, chunks=(7,), compression="gzip")
    else:
        pq = pytest.importorskip("pyarrow.parquet")
        pq.write_table(pytest.importorskip("pyarrow").table({"y": ["cat", "dog"] * 25}), buffer, row_group_size=13)
    return buffer.getvalue()


def test_folders_of_parts_with_labels(table, tmp_path):
    table("parts/0.parquet")
    table("parts/1.parquet", begin=40)
    source = load(tmp_path / "parts", labels=f"{tmp_path / 'parts'}:word")
    assert source.shape == (60, 5)
    assert source.classes == ("fig", "kiwi", "pear") and source.labels[48:52].tolist() == [2, 0, 1, 1]


def test_sources_of_other_classes_are_joined_to_all(table):
    parts = [load(ROWS[:2], labels=["b", "a"]), load(ROWS[2:4], labels=["c", "a"])]
    joined = JoinedSource(parts, name="two", origin="here")
    assert (joined.classes, joined.labels.tolist()) == (("a", "b", "c"), [1, 0, 2, 0])
    out = np.empty(3, np.int64)
    joined.read_labels(np.array([3, 2, 0]), out)
    assert out.tolist() == [0, 2, 1]
    mixed = [load(ROWS[:2], labels=[1, 2]), load(ROWS[2:4], labels=[0.5, 1])]
    assert JoinedSource(mixed, name="two", origin="here").labels.tolist() == [1, 2, 0.5, 1]
    assert JoinedSource([parts[0], load(ROWS[:2])], name="two", origin="here").labels is None
    with pytest.raises(DataError, match="labels of array and of array are of different kinds: int64 labels, and lab"):
        JoinedSource([parts[0], mixed[0]], name="two", origin="here")


def test_test_data_number_the_classes_of_the_training_data():
    train, test = load(ROWS[:3], labels=["a", "c", "b"]), load(ROWS[3:5], labels=["c", "b"])
    assert test.labels.tolist() == [1, 0]
    _, tested = training_and_test(train, test, None, 0)
    assert tested.labels.tolist() == [2, 1] and tested.classes == ("a", "b", "c")
    assert tested.shape == (2, 3)
    with pytest.raises(DataError, match="array has labels of class 'd', which is none of the 3 classes"):
        training_and_test(train, load(ROWS[3:5], labels=["d", "b"]), None, 0)
    with pytest.raises(DataError, match="the test data, has int64 labels, but array has labels of 3 classes"):
        training_and_test(train, load(ROWS[3:5], labels=[1, 2]), None, 0)
    unlabelled = load(ROWS)
    assert training_and_test(train, unlabelled, None, 0) == (train, unlabelled)


# ---- batches --------------------------------------------------------------------------------------------------------

SOURCES = {
    "array": lambda rows, targets: numbered(rows, targets),
    "part": lambda rows, targets: split(numbered(rows + 5, targets), 5 / (rows + 5), 3)[0],
    "joined": lambda rows, targets: JoinedSource(
        [load(np.asarray(whole)[a:b], labels=whole.labels[a:b]) for whole in [numbered(rows, targets)]
         for a, b in [(0, rows // 3 + 1), (rows // 3 + 1, rows)] if a < b], name="j", origin="here"),
    "fortran": lambda rows, targets: load(np.asarray(numbered(rows)),
                                          labels=np.asfortranarray(numbered(rows, targets).labels)),
}


def check(batch, targets):
    """The row says its number, and so do its labels."""
    number = batch.rows[:, 0].astype(np.int64)
    expected = number if targets is None else number[:, None] * 10 + np.arange(targets)
    np.testing.assert_array_equal(batch.labels, expected)
    assert batch.labels.dtype == np.int64 and batch.labels.flags.c_contiguous


@given(kind=st.sampled_from(sorted(SOURCES)), rows=st.integers(1, 60), batch_size=st.integers(1, 70),
       workers=st.integers(1, 4), targets=st.sampled_from([None, 2, 3]), background=st.booleans(),
       buffer_bytes=st.sampled_from([0, 200, 9999]))
@settings(max_examples=100)
def test_labels_are_those_of_the_row(kind, rows, batch_size, workers, targets, background, buffer_bytes):
    source, sampler = SOURCES[kind](rows, targets), Sampler(rows, batch_size, seed=4)
    for worker in range(workers):
        with Loader(source, sampler, worker, workers, steps=12, background=background,
                    buffer_bytes=buffer_bytes) as loader:
            while (batch := loader.next()) is not None:
                check(batch, targets)
                if kind != "part":
                    np.testing.assert_array_equal(batch.rows[:, 0], batch.index)
                part = batch.part(len(batch) // 3, len(batch))
                check(part, targets)


@given(kind=st.sampled_from(sorted(SOURCES)), rows=st.integers(1, 60), batch_size=st.integers(1, 30),
       slices=st.integers(1, 4), targets=st.sampled_from([None, 2]), data=st.data())
@settings(max_examples=60)
def test_labels_of_tickets_are_those_of_the_row(kind, rows, batch_size, slices, targets, data):
    row = data.draw(st.integers(0, rows - 1))
    source, sampler = SOURCES[kind](rows, targets), Sampler(rows, batch_size, seed=4)
    tickets = iter(range(Tickets(sampler, slices, row).count))
    loaders = [TicketLoader(source, sampler, slices, lambda: next(tickets, None)) for _ in range(2)]
    for loader in loaders:
        loader.begin_epoch(1, row)
    seen, left = [], list(loaders)
    while left:
        for loader in list(left):
            if (batch := loader.next()) is None:
                left.remove(loader)
            else:
                check(batch, targets)
                seen += batch.index.tolist()
    assert sorted(seen) == sorted(sampler.index(1, row, rows).tolist())


def test_without_labels_batches_have_none():
    with Loader(RandomSource(10, 3), Sampler(10, 4), steps=3) as loader:
        assert loader.next().labels is None
    assert TicketLoader(RandomSource(10, 3), Sampler(10, 4), 1, iter([0]).__next__).next().labels is None


def test_a_steady_step_allocates_nothing():
    source, sampler = numbered(10_000, 4), Sampler(10_000, 1000)
    tickets = iter(range(1000))
    with Loader(source, sampler, background=False, buffer_bytes=0) as loader:
        for each in (loader, TicketLoader(source, sampler, 1, lambda: next(tickets, None))):
            if each is not loader:
                each.begin_epoch(0)
            each.next()
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(5):
                batch = each.next()
            peak = tracemalloc.get_traced_memory()[1] - before
            tracemalloc.stop()
            assert len(batch) == 1000 and peak < batch.labels.nbytes


def test_indices_outside_are_refused():
    values, out = np.arange(5), np.full(2, -1)
    for wrong in ([0, 5], [-1, 0]):
        with pytest.raises(IndexError, match="there are 5"):
            take(values, np.array(wrong), out)
        assert out.tolist() == [-1, -1]
    assert as_labels(values, "x").values is values  # no copy
