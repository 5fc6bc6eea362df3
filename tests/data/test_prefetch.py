"""The loader gives exactly the rows of the sampler, with and without its thread, and ends cleanly."""

import threading
import traceback

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyddl.data import ArraySource, Loader, RandomSource, Sampler
from pyddl.errors import DataError, ParameterError


def numbered(rows, features=3):
    """A source whose rows say their own number."""
    return ArraySource(np.repeat(np.arange(rows, dtype=np.float32)[:, None], features, axis=1))


def loader_threads():
    return [t for t in threading.enumerate() if t.name == "pyddl-loader"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert loader_threads() == []


@given(rows=st.integers(1, 60), batch_size=st.integers(1, 70), workers=st.integers(1, 5),
       first=st.integers(0, 40), buffer_bytes=st.sampled_from([0, 200, 1000, 9999]), background=st.booleans())
@settings(max_examples=60)
def test_every_worker_gets_its_part_of_every_step(rows, batch_size, workers, first, buffer_bytes, background):
    source, sampler = numbered(rows), Sampler(rows, batch_size, seed=9)
    for worker in range(workers):
        with Loader(source, sampler, worker, workers, first_step=first, steps=25, buffer_bytes=buffer_bytes,
                    background=background) as loader:
            for step in range(first, first + 25):
                batch = loader.next()
                expected = sampler.index(sampler.epoch_of(step), *sampler.part(step, worker, workers))
                assert (batch.step, batch.seed) == (step, 9)
                np.testing.assert_array_equal(batch.index, expected)
                np.testing.assert_array_equal(batch.rows, np.repeat(expected[:, None], 3, axis=1))
                assert batch.rows.dtype == np.float32 and batch.rows.flags.c_contiguous
            assert loader.next() is None
            assert loader.next() is None


@pytest.mark.parametrize("background", [True, False])
def test_1001_rows_on_7_workers_give_the_same_sum_as_on_one(background):
    source, sampler = RandomSource(1001, 50), Sampler(1001, 100, seed=2)
    steps = 2 * sampler.steps_per_epoch

    def sums(workers):
        total = np.zeros((steps, 50))
        for worker in range(workers):
            with Loader(source, sampler, worker, workers, steps=steps, background=background) as loader:
                while (batch := loader.next()) is not None:
                    total[batch.step] += batch.rows.sum(axis=0, dtype=np.float64)
        return total

    one = sums(1)
    np.testing.assert_allclose(sums(7), one, rtol=1e-12)
    of_all_rows = np.asarray(source).sum(axis=0, dtype=np.float64)
    np.testing.assert_allclose(one[: steps // 2].sum(axis=0), of_all_rows, rtol=1e-12)


def test_without_a_number_of_steps_it_goes_on():
    with Loader(numbered(5), Sampler(5, 2), buffer_bytes=0) as loader:
        assert [loader.next().step for _ in range(100)] == list(range(100))


def test_a_batch_stays_valid_until_the_next_call():
    with Loader(numbered(50), Sampler(50, 7), steps=200, buffer_bytes=300) as loader:
        while (batch := loader.next()) is not None:
            before = batch.rows.copy()
            for _ in range(3):  # let the thread run ahead as far as it can
                threading.Event().wait(0.0001)
            np.testing.assert_array_equal(batch.rows, before)
            np.testing.assert_array_equal(batch.rows[:, 0], batch.index)


def test_a_steady_step_makes_nothing_new():
    with Loader(numbered(1000), Sampler(1000, 10), buffer_bytes=600) as loader:
        batches = {id(loader.next()) for _ in range(90)}
    assert len(batches) <= 3 * 5  # three blocks of five steps


def test_blocks_start_on_a_cache_line():
    with Loader(numbered(10, features=7), Sampler(10, 10), steps=6) as loader:
        while (batch := loader.next()) is not None:
            assert batch.rows.ctypes.data % 64 == 0 or batch.step % loader._steps_per_block


@pytest.mark.parametrize("background", [True, False])
def test_an_error_of_the_source_is_raised_with_its_traceback(background):
    class Failing(RandomSource):
        def read(self, index, out):
            if 7 in index:
                raise DataError("row 7 is lost")
            super().read(index, out)

    sampler = Sampler(10, 2, shuffle=False)
    with Loader(Failing(10, 3), sampler, buffer_bytes=0, background=background) as loader:
        assert [loader.next().step for _ in range(3)] == [0, 1, 2]
        with pytest.raises(DataError, match="row 7 is lost") as caught:
            loader.next()
        assert any(frame.name == "read" for frame in traceback.extract_tb(caught.value.__traceback__))
        if background:
            assert loader.next() is None


def test_a_bad_value_is_named_by_its_row_in_the_data(tmp_path):
    x = np.zeros((20, 4), dtype=np.float32)
    x[13, 2] = np.nan
    np.save(tmp_path / "x.npy", x)
    source = ArraySource(np.load(tmp_path / "x.npy", mmap_mode="r"), name="x.npy")
    message = r"x.npy: .* row 13, column 2 is nan"
    with Loader(source, Sampler(20, 5, seed=1)) as loader, pytest.raises(DataError, match=message):
        for _ in range(4):
            loader.next()


def test_leaving_early_or_by_an_error_ends_the_thread():
    with Loader(numbered(100), Sampler(100, 3)) as loader:
        assert len(loader_threads()) == 1
        loader.next()
    assert loader_threads() == []
    assert loader.next() is None
    with pytest.raises(RuntimeError, match="consumer's"), Loader(numbered(100), Sampler(100, 3)) as loader:
        raise RuntimeError("the consumer's")
    assert loader_threads() == []
    loader.close()  # twice is harmless


def test_more_workers_than_rows_get_empty_batches():
    with Loader(numbered(2), Sampler(2, 2), 0, 5, steps=4) as loader:
        while (batch := loader.next()) is not None:
            assert batch.rows.shape == (0, 3) and batch.index.shape == (0,)


def test_no_steps_at_all():
    with Loader(numbered(2), Sampler(2, 2), steps=0) as loader:
        assert loader.next() is None


def test_waiting_is_counted():
    with Loader(RandomSource(1000, 100), Sampler(1000, 100), steps=10, background=False) as loader:
        assert loader.waited == 0
        while loader.next() is not None:
            pass
        assert loader.waited > 0


@pytest.mark.parametrize(("arguments", "message"), [
    ({"worker": 2, "workers": 2}, "worker is 2"),
    ({"workers": 0}, "workers is 0"),
    ({"first_step": -1}, "first_step is -1"),
    ({"steps": -1}, "steps is -1"),
    ({"sampler": Sampler(6, 2)}, "sampler has 6 rows but the source has 5"),
])
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ParameterError, match=message):
        Loader(numbered(5), arguments.pop("sampler", Sampler(5, 2)), **arguments)
