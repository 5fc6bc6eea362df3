"""CIFAR-10: records of label and planes; where the files are looked for; a set without its test part."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pyddl.data
from pyddl.data.cifar import RECORD, read_cifar10
from pyddl.errors import DataError
from pyddl.models import Autoencoder
from pyddl.train.plots import draw_reconstructions

RANDOM = np.random.default_rng(0)


def write_batch(path, rows):
    records = RANDOM.integers(0, 256, (rows, RECORD), dtype=np.uint8)
    records[:, 0] %= 10
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(records.tobytes())
    return records


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("PYDDL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("folder", ["data/cifar10", "data", "data/cifar10/cifar-10-batches-bin", "cache/pyddl/cifar10"])
def test_batches_are_found_and_joined(place, folder):
    assert pyddl.data.find("cifar10") is None
    batches = [write_batch(place / folder / f"data_batch_{i}.bin", 3) for i in (1, 2)]
    test = write_batch(place / folder / "test_batch.bin", 2)
    train = pyddl.data.load("cifar10")
    assert (train.shape, train.test.shape, train.image_shape) == ((6, 3072), (2, 3072), (3, 32, 32))
    records = np.concatenate(batches)
    np.testing.assert_allclose(np.asarray(train), records[:, 1:] / 255, rtol=2e-7)
    np.testing.assert_array_equal(train.labels, records[:, 0])
    np.testing.assert_allclose(np.asarray(pyddl.data.load("cifar10:test")), test[:, 1:] / 255, rtol=2e-7)
    assert (train.minimum, train.maximum) == (0, 1)


def test_a_set_without_its_test_part_says_so_and_offers_a_split(place):
    write_batch(place / "data/cifar10/data_batch_1_first4000.bin", 4)
    train = pyddl.data.load("cifar10")
    assert train.shape == (4, 3072) and train.test is None
    assert "no test part, but see --validation" in train.describe()
    with pytest.raises(DataError, match=r"test_batch.bin is missing. Put it there, or keep back .*--validation 0.1"):
        pyddl.data.load("cifar10:test")


def test_batches_are_also_read_by_their_path(tmp_path):
    records = [write_batch(tmp_path / f"batches/data_batch_{i}.bin", 3) for i in (1, 2)]
    one, both = (pyddl.data.load(tmp_path / path) for path in ("batches/data_batch_2.bin", "batches"))
    np.testing.assert_allclose(np.asarray(one), records[1][:, 1:] / 255, rtol=2e-7)
    np.testing.assert_array_equal(both.labels, np.concatenate(records)[:, 0])
    assert (both.shape, both.image_shape, one.image_shape) == ((6, 3072), (3, 32, 32), (3, 32, 32))


def test_without_the_files_the_error_says_where_to_get_them(place):
    message = r"looked under \$PYDDL_DATA .*data/cifar10.*cifar-10-binary.tar.gz.*unpack it"
    for ask in (pyddl.data.load, pyddl.data.fetch):
        with pytest.raises(DataError, match=message):
            ask("cifar10")


@pytest.mark.parametrize(("content", "message"), [
    (b"", "is empty; expected records of 3073 bytes"),
    (bytes(RECORD + 5), "ends at offset 3078, inside record 1; expected whole records"),
    (bytes(RECORD) + b"\x0b" + bytes(RECORD - 1), "has label 11 at offset 3073; expected 0 to 9"),
    (b"a,b\n1,2\n", "ends at offset 8, inside record 0"),
])
def test_faults_are_named(tmp_path, content, message):
    path = tmp_path / "data_batch_1.bin"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_cifar10(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"test_batch.bin cannot be read: No such file"):
        read_cifar10(tmp_path / "test_batch.bin")


def check_any_bytes(folder, content):
    path = folder / "batch.bin"
    path.unlink(missing_ok=True)  # a mapped file must not change under its readers
    path.write_bytes(content)
    try:
        pixels, labels = read_cifar10(path)
    except DataError:
        assert not content or len(content) % RECORD or max(content[::RECORD]) > 9
        return
    assert np.column_stack([labels.astype(np.uint8), pixels]).tobytes() == content


@given(records=st.integers(0, 3), label=st.integers(0, 255), more=st.binary(max_size=3))
@settings(max_examples=40)
def test_any_bytes_give_records_or_a_data_error(tmp_path_factory, records, label, more):
    check_any_bytes(tmp_path_factory.getbasetemp(), bytes([label, *bytes(RECORD - 1)]) * records + more)


@pytest.mark.long
def test_100000_files_are_refused_or_hold_what_they_say(tmp_path):
    random = np.random.default_rng(1)
    for _ in range(100_000):
        content = bytearray(random.integers(3) * RECORD)
        for _ in range(random.integers(4)):
            at = random.integers(len(content) + 1)
            content[at : at + random.integers(3)] = random.bytes(random.integers(3))
        check_any_bytes(tmp_path, bytes(content))


def test_colour_images_can_be_drawn(place):
    write_batch(place / "data/cifar10/data_batch_1.bin", 3)
    source, model = pyddl.data.load("cifar10"), Autoencoder(3072, (2,))
    parameters = model.layout.zeros()
    assert draw_reconstructions(place / "x.png", model, parameters, model.buffers.zeros(), source).stat().st_size > 1000
