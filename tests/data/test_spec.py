"""From a specification to a source: names, parts, paths, noise, and what is wrong with the others."""

import gzip
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from idx_files import idx_bytes, write_mnist

import pyddl.data
from pyddl.data.named import MNIST, NAMED
from pyddl.errors import DataError, ParameterError
from pyddl.train import load_run

NOWHERE = "http://127.0.0.1:9/mnist"  # the discard port: refuses at once


@pytest.fixture
def nothing_here(tmp_path, monkeypatch):
    """A machine without data, cache and network."""
    monkeypatch.delenv("PYDDL_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setitem(NAMED, "mnist", replace(NAMED["mnist"], files=replace(MNIST, mirrors=(NOWHERE,))))
    return tmp_path


def test_digits_are_split_as_documented():
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    train = pyddl.data.load("digits")
    assert (train.shape, train.test.shape, train.image_shape) == ((1500, 64), (297, 64), (8, 8))
    np.testing.assert_array_equal(np.concatenate([train, train.test]), pixels.astype(np.float32) / 16)
    np.testing.assert_array_equal(np.concatenate([train.labels, train.test.labels]), labels)
    assert (train.minimum, train.maximum) == (0, 1)
    assert pyddl.data.find("digits").name == "sklearn"
    assert train.describe() == "digits: 1500 x 64 uint8 (8 x 8 images), from scikit-learn"


def test_digits_are_the_same_where_scikit_learn_keeps_them_elsewhere(tmp_path):
    folders = pyddl.data.find("digits"), tmp_path
    direct, loaded = (NAMED["digits"].read(folder, "test") for folder in folders)
    np.testing.assert_array_equal(np.asarray(direct), np.asarray(loaded))
    np.testing.assert_array_equal(direct.labels, loaded.labels)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("folder", ["data/mnist", "data", "cache/pyddl/mnist"])
def test_mnist_is_found(nothing_here, monkeypatch, folder, packed):
    assert pyddl.data.find("mnist") is None
    monkeypatch.setenv("PYDDL_DATA", str(nothing_here / "data"))
    arrays = write_mnist(nothing_here / folder, packed=packed)
    assert pyddl.data.find("mnist") == nothing_here / folder
    train = pyddl.data.load("mnist")
    assert (train.name, train.shape, train.image_shape) == ("mnist", (6, 784), (28, 28))
    assert train.dtype == np.uint8
    images = arrays["train-images-idx3-ubyte.gz"].reshape(6, 784)
    np.testing.assert_allclose(np.asarray(train), images / 255, rtol=2e-7)
    np.testing.assert_array_equal(train.labels, arrays["train-labels-idx1-ubyte.gz"])
    for test in (train.test, pyddl.data.load("mnist:test"), pyddl.data.load("mnist", part="test")):
        assert (test.name, test.shape, test.test) == ("mnist:test", (3, 784), None)
    assert str(nothing_here / folder) in train.describe()


def test_the_folder_of_the_user_comes_first(nothing_here, monkeypatch):
    monkeypatch.setenv("PYDDL_DATA", str(nothing_here / "data"))
    for folder in ("cache/pyddl/mnist", "data", "data/mnist"):
        write_mnist(nothing_here / folder)
        assert pyddl.data.find("mnist") == nothing_here / folder


def test_a_folder_with_a_file_missing_does_not_count(nothing_here):
    write_mnist(nothing_here / "cache/pyddl/mnist")
    (nothing_here / "cache/pyddl/mnist/t10k-labels-idx1-ubyte.gz").unlink()
    assert pyddl.data.find("mnist") is None


def test_images_and_labels_must_agree(nothing_here):
    folder = nothing_here / "cache/pyddl/mnist"
    write_mnist(folder)
    labels = folder / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(idx_bytes(np.zeros(5, dtype=np.uint8))))
    with pytest.raises(DataError, match="has 6 train images but 5 labels"):
        pyddl.data.load("mnist")
    labels.write_bytes(gzip.compress(idx_bytes(np.zeros((6, 1), dtype=np.uint8))))
    with pytest.raises(DataError, match=r"labels-idx1-ubyte.gz has 2 dimensions \(offset 3\); expected 1"):
        pyddl.data.load("mnist")


def test_without_a_network_the_error_says_every_place(nothing_here, monkeypatch):
    with pytest.raises(DataError) as caught:
        pyddl.data.load("mnist")
    message, cache = str(caught.value), str(nothing_here / "cache/pyddl/mnist")
    for part in ("mnist is not on this machine", "$PYDDL_DATA (not set)", cache, NOWHERE,
                 "no answer", "train-images-idx3-ubyte.gz", "pyddl fetch mnist"):
        assert part in message
    assert "\n" not in message
    monkeypatch.setenv("PYDDL_DATA", str(nothing_here / "elsewhere"))
    with pytest.raises(DataError, match=str(nothing_here / "elsewhere/mnist")):
        pyddl.data.load("mnist")


