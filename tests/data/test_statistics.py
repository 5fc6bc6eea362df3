"""Statistics of all rows: right, and equal to the bit on any number of ranks."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyddl.data import ArraySource, RandomSource, find, load
from pyddl.data import statistics as module
from pyddl.data.statistics import Statistics

NAMES = ("mean", "variance", "minimum", "maximum", "largest_norm")


def on_ranks(source, size):
    """What every rank of ``size`` finds, by ranks that run one after another."""
    told = []
    for rank in range(size):  # first what each would tell the others
        with pytest.raises(StopIteration):
            Statistics(source, rank, size, lambda value: (told.append(value), next(iter(())))[1]).mean  # noqa: B018
    return [Statistics(source, rank, size, lambda value: told) for rank in range(size)]


def check(source, rtol=1e-12):
    rows = np.asarray(source).astype(np.float64)
    found = Statistics(source)
    assert (found.count, found.features) == rows.shape
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=rtol, atol=1e-300)
    np.testing.assert_allclose(found.variance, rows.var(axis=0), rtol=1e-10, atol=1e-300)
    np.testing.assert_array_equal(found.minimum, rows.min(axis=0))
    np.testing.assert_array_equal(found.maximum, rows.max(axis=0))
    assert found.largest_norm == pytest.approx(np.linalg.norm(rows, axis=1).max(), rel=1e-12)
    distances = np.linalg.norm(rows - rows.mean(axis=0), axis=1)
    assert found.largest_distance == pytest.approx(distances.max(), rel=1e-9, abs=1e-12)
    assert found.mean.dtype == found.variance.dtype == np.float64
    assert found.minimum.dtype == found.maximum.dtype == np.float32
    return found


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 3), (499, 3), (501, 3), (1501, 5), (130_001, 2)])
def test_they_are_numpys(shape):
    check(ArraySource(np.random.default_rng(1).standard_normal(shape).astype(np.float32) + 0.1))


def test_the_largest_distance_is_that_of_all_ranks():
    source = ArraySource(np.random.default_rng(1).standard_normal((1501, 5)).astype(np.float32))
    ranks = on_ranks(source, 3)
    own = []
    for each in ranks:
        assert each.mean.shape == (5,)  # gathered, and kept
        each._gather = lambda value: [own.append(value) or value]
        assert each.largest_distance > 0
    assert len(set(own)) > 1 and max(own) ** 0.5 == Statistics(source).largest_distance


def test_those_of_what_a_function_makes_of_the_rows():
    rows = np.random.default_rng(1).standard_normal((1501, 5)).astype(np.float32)

    def made(given):
        return np.maximum(given @ np.ones((5, 2), np.float32) + [0, 1], 0).astype(np.float32)

    source, values = ArraySource(rows, image_shape=(5, 1)), made(rows).astype(float)
    found = Statistics(source).through(made, 2)
    assert (found.count, found.features, found.image_shape) == (1501, 2, None)
    for name, expected in (("mean", values.mean(axis=0)), ("variance", values.var(axis=0)),
                           ("maximum", values.max(axis=0)), ("largest_norm", np.linalg.norm(values, axis=1).max()),
                           ("largest_distance", np.linalg.norm(values - values.mean(axis=0), axis=1).max())):
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-6)


def test_a_large_offset_costs_no_digits():
    rows = (np.random.default_rng(1).standard_normal((3000, 4)) + 1e6).astype(np.float32)  # in steps of 1/16
    found = check(ArraySource(rows))
    np.testing.assert_allclose(found.variance, 1, rtol=0.1)


def test_one_row_and_constant_columns_have_no_variance():
    one = check(ArraySource(np.array([[3.1, -2.0]], dtype=np.float32)))
    assert one.variance.tolist() == [0, 0]
    constant = np.full((1777, 3), [1 / 3, 0, -1e6], dtype=np.float32)
    found = check(ArraySource(constant))
    assert found.variance.tolist() == [0, 0, 0]
    np.testing.assert_array_equal(found.mean, constant[0])


def test_pixels():
    pixels = np.random.default_rng(1).integers(0, 256, (1200, 9), dtype=np.uint8)
    found = check(ArraySource(pixels, scale=1 / 255, labels=np.arange(1200)))
    assert found.labels.tolist() == list(range(1200)) and found.classes is None


@given(rows=st.integers(1, 4000), features=st.integers(1, 4), piece=st.sampled_from([1, 100, 1 << 22]),
       chunks=st.sampled_from([1, 3, 256]))
@settings(max_examples=25)
def test_any_number_of_ranks_finds_the_same_bits(rows, features, piece, chunks):
    source = RandomSource(rows, features)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE_BYTES", piece * 8 * features)
        patch.setattr(module, "CHUNKS", chunks)
        one = Statistics(source)
        for size in (1, 2, 3, 4):
            for found in on_ranks(source, size):
                for name in NAMES:
                    assert np.array_equal(getattr(found, name), getattr(one, name)), (name, size)


def test_nothing_is_read_before_it_is_asked_for_and_then_once():
    class Counting(RandomSource):
        reads = 0

        def read(self, index, out):
            Counting.reads += len(index)
            super().read(index, out)

    statistics = Statistics(Counting(1000, 2))
    assert (statistics.count, statistics.features, statistics.labels, Counting.reads) == (1000, 2, None, 0)
    for name in NAMES:
        getattr(statistics, name)
    assert Counting.reads == 1000


def test_memory_does_not_grow_with_the_rows():
    import tracemalloc

    peaks = []
    for rows in (10_000, 1_000_000):
        tracemalloc.start()
        Statistics(RandomSource(rows, 50)).mean  # noqa: B018
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 10 << 20  # the rows are 200 MB


@pytest.mark.skipif(find("mnist") is None, reason="needs MNIST: set PYDDL_DATA")
def test_mnist_is_done_at_once():
    source = load("mnist")
    begin = time.process_time()
    found = Statistics(source)
    assert found.mean.mean() == pytest.approx(0.1306604762738429, abs=1e-7)
    assert time.process_time() - begin < 2  # 0.1 s on an idle core
