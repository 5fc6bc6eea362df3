"""Layout: slices of a flat vector."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyddl.errors import ParameterError, ShapeError
from pyddl.layout import ALIGNMENT, Layout, Slice

shapes = st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=3).map(tuple), max_size=8)


@given(shapes)
def test_slices_are_aligned_and_do_not_overlap(shapes):
    layout = Layout(Slice(f"s{i}", shape) for i, shape in enumerate(shapes))
    vector = layout.zeros()
    for number, view in enumerate(layout.views(vector).values()):
        assert view.base is not None and view.dtype == np.float32
        view += number + 1
    at = 0
    for number, s in enumerate(layout):
        assert s.begin % ALIGNMENT == 0 and s.begin >= at
        assert np.all(vector[s.begin : s.end] == number + 1)
        at = s.end
    assert layout.count == sum(int(np.prod(shape)) for shape in shapes)
    assert layout.size >= layout.count


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=10))
def test_decayed_ranges_tile_the_vector_and_keep_each_slice_whole(parts):
    layout = Layout(Slice(f"s{i}", (size,), decay=decay) for i, (size, decay) in enumerate(parts))
    ranges = layout.decayed_ranges()
    assert all(a[1] == b[0] and a[2] != b[2] for a, b in itertools.pairwise(ranges))
    for s in layout:
        if s.size:
            assert [decay for begin, end, decay in ranges if begin <= s.begin and s.end <= end] == [s.decay]
    if ranges:
        assert ranges[-1][1] == layout.size


def test_zeros_start_on_a_cache_line():
    layout = Layout([Slice("a", (5,))])
    assert all(layout.zeros().ctypes.data % 64 == 0 for _ in range(20))


def test_groups_are_ranges():
    layout = Layout(
        [
            Slice("g", (3,), group="generator"),
            Slice("d", (20,), group="discriminator"),
            Slice("e", (1,), group="discriminator"),
        ]
    )
    assert layout.groups == ("generator", "discriminator")
    assert layout.range("generator") == (0, 16) and layout.range("discriminator") == (16, 64)
    assert layout.range() == (0, 64)


def test_errors_name_what_is_wrong():
    with pytest.raises(ParameterError, match="two slices are named 'a'"):
        Layout([Slice("a", (1,)), Slice("a", (2,))])
    with pytest.raises(ParameterError, match="neighbours"):
        Layout([Slice("a", (1,), group="x"), Slice("b", (1,), group="y"), Slice("c", (1,), group="x")])
    layout = Layout([Slice("weight", (2,))])
    with pytest.raises(KeyError, match="did you mean 'weight'"):
        layout["weigth"]
    with pytest.raises(ShapeError, match=r"expected a contiguous float32 array of shape \(16,\)"):
        layout.views(np.zeros(15, dtype=np.float32))
    with pytest.raises(ShapeError, match="float64"):
        layout.views(np.zeros(16))


# ---- axes in another order

def test_a_slice_may_have_its_axes_in_another_order():
    layout = Layout([Slice("bias", (3,)), Slice("weight", (4, 3, 2, 2), order=(0, 2, 3, 1))])
    vector = layout.zeros()
    vector[16:] = np.arange(48)
    view = layout.views(vector)["weight"]
    assert view.shape == (4, 3, 2, 2) and np.shares_memory(view, vector)
    assert np.array_equal(view, vector[16:].reshape(4, 2, 2, 3).transpose(0, 3, 1, 2))
    part = Layout([Slice("bias", (3,)), Slice("weight", (2, 3, 2, 2), first=1, of=4, order=(0, 2, 3, 1))])
    assert np.array_equal(part.views(part.cut(layout, vector))["weight"], view[1:3])


@pytest.mark.parametrize(("given", "said"), [
    ({"order": (0, 0)}, r"order of slice a is \(0, 0\); expected each axis of shape \(2, 2\) once"),
    ({"order": (0,)}, "expected each axis"), ({"order": (1, 0), "of": 4}, "expected axis 0 first, of which this is")])
def test_orders_of_axes_are_checked(given, said):
    with pytest.raises(ParameterError, match=said):
        Layout([Slice("a", (2, 2), **given)])
