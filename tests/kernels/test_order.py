"""The order of samples: a permutation, evaluated anywhere, without visible pattern."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyddl import _core

ORDER_OF_10 = [3, 6, 5, 9, 8, 7, 2, 4, 0, 1]
ORDER_OF_A_TRILLION = [642097921548, 666471398982, 145964859616]
SEEDS = st.integers(0, 2**64 - 1)


def order(n, seed=0, epoch=0, positions=None):
    positions = np.arange(n, dtype=np.int64) if positions is None else np.asarray(positions, dtype=np.int64)
    out = np.full(len(positions), -1, dtype=np.int64)
    _core.order(positions, out, n, seed, epoch)
    return out


def is_plausible_chi2(chi2, degrees):
    return abs(chi2 - degrees) < 5 * np.sqrt(2 * degrees)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 255, 256, 257, 1000, 65536, 65537])
def test_every_sample_stands_at_one_position(n):
    for seed, epoch in [(0, 0), (1, 0), (0, 1), (2**64 - 1, 2**63)]:
        np.testing.assert_array_equal(np.sort(order(n, seed, epoch)), np.arange(n))


@given(n=st.integers(0, 3000), seed=SEEDS, epoch=st.integers(0, 2**32))
@settings(max_examples=50)
def test_every_sample_stands_at_one_position_for_any_seed(n, seed, epoch):
    np.testing.assert_array_equal(np.sort(order(n, seed, epoch)), np.arange(n))


@given(n=st.integers(1, 2**62), seed=SEEDS, epoch=SEEDS, fractions=st.lists(st.floats(0, 1), max_size=20))
@settings(max_examples=50)
def test_any_position_gives_what_the_plain_loop_gives(n, seed, epoch, fractions):
    positions = [min(int(f * n), n - 1) for f in fractions]
    out = order(n, seed, epoch, positions)
    assert out.tolist() == [_core.reference_order(p, n, seed, epoch) for p in positions]
    assert all(0 <= x < n for x in out)


def test_positions_are_independent_of_what_else_is_asked():
    whole = order(1000, 5, 2)
    np.testing.assert_array_equal(order(1000, 5, 2, [999, 0, 500, 0]), whole[[999, 0, 500, 0]])


def test_it_works_in_place():
    positions = np.arange(1000)
    _core.order(positions, positions, 1000, 5, 2)
    np.testing.assert_array_equal(positions, order(1000, 5, 2))


def test_the_order_never_changes_between_versions():
    """Runs that are resumed, and results that are published, rely on these numbers."""
    assert order(10, 0, 0).tolist() == ORDER_OF_10
    assert order(10**12, 7, 3, [0, 1, 10**12 - 1]).tolist() == ORDER_OF_A_TRILLION


def test_epochs_and_seeds_give_unrelated_orders():
    n = 2000
    base = order(n, 0, 0)
    for other in [order(n, 0, 1), order(n, 1, 0), order(n, 1, 1), order(n, 2**63, 0), order(n, 0, 2**32)]:
        assert np.count_nonzero(base == other) < 10  # 1 is expected
        assert abs(np.corrcoef(base, other)[0, 1]) < 5 / np.sqrt(n)


@pytest.mark.parametrize("n", [1000, 4096, 60000])
def test_position_and_sample_are_uncorrelated(n):
    correlations = [np.corrcoef(np.arange(n), order(n, seed))[0, 1] for seed in range(20)]
    assert np.abs(correlations).max() < 4.5 / np.sqrt(n)


@pytest.mark.parametrize("n", [1000, 4096, 60000])
def test_neighbours_are_spread_evenly(n):
    """Counts of (sample, next sample) in a 16 x 16 grid, and of (position, sample)."""
    for seed in range(3):
        x = order(n, seed)
        for a, b in [(x[:-1], x[1:]), (np.arange(n), x)]:
            counts = np.histogram2d(a, b, bins=16, range=[[0, n], [0, n]])[0]
            expected = len(a) / 256
            chi2 = ((counts - expected) ** 2 / expected).sum()
            assert is_plausible_chi2(chi2, 15 * 15)  # the margins are fixed


@pytest.mark.parametrize("n", [2, 3, 4])
def test_all_orders_of_a_few_samples_are_equally_likely(n):
    kinds = {p: 0 for p in permutations(range(n))}
    epochs = 200 * len(kinds)
    for epoch in range(epochs):
        kinds[tuple(order(n, 11, epoch).tolist())] += 1
    chi2 = sum((count - 200) ** 2 / 200 for count in kinds.values())
    assert is_plausible_chi2(chi2, len(kinds) - 1)


def test_each_sample_is_first_equally_often():
    counts = np.bincount([order(50, 3, epoch, [0])[0] for epoch in range(5000)], minlength=50)
    assert is_plausible_chi2(((counts - 100) ** 2 / 100).sum(), 49)


@pytest.mark.parametrize("wrong", [-1, 10, 2**62])
def test_a_position_outside_is_refused(wrong):
    with pytest.raises(IndexError, match=rf"positions\[1\] is {wrong}; expected 0 to 9"):
        order(10, positions=[0, wrong])


def test_other_arguments_are_checked():
    two, three = np.zeros(2, dtype=np.int64), np.zeros(3, dtype=np.int64)
    with pytest.raises(ValueError, match="out has 3 elements"):
        _core.order(two, three, 10, 0, 0)
    with pytest.raises(ValueError, match="n is -1"):
        _core.order(two, two, -1, 0, 0)
    with pytest.raises(TypeError):
        _core.order(two.astype(np.int32), two, 10, 0, 0)
