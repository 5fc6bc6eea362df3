"""Columns are joined, and met again, by their names; what has other names or another shape is refused."""

import numpy as np
import pytest

import pyddl as package
from pyddl.cli.evaluate import rows_for
from pyddl.cli.train import _settings
from pyddl.data import ArraySource, load
from pyddl.data.joined import in_order_of, training_and_test
from pyddl.errors import DataError
from pyddl.models import Autoencoder
from pyddl.train import Trainer
from pyddl.train.named import for_data
from pyddl.train.run import load_run

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
ROWS = np.random.default_rng(0).random((40, 3))
X = dict(zip("abc", ROWS.T, strict=True))
SWAPPED = {name: X[name] for name in "cab"}


def write(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return str(path)


@pytest.fixture
def parts(tmp_path):
    """A folder of two parts, columns of the second in another order."""
    folder = tmp_path / "parts"
    folder.mkdir()
    write(folder / "part-0.parquet", {name: values[:15] for name, values in X.items()})
    write(folder / "part-1.parquet", {name: values[15:] for name, values in SWAPPED.items()})
    return folder


def test_parts_of_a_folder_are_joined_by_name(parts):
    source = load(parts)
    assert source.columns == ("a", "b", "c")
    np.testing.assert_array_equal(np.asarray(source), ROWS.astype(np.float32))
    np.testing.assert_array_equal(np.asarray(load(f"{parts}:c,a")), ROWS[:, [2, 0]].astype(np.float32))


@pytest.mark.parametrize(("columns", "message"), [
    ({"a": [0.5], "b": [0.5], "x": [0.5]}, "part-2.parquet lacks c and has x; all need the same"),
    ({"a": [0.5], "b": [0.5]}, "part-2.parquet lacks c; all need the same"),
    ({**X, "d": X["a"]}, "part-2.parquet has d; all need the same"),
    ({"a": [[0.5, 0.5, 0.5]]}, "part-2.parquet are in a, those of part-0.parquet columns of numbers"),
])
def test_parts_with_other_names_are_refused(parts, columns, message):
    write(parts / "part-2.parquet", columns)
    with pytest.raises(DataError, match=message):
        load(parts)


def test_lists_of_another_name_are_refused_unless_named(tmp_path):
    for name in "pq":
        write(tmp_path / f"{name}.parquet", {name: ROWS.tolist()})
    with pytest.raises(DataError, match=r"rows of q.parquet are in q, those of p.parquet in p; expected one name"):
        load(tmp_path)


def test_data_sets_of_another_name_are_refused_unless_named(tmp_path):
    h5py = pytest.importorskip("h5py")
    for file, name in (("1.h5", "x"), ("2.h5", "y")):
        with h5py.File(tmp_path / file, "w") as out:
            out[name] = ROWS
    with pytest.raises(DataError, match=r"rows of 2.h5:y are in y, those of 1.h5:x in x; expected one name"):
        load(tmp_path)
    test = load(tmp_path / "2.h5:y")  # named, and alone: nothing to join
    assert training_and_test(load(tmp_path / "1.h5:x"), test, None, 0)[1] is test


def test_pictures_of_another_shape_are_refused(tmp_path):
    first, other, flat, grey = (np.zeros((2, *shape)) for shape in ((3, 8, 8), (8, 8, 3), (192,), (1, 3, 8, 8)))
    np.save(tmp_path / "a.npy", first)
    for rows in (flat, grey):
        np.save(tmp_path / "b.npy", rows)
        assert load(tmp_path).shape == (4, 192)
    np.save(tmp_path / "b.npy", other)
    message = r"b.npy holds pictures of 8 x 8 x 3, but a.npy of 3 x 8 x 8; all need the same"
    with pytest.raises(DataError, match=message):
        load(tmp_path)
    with pytest.raises(DataError, match=message):
        training_and_test(load(tmp_path / "a.npy"), load(tmp_path / "b.npy"), None, 0)


def test_test_data_come_in_the_order_of_the_training_data(tmp_path):
    train, test = load(write(tmp_path / "a.parquet", X)), load(write(tmp_path / "b.parquet", SWAPPED))
    np.testing.assert_array_equal(np.asarray(training_and_test(train, test, None, 0)[1]), np.asarray(train))
    part, valid = training_and_test(test, None, 0.2, 0)
    assert part.columns == valid.columns == ("c", "a", "b")
    labelled = in_order_of(load(tmp_path / "b.parquet", labels=np.arange(40)), ("a", "b", "c"), None, "a")
    assert labelled.labels[7] == 7 and labelled.minimum == train.minimum and labelled.checksum() is None
    with pytest.raises(DataError, match=r"b.parquet and of a.parquet have unlike names: b.parquet lacks b"):
        training_and_test(train, load(f"{tmp_path}/b.parquet:a,c"), None, 0)


def test_the_index_of_pandas_is_no_feature(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, index=np.arange(40) * 3).rename_axis("customer")
    frame.to_parquet(tmp_path / "a.parquet")
    frame.rename_axis(None).to_parquet(tmp_path / "b.parquet")  # called __index_level_0__
    frame.reset_index(drop=True).to_parquet(tmp_path / "c.parquet")  # a range, which is no column
    for name in "abc":
        np.testing.assert_array_equal(np.asarray(load(tmp_path / f"{name}.parquet")), ROWS.astype(np.float32))
    assert load(f"{tmp_path}/a.parquet:customer,a").columns == ("customer", "a")


def test_a_run_records_its_columns_and_later_data_follow(tmp_path):
    paths = [write(tmp_path / "a.parquet", X), write(tmp_path / "b.parquet", SWAPPED)]
    other = write(tmp_path / "other.parquet", {"a": X["a"], "b": X["b"], "z": X["c"]})
    out = str(tmp_path / "run")
    options = {"out": out, "batch_size": 10, "config": {"data": paths[0], "hidden": [2]}}
    Trainer(Autoencoder(3, hidden=(2,)), epochs=1, **options).fit(load(paths[0]))
    run = load_run(out)
    assert run.config["rows"] == {"columns": ["a", "b", "c"]}
    for path in (None, *paths):
        np.testing.assert_array_equal(np.asarray(rows_for(run, path)), ROWS.astype(np.float32))
    message = "other.parquet and of the training data of .*run have unlike names: other.parquet lacks c and has z"
    with pytest.raises(DataError, match=message):
        rows_for(run, other)
    more = write(tmp_path / "more.parquet", {**X, "z": X["c"]})
    with pytest.raises(DataError, match=r"more.parquet has z; all need .* by name, \S*more.parquet:-z$"):
        rows_for(run, more)
    assert _settings(None, f"{out}/config.toml", {})["hidden"] == (2,)

    labelled = load(paths[1], labels=np.arange(40) % 2)
    source, _ = for_data("classifier", labelled, {"encoder": out})
    assert source.columns == ("a", "b", "c")
    with pytest.raises(DataError, match=r"X has the columns of the training data of .*run in another order"):
        package.Classifier(encoder=out).fit(pytest.importorskip("pandas").DataFrame(SWAPPED), labelled.labels)

    estimator = package.load(out)
    assert estimator.feature_names_in_.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(*(estimator.transform(load(path)) for path in paths))
    with pytest.raises(DataError, match="lacks c and has z"):
        estimator.transform(load(other))

    resumed = Trainer(Autoencoder(3, hidden=(2,)), epochs=2, resume=True, **options).fit(load(paths[1]))
    assert len(resumed.metrics) == 2


def test_an_estimator_meets_columns_by_name(tmp_path):
    fitted = package.ZCA().fit(load(write(tmp_path / "a.parquet", X)))
    assert fitted.feature_names_in_.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(fitted.transform(load(write(tmp_path / "b.parquet", SWAPPED))),
                                  fitted.transform(load(tmp_path / "a.parquet")))
    pictures = package.ZCA().fit(ArraySource(np.random.default_rng(0).random((9, 2, 2, 3))))
    with pytest.raises(DataError, match="pictures of 3 x 2 x 2, but the rows that ZCA was fitted with of 2 x 2 x 3"):
        pictures.transform(ArraySource(np.zeros((9, 3, 2, 2))))
