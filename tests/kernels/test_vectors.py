"""Helpers on flat vectors: the reference, exact small answers, the same bits on any number of threads."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest

from pyddl import _core

SIZES = [0, 1, 7, 16, 1009, 4097, 200_003]


def vector(n, seed=0):
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32)


@pytest.mark.parametrize("n", SIZES)
def test_elementwise_equals_reference(n):
    x = vector(n)
    before = x.copy()
    for name, own in [("add", ()), ("add_scaled", (-0.3,)), ("approach", (0.001,))]:
        fast, plain = vector(n, 1), vector(n, 1)
        getattr(_core, name)(fast, x, *own)
        getattr(_core, "reference_" + name)(plain, x, *own)
        np.testing.assert_array_equal(fast, plain)
    np.testing.assert_array_equal(x, before)
    fast, plain = x.copy(), x.copy()
    _core.scale(fast, 0.1)
    _core.reference_scale(plain, 0.1)
    np.testing.assert_array_equal(fast, plain)


@pytest.mark.parametrize("n", SIZES)
def test_sum_of_squares(n):
    x = vector(n)
    exact = math.fsum(float(v) ** 2 for v in x)
    assert _core.sum_of_squares(x) == pytest.approx(exact, rel=1e-14)
    assert _core.reference_sum_of_squares(x) == pytest.approx(exact, rel=1e-14)


def test_sum_of_squares_does_not_overflow():
    assert _core.sum_of_squares(np.full(3, 1e30, dtype=np.float32)) == pytest.approx(3e60, rel=1e-6)


@pytest.mark.parametrize("n", SIZES[1:])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_first_not_finite(n, bad):
    x = vector(n)
    x[0] = np.finfo(np.float32).max
    x[-1] = 1e-45
    assert _core.first_not_finite(x) == _core.reference_first_not_finite(x) == -1
    for at in {n - 1, n // 2, n // 3, 0}:
        x[at] = bad  # ever earlier, with the later ones still there
        assert _core.first_not_finite(x) == np.flatnonzero(~np.isfinite(x))[0]
        assert _core.reference_first_not_finite(x) == np.flatnonzero(~np.isfinite(x))[0]


def test_wrong_arrays_are_refused():
    x = vector(4)
    with pytest.raises(ValueError, match="into has 4 elements, x has 3"):
        _core.add(x, x[:3])
    with pytest.raises(TypeError):
        _core.add(x, x.astype(float))
    with pytest.raises(TypeError):
        _core.scale(vector(8)[::2], 2.0)
    x.flags.writeable = False
    with pytest.raises(ValueError):
        _core.scale(x, 2.0)


BITS = """
import numpy as np
from pyddl import _core
x = np.random.default_rng(0).standard_normal(300_007).astype(np.float32)
y = x[::-1].copy()
_core.add_scaled(y, x, 0.3)
_core.approach(y, x, 0.2)
print(_core.sum_of_squares(x).hex(), _core.sum_of_squares(y).hex(), y.tobytes().__hash__())
"""


def test_same_bits_on_every_level_and_any_number_of_threads():
    lines = set()
    for level, threads in [("2", "1"), ("3", "2"), ("4", "3"), ("4", "1")]:
        environment = {**os.environ, "PYDDL_LEVEL": level, "OMP_NUM_THREADS": threads, "PYTHONHASHSEED": "0"}
        lines.add(subprocess.check_output([sys.executable, "-c", BITS], env=environment))
    assert len(lines) == 1
