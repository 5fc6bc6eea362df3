"""Least squares as scikit-learn's users have it: all its checks, several targets, encoders of runs."""

import pickle

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import pyddl
from pyddl.data import ArraySource
from pyddl.errors import DataError, ParameterError, ShapeError

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(150, 4))
Y = X @ [1, -2, 0.5, 0] + 3
TWO = np.column_stack([Y, X[:, 0] - Y])


def regressor(**params):
    given = {"epochs": 60, "batch_size": 30, "learning_rate": 0.05, "random_state": 0, **params}
    return pyddl.LinearRegression(**given)


every_check = parametrize_with_checks([regressor(random_state=None)])


@pytest.mark.parametrize(every_check.args[0], list(every_check.args[1]), **every_check.kwargs)
def test_scikit_learns_checks_pass(estimator, check):
    check(estimator)


def test_a_regression_is_the_right_one():
    fitted, right = regressor(epochs=200).fit(X, Y), LinearRegression().fit(X, Y)
    np.testing.assert_allclose(fitted.predict(X), right.predict(X), atol=1e-3)
    np.testing.assert_allclose(fitted.parameters_["head.weight"][0], right.coef_, atol=1e-3)
    assert fitted.score(X, Y) == pytest.approx(r2_score(Y, fitted.predict(X)))
    assert (pickle.loads(pickle.dumps(fitted)).predict(X) == fitted.predict(X)).all()
    assert cross_val_score(regressor(), X, Y, cv=3).min() > 0.95


def test_predictions_have_the_shape_of_y():
    fitted = regressor().fit(X, TWO)
    assert fitted.predict(X).shape == (150, 2) and fitted.parameters_["head.weight"].shape == (2, 4)
    assert fitted.score(X, TWO) == pytest.approx(r2_score(TWO, fitted.predict(X)))
    assert regressor(epochs=1).fit(X, Y).predict(X).shape == (150,)
    assert regressor(epochs=1).fit(X, Y[:, None]).predict(X).shape == (150, 1)
    assert regressor(epochs=1).fit(ArraySource(X, labels=TWO)).predict(X).shape == (150, 2)


def test_it_works_in_pipelines_and_searches():
    line = make_pipeline(StandardScaler(), regressor())
    search = GridSearchCV(line, {"linearregression__optimizer": ["adam", "sgd"]}, cv=3).fit(X, TWO)
    assert search.best_score_ > 0.95


def test_an_encoder_is_named_by_the_path_of_its_run_and_a_run_becomes_an_estimator(tmp_path):
    model = pyddl.models.Autoencoder(4, hidden=(6, 3), loss="mse")
    pyddl.train.Trainer(model, out=str(tmp_path / "ae"), epochs=40, batch_size=30, seed=1).fit(X.astype(np.float32))
    fitted = regressor(encoder=tmp_path / "ae", freeze=True).fit(X, TWO)
    theirs = pyddl.load(tmp_path / "ae").parameters_
    assert fitted.parameters_["encoder.0.weight"].tobytes() == theirs["encoder.0.weight"].tobytes()
    tuned = regressor(encoder=tmp_path / "ae", frozen_epochs=5).fit(X, TWO)
    assert tuned.score(X, TWO) > max(0.95, fitted.score(X, TWO))
    source = ArraySource(X, labels=Y)
    model = pyddl.models.for_data("linear", source)
    given = {"epochs": 50, "batch_size": 30, "learning_rate": 0.05}
    result = pyddl.train.Trainer(model, out=str(tmp_path / "run"), **given).fit(source)
    loaded = pyddl.load(tmp_path / "run")
    assert isinstance(loaded, pyddl.LinearRegression) and loaded.predict(X).shape == (150,)
    assert loaded.score(X, Y) > 0.9 and len(loaded.partial_fit(X, Y).loss_curve_) == 51
    assert result.summary["model"] == "linear"


@pytest.mark.parametrize(("params", "y", "error", "message"), [
    ({}, None, ParameterError, "requires y to be passed"),
    ({}, Y[:-1], ShapeError, "X has 150 rows, and y has 149"),
    ({}, np.where(Y > 3, "a", "b"), ParameterError, "expected real numbers: for classes take a classifier"),
    ({}, np.where(Y > 3, np.inf, Y), DataError, "y has NaN or infinity in row"),
    ({}, np.ones((150, 2, 2)), ShapeError, r"expected \(rows,\) or \(rows, targets\)"),
    ({"freeze": True}, Y, ParameterError, "freeze is True, and there is no encoder"),
], ids=str)
def test_unfit_values_are_refused(params, y, error, message):
    with pytest.raises(error, match=message):
        regressor(**params).fit(X, y)


def test_a_source_of_classes_is_refused():
    with pytest.raises(DataError, match="has labels that are classes"):
        regressor().fit(ArraySource(X, labels=np.where(Y > 3, "a", "b")))
    with pytest.raises(ShapeError, match="has labels of 2 numbers each; the model expects 1"):
        regressor(epochs=1).fit(X, Y).partial_fit(X, TWO)


def test_options_of_other_models_are_refused():
    with pytest.raises(TypeError, match=r"hidden is an option of model autoencoder, .*; the model here is linear"):
        pyddl.LinearRegression(hidden=(3,))


def test_a_score_needs_the_targets_of_training():
    fitted = regressor(epochs=1).fit(X, Y)
    with pytest.raises(ShapeError, match="y has 2 targets; expected the 1 of training"):
        fitted.score(X, TWO)
