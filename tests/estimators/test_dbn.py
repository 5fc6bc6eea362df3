"""`pyddl.DBN` as scikit-learn's users meet it: a transformer, and a classifier where it becomes one."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone, is_classifier
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import pyddl
from pyddl.errors import DataError, ParameterError
from pyddl.models import Autoencoder
from pyddl.train import Trainer

X = np.random.default_rng(0).random((60, 8))
Y = np.where(X[:, 0] > X[:, 1], "left", "right")


def small(**params):
    return pyddl.DBN(**{"hidden": (6, 3), "pretrain_epochs": 2, "epochs": 2, "batch_size": 16, "random_state": 0,
                        **params})


def classifier(**params):
    return small(**{"finetune": "classifier", "visible": "gaussian", "hidden": (16, 8), "epochs": 60,
                    "learning_rate": 0.03, **params})


every_check = parametrize_with_checks([pyddl.DBN(), small(random_state=None, finetune="autoencoder"),
                                       classifier(random_state=None, batch_size=30)])


@pytest.mark.parametrize(every_check.args[0], list(every_check.args[1]), **every_check.kwargs)
@pytest.mark.filterwarnings("ignore:X reaches from")  # the checks' data are not scaled
def test_scikit_learns_checks_pass(estimator, check):
    check(estimator)


@pytest.mark.parametrize("finetune", ["none", "autoencoder"])
def test_it_is_a_transformer_with_samples(finetune):
    fitted = small(finetune=finetune).fit(X)
    codes = fitted.transform(X)
    assert codes.shape == (60, 3) and fitted.inverse_transform(codes).shape == X.shape
    np.testing.assert_allclose(fitted.score(X), -((X - fitted.inverse_transform(codes)) ** 2).sum(axis=1).mean(),
                               rtol=1e-5)
    first, again, other = (fitted.sample(4, steps=5, random_state=seed) for seed in (1, 1, 2))
    assert first.shape == (4, 8) and np.array_equal(first, again) and not np.array_equal(first, other)
    assert not is_classifier(fitted) and not hasattr(fitted, "predict") and not hasattr(fitted, "predict_proba")
    assert len(fitted.metrics_) == (4 if finetune == "none" else 6)
    assert np.array_equal(pickle.loads(pickle.dumps(fitted)).transform(X), codes)
    with pytest.raises(ParameterError, match="count is 0"):
        fitted.sample(0)


def test_it_becomes_a_classifier():
    fitted = classifier().fit(X, Y)
    assert is_classifier(fitted) and fitted.classes_.tolist() == ["left", "right"]
    assert fitted.score(X, Y) == np.mean(fitted.predict(X) == Y) > 0.9
    assert fitted.predict_proba(X).shape == (60, 2) and fitted.transform(X).shape == (60, 8)
    assert cross_val_score(classifier(), X, Y, cv=2).shape == (2,)
    few = classifier(labelled=20).fit(X, Y)
    assert few.get_params()["labelled"] == 20 and not np.array_equal(few.predict_proba(X), fitted.predict_proba(X))
    with pytest.raises(ParameterError, match="labelled is 61"):
        classifier(labelled=61).fit(X, Y)
    with pytest.raises(ValueError, match="requires y"):
        classifier().fit(X)


def test_passes_go_through_the_stages():
    passes = classifier(pretrain_epochs=(1, 2))
    widths = [passes.partial_fit(X, Y).transform(X).shape[1] for _ in range(5)]
    assert widths == [16, 8, 8, 8, 8] and passes.predict(X).shape == (60,)


def test_features_serve_a_linear_classifier():
    rows, digits = load_digits(return_X_y=True)
    rows /= 16
    dbn = pyddl.DBN(hidden=(100, 60), pretrain_epochs=20, epochs=20, pretrain_learning_rate=0.05, batch_size=20,
                    centering=False, random_state=0)
    found = make_pipeline(dbn, StandardScaler(), LogisticRegression(max_iter=1000)).fit(rows[:1200], digits[:1200])
    assert found.score(rows[1200:], digits[1200:]) > 0.85


def test_a_run_directory_is_an_estimator(tmp_path):
    for finetune in ("autoencoder", "classifier"):
        data = pyddl.data.load("digits")
        model = pyddl.models.for_data("dbn", data, hidden=(8, 5), finetune=finetune, pretrain_epochs=(1,))
        result = Trainer(model, epochs=1, seed=3, out=str(tmp_path / finetune)).fit(data)
        loaded = pyddl.load(tmp_path / finetune)
        rows = np.asarray(data)[:7].astype(np.float32)
        assert np.array_equal(loaded.transform(rows), model.encode(result.parameters, result.buffers, rows))
        assert clone(loaded).get_params()["pretrain_epochs"] == (1, 1) and loaded.finetune == finetune
        assert hasattr(loaded, "predict") == (finetune == "classifier")


@pytest.mark.parametrize(("params", "message"), [
    ({"hidden": (4,)}, "at least two layers"), ({"pretrain_epochs": "3"}, "pretrain_epochs is '3'; expected a number"),
    ({"pretrain_epochs": (1, 2, 3)}, "or 1, as the last layer"), ({"pretrain_learning_rate": 0}, "pretrain_learning"),
    ({"labelled": 5}, "model dbn as given needs no labels"), ({"finetune": "both"}, "finetune is 'both'"),
])
def test_bad_parameters_are_named(params, message):
    with pytest.raises(ParameterError, match=message):
        small(**params).fit(X)


def test_labelled_is_a_trainer_s_option_for_models_with_labels():
    with pytest.raises(ParameterError, match="model autoencoder as given needs no labels"):
        Trainer(Autoencoder(8, (4, 2)), labelled=5).fit(X.astype(np.float32))
    with pytest.raises((ParameterError, DataError), match="labels"):
        pyddl.Classifier(labelled=5).fit(pyddl.data.ArraySource(X.astype(np.float32)))
