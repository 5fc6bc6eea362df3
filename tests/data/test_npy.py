"""The .npy files that are rows of numbers, and clear refusal of the others."""

import io

import numpy as np
import pytest
from damage import damage, damage_text
from hypothesis import given, settings
from hypothesis import strategies as st

import pyddl.data
from pyddl.data.npy import open_npy
from pyddl.errors import DataError


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("npy") / "x.npy"


def save(path, array):
    path.unlink(missing_ok=True)
    np.save(path, array)
    return path


@pytest.mark.parametrize("dtype", ["u1", "f4", "f8", "i8", ">f4", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_are_mapped_and_read(path, dtype, order):
    x = np.asarray(np.random.default_rng(0).integers(0, 2, (6, 4)), dtype=dtype, order=order)
    source = pyddl.data.load(save(path, x))
    np.testing.assert_array_equal(np.asarray(source), x.astype(np.float32))
    assert isinstance(open_npy(path), np.memmap)
    assert source.describe().endswith(f"from {path}")


def test_images_in_a_file_keep_their_shape(path):
    assert pyddl.data.load(save(path, np.zeros((3, 8, 9)))).image_shape == (8, 9)


@pytest.mark.parametrize(("array", "message"), [
    (np.zeros(5), r"has shape \(5,\); expected \(rows, features\)"),
    (np.float32(1), r"has shape \(\)"),
    (np.zeros((0, 5)), r"has shape \(0, 5\)"),
    (np.zeros((5, 0)), r"has shape \(5, 0\)"),
    (np.zeros((2, 2), dtype=complex), "holds complex128 values; expected real numbers"),
    (np.array([["a"]]), "holds <U1 values"),
    (np.array([[None]], dtype=object), "holds object values"),
    (np.zeros((2, 2), dtype=[("a", "f4")]), "expected real numbers"),
])
def test_other_contents_are_refused(path, array, message):
    with pytest.raises(DataError, match=message) as caught:
        open_npy(save(path, array))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("content", "message"), [
    (b"", r"starts with b'' at offset 0; expected the magic of a .npy file"),
    (b"1,2,3\n4,5,6\n", "starts with b'1,2,3"),
    (b"\x93NUMPY", "is no usable .npy file"),
    (b"\x93NUMPY\x09\x00\x10\x00", "is no usable .npy file"),
    (b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f4'}", "is no usable .npy file"),
])
def test_files_of_another_kind_are_refused(path, content, message):
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_npy(path)


@given(length=st.integers(0, 128 + 6 * 4 * 4 - 1))
@settings(max_examples=40)
def test_a_file_cut_anywhere_is_refused(path, length):
    whole = save(path, np.zeros((6, 4), dtype=np.float32)).read_bytes()
    assert len(whole) == 128 + 6 * 4 * 4
    path.unlink()
    path.write_bytes(whole[:length])
    with pytest.raises(DataError, match=r"is truncated: it ends at offset|is no usable|starts with"):
        open_npy(path)


def test_a_missing_file_is_named(path):
    with pytest.raises(DataError, match=r"absent.npy cannot be read: No such file"):
        open_npy(path.parent / "absent.npy")


def test_values_that_are_not_finite_are_named_when_read(path):
    x = np.zeros((7, 5))
    x[4, 1] = np.nan
    source = pyddl.data.load(save(path, x))
    with pytest.raises(DataError, match=r"x.npy: the value in row 4, column 1 is nan"):
        np.asarray(source)
    with pytest.raises(DataError, match="row 4, column 1"):
        _ = source.maximum


# ---- damage ---------------------------------------------------------------------------------------------------------

def whole(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


WHOLE = [whole(np.arange(24, dtype=dtype).reshape(6, 4)) for dtype in ("f4", ">f8", "u1")]
HEADER = 128


def check_damaged(path, random):
    """Refused, or the rows that its header promises."""
    content = WHOLE[random.integers(len(WHOLE))]
    if random.random() < 0.5:
        content = damage(random, content)
    else:  # the header's text alone, which stays as long as it says
        text = damage_text(random, content[10:HEADER].decode(), "(){}',:0123456789<>|-.fuicSOVLTrue \n")
        content = content[:10] + text.encode()[: HEADER - 10].ljust(HEADER - 10) + content[HEADER:]
    path.unlink(missing_ok=True)  # a mapped file must not change under its readers
    path.write_bytes(content)
    try:
        source = pyddl.data.load(path)
        rows = np.asarray(source)
    except DataError as error:
        assert "x.npy" in str(error)
        return
    assert rows.shape == source.shape and rows.dtype == np.float32 and np.isfinite(rows).all()
    assert 0 < rows.size <= len(content)


@pytest.mark.filterwarnings("ignore:invalid escape sequence", "ignore:Reading")  # of Python's and NumPy's parsers
@given(seed=st.integers(0, 2**32))
@settings(max_examples=200)
def test_damaged_files_are_refused_or_give_rows(path, seed):
    check_damaged(path, np.random.default_rng(seed))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.long
def test_100000_damaged_files_are_refused_or_give_rows(path):
    random = np.random.default_rng(4)
    for _ in range(100_000):
        check_damaged(path, random)
