"""The Boltzmann machine among scikit-learn's tools, and in the place of its BernoulliRBM."""

import pickle

import numpy as np
import pytest
from nudged_digits import nudged
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neural_network import BernoulliRBM
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import pyddl
from pyddl.errors import ParameterError

X = (np.random.default_rng(0).random((60, 8)) < 0.4).astype(float)


def small(**params):
    return pyddl.RBM(**{"hidden": 4, "epochs": 3, "batch_size": 16, "random_state": 0, **params})


every_check = parametrize_with_checks([pyddl.RBM(), small(random_state=None, chain="cd", centering=True),
                                       small(random_state=None, visible="gaussian")])


@pytest.mark.parametrize(every_check.args[0], list(every_check.args[1]), **every_check.kwargs)
@pytest.mark.filterwarnings("ignore:X reaches from")  # the checks' data are not scaled
def test_scikit_learns_checks_pass(estimator, check):
    check(estimator)


def test_it_is_classic_by_default_and_takes_a_number():
    assert pyddl.RBM().centering is False and pyddl.models.RBM(4).centering is True
    fitted = small().fit(X)
    assert fitted.model_.hidden == 4 and not fitted.model_.centering
    assert small(hidden=(4,)).fit(X).components_.tolist() == fitted.components_.tolist()
    for hidden in (True, (3, 4), ()):
        with pytest.raises(ParameterError, match="expected one number of hidden units"):
            small(hidden=hidden).fit(X)
    with pytest.raises(ParameterError, match="hidden is 0"):
        small(hidden=0).fit(X)


def test_its_attributes_are_those_of_scikit_learn_s_machine():
    fitted, theirs = small(epochs=20).fit(X), BernoulliRBM(4, n_iter=1, random_state=0).fit(X)
    for name in ("components_", "intercept_hidden_", "intercept_visible_"):
        assert getattr(fitted, name).shape == getattr(theirs, name).shape
        setattr(theirs, name, getattr(fitted, name).astype(float))
    np.testing.assert_allclose(fitted.transform(X), theirs.transform(X), atol=1e-5)
    np.testing.assert_allclose(fitted.free_energy(X), theirs._free_energy(X), atol=1e-4)
    np.testing.assert_allclose(fitted.score_samples(X, "free_energy"), -theirs._free_energy(X), atol=1e-4)
    drawn = np.mean([theirs.score_samples(X) for _ in range(400)], axis=0)
    assert fitted.score(X) == pytest.approx(drawn.mean(), rel=0.02)
    assert fitted.score(X) == fitted.score_samples(X).mean() > small(epochs=1).fit(X).score(X)


def test_chains_and_samples():
    fitted = small(epochs=10).fit(X)
    once, twice = fitted.gibbs(X), fitted.gibbs(X)
    assert once.shape == X.shape and set(np.unique(once)) <= {0, 1} and not np.array_equal(once, twice)
    assert np.array_equal(small(epochs=10).fit(X).gibbs(X), once)
    many = fitted.sample(4000, steps=30, random_state=1)
    assert np.array_equal(many, fitted.sample(4000, steps=30, random_state=1))
    np.testing.assert_allclose(many.mean(axis=0), X.mean(axis=0), atol=0.15)
    gaussian = small(visible="gaussian").fit(X)
    assert gaussian.sample(3).dtype == np.float32 and gaussian.score(X) < 0
    with pytest.raises(ParameterError, match="kind is 'free'; expected one of free_energy, pseudo_likelihood"):
        fitted.score_samples(X, "free")
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.transform(X), fitted.transform(X))


def test_passes_go_on_where_the_last_one_ended():
    passes = small(schedule="constant")
    for _ in range(3):
        passes.partial_fit(X)
    assert np.array_equal(passes.components_, small(schedule="constant").fit(X).components_)


def test_a_search_over_a_pipeline():
    y = X[:, 0] > 0
    pipeline = make_pipeline(small(), LogisticRegression())
    assert cross_val_score(pipeline, X, y, cv=3).shape == (3,)
    found = GridSearchCV(small(), {"hidden": [2, 6]}, cv=2).fit(X)
    assert found.best_params_["hidden"] in (2, 6)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_nudged_digits(capsys):
    train, test, y_train, y_test = nudged()
    accuracies = []
    for seed in range(3):
        rbm = pyddl.RBM(hidden=100, learning_rate=0.1, epochs=20, batch_size=10, random_state=seed, strategy="local",
                        chains=10)
        pipeline = make_pipeline(rbm, LogisticRegression(C=6000, max_iter=3000)).fit(train, y_train)
        accuracies.append(pipeline.score(test, y_test))
    with capsys.disabled():
        print(f"\nnudged digits, RBM with 100 hidden units and logistic regression: {accuracies}; scikit-learn's 0.920")
    assert np.mean(accuracies) >= 0.93
