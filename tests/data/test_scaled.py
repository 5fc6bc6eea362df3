"""Rows brought to one scale, and back; the scale goes with the run."""

import json

import numpy as np
import pandas
import pytest
from sklearn.preprocessing import MinMaxScaler, StandardScaler

import pyddl
from pyddl.data import ArraySource, load, split
from pyddl.data.joined import in_order_of, scaled, training_and_test
from pyddl.data.scaled import learned
from pyddl.data.scaling import Scaling
from pyddl.errors import DataError, ParameterError
from pyddl.models import Autoencoder
from pyddl.train import Trainer, load_run

RANDOM = np.random.default_rng(0)
ROWS = (RANDOM.normal(size=(300, 4)) * [1, 100, 0.01, 5] + [0, 1000, 3, -7]).astype(np.float32)
PIXELS = RANDOM.integers(0, 256, size=(50, 6, 5), dtype=np.uint8)


@pytest.mark.parametrize(("kind", "reference"), [("minmax", MinMaxScaler(clip=True)), ("standard", StandardScaler())])
def test_scales_are_those_of_scikit_learn(kind, reference):
    rows = np.column_stack([ROWS, np.full(300, 0.1), np.full(300, 3e6)]).astype(np.float32)  # the last two become 0
    source = load(rows, scale=kind)
    expected = reference.fit_transform(rows.astype(np.float64))
    np.testing.assert_allclose(np.asarray(source), expected, atol=1e-4)
    assert not np.asarray(source)[:, 4:].any()
    np.testing.assert_allclose(source.scaling.undo(np.asarray(source)), rows, rtol=1e-5, atol=1e-4)
    others = rows[:9] + np.float32(0.25)
    np.testing.assert_allclose(source.scaling.apply(others.copy()), reference.transform(others.astype(np.float64)),
                               atol=1e-4)
    assert source.minimum <= np.asarray(source).min() and source.maximum >= np.asarray(source).max()
    again = Scaling.recorded(json.loads(json.dumps(source.scaling.record())))
    assert again == source.scaling and scaled(source, again) is source
    assert f"scaled ({kind})" in source.describe()


def test_differences_whose_inverse_is_infinite_are_none():
    rows = np.array([[0, 1], [1e-40, 2]], dtype=np.float32)
    for kind in ("minmax", "standard"):
        assert np.isfinite(np.asarray(load(rows, scale=kind))).all()


def test_pictures_have_one_scale_for_all_pixels():
    pixels = load(PIXELS, scale="pixels")
    np.testing.assert_allclose(np.asarray(pixels), PIXELS.reshape(50, -1) / 255, atol=1e-6)
    standard = np.asarray(load(PIXELS, scale="standard"))
    assert abs(standard.mean()) < 1e-5 and abs(standard.std() - 1) < 1e-5
    assert load(PIXELS, scale="minmax").image_shape == (6, 5)
    dark = PIXELS.copy()
    dark[:, 0] = 0  # constant pixels are no fault of a picture's
    assert np.asarray(load(dark, scale="minmax")).max() == 1


def test_test_rows_get_the_scale_of_the_training_rows():
    whole = load(ROWS, scale="minmax")
    far = ROWS[:5] + 1e4
    source, test = training_and_test(whole, ArraySource(far), None, 0)
    assert test.scaling is source.scaling and np.asarray(test).max() == 1, "clipped: no model would take it"
    np.testing.assert_array_equal(np.asarray(load(ROWS[:5], scale=whole)), np.asarray(whole)[:5])
    assert all(part.scaling is whole.scaling for part in split(whole, 0.5))
    with pytest.raises(DataError, match="array is scaled already, as minmax by rows of its own"):
        training_and_test(whole, load(far, scale="minmax"), None, 0)
    with pytest.raises(ParameterError, match="scale is array, which is not scaled"):
        load(ROWS, scale=ArraySource(ROWS))


