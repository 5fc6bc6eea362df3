"""Roles of estimators: what can be asked of one, each by what it asks of the model.

An estimator of a model is a class with the roles that the model can play::

    @from_table("autoencoder")
    class Autoencoder(Encodes, Scores): ...

`Encodes`
    ``model.encode(parameters, buffers, rows) -> (rows, codes)``, and perhaps ``model.decode``, the way back.
`Scores`
    ``model.reconstruct(parameters, buffers, rows) -> (rows, features)``.
`Classifies`
    ``model.probabilities(parameters, buffers, rows) -> (rows, classes)``. Labels of training are 0, 1, ....
`Regresses`
    ``model.predict(parameters, buffers, rows) -> (rows, targets)``.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, TypeVar

import numpy as np

from pyddl.data import Source
from pyddl.data.labels import Labels
from pyddl.errors import ParameterError, ShapeError
from pyddl.estimators.estimator import Estimator
from pyddl.estimators.rows import check_classes, check_rows, check_targets, chunks
from pyddl.estimators.transformer import Transformer

__all__ = ["Classifies", "Encodes", "Regresses", "Scores"]

Self = TypeVar("Self", bound="Classifies")


class Encodes(Estimator, Transformer):
    """Rows become codes, and codes rows."""

    def transform(self, X: Any) -> Any:
        """Codes of X, (rows, features) -> (rows, codes), float32. Local."""
        self._check_fitted()
        return self._contained(X, self._apply(self._rows(X), self.model_.encode))

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Reconstructions from codes X, (rows, codes) -> (rows, features), float32. Local."""
        self._check_fitted()
        if not hasattr(self.model_, "decode"):
            raise ParameterError(f"{type(self).__name__} has an encoder only: there is no way back from codes")
        codes, _ = check_rows(X)
        if codes.shape[1] != self._n_features_out:
            raise ShapeError(f"X has {codes.shape[1]} columns; expected codes of {self._n_features_out}, as transform "
                             "gives")
        out = np.empty((codes.shape[0], self.n_features_in_), dtype=np.float32)
        for place, part in chunks(codes):
            out[place] = self.model_.decode(self.result_.averaged, self.result_.buffers, part)
        return self._unscaled(out)

    def _learned(self) -> None:
        super()._learned()
        one = np.zeros((1, self.n_features_in_), dtype=np.float32)
        self._n_features_out = self.model_.encode(self.result_.averaged, self.result_.buffers, one).shape[1]


class Scores(Estimator):
    """How near reconstructions are."""

    def reconstruct(self, X: Any) -> np.ndarray:
        """What the model makes of X by way of its codes, (rows, features) -> (rows, features), float32. Local."""
        self._check_fitted()
        return self._unscaled(self._apply(self._rows(X), self.model_.reconstruct))

    def score(self, X: Any, y: Any = None) -> float:
        """Minus the reconstruction error of X: squared, summed over features, mean over rows. Local.

        The same for all losses, so that a search may compare them; against X as given, also where it is clipped.
        """
        self._check_fitted()
        rows = self._rows(X)
        low, high = getattr(self.model_, "input_range", None) or (-np.inf, np.inf)
        error = 0.0
        for _, part in chunks(rows):
            seen = np.clip(part, low, high)
            rebuilt = self.model_.reconstruct(self.result_.averaged, self.result_.buffers, seen)
            error += float(np.square(part.astype(np.float64) - rebuilt).sum())
        return -error / rows.shape[0]


