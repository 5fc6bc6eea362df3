"""ZCA whitening, which scikit-learn lacks (its PCA(whiten=True) rotates the features; this one does not)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from pyddl import _check
from pyddl.data import Source
from pyddl.errors import ShapeError
from pyddl.estimators.rows import check_rows, chunks
from pyddl.estimators.transformer import Transformer

__all__ = ["ZCA"]


class ZCA(Transformer):
    """Zero-phase whitening [1]_: features become uncorrelated, of variance 1, and stay as near to X as that allows.

    With the covariance C = U diag(d) U' of X, rows become (x - mean) U diag(1 / sqrt(d + epsilon)) U'. Whitened images
    still look like images.

    Parameters
    ----------
    epsilon : float, default=1e-6
        Added to the variances, in squared units of X, so that directions in which X hardly varies are not blown up.
        Above 0.

    Attributes
    ----------
    mean_ : ndarray of shape (features,)
    components_ : ndarray of shape (features, features)
        The symmetric whitening matrix.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Where X had names.

    Notes
    -----
    Local: every rank computes the same from the same X. Cost: rows features^2 + 10 features^3 flop, in float64.

    References
    ----------
    .. [1] Bell and Sejnowski (1997), The "independent components" of natural scenes are edge filters, Vision
       Research 37.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(500, 3)) @ np.array([[1, 0.5, 0], [0, 1, 0.5], [0, 0, 1]])
    >>> np.allclose(np.cov(ZCA().fit_transform(X), rowvar=False, bias=True), np.eye(3), atol=1e-3)
    True
    """

    _output_dtypes: ClassVar[list[str]] = ["float64", "float32"]

    def __init__(self, epsilon: float = 1e-6):
        self.epsilon = epsilon

    def fit(self, X: Any, y: Any = None) -> ZCA:
        """Learn mean and whitening matrix of X, (rows, features) or a source; ``y`` is ignored."""
        epsilon = _check.number("epsilon", self.epsilon, above=0)
        with self._as_before_on_failure():
            self._fit(self._rows(X, first=True), epsilon)
        return self

    @np.errstate(under="ignore")
    def _fit(self, rows: np.ndarray | Source, epsilon: float) -> None:
        first = next(chunks(rows, np.float64))[1][0].copy()  # what is left keeps its digits, and of constants nothing
        mean = first + sum((part - first).sum(axis=0) for _, part in chunks(rows, np.float64)) / rows.shape[0]
        covariance = np.zeros((rows.shape[1], rows.shape[1]))
        for _, part in chunks(rows, np.float64):
            centred = part - mean
            covariance += centred.T @ centred
        variances, directions = np.linalg.eigh(covariance / rows.shape[0])
        scales = np.sqrt(np.maximum(variances, 0) + epsilon)
        self.mean_ = mean
        self.components_ = (directions / scales) @ directions.T
        self._inverse = (directions * scales) @ directions.T
        self._n_features_out = rows.shape[1]

    @np.errstate(under="ignore")
    def transform(self, X: Any) -> Any:
        """Whitened rows, float64 for float64 rows, else float32."""
        self._check_fitted()
        rows = self._rows(X)
        dtype = np.float64 if not isinstance(rows, Source) and rows.dtype == np.float64 else np.float32
        return self._contained(X, ((np.asarray(rows) - self.mean_) @ self.components_).astype(dtype, copy=False))

    @np.errstate(under="ignore")
    def inverse_transform(self, X: Any) -> np.ndarray:
        """Rows whose whitened form is X."""
        self._check_fitted()
        rows, _ = check_rows(X)
        if rows.shape[1] != self.n_features_in_:
            raise ShapeError(f"X has {rows.shape[1]} columns; expected {self.n_features_in_}")
        return self._unscaled(np.asarray(rows) @ self._inverse + self.mean_)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the columns: those of X, else x0, x1, ..."""
        self._check_fitted()
        known = getattr(self, "feature_names_in_", None)
        if known is not None:
            return known
        if input_features is not None:
            return np.asarray(input_features, dtype=object)
        return np.asarray([f"x{i}" for i in range(self.n_features_in_)], dtype=object)
