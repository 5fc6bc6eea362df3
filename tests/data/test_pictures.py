"""Folders of pictures: sizes, channels, classes, faults; decoded once per node."""

import os

import numpy as np
import pytest

from pyddl.data import load, pictures
from pyddl.errors import DataError, ParameterError

Image = pytest.importorskip("PIL.Image")
RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (6, 8, 10), dtype=np.uint8)
COLOURED = RANDOM.integers(0, 256, (8, 10, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Six grey pictures of 8 x 10 pixels in two sub folders."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number, pixels in enumerate(GREY):
        save(tmp_path / "pets" / ("cat" if number < 3 else "dog") / f"{number}.png", pixels)
    (tmp_path / "pets/_SUCCESS").touch()
    return tmp_path / "pets"


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def test_pictures_are_rows_and_sub_folders_classes(folder):
    source = load(folder)
    assert source.image_shape == (8, 10) and source.dtype == np.uint8
    np.testing.assert_allclose(source, GREY.reshape(6, 80) / 255, rtol=1e-6)
    assert source.labels.tolist() == [0, 0, 0, 1, 1, 1] and source.classes == ("cat", "dog")
    assert load("random:6x3", labels=str(folder)).classes == ("cat", "dog")
    flat = load(folder / "cat")
    assert flat.labels is None and len(flat) == 3
    assert load(folder / "cat/0.png").shape == (1, 80)
    with pytest.raises(DataError, match="cat has no sub folders, whose names would be the labels"):
        load("random:3x3", labels=str(folder / "cat"))


def test_one_coloured_picture_makes_all_coloured(folder):
    save(folder / "dog/9.PNG", COLOURED)
    source = load(folder)
    assert source.image_shape == (8, 10, 3)
    np.testing.assert_array_equal(source.array[-1], COLOURED.ravel())
    np.testing.assert_array_equal(source.array[0].reshape(80, 3), np.repeat(GREY[0].reshape(80, 1), 3, axis=1))
    grey = load(folder, grey=True)
    assert grey.image_shape == (8, 10)
    weights = np.array([0.299, 0.587, 0.114])  # of ITU-R BT.601
    np.testing.assert_allclose(grey.array[-1].reshape(8, 10), COLOURED @ weights, atol=1)


def test_unlike_sizes_are_refused_or_scaled(folder):
    save(folder / "dog/7.jpg", np.full((16, 30), 100, dtype=np.uint8))
    with pytest.raises(DataError, match=r"0.png has 8 x 10 pixels, but .*7.jpg 16 x 30 .*--image-size 8x10 scales"):
        load(folder)
    with pytest.raises(DataError, match=r"pictures of 9999999 x 9999999 pixels are .* has room for .*: choose a "
                                        "smaller image_size; XDG_CACHE"):
        load(folder, image_size="9999999x9999999")
    source = load(folder, image_size="4x5")
    assert load(folder, image_size=(4, 5), grey=True).spec == {"data": str(folder), "image_size": "4x5", "grey": True}
    assert source.image_shape == (4, 5) == load(folder, image_size=(4, 5)).image_shape
    assert set(source.array[-1]) == {100}
    whole = GREY[0].reshape(4, 2, 5, 2).mean((1, 3))
    np.testing.assert_allclose(source.array[0].reshape(4, 5).mean(), whole.mean(), atol=8)
    for wrong in ("28", "0x3", (3,), (2, 3, 4)):
        with pytest.raises(ParameterError, match="image_size"):
            load(folder, image_size=wrong)
    with pytest.raises(ParameterError, match="image_size and grey are for pictures, and data 'digits' are none"):
        load("digits", grey=True)


def test_kinds_of_pixels(tmp_path):
    deep = np.arange(80, dtype=np.uint16).reshape(8, 10) * 800
    np.testing.assert_array_equal(load(save(tmp_path / "deep.png", deep)).array, (deep >> 8).reshape(1, 80))
    bits = Image.fromarray(GREY[0]).convert("1")
    bits.save(tmp_path / "bits.png")
    assert set(np.unique(load(tmp_path / "bits.png").array)) == {0, 255}
    turned = Image.Exif()
    turned[pictures.ORIENTATION] = 6  # the camera was held on its side
    save(tmp_path / "turned.jpg", np.repeat(np.uint8([[50], [200]]), 16, axis=1).repeat(8, axis=0), exif=turned)
    source = load(tmp_path / "turned.jpg")
    assert source.image_shape == (16, 16)
    np.testing.assert_allclose(source.array.reshape(16, 16)[:, [0, 15]].mean(axis=0), [200, 50], atol=3)


def test_a_broken_picture_is_named_and_nothing_is_kept(folder):
    whole = save(folder / "dog/5.png", np.repeat(GREY[5], 99, axis=0).repeat(99, axis=1)).read_bytes()
    for content in (b"", whole[:10], whole[: len(whole) // 2], whole[:200] + b"xxxx" + whole[204:], b"GIF89a"):
        (folder / "dog/5.png").write_bytes(content)
        with pytest.raises(DataError, match=r"dog/5.png cannot be read as a picture: .*; mend or remove it") as caught:
            load(folder, image_size="512x512")
        assert "\n" not in str(caught.value)
    assert not list((folder.parent / "cache/pyddl/unpacked").iterdir())


@pytest.mark.parametrize(("name", "message"), [
    ("cat/notes.txt", r"several kinds of files: cat/0.png and cat/notes.txt; expected pictures only"),
    ("notes.txt", r"several kinds of files: cat/0.png and notes.txt; expected pictures only"),
    ("x.png", r"pictures in sub folders, such as cat/0.png, and beside them, such as x.png"),
])
def test_other_files_are_named(folder, name, message):
    (folder / name).write_bytes((folder / "cat/0.png").read_bytes())
    with pytest.raises(DataError, match=message):
        load(folder)


def test_links_that_lead_nowhere_or_in_a_circle_are_named(folder):
    os.symlink("nowhere.png", folder / "cat/x.png")
    with pytest.raises(DataError, match=r"cat holds x.png, a link to nowhere.png, which is not there"):
        load(folder)
    (folder / "cat/x.png").unlink()
    os.symlink(folder, folder / "cat/all")
    with pytest.raises(DataError, match=r"cat holds all, a link to a folder that it lies in"):
        load(folder)


ONCE = """
import os, sys
from pyddl.data import load, pictures
from pyddl.comm.world import world

world()
decoded = pictures._decoded
def counted(file, *about):
    with open(sys.argv[2], "a") as log:
        log.write(f"{os.getpid()} {file}\\n")
    return decoded(file, *about)
pictures._decoded = counted
source = load(sys.argv[1], image_size="512x512")
assert type(source.array.base).__name__ == "memmap" or type(source.array).__name__ == "memmap", type(source.array)
assert source.shape == (6, 512 * 512) and (source.array[3] != source.array[0]).any()
"""


def test_one_process_of_a_node_decodes_them(mpirun, folder, tmp_path):
    done = mpirun(3, ONCE, str(folder), str(tmp_path / "log"))
    assert done.code == 0, done.err
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 6 and len({line.split()[0] for line in lines}) == 1
    save(folder / "dog/4.png", GREY[0])  # a changed picture is decoded, and what was kept goes
    load(folder, image_size="512x512")
    assert len(list((tmp_path / "cache/pyddl/unpacked").iterdir())) == 1
