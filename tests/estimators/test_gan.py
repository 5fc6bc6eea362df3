"""Adversarial pairs among scikit-learn's tools."""

import pickle

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

import pyddl
from pyddl.errors import ParameterError, ShapeError

X = np.random.default_rng(0).normal(2, 1, (60, 4))
Y = np.array(["left", "right", "left"] * 20)


def small(**params):
    return pyddl.GAN(**{"generator": (6,), "discriminator": (6,), "epochs": 3, "batch_size": 16, "random_state": 0,
                        **params})


every_check = parametrize_with_checks([pyddl.GAN(epochs=2), small(random_state=None, objective="wgan_gp"),
                                       small(random_state=None, conditional=True)])


@pytest.mark.parametrize(every_check.args[0], list(every_check.args[1]), **every_check.kwargs)
def test_scikit_learns_checks_pass(estimator, check):
    check(estimator)


def test_samples_are_of_a_seed():
    fitted = small().fit(X)
    samples = fitted.sample(5, random_state=3)
    assert samples.shape == (5, 4) and samples.dtype == np.float32
    assert np.array_equal(samples, pickle.loads(pickle.dumps(fitted)).sample(5, random_state=3))
    assert not np.array_equal(samples, fitted.sample(5, random_state=4)) and fitted.sample().shape == (1, 4)
    assert {"train_loss_generator", "train_pairs_right", "train_penalty"} <= set(fitted.metrics_[-1])
    with pytest.raises(ParameterError, match="labels are given, and this model was trained without"):
        fitted.sample(5, labels="left")


def test_a_search_finds_the_pair_that_learns():
    search = GridSearchCV(small(learning_rate=0.02, average=0.9), {"epochs": [1, 200]}, cv=2).fit(X)
    assert search.best_params_ == {"epochs": 200} and search.best_score_ < 0.1
    fitted = search.best_estimator_
    assert fitted.score(X) > fitted.score(X + 3) == fitted.score(pyddl.data.ArraySource((X + 3).astype(np.float32)))


def test_passes_go_on_where_the_last_one_ended():
    passes = small(schedule="constant")
    for _ in range(3):
        passes.partial_fit(X)
    whole = small(schedule="constant").fit(X)
    assert np.array_equal(passes.sample(9, random_state=0), whole.sample(9, random_state=0))


def test_samples_of_a_class():
    shifted = X + 20 * (Y == "right")[:, None]
    fitted = small(conditional=True, epochs=150, learning_rate=0.01, average=0.9).fit(shifted, Y)
    assert fitted.classes_.tolist() == ["left", "right"]
    left, right = (fitted.sample(200, labels=label, random_state=0).mean() for label in fitted.classes_)
    assert left < 8 < 14 < right, (left, right)
    mixed = fitted.sample(4, labels=["left", "right", "left", "right"], random_state=0)
    assert (mixed.mean(axis=1) > 11).tolist() == [False, True, False, True]
    with pytest.raises(ParameterError, match="labels has 'up'; expected classes of training: left, right"):
        fitted.sample(2, labels="up")
    with pytest.raises(ShapeError, match="expected \\(2,\\), a label for each sample"):
        fitted.sample(2, labels=["left"])
    with pytest.raises(ParameterError, match="requires y"):
        small(conditional=True).fit(X)


def test_a_run_becomes_an_estimator(tmp_path):
    source = pyddl.data.load("digits")
    model = pyddl.models.for_data("gan", source, conditional=True, generator=(6,), discriminator=(6,))
    pyddl.train.Trainer(model, epochs=1, out=str(tmp_path / "run")).fit(source)
    loaded = pyddl.load(tmp_path / "run")
    assert isinstance(loaded, pyddl.GAN) and loaded.conditional and list(loaded.generator) == [6]
    assert loaded.sample(3, labels=7, random_state=0).shape == (3, 64)
    assert len(loaded.partial_fit(source).metrics_) == 2
