"""ZCA whitening: what it promises, against the definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pyddl
from pyddl.errors import ParameterError


def rows(seed, count=400, features=5):
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(count, features)) @ random.normal(size=(features, features))
    return mixed + random.normal(size=features)


@given(seed=st.integers(0, 2**32))
def test_whitened_rows_are_uncorrelated_near_to_the_rows_and_can_be_undone(seed):
    X = rows(seed)
    zca = pyddl.ZCA(epsilon=1e-9)
    white = zca.fit_transform(X)
    np.testing.assert_allclose(zca.components_, zca.components_.T, atol=1e-9 * np.abs(zca.components_).max())
    smallest = np.linalg.eigvalsh(np.cov(X, rowvar=False, bias=True))[0]
    if smallest > 1e-3:  # where rounding of the rows to float32 and epsilon do not matter
        np.testing.assert_allclose(np.cov(white, rowvar=False, bias=True), np.eye(5), atol=2e-3)
        np.testing.assert_allclose(zca.inverse_transform(white), X, atol=1e-4)


def test_directions_without_variance_are_not_blown_up():
    X = np.column_stack([np.linspace(0, 1, 50), np.full(50, 3.0)])
    white = pyddl.ZCA().fit_transform(X)
    assert np.abs(white[:, 1]).max() < 1e-3 and white[:, 0].std() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("container", [np.asarray, pyddl.data.ArraySource, lambda X: X.astype(np.float32)])
def test_large_numbers_keep_their_digits(container):
    """Seconds since 1970: float32 has steps of 128 there."""
    random = np.random.default_rng(0)
    X = np.column_stack([1.7e9 + 6000 * random.standard_normal(5000), random.standard_normal(5000),
                         np.full(5000, 1.7e9 + 0.1), np.full(5000, 0.1)])
    white = pyddl.ZCA().fit_transform(container(X))
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(white.std(axis=0), [1, 1, 0, 0], atol=1e-3)
    assert (white[:, 2:] == 0).all()


def test_a_failed_fit_leaves_it_as_it_was():
    X = rows(0)
    zca = pyddl.ZCA().fit(X)
    before = zca.transform(X)
    with pytest.raises(ValueError, match="NaN"):
        zca.fit(np.full((4, 9), np.nan))
    np.testing.assert_array_equal(zca.transform(X), before)


def test_a_source_gives_the_same(tmp_path):
    X = rows(1, count=9000).astype(np.float32)
    np.save(tmp_path / "x.npy", X)
    source = pyddl.data.load(tmp_path / "x.npy")
    zca = pyddl.ZCA().fit(source)
    np.testing.assert_array_equal(zca.components_, pyddl.ZCA().fit(X).components_)
    assert zca.transform(source).dtype == zca.transform(X).dtype == np.float32
    assert zca.transform(X.astype(np.float64)).dtype == np.float64


def test_epsilon_is_checked():
    with pytest.raises(ParameterError, match="epsilon is 0; expected a number above 0"):
        pyddl.ZCA(epsilon=0).fit(rows(0))