def test_columns_in_another_order_keep_their_scale(tmp_path):
    pandas.DataFrame(ROWS, columns=list("abcd")).to_parquet(tmp_path / "x.parquet")
    whole = load(tmp_path / "x.parquet", scale="standard")
    turned = in_order_of(whole, ("d", "b", "a", "c"), None, "others")
    np.testing.assert_array_equal(np.asarray(turned), np.asarray(whole)[:, [3, 1, 0, 2]])
    np.testing.assert_allclose(turned.scaling.undo(np.asarray(turned)), ROWS[:, [3, 1, 0, 2]], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("rows", "kind", "message"), [
    (np.ones((20, 3)), "minmax", r"scale is minmax, and all rows of array are alike: there is no scale"),
    (PIXELS[[0, 0]] * 0, "standard", r"scale is standard, and all rows of array are alike"),
    (ROWS, "pixels", r"scale pixels divides values of 0 to 255 by 255; array reaches from"),
])
def test_what_cannot_be_scaled_is_named(rows, kind, message):
    with pytest.raises(DataError, match=message):
        load(rows, scale=kind)
    with pytest.raises(ParameterError, match=r"scale is 'minmx'.*did you mean 'minmax'"):
        load(rows, scale="minmx")


@pytest.mark.mpi
def test_the_trainer_s_error_names_the_scale_and_all_ranks_learn_one(world):
    model = Autoencoder(4, hidden=(2,))
    with pytest.raises(ParameterError, match=r"scale the data \(--scale minmax, or pyddl.data.load\(\.\.\., scale="):
        Trainer(model, epochs=1).fit(ROWS)
    with pytest.raises(ParameterError, match=r"--scale pixels"):
        Trainer(Autoencoder(30, hidden=(2,)), epochs=1).fit(PIXELS)
    result = Trainer(model, epochs=1, batch_size=60).fit(load(ROWS, scale="minmax"), ROWS[:50])
    assert result.metrics[0]["test_loss"] > 0


def test_a_run_scales_and_scales_back_whatever_it_is_given(tmp_path, pyddl_here):
    pandas.DataFrame(ROWS, columns=list("abcd")).to_parquet(tmp_path / "x.parquet")
    np.save(tmp_path / "y.npy", ROWS[:, 0] > 0)
    pyddl_here("train", "autoencoder", "--data", "x.parquet", "--scale", "standard", "--loss", "mse", "--hidden", "4",
             "--validation", "0.2", "--epochs", "2", "--quiet", "--out", "r")
    run, whole = load_run("r"), load("x.parquet")
    scale = learned("standard", split(whole, 0.2, 0)[0])
    assert run.scaling == scale and run.config["scale"] == "standard", "the rows kept back teach nothing"
    assert "scaled (standard)" in pyddl_here("evaluate", "r")[0]
    pyddl_here("reconstruct", "r", "--data", "x.parquet", "--out", "back.csv")
    back = pandas.read_csv(tmp_path / "back.csv")
    made = run.model.reconstruct(run.averaged, run.buffers, scale.apply(ROWS.copy()))
    assert list(back.columns) == list("abcd")
    np.testing.assert_allclose(back, scale.undo(made), rtol=1e-5, atol=1e-4)
    estimator = pyddl.load("r")
    frame = pandas.DataFrame(ROWS, columns=list("abcd"))
    np.testing.assert_allclose(estimator.inverse_transform(estimator.transform(frame)), back, rtol=1e-5, atol=1e-4)
    pyddl_here("train", "classifier", "--data", "x.parquet", "--labels", "y.npy", "--encoder", "r", "--epochs", "1",
             "--quiet", "--out", "c")
    assert load_run("c").scaling == scale, "an encoder sees rows as it was trained on them"
    said = pyddl_here("train", "classifier", "--data", "x.parquet", "--labels", "y.npy", "--encoder", "r", "--scale",
                    "minmax", "--epochs", "1", "--out", "d", check=2)[1]
    assert "x.parquet is scaled already, as minmax by rows of its own" in said


def test_a_run_of_the_trainer_records_the_scale(tmp_path):
    np.save(tmp_path / "x.npy", ROWS)
    source = load(tmp_path / "x.npy", scale="minmax")
    Trainer(Autoencoder(4, hidden=(2,)), epochs=1, out=str(tmp_path / "r")).fit(source)
    run = load_run(tmp_path / "r")
    assert run.scaling == source.scaling and run.config["scale"] == "minmax"
    estimator = pyddl.VAE(hidden=(4, 2), epochs=1, random_state=0).fit(source)
    assert estimator.sample(200, random_state=0)[:, 1].mean() > 500, "in units of the data"
