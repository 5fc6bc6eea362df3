"""What people call an array: empty, masked and strange values are named; NumPy's error state is theirs."""

import numpy as np
import pandas
import pytest

import pyddl
from pyddl.data import ArraySource, load
from pyddl.data.arrays import as_numbers
from pyddl.errors import DataError, ParameterError, ShapeError

X = np.random.default_rng(0).random((8, 3))
FRAME = pandas.DataFrame(X, columns=list("abc"))
NULLABLE = FRAME.convert_dtypes()
EMPTY = NULLABLE.copy()
EMPTY.iloc[5, 1] = pandas.NA


@pytest.mark.parametrize("frame", [
    NULLABLE, FRAME.astype("float64[pyarrow]"), FRAME.astype(object), FRAME.astype(pandas.SparseDtype("float", 0)),
    FRAME.assign(c=pandas.array([1, 0] * 4, dtype="Int64")), FRAME.assign(c=pandas.array([True, False] * 4, "boolean")),
    FRAME.assign(c=pandas.Categorical([1, 0] * 4)), FRAME.assign(c=pandas.Categorical([0.5, 1.5] * 4).codes)])
def test_frames_of_numbers_are_rows(frame):
    expected = np.column_stack([X[:, :2], np.asarray(frame["c"].astype(float))]).astype(np.float32)
    source = load(frame)
    np.testing.assert_array_equal(np.asarray(source), expected)
    assert source.columns == ("a", "b", "c")
    pyddl.ZCA().fit(frame)


@pytest.mark.parametrize(("given", "message"), [
    (EMPTY, "column 'b' has no value in row 5; expected numbers"),
    (FRAME.assign(c=pandas.array([True, None] * 4, "boolean")), "column 'c' has no value in row 1; expected numbers"),
    (FRAME.astype("float64[pyarrow]").where(X[2, 0] != FRAME), "column 'a' has no value in row 2; expected numbers"),
    (FRAME.assign(c=pandas.Categorical(["x", "y"] * 4)), "column 'c' holds text, 'x' in row 0; expected"),
    (FRAME.assign(c=pandas.date_range("2020", periods=8)),
     "column 'c' holds dates or times, '2020-01-01 00:00:00' in row 0; expected numbers: leave the column out"),
    (np.array([[1, None]]), "in row 0, column 1"),
    (np.array([[1, "x"]], dtype=object), "column 1 holds text, 'x' in row 0"),
    ([[10**400, 1]], "in row 0; expected numbers (int too la"),
    ([[1, 2], [1]], "has rows of unlike lengths"), ({"a": 1}, "expected an array of numbers"),
    (np.ma.array(X, mask=X[4, 2] == X), "masked in row 4, column 2"),
])
def test_what_is_no_number_is_named(given, message):
    for use in (load, pyddl.ZCA().fit, pyddl.Autoencoder(hidden=(2,)).fit):
        with pytest.raises((DataError, ShapeError)) as caught:
            use(given)
        assert message in str(caught.value)


def test_arrays_pass_as_they_are():
    for array in (X, np.ma.array(X), X.view(np.memmap)):
        assert np.shares_memory(as_numbers(array, "X"), X)
    assert isinstance(as_numbers(X.view(np.memmap), "X"), np.memmap)


@pytest.mark.parametrize("labels", [
    pandas.Series(["x", None] * 4, dtype="string"), pandas.Series(pandas.Categorical(["x", None] * 4)),
    pandas.Series([True, None] * 4, dtype="boolean"), pandas.Series([0, None] * 4, dtype="Int64"),
    np.array(["x", np.nan] * 4, dtype=object), np.ma.array([0, 1] * 4, mask=[0, 1] * 4),
])
def test_empty_labels_are_named(labels):
    with pytest.raises(DataError, match=r"row 1\b"):
        load(X, labels=labels)
    with pytest.raises(DataError, match=r"row 1\b"):
        pyddl.Classifier(hidden=()).fit(X, labels)


def test_numpy_s_error_state_stops_nothing():
    tiny = np.full((8, 3), 1e-300)
    tiny[0], tiny[1] = 1e-310, 0
    with np.errstate(all="raise"):
        pyddl.ZCA().fit_transform(tiny)
        fitted = pyddl.Autoencoder(hidden=(2,), epochs=1, batch_size=4, random_state=0).fit(tiny)
        assert np.isfinite(fitted.score(tiny)) and np.isfinite(fitted.transform(tiny)).all()
        assert ArraySource(np.full((2, 2), 6e-8, "f2")).maximum > 0
        with pytest.raises(DataError, match="expected a finite float32"):
            ArraySource(np.full((2, 2), 1e39))
        with pytest.raises(DataError, match=r"X has 1e\+39, infinity for a float32"):
            pyddl.ZCA().fit(np.full((2, 2), 1e39))
        with pytest.raises(ParameterError, match="reach from 0 to 1e"):
            pyddl.train.Trainer(pyddl.models.Autoencoder(3, hidden=(2,), loss="bce")).fit(tiny * 0 + [0, 1e30, 0])
        assert np.geterr()["under"] == "raise"
