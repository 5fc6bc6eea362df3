"""Gathering rows as float32, and rows of noise: against plain versions, on every layout and element type."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyddl import _core

TYPES = [np.uint8, np.float32, np.float64]
LAYOUTS = {
    "C": lambda x: x,
    "Fortran": np.asfortranarray,
    "every second row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "every second column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "backwards": lambda x: np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1],
}


def values(dtype, rows, features, seed=0):
    return (np.random.default_rng(seed).random((rows, features)) * 255).astype(dtype)


def gather(source, index, scale=1.0):
    out = np.full((len(index), source.shape[1]), np.nan, dtype=np.float32)
    assert _core.gather_rows(source, np.asarray(index, dtype=np.int64), out, scale) == -1
    return out


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TYPES)
@given(features=st.integers(1, 70), index=st.lists(st.integers(0, 10), max_size=20))
@settings(max_examples=15)
def test_any_layout_gives_what_the_plain_loop_gives(dtype, layout, features, index):
    source = LAYOUTS[layout](values(dtype, 11, features))
    expected = np.empty((len(index), features), dtype=np.float32)
    _core.reference_gather_rows(source, np.array(index, dtype=np.int64), expected, 0.25)
    np.testing.assert_array_equal(gather(source, index, 0.25), expected)
    plain = source[np.array(index, dtype=int)].astype(np.float32) * np.float32(0.25)
    np.testing.assert_array_equal(expected, plain)


def test_runs_and_jumps_mix():
    source = values(np.uint8, 100, 784)
    index = [5, 6, 7, 7, 6, 99, 0, 1, 2, 50]
    np.testing.assert_array_equal(gather(source, index), source[index])


def test_pixels_end_at_one():
    out = gather(np.array([[0, 255]], dtype=np.uint8), [0], 1 / 255)
    assert out.tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("dtype", TYPES)
def test_the_source_may_be_read_only_and_stays_as_it_was(dtype):
    source = values(dtype, 9, 5)
    before = source.copy()
    source.flags.writeable = False
    gather(source, [8, 0, 3])
    np.testing.assert_array_equal(source, before)


@pytest.mark.parametrize("wrong", [-1, 11, 2**40, -(2**63)])
def test_an_index_outside_is_refused_before_anything_is_written(wrong):
    out = np.zeros((2, 3), dtype=np.float32)
    with pytest.raises(IndexError, match=rf"index\[1\] is {wrong}; the source has rows 0 to 10"):
        _core.gather_rows(values(np.uint8, 11, 3) + 1, np.array([0, wrong]), out)
    assert not out.any()


@pytest.mark.parametrize("shape", [(1, 3), (3, 3), (2, 4)])
def test_an_output_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="out has"):
        _core.gather_rows(values(np.float32, 11, 3), np.array([0, 1]), np.empty(shape, dtype=np.float32))


def test_nothing_is_cast_or_copied_silently():
    source, index, out = values(np.float32, 4, 3), np.array([0, 1]), np.empty((2, 3), dtype=np.float32)
    for arguments in [(source.astype(np.int64), index, out), (source, index.astype(np.int32), out),
                      (source, index, out.astype(np.float64)), (source, index, np.asfortranarray(out)),
                      (source.astype(">f4"), index, out)]:
        with pytest.raises(TypeError):
            _core.gather_rows(*arguments)


@pytest.mark.parametrize(("dtype", "value"), [(np.float32, np.nan), (np.float32, -np.inf),
                                              (np.float64, np.nan), (np.float64, np.inf), (np.float64, 1e39)])
@pytest.mark.parametrize("column", [0, 40, 66])
def test_the_first_value_that_is_not_finite_is_found(dtype, value, column):
    source = values(dtype, 5, 67)
    source[3, column] = value
    out = np.empty((4, 67), dtype=np.float32)
    assert _core.gather_rows(source, np.array([0, 1, 3, 3]), out) == 2 * 67 + column
    assert _core.gather_rows(source, np.array([0, 1, 2, 4]), out) == -1


def noise(rows, index, features):
    out = np.empty((len(index), features), dtype=np.float32)
    _core.random_rows(rows, np.asarray(index, dtype=np.int64), out)
    return out


def test_noise_depends_on_the_row_alone():
    together = noise(10**12, [3, 10**11, 3, 0], 33)
    np.testing.assert_array_equal(together[0], together[2])
    np.testing.assert_array_equal(together[1], noise(10**12, [10**11], 33)[0])
    np.testing.assert_array_equal(together[:, :7], noise(10**12, [3, 10**11, 3, 0], 7))


def test_noise_is_uniform_and_rows_are_unrelated():
    x = noise(400, np.arange(400), 500)
    assert x.min() >= 0 and x.max() < 1
    counts = np.histogram(x, bins=64, range=(0, 1))[0]
    chi2 = ((counts - x.size / 64) ** 2 / (x.size / 64)).sum()
    assert abs(chi2 - 63) < 5 * np.sqrt(2 * 63)
    rows = np.corrcoef(x)[np.triu_indices(400, 1)]
    columns = np.corrcoef(x.T)[np.triu_indices(500, 1)]
    assert np.abs(rows).max() < 6 / np.sqrt(500) and np.abs(columns).max() < 6 / np.sqrt(400)
    shifted = [np.corrcoef(x[i, :-7], x[i + 1, 7:])[0, 1] for i in range(399)]
    assert abs(np.mean(shifted)) < 5 / np.sqrt(399 * 493)


def test_noise_refuses_rows_outside():
    with pytest.raises(IndexError, match="the source has rows 0 to 9"):
        noise(10, [10], 3)


SCRIPT = """
import hashlib, sys
import numpy as np
from pyddl import _core
digest = hashlib.sha256()
index = (np.arange(200) * 7919 % 101).astype(np.int64)
out = np.empty((200, 67), dtype=np.float32)
x = np.arange(101 * 67).reshape(101, 67) % 251
for dtype in (np.uint8, np.float32, np.float64):
    assert _core.gather_rows(x.astype(dtype), index, out, 1 / 255) == -1
    digest.update(out.tobytes())
_core.random_rows(101, index, out)
digest.update(out.tobytes())
order = np.empty(1000, dtype=np.int64)
_core.order(np.arange(1000), order, 1000, 3, 4)
digest.update(order.tobytes())
bad = x.astype(np.float32)
bad[5, 66] = np.inf
assert _core.gather_rows(bad, np.array([5]), out[:1]) == 66
"""


@pytest.mark.parametrize("level", [2, 3, 4])
def test_every_instruction_set_gives_the_same_bits(level):
    here = {"np": np}
    exec(SCRIPT, here)
    script = SCRIPT + "print(digest.hexdigest())"
    there = subprocess.run([sys.executable, "-c", script], check=True, text=True,
                           capture_output=True, env={**os.environ, "PYDDL_LEVEL": str(level)})
    assert there.stdout.strip() == here["digest"].hexdigest()
