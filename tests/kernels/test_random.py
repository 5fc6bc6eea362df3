"""Philox random numbers: published vectors, the bit layout, the reference, what a number depends on."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyddl import _core, random

FIELDS = {"seed": 1 << 48, "purpose": 1 << 16, "step": 1 << 40, "substep": 1 << 16}
SHAPES = [(0, 5), (5, 0), (1, 1), (3, 2), (7, 4), (2, 257), (65, 3), (101, 1), (300, 784)]


def index_of(rows, start=0):
    return np.arange(start, start + rows, dtype=np.int64)


def numbers(kind, shape, index=None, prefix="", **fields):
    out = np.full(shape, np.nan, dtype=np.float32)
    key = {"seed": 1, "purpose": random.NOISE, **fields}
    getattr(_core, prefix + kind)(out, index_of(shape[0]) if index is None else index, **key)
    return out


# Salmon et al.'s Random123, tests/kat_vectors: counter, key, result of philox4x32 with 10 rounds.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize("philox4x32", [_core.philox4x32, _core.reference_philox4x32])
def test_published_vectors(philox4x32):
    def words(column):
        return np.array([[int(word, 16) for word in row.split()] for row in column], dtype=np.uint32)

    counter, key, expected = map(words, zip(*KNOWN, strict=True))
    for copies in (1, 33):  # alone, and in the vectorised part of the loop
        out = np.zeros((3 * copies, 4), dtype=np.uint32)
        philox4x32(np.tile(counter, (copies, 1)), np.tile(key, (copies, 1)), out)
        np.testing.assert_array_equal(out, np.tile(expected, (copies, 1)))


@settings(max_examples=50, deadline=None)
@given(st.tuples(*(st.integers(0, n - 1) for n in FIELDS.values())), st.integers(0, (1 << 40) - 1))
def test_bit_layout(fields, index):
    """The layout documented in random.hpp and pyddl/random.py, written out once more."""
    seed, purpose, step, substep = fields
    low = 0xFFFFFFFF
    block = np.arange(3)
    counter = np.zeros((3, 4), dtype=np.uint32)
    counter[:, 0] = block
    counter[:, 1] = index & low
    counter[:, 2] = step & low
    counter[:, 3] = index >> 32 | step >> 32 << 8 | substep << 16
    key = np.tile(np.array([seed & low, seed >> 32 | purpose << 16], dtype=np.uint32), (3, 1))
    words = np.empty((3, 4), dtype=np.uint32)
    _core.philox4x32(counter, key, words)
    fields = {"seed": seed, "purpose": purpose, "step": step, "substep": substep}
    got = numbers("uniform", (1, 10), np.array([index]), **fields)
    np.testing.assert_array_equal(got[0], ((words >> 8) / 2**24).astype(np.float32).ravel()[:10])


@pytest.mark.parametrize("shape", SHAPES)
def test_fast_equals_reference(shape):
    key = {"seed": 2**48 - 1, "purpose": 2**16 - 1, "step": 2**40 - 1, "substep": 2**16 - 1}
    index = index_of(shape[0], 2**40 - shape[0])
    np.testing.assert_array_equal(numbers("uniform", shape, index, **key),
                                  numbers("uniform", shape, index, "reference_", **key))
    np.testing.assert_allclose(numbers("normal", shape, index, **key),
                               numbers("normal", shape, index, "reference_", **key), rtol=1e-6, atol=1e-7)
    p = numbers("uniform", shape, seed=3)
    fast, plain = np.empty_like(p), np.empty_like(p)
    _core.bernoulli(fast, p, index, **key)
    _core.reference_bernoulli(plain, p, index, **key)
    np.testing.assert_array_equal(fast, plain)


@pytest.mark.parametrize("kind", ["uniform", "normal"])
@pytest.mark.parametrize("units", [1, 6, 8, 50])
def test_a_number_depends_on_its_row_and_unit_only(kind, units):
    """Not on the rows around it, their order, or how many units were asked for."""
    whole = numbers(kind, (200, units))
    chosen = np.array([199, 0, 7, 7, 100], dtype=np.int64)
    np.testing.assert_array_equal(numbers(kind, (5, units), chosen), whole[chosen])
    np.testing.assert_array_equal(numbers(kind, (200, units + 9))[:, :units], whole)


@pytest.mark.parametrize("field", FIELDS)
def test_each_field_gives_other_numbers(field):
    base = numbers("uniform", (4, 100), **{field: 0})
    for value in (1, FIELDS[field] // 2, FIELDS[field] - 1):
        same = np.mean(numbers("uniform", (4, 100), **{field: value}) == base)
        assert same < 0.01
    rows = numbers("uniform", (2, 100), np.array([0, 2**40 - 1]))
    assert np.mean(rows[0] == rows[1]) < 0.01


LEVELS_AND_THREADS = """
import hashlib, numpy as np
from pyddl import _core
out, index = np.empty((300, 401), np.float32), np.arange(300)
sha = hashlib.sha256()
for kind in (_core.uniform, _core.normal):
    kind(out, index, 12, 3)
    sha.update(out.tobytes())
_core.bernoulli(out, np.abs(out), index, 5, 6)
sha.update(out.tobytes())
print(sha.hexdigest())
"""


def test_same_bits_on_every_level_and_any_number_of_threads():
    digests = set()
    for level, threads in [("2", "1"), ("3", "2"), ("4", "3"), ("4", "1")]:
        environment = {**os.environ, "PYDDL_LEVEL": level, "OMP_NUM_THREADS": threads}
        digests.add(subprocess.check_output([sys.executable, "-c", LEVELS_AND_THREADS], env=environment))
    assert len(digests) == 1


def chi_square_quantile(degrees, z=4.75):
    """Wilson and Hilferty's approximation; z = 4.75 is one false alarm in a million."""
    return degrees * (1 - 2 / (9 * degrees) + z * math.sqrt(2 / (9 * degrees))) ** 3


