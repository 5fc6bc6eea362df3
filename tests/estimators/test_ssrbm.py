"""The spike-and-slab machine among scikit-learn's tools."""

import pickle

import numpy as np
import pytest
from nudged_digits import nudged
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import pyddl
from pyddl.errors import ParameterError

X = np.random.default_rng(0).normal(3, 2, (60, 8))


def small(**params):
    return pyddl.SpikeSlabRBM(**{"hidden": 4, "epochs": 3, "batch_size": 16, "random_state": 0, **params})


every_check = parametrize_with_checks([pyddl.SpikeSlabRBM(),
                                       small(random_state=None, form="mu", chain="pcd", code="input", pool=2)])


@pytest.mark.parametrize(every_check.args[0], list(every_check.args[1]), **every_check.kwargs)
def test_scikit_learns_checks_pass(estimator, check):
    check(estimator)


def test_its_attributes():
    fitted = small(pool=2).fit(X)
    assert fitted.components_.shape == (8, 8) and fitted.intercept_hidden_.shape == (4,)
    weights = fitted.parameters_["weights"]
    assert weights.shape == (8, 2, 4) and np.array_equal(fitted.components_[3], weights[:, 1, 1])
    assert small(pool=2, hidden=(4,)).fit(X).components_.tolist() == fitted.components_.tolist()
    np.testing.assert_allclose(fitted.score_samples(X), -fitted.free_energy(X))
    assert fitted.score(X) < 0
    with pytest.raises(ParameterError, match="expected one number of hidden units"):
        small(hidden=(3, 4)).fit(X)
    with pytest.raises(ParameterError, match=r"radius is 0\.1, but training rows"):
        small(radius=0.1).fit(X)
    with pytest.raises(ParameterError, match="has an encoder only"):
        fitted.inverse_transform(fitted.transform(X))


def test_codes_are_probabilities_or_inputs():
    probabilities, inputs = (small(code=code).fit(X).transform(X) for code in ("probability", "input"))
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-inputs)), atol=1e-6)
    y = X[:, 0] > 3
    pipeline = make_pipeline(small(code="input"), StandardScaler(), LogisticRegression())
    assert cross_val_score(pipeline, X, y, cv=3).shape == (3,)


def test_chains_and_samples():
    fitted = small(epochs=10).fit(X)
    once, twice = fitted.gibbs(X), fitted.gibbs(X)
    assert once.shape == X.shape and not np.array_equal(once, twice)
    many = fitted.sample(2000, steps=30, random_state=1)
    assert np.array_equal(many, fitted.sample(2000, steps=30, random_state=1))
    np.testing.assert_allclose(many.mean(axis=0), X.mean(axis=0), atol=0.5)
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.transform(X), fitted.transform(X))


def test_passes_go_on_where_the_last_one_ended():
    passes = small(schedule="constant")
    for _ in range(3):
        passes.partial_fit(X)
    assert np.array_equal(passes.components_, small(schedule="constant").fit(X).components_)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_nudged_digits(capsys):
    """Spike inputs, standardised, C = 1: at least 91 %; pixels have 78 %, a Bernoulli machine of scikit-learn 92 %."""
    train, test, y_train, y_test = nudged()
    accuracies = []
    for seed in range(3):
        machine = pyddl.SpikeSlabRBM(hidden=80, pool=2, code="input", learning_rate=0.05, epochs=20, batch_size=50,
                                     random_state=seed, strategy="local")
        pipeline = make_pipeline(machine, StandardScaler(), LogisticRegression(C=1, max_iter=1000))
        accuracies.append(pipeline.fit(train, y_train).score(test, y_test))
    with capsys.disabled():
        print(f"\nnudged digits, spike inputs of 80 spikes and logistic regression: {accuracies}")
    assert np.median(accuracies) >= 0.91