@pytest.mark.skipif(pyddl.data.find("mnist") is None, reason="needs MNIST: set PYDDL_DATA")
def test_the_real_mnist():
    train = pyddl.data.load("mnist")
    assert (train.shape, train.test.shape, train.minimum, train.maximum) == ((60000, 784), (10000, 784), 0, 1)
    assert np.bincount(train.labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.asarray(train.test).mean() == pytest.approx(0.132515, abs=1e-6)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", ["a.idx", "b.idx3", "c-ubyte", "d-idx3-ubyte"])
def test_idx_files_are_pixels(tmp_path, name, pack):
    images = np.array([[[0, 51], [255, 102]]], dtype=np.uint8)
    path = tmp_path / (name + (".gz" if pack is gzip.compress else ""))
    path.write_bytes(pack(idx_bytes(images)))
    source = pyddl.data.load(str(path))
    np.testing.assert_allclose(np.asarray(source), [[0, 0.2, 1, 0.4]], rtol=2e-7)
    assert (source.image_shape, source.name, source.maximum) == ((2, 2), path.name, 1)


def test_a_file_of_labels_is_no_data(tmp_path):
    (tmp_path / "labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(4, dtype=np.uint8)))
    with pytest.raises(DataError, match=r"has 1 dimension \(offset 3\), like a file of labels"):
        pyddl.data.load(tmp_path / "labels-idx1-ubyte")


def test_arrays_and_sources_pass_through():
    source = pyddl.data.load(np.eye(3))
    assert np.array_equal(np.asarray(source), np.eye(3))
    assert pyddl.data.load(source) is source


def test_noise_of_any_size():
    source = pyddl.data.load("random:100000000x784")
    out = np.empty((1, 784), dtype=np.float32)
    source.read(np.array([99_999_999]), out)
    assert source.shape == (100_000_000, 784) and 0.4 < out.mean() < 0.6


@pytest.mark.parametrize(("spec", "part", "error", "message"), [
    ("mnits", None, DataError, "neither a known data set nor a file; .*did you mean 'mnist'"),
    ("no/such.npy", None, DataError, "neither a known data set nor a file"),
    (str(Path(__file__).parent.parent / "routes"), None, DataError, "is of no supported kind; expected a name"),
    (__file__, None, DataError, "is of no supported kind; expected a name that ends in .npy"),
    ("digits:valid", None, ParameterError, "part is 'valid'; expected one of test, train"),
    ("digits", "tset", ParameterError, "did you mean 'test'"),
    ("digits:test", "train", ParameterError, "give one of the two"),
    (__file__, "test", ParameterError, "only named sets have parts"),
    ("random:3x2", "test", ParameterError, "only named sets have parts"),
    ("random:3", None, ParameterError, "expected random:ROWSxFEATURES"),
    ("random:0x5", None, ParameterError, "both at least 1"),
    ("random:-3x5", None, ParameterError, "expected random:ROWSxFEATURES"),
    ("random", None, DataError, "neither a known data set nor a file"),
])
def test_wrong_specifications_are_explained(spec, part, error, message):
    with pytest.raises(error, match=message):
        pyddl.data.load(spec, part)


@pytest.mark.parametrize("name", ["a.npy", "a-ubyte", "data_batch_1.bin"])
def test_a_name_within_a_file_that_has_none_is_refused(tmp_path, name):
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / name).write_bytes(b"")
    with pytest.raises(DataError, match=rf"{name} has no parts with names, such as 'b'; .*leave out :b"):
        pyddl.data.load(f"{tmp_path / 'rows'}:b")


@pytest.mark.parametrize(("spec", "meant"), [
    ("d.cvs", "d.csv"), ("d.cvs:-b", "d.csv:-b"), ("D.CSV:a,b", "d.csv:a,b"), ("./c.csv", "./d.csv"),
    ("MNIST:test", "mnist:test"), ("zzz", None), ("elsewhere/d.csv", None)])
def test_what_lies_there_is_offered_for_a_misspelt_name(tmp_path, monkeypatch, spec, meant):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.csv").write_text("a,b\n1,2\n")
    (tmp_path / "run").mkdir()
    for read in (pyddl.data.load, lambda text: pyddl.data.load(np.eye(1), labels=text)):
        with pytest.raises(DataError) as caught:
            read(spec)
        assert str(caught.value).partition("; did you mean ")[2] == (f"{meant!r}?" if meant else "")
    with pytest.raises(DataError, match=r"rnu is no finished run: .*; did you mean 'run'\?"):
        load_run("rnu")


def test_unknown_names_are_explained():
    with pytest.raises(ParameterError, match=r"name is 'minst'; expected one of .*; did you mean 'mnist'"):
        pyddl.data.find("minst")


def test_importing_is_light_and_starts_no_thread():
    code = ("import sys, threading, pyddl.data; assert threading.active_count() == 1; "
            "heavy = {'sklearn', 'scipy', 'mpi4py', 'urllib.request', 'ssl'} & set(sys.modules); "
            "assert not heavy, heavy; "
            "pyddl.data.load('digits'); assert 'sklearn' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent, env=dict(os.environ))
