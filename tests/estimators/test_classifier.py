"""The classifier as scikit-learn's users have it: all its checks, classes of any type, encoders of runs."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import pyddl
from pyddl.data import ArraySource
from pyddl.errors import DataError, ParameterError, ShapeError

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(150, 4))
NUMBERS = np.argmax(X[:, :3] + 0.1 * RANDOM.normal(size=(150, 3)), axis=1)
WORDS = np.array(["left", "none", "right"])[NUMBERS]


def classifier(**params):
    return pyddl.Classifier(**{"epochs": 30, "batch_size": 30, "learning_rate": 0.03, "random_state": 0, **params})


every_check = parametrize_with_checks([classifier(random_state=None), classifier(hidden=(8,))])


@pytest.mark.parametrize(every_check.args[0], list(every_check.args[1]), **every_check.kwargs)
def test_scikit_learns_checks_pass(estimator, check):
    check(estimator)


@pytest.mark.parametrize("y", [NUMBERS, WORDS, WORDS.astype(object), NUMBERS * 10 - 5, NUMBERS / 1.0, WORDS.tolist(),
                               NUMBERS == 1], ids=["numbers", "text", "objects", "gaps", "floats", "list", "truth"])
def test_classes_are_what_y_holds(y):
    fitted = classifier().fit(X, y)
    assert fitted.classes_.tolist() == sorted(set(np.asarray(y).tolist()))
    assert fitted.score(X, y) == accuracy_score(y, fitted.predict(X)) > 0.9
    np.testing.assert_allclose(fitted.predict_proba(X).sum(axis=1), 1, rtol=1e-6)
    assert (pickle.loads(pickle.dumps(fitted)).predict(X) == fitted.predict(X)).all()


def test_later_passes_may_bring_classes_that_the_first_had_not():
    passes = classifier().partial_fit(X[:30], np.zeros(30, int), classes=[0, 1, 2])
    assert passes.predict_proba(X).shape == (150, 3)
    for _ in range(30):
        passes.partial_fit(X, NUMBERS)
    assert passes.classes_.tolist() == [0, 1, 2] and passes.score(X, NUMBERS) > 0.9
    with pytest.raises(ParameterError, match=r"y has the label \d, which is not among the classes 0, 1, 2: name all"):
        passes.partial_fit(X, NUMBERS + 7)
    both = classifier().partial_fit(ArraySource(X, labels=NUMBERS)).partial_fit(ArraySource(X, labels=NUMBERS * 0))
    assert both.classes_.tolist() == [0, 1, 2]
    with pytest.raises(DataError, match="has the label 5; the model knows 3 classes"):
        both.partial_fit(ArraySource(X, labels=NUMBERS * 0 + 5))


def test_passes_are_those_of_fit():
    whole, passes = classifier(epochs=3).fit(X, WORDS), classifier()
    for _ in range(3):
        passes.partial_fit(X, WORDS)
    for name, values in whole.parameters_.items():
        np.testing.assert_array_equal(passes.parameters_[name], values)


def test_a_source_brings_classes_with_names():
    source = ArraySource(X, labels=WORDS)
    fitted = classifier().fit(source)
    assert fitted.classes_.tolist() == list(fitted.model_.class_names) == ["left", "none", "right"]
    assert fitted.score(source) == fitted.score(X, WORDS) > 0.9
    assert classifier().fit(ArraySource(X, labels=NUMBERS)).classes_.tolist() == [0, 1, 2]


def test_it_works_in_pipelines_and_searches():
    line = make_pipeline(StandardScaler(), classifier(epochs=10))
    search = GridSearchCV(line, {"classifier__hidden": [(), (6,)], "classifier__weight_decay": [None, 0.01]}, cv=3)
    assert search.fit(X, WORDS).best_score_ > 0.85
    assert cross_val_score(classifier(epochs=10), X, NUMBERS, cv=3).min() > 0.8
    assert clone(search.best_estimator_[-1]).get_params() == search.best_estimator_[-1].get_params()


@pytest.fixture(scope="module")
def digits():
    found = load_digits()
    return (found.data / 16).astype(np.float32), found.target


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    """A finished run of an autoencoder on digits."""
    path, data = tmp_path_factory.mktemp("runs") / "ae", pyddl.data.load("digits")
    model = pyddl.models.Autoencoder(64, hidden=(32, 16))
    pyddl.train.Trainer(model, out=str(path), epochs=5, batch_size=50).fit(data)
    return path


@pytest.mark.parametrize("as_path", [True, False])
def test_an_encoder_is_named_by_the_path_of_its_run(digits, run, as_path):
    rows, labels = digits
    fitted = classifier(encoder=run if as_path else str(run), freeze=True, epochs=3).fit(rows, labels)
    theirs = pyddl.load(run)
    for name in ("encoder.0.weight", "encoder.1.bias"):
        assert fitted.parameters_[name].tobytes() == theirs.parameters_[name].tobytes()
    tuned = classifier(encoder=run, frozen_epochs=2, epochs=3).fit(rows, labels)
    assert len(tuned.loss_curve_) == 5 and tuned.score(rows, labels) > fitted.score(rows, labels) > 0.8
    assert not np.array_equal(tuned.parameters_["encoder.0.weight"], theirs.parameters_["encoder.0.weight"])
    passes = classifier(encoder=run, frozen_epochs=1).partial_fit(rows, labels)
    assert passes.parameters_["encoder.0.weight"].tobytes() == theirs.parameters_["encoder.0.weight"].tobytes()
    passes.partial_fit(rows, labels)
    assert len(passes.loss_curve_) == 2
    assert not np.array_equal(passes.parameters_["encoder.0.weight"], theirs.parameters_["encoder.0.weight"])


def test_a_run_becomes_a_classifier(digits, run, tmp_path):
    data = pyddl.data.load("digits")
    rows, words = np.asarray(data), np.array([f"the {label}" for label in data.labels])
    source = ArraySource(rows, labels=words)
    encoder = pyddl.models.Trained.of(pyddl.train.load_run(run))
    model = pyddl.models.for_data("classifier", source, encoder=encoder, hidden=(), frozen_epochs=1)
    result = pyddl.train.Trainer(model, out=str(tmp_path / "run"), epochs=6, batch_size=50).fit(source)
    loaded = pyddl.load(tmp_path / "run")
    assert isinstance(loaded, pyddl.Classifier) and loaded.classes_.tolist() == sorted(set(words))
    assert loaded.score(rows, words) > 0.8 and loaded.frozen_epochs == 1
    np.testing.assert_array_equal(loaded.predict_proba(rows), model.probabilities(result.parameters, None, rows))
    assert len(loaded.partial_fit(rows, words).loss_curve_) == 8


@pytest.mark.parametrize(("params", "y", "error", "message"), [
    ({}, None, ParameterError, "requires y to be passed"),
    ({}, NUMBERS[:-1], ShapeError, "X has 150 rows, and y has 149"),
    ({}, X[:, 0], ParameterError, "Unknown label type: continuous"),
    ({}, np.where(NUMBERS == 1, np.nan, 1), DataError, "y has NaN or infinity in row"),
    ({}, np.ones(150), ParameterError, "one class only"),
    ({}, ["yes"] * 150, ParameterError, "all 150 labels of X are yes: one class only"),
    ({"frozen_epochs": 2}, NUMBERS, ParameterError, "frozen_epochs is 2, and there is no encoder"),
    ({"freeze": True}, NUMBERS, ParameterError, "freeze is True, and there is no encoder"),
    ({"encoder": "nowhere"}, NUMBERS, DataError, "nowhere is no finished run"),
    ({"encoder": 3}, NUMBERS, ParameterError, "encoder is 3; expected the path of a run, or in Python a fitted"),
    ({"hidden": (0,)}, NUMBERS, ParameterError, "hidden"),
], ids=str)
def test_unfit_values_are_refused(params, y, error, message):
    with pytest.raises(error, match=message):
        classifier(**params).fit(X, y)


def test_options_of_other_models_are_refused():
    with pytest.raises(TypeError, match="code_activation is an option of model autoencoder; the model here is classif"):
        pyddl.Classifier(code_activation="relu")


def test_an_encoder_of_another_width_is_refused(run):
    with pytest.raises(ShapeError, match="was trained on rows of 64 features; these have 4"):
        classifier(encoder=run).fit(X, NUMBERS)
