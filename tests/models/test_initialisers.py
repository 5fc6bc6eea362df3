"""Initialisers: moments, counts, and that a part of a matrix is the part of the whole."""

import math

import numpy as np
import pytest

from pyddl.errors import ParameterError, ShapeError
from pyddl.models.initialisers import INITIALISERS, initialiser

NAMES = list(INITIALISERS)


def fill(name, shape, seed=1, slice_number=3, **scale):
    out = np.full(shape, np.nan, dtype=np.float32)
    initialiser(name)(out, seed=seed, slice_number=slice_number, **scale)
    return out


@pytest.mark.parametrize(("name", "scale", "variance"), [
    ("glorot_uniform", {}, 2 / 700),
    ("glorot_normal", {}, 2 / 700),
    ("glorot_normal", {"gain": 2.0}, 8 / 700),
    ("he_uniform", {}, 2 / 400),
    ("he_normal", {}, 2 / 400),
    ("normal", {"deviation": 0.1}, 0.01),
    ("uniform", {"limit": 0.3}, 0.03),
])
def test_moments(name, scale, variance):
    w = fill(name, (300, 400), **scale).astype(float)
    deviation = math.sqrt(variance)
    assert abs(w.mean()) < 5 * deviation / math.sqrt(w.size)
    assert w.var() == pytest.approx(variance, rel=5 * math.sqrt(2 / w.size))
    if "uniform" in name:
        assert np.abs(w).max() <= math.sqrt(3) * deviation * (1 + 1e-6)
    else:
        assert 4 < np.abs(w).max() / deviation < 6


def test_sparse():
    w = fill("sparse", (500, 784))
    np.testing.assert_array_equal((w != 0).sum(axis=1), 15)
    values = w[w != 0].astype(float)
    assert abs(values.mean()) < 5 / math.sqrt(values.size)
    assert values.var() == pytest.approx(1, rel=5 * math.sqrt(2 / values.size))
    per_input = (w != 0).sum(axis=0)  # each input is as likely: mean 9.57
    assert ((per_input - per_input.mean()) ** 2).mean() == pytest.approx(9.57 * (1 - 15 / 784), rel=0.3)
    np.testing.assert_array_equal((fill("sparse", (7, 10)) != 0).sum(axis=1), 10)
    np.testing.assert_array_equal((fill("sparse", (7, 10), incoming=3) != 0).sum(axis=1), 3)


@pytest.mark.parametrize("name", NAMES)
def test_a_part_is_the_part_of_the_whole(name):
    whole = fill(name, (20, 30))
    fans = {"glorot_uniform": {"fan_in": 30, "fan_out": 20}, "glorot_normal": {"fan_in": 30, "fan_out": 20},
            "he_uniform": {"fan_in": 30}, "he_normal": {"fan_in": 30}, "sparse": {"fan_in": 30}}.get(name, {})
    np.testing.assert_array_equal(fill(name, (6, 30), first_row=5, **fans), whole[5:11])
    np.testing.assert_array_equal(fill(name, (20, 7), first_column=13, **fans), whole[:, 13:20])
    np.testing.assert_array_equal(fill(name, (4, 5), first_row=16, first_column=0, **fans), whole[16:, :5])


@pytest.mark.parametrize("name", NAMES)
def test_seed_and_slice_make_the_difference(name):
    base = fill(name, (20, 30))
    np.testing.assert_array_equal(fill(name, (20, 30)), base)
    assert not np.array_equal(fill(name, (20, 30), seed=2), base)
    assert not np.array_equal(fill(name, (20, 30), slice_number=4), base)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 1)])
def test_small_shapes(name, shape):
    assert np.isfinite(fill(name, shape)).all()


def test_errors():
    with pytest.raises(ParameterError, match="did you mean 'he_normal'"):
        initialiser("he_norml")
    for name in NAMES:
        with pytest.raises(ShapeError, match="expected a contiguous float32 array"):
            initialiser(name)(np.empty((3, 4)), seed=0, slice_number=0)
        with pytest.raises(ParameterError, match="seed"):
            fill(name, (2, 3), seed=-1)
    with pytest.raises(ParameterError, match="limit"):
        fill("uniform", (2, 3), limit=-1)
    with pytest.raises(ParameterError, match="gain"):
        fill("glorot_normal", (2, 3), gain=-1)
    with pytest.raises(ShapeError, match="fan_in"):
        fill("sparse", (2, 30), fan_in=20)
