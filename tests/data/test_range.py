"""Values that rounding has put beyond a range are clipped in silence; what reaches further is refused, or warned of."""

import warnings

import numpy as np
import pytest

import pyddl
from pyddl.cli.evaluate import rows_for
from pyddl.data import ArraySource, load
from pyddl.data.joined import rounded_into
from pyddl.errors import ParameterError
from pyddl.models import Autoencoder
from pyddl.train import Trainer
from pyddl.train.run import load_run

ABOVE = [1.0000000000000002, np.float32(1 + 1.9e-6), 1 + 9e-6]
BELOW = [-1e-50, -np.finfo(float).tiny, -1.9e-6, -9e-6]


def rows(low, high, dtype=np.float64):
    X = np.random.default_rng(0).random((40, 3)).astype(dtype)
    X[7, 1], X[3, 2] = low, high
    return X


@pytest.mark.parametrize(("low", "high"), [*((low, 1) for low in BELOW), *((0, high) for high in ABOVE)])
def test_rounding_is_clipped_in_silence(low, high):
    X = rows(low, high)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = pyddl.Autoencoder(hidden=(2,), epochs=1, batch_size=10, random_state=0).fit(X)
        clipped = pyddl.Autoencoder(hidden=(2,), epochs=1, batch_size=10, random_state=0).fit(np.clip(X, 0, 1))
    assert fitted.loss_curve_ == clipped.loss_curve_
    np.testing.assert_array_equal(fitted.transform(X), clipped.transform(np.clip(X, 0, 1)))
    model = Autoencoder(3, hidden=(2,), loss="bce")
    metrics = [Trainer(model, epochs=1, batch_size=10).fit(data, data).metrics[0] for data in (X, np.clip(X, 0, 1))]
    assert metrics[0]["test_loss"] == metrics[1]["test_loss"]


@pytest.mark.parametrize("which", ["data", "test"])
def test_the_message_shows_how_far_values_reach(which):
    X = rows(0, 1.00002, np.float32)
    data, test = (X, None) if which == "data" else (rows(0, 1), X)
    with pytest.raises(ParameterError, match=r"data reach from 0 to 1.0000\d+; this model's loss needs values in"):
        Trainer(Autoencoder(3, hidden=(2,), loss="bce"), epochs=1, batch_size=10).fit(data, test)
    with pytest.warns(UserWarning, match=r"X reaches from 0 to 1.0000\d+, but"):
        pyddl.Autoencoder(hidden=(2,), epochs=1, batch_size=10).fit(X)


def test_least_and_greatest_are_those_that_are_read(tmp_path):
    X = rows(-1e-50, 1.0000000000000002)
    np.save(tmp_path / "x.npy", X)
    for source in (ArraySource(X), load(tmp_path / "x.npy"), ArraySource(X * 255, scale=1 / 255)):
        read = np.asarray(source)
        assert (source.minimum, source.maximum) == (read.min(), read.max()) == (0, 1)
        assert rounded_into(source, 0, 1) is source
    reaching = ArraySource(rows(-2e-6, 1 + 2e-6), labels=np.arange(40))
    clipped = rounded_into(reaching, 0, 1)
    assert (clipped.minimum, clipped.maximum) == (0, 1) == (np.asarray(clipped).min(), np.asarray(clipped).max())
    assert clipped.labels[5] == 5 and clipped.shape == reaching.shape


def test_a_generator_of_such_rows_has_outputs_in_that_range():
    gan = pyddl.models.for_data("gan", ArraySource(rows(-2e-6, 1 + 2e-6)))
    assert gan.options()["output"] == pyddl.models.for_data("gan", ArraySource(rows(0, 1))).options()["output"]


def test_rows_for_a_run_that_lie_beyond_its_range_are_told_of(tmp_path, capsys):
    Trainer(Autoencoder(3, hidden=(2,), loss="bce"), epochs=1, batch_size=10, out=str(tmp_path / "run")).fit(rows(0, 1))
    for high in (1, 1 + 9e-6, 16):
        np.save(tmp_path / "x.npy", rows(0, high))
        rows_for(load_run(tmp_path / "run"), str(tmp_path / "x.npy"))
        said = capsys.readouterr().err
        assert ("x.npy reaches from 0 to 16, and the model in" in said) == (high == 16) == bool(said)