def test_uniform_is_uniform():
    u = numbers("uniform", (1000, 1000), seed=42).astype(float)
    assert u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 1 / 2) < 5 * math.sqrt(1 / 12 / u.size)
    assert abs((u**2).mean() - 1 / 3) < 5 * math.sqrt(4 / 45 / u.size)
    counts = np.bincount((u * 1024).astype(int).ravel(), minlength=1024)
    expected = u.size / 1024
    assert ((counts - expected) ** 2 / expected).sum() < chi_square_quantile(1023)


@pytest.mark.parametrize(("a", "b"), [(np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])])
@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_neighbours_are_independent(kind, a, b):
    x = numbers(kind, (1000, 1000), seed=7).astype(float)
    x = (x - x.mean()) / x.std()
    assert abs((x[a] * x[b]).mean()) < 5 / math.sqrt(x[a].size)
    assert abs((x[a] ** 2 * x[b] ** 2).mean() - 1) < 5 * math.sqrt(8 / x[a].size)


def test_normal_is_normal():
    z = numbers("normal", (2000, 1000), seed=42).astype(float).ravel()
    n = z.size
    for power, moment, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)]:
        assert abs((z**power).mean() - moment) < 5 * math.sqrt(variance / n), power
    z.sort()
    # Kolmogorov-Smirnov, at every hundredth number; 2.6 is one false alarm in a million.
    cdf = 0.5 * (1 + np.array([math.erf(v) for v in z[::100] / math.sqrt(2)]))
    assert np.abs(cdf - np.arange(0, n, 100) / n).max() < 2.6 / math.sqrt(n) + 100 / n
    for limit in (2, 3, 4, 4.5):  # tails
        expected = n * math.erfc(limit / math.sqrt(2))
        assert abs((np.abs(z) > limit).sum() - expected) < 5 * math.sqrt(expected)


def test_both_halves_of_box_muller_are_independent():
    z = numbers("normal", (1000, 1000), seed=3).astype(float)
    first, second = z[:, 0::2].ravel(), z[:, 1::2].ravel()
    angle = np.arctan2(second, first)
    counts = np.bincount(((angle / (2 * math.pi) + 0.5) * 256).astype(int).clip(0, 255), minlength=256)
    expected = first.size / 256
    assert ((counts - expected) ** 2 / expected).sum() < chi_square_quantile(255)


def test_bernoulli():
    p = np.tile(np.array([-1, 0, 0.25, 0.9, 1, 2], dtype=np.float32), (20000, 1))
    out = np.empty_like(p)
    _core.bernoulli(out, p, index_of(len(p)), 1, random.GIBBS)
    assert set(np.unique(out)) == {0.0, 1.0}
    np.testing.assert_array_equal(out[:, :2], 0)
    np.testing.assert_array_equal(out[:, 4:], 1)
    np.testing.assert_allclose(out[:, 2:4].mean(axis=0), [0.25, 0.9], atol=5 * 0.5 / math.sqrt(len(p)))
    np.testing.assert_array_equal(out, numbers("uniform", p.shape, seed=1, purpose=random.GIBBS) < p)
    _core.bernoulli(p, p, index_of(len(p)), 1, random.GIBBS)  # in place
    np.testing.assert_array_equal(p, out)


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_out_of_range_is_refused(field):
    for value in (-1, FIELDS[field]):
        with pytest.raises(ValueError, match=f"{field} is {value}; expected a whole number from 0 to"):
            numbers("uniform", (2, 3), **{field: value})


def test_wrong_arrays_are_refused():
    with pytest.raises(ValueError, match="index is 1099511627776"):
        numbers("normal", (2, 3), np.array([0, 2**40]))
    with pytest.raises(ValueError, match="index is -1"):
        numbers("normal", (2, 3), np.array([0, -1]))
    with pytest.raises(ValueError, match="index has 3 elements; expected 2"):
        numbers("uniform", (2, 3), index_of(3))
    with pytest.raises(TypeError):
        _core.uniform(np.empty((2, 3)), index_of(2), 0, 0)
    with pytest.raises(ValueError, match="p has shape"):
        _core.bernoulli(np.empty((2, 3), np.float32), np.empty((3, 2), np.float32), index_of(2), 0, 0)


def test_purposes_differ():
    purposes = [getattr(random, name) for name in random.__all__ if not name.startswith("SEED")]
    assert len(purposes) == len(set(purposes)) and all(0 < p < FIELDS["purpose"] for p in purposes)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[1]], ids=str)
def test_bernoulli_of_logits_is_bernoulli_of_their_sigmoid(shape):
    x = 3 * numbers("normal", shape, step=5)
    for prefix in ("", "reference_"):
        out, mean, expected = (np.full(shape, np.nan, dtype=np.float32) for _ in range(3))
        key = {"seed": 1, "purpose": random.GIBBS, "step": 7, "substep": 3}
        getattr(_core, prefix + "bernoulli_of_logits")(out, mean, x, index_of(shape[0]), **key)
        np.testing.assert_allclose(mean, 1 / (1 + np.exp(-x.astype(np.float64))), rtol=1e-6)
        _core.bernoulli(expected, mean, index_of(shape[0]), **key)
        np.testing.assert_array_equal(out, expected)
