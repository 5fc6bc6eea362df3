"""Classifiers and regressors: scikit-learn's conventions, what they make of y, on small models in NumPy."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from own_models import LinearRegressor, SoftmaxClassifier, known
from sklearn.base import is_classifier, is_regressor
from sklearn.linear_model import LinearRegression
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks
from support import assert_on_all_ranks

from pyddl.data import ArraySource
from pyddl.errors import DataError, NotFiniteError, ParameterError, ShapeError

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(90, 4))
NUMBERS = np.argmax(X[:, :3] + 0.1 * RANDOM.normal(size=(90, 3)), axis=1)
WORDS = np.array(["left", "none", "right"])[NUMBERS]
Y = X @ [1, -2, 0.5, 0] + 3


def classifier(**params):
    return SoftmaxClassifier(**{"epochs": 30, "batch_size": 30, "random_state": 0, **params})


def regressor(**params):
    return LinearRegressor(**{"epochs": 150, "batch_size": 30, "random_state": 0, **params})


@pytest.fixture(autouse=True, scope="module")
def models_of_these_tests():
    with known():
        yield


every_check = parametrize_with_checks([classifier(random_state=None), regressor(random_state=None)])


@pytest.mark.parametrize(every_check.args[0], list(every_check.args[1]), **every_check.kwargs)
def test_scikit_learns_checks_pass(estimator, check):
    check(estimator)


def test_scikit_learn_knows_them_for_what_they_are():
    assert is_classifier(classifier()) and is_regressor(regressor())
    for each in (classifier(), regressor()):
        tags = each.__sklearn_tags__()
        assert tags.target_tags.required and tags.transformer_tags is None and not hasattr(each, "transform")


@pytest.mark.parametrize("y", [NUMBERS, WORDS, WORDS.astype(object), NUMBERS * 10 - 5, WORDS.tolist()],
                         ids=["numbers", "text", "objects", "gaps", "list"])
def test_classes_are_what_y_holds(y):
    fitted = classifier().fit(X, y)
    assert fitted.classes_.tolist() == sorted(set(np.asarray(y).tolist()))
    assert fitted.score(X, y) == accuracy_score(y, fitted.predict(X)) > 0.9
    proba = fitted.predict_proba(X)
    assert proba.shape == (90, 3) and (fitted.classes_[proba.argmax(axis=1)] == fitted.predict(X)).all()
    again = pickle.loads(pickle.dumps(fitted))
    assert (again.predict(X) == fitted.predict(X)).all()


def test_the_labels_of_a_source_are_enough():
    source = ArraySource(X, labels=NUMBERS)
    fitted = classifier().fit(source)
    assert fitted.classes_.tolist() == [0, 1, 2]
    assert fitted.score(source) == fitted.score(X, NUMBERS) == classifier().fit(X, NUMBERS).score(X, NUMBERS)
    assert regressor().fit(ArraySource(X, labels=Y)).score(ArraySource(X, labels=Y)) > 0.99
    with pytest.raises(ParameterError, match="y is given beside array, a source, which brings its own labels"):
        classifier().fit(source, NUMBERS)
    with pytest.raises(ParameterError, match="array has no labels; expected some"):
        classifier().fit(ArraySource(X))


def test_later_passes_may_bring_only_the_classes_of_the_first():
    passes = classifier().partial_fit(X[:30], NUMBERS[:30] % 2, classes=[0, 1, 2])
    assert passes.partial_fit(X[:30], NUMBERS[:30]).classes_.tolist() == [0, 1, 2]
    with pytest.raises(ParameterError, match=r"y has the label 7, which is not among the classes 0, 1, 2: name all"):
        passes.partial_fit(X[:30], NUMBERS[:30] * 0 + 7)


def test_a_regression_is_the_right_one():
    fitted = regressor().fit(X, Y)
    right = LinearRegression().fit(X, Y)
    np.testing.assert_allclose(fitted.predict(X), right.predict(X), atol=0.05)
    assert fitted.predict(X).dtype == np.float64
    assert fitted.score(X, Y) == pytest.approx(r2_score(Y, fitted.predict(X)))
    assert regressor(epochs=1).fit(X, np.ones(90)).score(X, np.ones(90)) == 0, "as scikit-learn has it"
    assert cross_val_score(regressor(), X, Y, cv=3).min() > 0.95


def test_predictions_have_the_shape_of_y():
    assert regressor(epochs=1).fit(X, Y[:, None]).predict(X).shape == (90, 1)
    two = np.column_stack([Y, -Y])
    fitted = regressor().fit(X, two)
    assert fitted.predict(X).shape == (90, 2)
    assert fitted.score(X, two) == pytest.approx(r2_score(two, fitted.predict(X)))


@pytest.mark.parametrize(("make", "y", "error", "message"), [
    (classifier, None, ParameterError, "requires y to be passed"),
    (regressor, None, ParameterError, "requires y to be passed"),
    (classifier, NUMBERS[:-1], ShapeError, "X has 90 rows, and y has 89"),
    (classifier, Y, ParameterError, "Unknown label type: continuous"),
    (classifier, np.where(NUMBERS == 1, np.nan, 1), DataError, "y has NaN or infinity in row"),
    (classifier, np.stack([NUMBERS, NUMBERS], axis=1), ShapeError, "y should be a 1d array"),
    (classifier, np.array([1, "a"] * 45, dtype=object), ParameterError, "y mixes labels of several types"),
    (classifier, 3, ShapeError, "y should be a 1d array"),
    (regressor, WORDS, ParameterError, "expected real numbers: for classes take a classifier"),
    (regressor, np.where(NUMBERS == 1, np.inf, Y), DataError, "y has NaN or infinity in row"),
    (regressor, np.ones((90, 2, 2)), ShapeError, r"expected \(rows,\) or \(rows, targets\)"),
])
def test_unfit_labels_are_refused(make, y, error, message):
    with pytest.raises(error, match=message):
        make().fit(X, y)


@pytest.mark.mpi
def test_ranks_learn_one_classifier_together(world):
    fitted = classifier().fit(X, WORDS)
    found = world.transport.gather_objects(fitted.predict_proba(X).tobytes())
    assert_on_all_ranks(world, len(set(found)) == 1 and fitted.score(X, WORDS) > 0.9, fitted.score(X, WORDS))
    if world.size > 1:
        last = world.rank == world.size - 1
        with pytest.raises(ParameterError, match="checksums of y differ between the ranks"):
            classifier().fit(X, WORDS[::-1] if last else WORDS)


def test_a_failed_refit_leaves_an_estimator_as_it_was():
    fitted = classifier().fit(X, WORDS)
    before, probabilities = set(vars(fitted)), fitted.predict_proba(X)
    for rows, labels in ((X[:, :2], WORDS[::-1]), (X, WORDS[:9]), (np.full((90, 4), np.nan), NUMBERS)):
        with pytest.raises((DataError, ParameterError, ShapeError)):
            fitted.set_params(batch_size=0).fit(rows, labels)
    with pytest.raises(ParameterError):
        fitted.partial_fit(X, WORDS)
    assert (fitted.predict_proba(X) == probabilities).all() and set(vars(fitted)) == before
    assert fitted.classes_.tolist() == ["left", "none", "right"] and fitted.n_features_in_ == 4
    with pytest.raises(NotFiniteError), np.errstate(divide="ignore"):
        fitted.set_params(batch_size=30, learning_rate=1e38).partial_fit(X, WORDS)
    assert (fitted.predict_proba(X) == probabilities).all()
    unfitted = classifier(batch_size=0)
    with pytest.raises(ParameterError):
        unfitted.fit(X, WORDS)
    assert not hasattr(unfitted, "classes_")


FORKED = """
import multiprocessing
import numpy as np, pyddl
from joblib import Parallel, delayed

