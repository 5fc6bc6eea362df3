"""Rows whose labels are known, drawn by the seed."""

import numpy as np
import pytest

from pyddl.data import ArraySource, RandomSource, load
from pyddl.data.joined import labelled_part
from pyddl.errors import DataError, ParameterError

SIZES = (500, 300, 150, 49, 1)
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(5), SIZES))
ROWS = np.arange(1000, dtype=np.float32)[:, None] + np.zeros(3, np.float32)
DATA = ArraySource(ROWS, labels=LABELS)


def rows_of(source):
    out, labels = np.empty(source.shape, np.float32), np.empty(len(source), np.int64)
    index = np.arange(len(source), dtype=np.int64)
    source.read(index, out)
    source.read_labels(index, labels)
    return out[:, 0].astype(int), labels


@pytest.mark.parametrize("count", [5, 6, 20, 100, 999, 1000])
def test_classes_have_their_shares(count):
    few = labelled_part(DATA, count, 3)
    numbers, labels = rows_of(few)
    assert len(few) == count == len(set(numbers.tolist())) and np.array_equal(labels, LABELS[numbers])
    assert np.array_equal(few.labels, labels) and few.label_type == DATA.label_type
    found, exact = np.bincount(labels, minlength=5), np.array(SIZES) * count / 1000
    assert (found >= 1).all() and (np.abs(found - exact) < np.where(exact < 1, 1, 2 if count < 100 else 1.01)).all()


def test_the_seed_draws_them_and_more_hold_fewer():
    first, second = (set(rows_of(labelled_part(DATA, 100, seed))[0].tolist()) for seed in (1, 2))
    assert first != second and first == set(rows_of(labelled_part(DATA, 100, 1))[0].tolist())
    assert first <= set(rows_of(labelled_part(DATA, 200, 1))[0].tolist())
    assert np.ptp(sorted(first)) > 800, "from everywhere"


def test_quantities_are_drawn_as_they_come():
    for labels in (LABELS + 0.5, np.column_stack([LABELS, LABELS])):
        assert len(labelled_part(ArraySource(ROWS, labels=labels), 3)) == 3


def test_it_has_what_its_source_has():
    digits = load("digits")
    few = labelled_part(digits, 20)
    assert few.image_shape == (8, 8) and few.minimum == digits.minimum and few.checksum() == digits.checksum()
    assert "20 of 1500 rows" in few.describe() and "seed 0" in few.name
    words = ArraySource(ROWS, labels=np.array(["b", "a"])[LABELS % 2])
    assert labelled_part(words, 10).classes == ("a", "b")


@pytest.mark.parametrize(("count", "message"), [(0, "labelled is 0"), (1001, "has 1000 rows: give at most"),
                                                (4, "5 classes: give at least one row for each")])
def test_bad_counts_are_named(count, message):
    with pytest.raises(ParameterError, match=message):
        labelled_part(DATA, count)


def test_labels_must_be_there():
    with pytest.raises(DataError, match="has no labels"):
        labelled_part(RandomSource(40, 3), 4)