class Supervised(Estimator):
    """Training needs labels: ``y``, or those that a source brings."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def _source(self, rows: np.ndarray | Source, y: Any, *, first: bool) -> Source:
        if isinstance(rows, Source):
            labels = self._labels(rows, y)
            if first:
                self._of_source(rows, labels)
            return rows
        return self._array(rows, self._encoded(y, rows.shape[0], first=first))

    def _labels(self, rows: np.ndarray | Source, y: Any) -> Any:
        """The labels of these rows: ``y``, or those of the source that they are."""
        if not isinstance(rows, Source):
            return y
        if y is not None:
            raise ParameterError(f"y is given beside {rows.name}, a source, which brings its own labels: leave y out, "
                                 "or give both as arrays")
        if rows.labels is None:
            raise ParameterError(f"{rows.name} has no labels; expected some: pyddl.data.load(SPEC, labels=SPEC)")
        return rows.labels if rows.classes is None else np.asarray(rows.classes)[rows.labels]

    @abstractmethod
    def _encoded(self, y: Any, rows: int, *, first: bool) -> Any:
        """``y`` as the model wants it, checked: labels for a source. What it means is remembered."""

    @abstractmethod
    def _of_source(self, source: Source, labels: np.ndarray) -> None:
        """Remember what the labels of a source mean, which the model gets as they are."""


class OfClasses(Supervised):
    """Labels are classes.

    Attributes
    ----------
    classes_ : ndarray of shape (classes,)
        Labels in their order, numbers or text; of a source and of a run the names of its classes, or 0, 1, ....
    """

    classes_: np.ndarray

    def _encoded(self, y: Any, rows: int, *, first: bool) -> Labels:
        labels, expected = check_classes(y, rows), getattr(self, "_expected", None)
        try:
            if first:
                self.classes_ = np.unique(labels if expected is None else np.asarray(expected))
            places = np.searchsorted(self.classes_, labels).clip(max=len(self.classes_) - 1)
        except TypeError:
            raise ParameterError("y mixes labels of several types; expected all numbers, or all text") from None
        if (unknown := labels[self.classes_[places] != labels]).size:
            raise ParameterError(f"y has the label {unknown.tolist()[0]!r}, which is not among the classes "
                                 f"{', '.join(map(str, self.classes_[:10]))}: name all in the first partial_fit")
        names = tuple(map(str, self.classes_))  # also of those that do not occur in these rows
        return Labels(places.astype(np.int64), names)

    def _of_source(self, source: Source, labels: np.ndarray) -> None:
        self.classes_ = np.arange(int(np.max(labels)) + 1) if source.classes is None else np.asarray(source.classes)


class Classifies(OfClasses):
    """Rows belong to classes, which are told from them."""

    _estimator_type = "classifier"  # for scikit-learn before 1.6

    def partial_fit(self: Self, X: Any, y: Any = None, classes: Any = None) -> Self:
        """Train for one more pass over X; as `Estimator.partial_fit`. Collective.

        Parameters
        ----------
        X : array_like of shape (rows, features), or Source
        y : array_like of shape (rows,)
        classes : array_like of shape (classes,), optional
            All labels that later calls may bring; by default those of the first call's ``y``. Of no effect in others.

        Returns
        -------
        self
        """
        self._expected = classes
        try:
            self._train(X, y, again=True)
        finally:
            del self._expected
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes, (rows, features) -> (rows, classes), in the order of ``classes_``. Local."""
        self._check_fitted()
        return self._apply(self._rows(X), self.model_.probabilities)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable label of each row, (rows, features) -> (rows,). Local."""
        self._check_fitted()
        return self.classes_[np.argmax(self._apply(self._rows(X), self.model_.probabilities), axis=1)]

    def score(self, X: Any, y: Any = None) -> float:
        """Accuracy: the fraction of rows whose label is predicted. Local."""
        self._check_fitted()
        rows = self._rows(X)
        truth = check_classes(self._labels(rows, y), rows.shape[0])
        found = self.classes_[np.argmax(self._apply(rows, self.model_.probabilities), axis=1)]
        return float(np.mean(found == truth))

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags

        tags = super().__sklearn_tags__()
        tags.estimator_type, tags.classifier_tags = "classifier", ClassifierTags()
        return tags

    def _learned(self) -> None:
        super()._learned()
        if not hasattr(self, "classes_"):  # of a run directory
            one = np.zeros((1, self.n_features_in_), dtype=np.float32)
            found = self.model_.probabilities(self.result_.averaged, self.result_.buffers, one)
            names = getattr(self.model_, "class_names", None)
            self.classes_ = np.arange(found.shape[1]) if names is None else np.asarray(names)


class Regresses(Supervised):
    """Rows have quantities: one, or several side by side."""

    no_options = ("alpha",)  # scikit-learn takes that of a regressor for a penalty, and sets it

    _flat: bool
    _estimator_type = "regressor"  # for scikit-learn before 1.6

    def predict(self, X: Any) -> np.ndarray:
        """Quantities, (rows, features) -> (rows,), or (rows, targets) as ``y`` was; float64. Local."""
        self._check_fitted()
        return self._predicted(self._rows(X))

    def score(self, X: Any, y: Any = None) -> float:
        """R^2: the share of the variance of ``y`` that is predicted, mean over targets; 1 is best. Local."""
        self._check_fitted()
        rows = self._rows(X)
        truth = check_targets(self._labels(rows, y), rows.shape[0]).reshape(rows.shape[0], -1)
        found = self._predicted(rows)
        if found.size != truth.size:
            raise ShapeError(f"y has {truth.shape[1]} targets; expected the {found.size // truth.shape[0]} of training")
        found = found.reshape(truth.shape)
        left = np.square(truth - found).sum(axis=0)
        whole = np.square(truth - truth.mean(axis=0)).sum(axis=0)
        constant = np.where(left == 0, 1.0, 0.0)  # where there is no variance, as scikit-learn has it
        return float(np.where(whole > 0, 1 - left / np.where(whole > 0, whole, 1), constant).mean())

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import RegressorTags

        tags = super().__sklearn_tags__()
        tags.estimator_type, tags.regressor_tags = "regressor", RegressorTags()
        tags.target_tags.multi_output = True
        return tags

    def _predicted(self, rows: np.ndarray | Source) -> np.ndarray:
        found = self._apply(rows, self.model_.predict).astype(np.float64)
        return found.ravel() if self._flat else found

    def _encoded(self, y: Any, rows: int, *, first: bool) -> np.ndarray:
        targets = check_targets(y, rows)
        self._flat = targets.ndim == 1
        return targets.ravel() if targets.size == rows else targets

    def _of_source(self, source: Source, labels: np.ndarray) -> None:
        self._flat = np.ndim(labels) == 1

    def _learned(self) -> None:
        super()._learned()
        if not hasattr(self, "_flat"):  # of a run directory
            one = np.zeros((1, self.n_features_in_), dtype=np.float32)
            self._flat = self.model_.predict(self.result_.averaged, self.result_.buffers, one).shape[1] == 1
