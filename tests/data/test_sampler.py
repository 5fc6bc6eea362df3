"""Steps, workers' parts and order: nothing lost, nothing doubled, whatever the number of workers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyddl.data import Sampler
from pyddl.errors import ParameterError


@given(rows=st.integers(1, 300), batch_size=st.integers(1, 400), workers=st.integers(1, 20),
       together=st.one_of(st.just(1), st.integers(2, 9)))
@settings(max_examples=50)
def test_parts_cover_an_epoch_exactly_once(rows, batch_size, workers, together):
    sampler = Sampler(rows, batch_size, together=together)
    covered = []
    for step in range(sampler.steps_per_epoch):
        parts = [sampler.part(step, worker, workers) for worker in range(workers)]
        sizes = [end - begin for begin, end in parts]
        assert max(sizes) - min(sizes) <= (1 if together == 1 else 2 * together - 1)
        assert max(sizes) <= sampler.most(workers)
        begins = [begin - parts[0][0] for begin, _ in parts]
        assert not any(begin % together for begin in begins), "no cut within those that are together"
        assert (parts[0][0], parts[-1][1]) == sampler.rows_of(step)
        covered += [p for begin, end in parts for p in range(begin, end)]
    assert covered == list(range(rows))


def test_1001_rows_on_7_workers_lose_and_double_nothing():
    sampler = Sampler(1001, 64, seed=3)
    for epoch in range(2):
        first = epoch * sampler.steps_per_epoch
        steps = range(first, first + sampler.steps_per_epoch)
        parts = [sampler.part(step, worker, 7) for step in steps for worker in range(7)]
        seen = np.concatenate([sampler.index(epoch, *part) for part in parts])
        np.testing.assert_array_equal(np.sort(seen), np.arange(1001))


@pytest.mark.parametrize("rows", [1, 5, 8, 23, 64])
@pytest.mark.parametrize("together", [1, 3])
def test_eight_micro_shards_are_never_cut(rows, together):
    sampler = Sampler(1000, rows, together=together)
    shards = [sampler.part(0, shard, 8) for shard in range(8)]
    for workers in (1, 2, 4, 8):
        for worker in range(workers):
            mine = shards[worker * 8 // workers : (worker + 1) * 8 // workers]
            assert sampler.part(0, worker, workers) == (mine[0][0], mine[-1][1])


def test_the_order_of_an_epoch_does_not_depend_on_the_batch_size():
    a, b = Sampler(100, 10, seed=4), Sampler(100, 33, seed=4)
    np.testing.assert_array_equal(a.index(2, 0, 100), b.index(2, 0, 100))
    assert not np.array_equal(a.index(2, 0, 100), a.index(3, 0, 100))
    assert not np.array_equal(a.index(2, 0, 100), Sampler(100, 10, seed=5).index(2, 0, 100))


def test_without_shuffling_samples_come_in_their_own_order():
    assert Sampler(9, 4, seed=1, shuffle=False).index(5, 3, 7).tolist() == [3, 4, 5, 6]


def test_steps_count_on_through_epochs():
    sampler = Sampler(10, 4)
    assert [sampler.epoch_of(step) for step in (0, 2, 3, 5, 6)] == [0, 0, 1, 1, 2]
    assert [sampler.consumed(step) for step in range(5)] == [0, 4, 8, 10, 14]
    assert sampler.rows_of(5) == (8, 10)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"rows": 0, "batch_size": 1}, "rows is 0"),
    ({"rows": 1, "batch_size": 0}, "batch_size is 0"),
    ({"rows": 1, "batch_size": 2.5}, "batch_size is 2.5"),
    ({"rows": 1, "batch_size": 1, "seed": -1}, "seed is -1"),
])
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ParameterError, match=message):
        Sampler(**arguments)
