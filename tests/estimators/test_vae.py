"""The variational autoencoder among scikit-learn's tools."""

import pickle

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import pyddl
from pyddl.errors import ParameterError

X = np.random.default_rng(0).random((60, 8))


def small(**params):
    return pyddl.VAE(**{"hidden": (6, 2), "epochs": 3, "batch_size": 16, "random_state": 0, **params})


every_check = parametrize_with_checks([pyddl.VAE(), small(random_state=None, loss="mse", samples=2)])


@pytest.mark.parametrize(every_check.args[0], list(every_check.args[1]), **every_check.kwargs)
@pytest.mark.filterwarnings("ignore:X reaches from")  # the checks' data are not scaled
def test_scikit_learns_checks_pass(estimator, check):
    check(estimator)


def test_codes_are_means_and_lead_back():
    fitted = small().fit(X)
    codes = fitted.transform(X)
    assert codes.shape == (60, 2) and fitted.inverse_transform(codes).shape == X.shape
    given = (fitted.result_.averaged, fitted.result_.buffers)
    assert np.array_equal(codes, fitted.model_.posterior(*given, X.astype(np.float32))[:, :2])
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.transform(X), codes)


def test_scores_are_bounds_that_a_row_has_in_any_company():
    fitted = small(epochs=30).fit(X)
    scores = fitted.score_samples(X)
    order = np.random.default_rng(1).permutation(60)
    np.testing.assert_allclose(fitted.score_samples(X[order]), scores[order], rtol=1e-6)
    assert fitted.score(X) == pytest.approx(scores.mean()) and scores.dtype == np.float64
    bounds = [fitted.score_samples(X, samples).mean() for samples in (1, 10, 100)]
    assert bounds[0] - 0.2 < bounds[1] < bounds[2] + 0.02
    assert fitted.score(X) > small(epochs=1).fit(X).score(X)
    assert -fitted.loss_curve_[-1] == pytest.approx(fitted.score(X), abs=0.5)
    with pytest.raises(ParameterError, match="samples is 0"):
        fitted.score_samples(X, 0)


def test_samples():
    fitted = small(epochs=60, learning_rate=0.01).fit(X)
    many = fitted.sample(5000, random_state=1)  # more than are decoded at once
    assert many.shape == (5000, 8) and np.array_equal(many[:3], fitted.sample(3, random_state=1))
    np.testing.assert_allclose(many.mean(axis=0), X.mean(axis=0), atol=0.2)
    with pytest.raises(ParameterError, match="count is 0"):
        fitted.sample(0)


def test_passes_go_on_where_the_last_one_ended():
    passes = small()
    for _ in range(3):
        passes.partial_fit(X)
    assert np.array_equal(passes.transform(X), small().fit(X).transform(X))


def test_a_run_is_loaded(tmp_path):
    model = pyddl.models.VAE(8, (6, 2))
    pyddl.train.Trainer(model, epochs=1, seed=3, out=str(tmp_path / "run")).fit(X)
    loaded = pyddl.load(tmp_path / "run")
    assert isinstance(loaded, pyddl.VAE) and loaded.hidden == (6, 2) and np.isfinite(loaded.score(X))


def test_a_search_over_a_pipeline():
    y = X[:, 0] > 0.5
    assert make_pipeline(small(), LogisticRegression()).fit(X, y).predict(X).shape == (60,)
    found = GridSearchCV(small(), {"kl_weight": [0.5, 1.0]}, cv=2).fit(X)
    assert found.best_params_["kl_weight"] in (0.5, 1.0)
