"""Sources: arrays as they are, noise on demand, and errors that name row and column."""

import threading

import numpy as np
import pandas
import pytest

import pyddl
from pyddl.data import ArraySource, RandomSource
from pyddl.errors import DataError, ShapeError


def rows_of(source, index):
    out = np.empty((len(index), source.features), dtype=np.float32)
    source.read(np.asarray(index, dtype=np.int64), out)
    return out


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_the_array_is_kept_and_not_changed(dtype):
    x = np.arange(12).reshape(4, 3).astype(dtype)
    before = x.copy()
    source = ArraySource(x)
    assert np.shares_memory(source._rows, x)
    np.testing.assert_array_equal(rows_of(source, [3, 0]), x[[3, 0]])
    np.testing.assert_array_equal(np.asarray(source), x)
    np.testing.assert_array_equal(x, before)
    assert (source.shape, len(source), source.features, source.dtype) == ((4, 3), 4, 3, dtype)
    assert (source.minimum, source.maximum) == (0, 11)
    assert np.asarray(source).dtype == np.float32 and np.asarray(source, dtype=np.float64).dtype == np.float64


def test_images_are_rows_that_remember_their_shape():
    x = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    source = ArraySource(x, scale=1 / 255, labels=[0, 1, 2, 3, 4], name="small")
    assert (source.shape, source.image_shape, source.dtype) == ((5, 12), (4, 3), np.uint8)
    assert np.shares_memory(source._rows, x)
    np.testing.assert_allclose(np.asarray(source), x.reshape(5, 12) / 255, rtol=2e-7)
    assert source.describe() == "small: 5 x 12 uint8 (4 x 3 images), from memory"
    assert 0 <= source.minimum < source.maximum <= 1


def test_plain_bytes_are_taken_at_their_word():
    assert ArraySource(np.array([[0, 255]], dtype=np.uint8)).maximum == 255


@pytest.mark.parametrize("x", [[[1, 2], [3, 4]], np.array([[True, False]]), np.array([[1, 2]], ">i2"),
                               np.array([[1, 2]], ">f4"), np.array([[1, 2]], np.float16)])
def test_other_real_numbers_are_converted(x):
    np.testing.assert_array_equal(np.asarray(ArraySource(x)), np.asarray(x).astype(np.float32))


@pytest.mark.parametrize("x", [np.zeros((6, 4))[::2], np.zeros((6, 4))[:, ::2],
                               np.ones((6, 4), order="F"),
                               np.zeros((4, 3), dtype=[("a", "u1"), ("b", "<f8")])["b"]])
def test_arrays_of_any_layout(x):
    x[1, 1] = 7
    np.testing.assert_array_equal(rows_of(ArraySource(x), [1, 0]), x[[1, 0]])


@pytest.mark.parametrize(("x", "message"), [
    (np.zeros(3), r"shape \(3,\); expected \(rows, features\)"),
    (np.float64(3), r"shape \(\)"),
    (np.zeros((0, 3)), r"shape \(0, 3\); expected at least one row"),
    (np.zeros((3, 0)), r"shape \(3, 0\)"),
    (np.zeros((3, 2), dtype=complex), "complex128"),
])
def test_what_is_no_matrix_of_real_numbers_is_refused(x, message):
    with pytest.raises(ShapeError, match=message):
        ArraySource(x)


def test_a_column_of_a_frame_that_holds_no_numbers_is_named():
    frame = pandas.DataFrame({"age": [31.0, 40.0], "name": ["x", "y"], "old": [True, False]})
    for read in (ArraySource, pyddl.Autoencoder(hidden=(2,)).fit):
        with pytest.raises(DataError, match=r"column 'name' holds text, 'x' in row 0; expected numbers: leave the"):
            read(frame)
    frame["name"] = pandas.array([3, None], dtype="Int64")
    with pytest.raises(DataError, match=r"column 'name' has no value in row 1; expected numbers"):
        ArraySource(frame)
    with pytest.raises(DataError, match=r"X has NaN in row 1, column 'age'"):
        pyddl.ZCA().fit(pandas.DataFrame({"x": [1, 2], "age": [3, np.nan]}))
    with pytest.raises(DataError, match=r"column 1 holds text, 'b' in row 0"):
        ArraySource(np.array([[1, "b"]], dtype=object))
    mixed = ArraySource(frame[["age", "old"]])  # numbers and booleans are an array of objects
    np.testing.assert_array_equal(rows_of(mixed, [0, 1]), [[31, 1], [40, 0]])


@pytest.mark.parametrize(("dtype", "value"), [(np.float32, np.nan), (np.float32, np.inf),
                                              (np.float64, -np.inf), (np.float64, 1e300)])
def test_values_that_are_not_finite_are_named(dtype, value):
    x = np.zeros((9, 5), dtype=dtype)
    x[6, 3] = value
    with pytest.raises(DataError, match=r"people: the value in row 6, column 3 is .*; expected a finite"):
        ArraySource(x, name="people")


def test_labels_must_match():
    with pytest.raises(ShapeError, match="labels of array have 2 rows, the data 3; expected one for each row"):
        ArraySource(np.zeros((3, 2)), labels=[0, 1])


def test_the_test_part_is_made_once_and_late():
    made = []
    source = ArraySource(np.zeros((3, 2)), test=lambda: made.append(1) or ArraySource(np.ones((1, 2))))
    assert made == []
    assert source.test is source.test and source.test.maximum == 1
    assert made == [1]
    assert source.test.test is None


def test_a_view_without_copy_is_impossible():
    with pytest.raises(ValueError, match="without a copy"):
        ArraySource(np.zeros((3, 2))).__array__(copy=False)


@pytest.mark.parametrize("source", [ArraySource(np.zeros((3, 2))), RandomSource(3, 2)],
                         ids=["array", "random"])
def test_a_read_is_checked(source):
    out = np.empty((1, 2), dtype=np.float32)
    for index in (-1, 3):
        with pytest.raises(IndexError, match=rf"index\[0\] is {index}; the source has rows 0 to 2"):
            source.read(np.array([index]), out)
    with pytest.raises(ValueError, match="columns"):
        source.read(np.array([0]), np.empty((1, 3), dtype=np.float32))
    with pytest.raises(ValueError, match="rows"):
        source.read(np.array([0]), np.empty((2, 2), dtype=np.float32))


def test_noise_needs_no_memory():
    source = RandomSource(10**11, 784)
    out = rows_of(source, [10**11 - 1, 5])
    assert 0 <= out.min() < 0.01 and 0.99 < out.max() < 1
    assert (source.minimum, source.maximum, source.test, source.labels) == (0, 1, None, None)
    assert "100000000000x784" in source.describe()


def test_many_threads_may_read_at_once():
    x = np.random.default_rng(0).random((500, 50), dtype=np.float32)
    source, wrong = ArraySource(x), []

    def read(seed):
        index = np.random.default_rng(seed).integers(0, 500, 300)
        for _ in range(20):
            if not np.array_equal(rows_of(source, index), x[index]):
                wrong.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