X = np.random.default_rng(0).random((600, 300)).astype("f4")
fitted = pyddl.Autoencoder(hidden=(256, 64), epochs=1, threads=2, batch_size=300, random_state=0).fit(X)
ways = {"transform": lambda: fitted.transform(X), "score": lambda: fitted.score(X),
        "inverse_transform": lambda: fitted.inverse_transform(codes),
        "fit": lambda: pyddl.Autoencoder(**fitted.get_params()).fit(X).transform(X),
        "partial_fit": lambda: pyddl.ZCA().fit_transform(X[:, :50]) is not None and fitted.partial_fit(X) and 0}
codes = fitted.transform(X)
expected = {name: ways[name]() for name in ("transform", "score", "inverse_transform")}
answers = multiprocessing.get_context("fork").Queue()
for name, way in ways.items():
    child = multiprocessing.get_context("fork").Process(target=lambda: answers.put(way()))
    child.start()
    wanted = expected.get(name, expected["transform"] if name == "fit" else 0)
    np.testing.assert_allclose(answers.get(timeout=100), wanted, rtol=1e-5, atol=1e-5)
    child.join()
scores = Parallel(n_jobs=2, backend="multiprocessing")(delayed(fitted.score)(X) for _ in range(2))
np.testing.assert_allclose(scores, expected["score"], rtol=1e-5)
assert pyddl._core.threads() == 2
"""


def test_children_that_are_forked_off_compute(tmp_path):
    """OpenMP's threads do not follow them: a child has one."""
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=100,
                          env={name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"})
    assert done.returncode == 0, done.stderr
