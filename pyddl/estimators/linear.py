"""Least squares as a scikit-learn regressor."""

from __future__ import annotations

from pyddl.estimators.from_table import from_table
from pyddl.estimators.roles import Regresses

__all__ = ["LinearRegression"]


@from_table("linear")
class LinearRegression(Regresses):
    """Least squares by gradient descent on any number of ranks, on rows or on the codes of an ``encoder``.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    parameters_ : dict of str to ndarray, float32
        ``head.weight`` (targets, codes) and ``head.bias`` (targets,), after the encoder's; the same on every rank.
    metrics_ : list of dict
        A line per epoch: ``train_loss``, the squared error summed over targets, mean over rows; ...
    loss_curve_ : list of float
        Training loss of each epoch.
    seed_ : int
    result_ : Result
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Where X had names.

    Notes
    -----
    It moves by steps of the ``optimizer``: standardise X, so that they may be long. Where the whole problem fits in
    memory `numpy.linalg.lstsq` solves it at once. Under mpirun `fit` and `partial_fit` are collective, and for the main
    thread only; all else is local. There is no ``alpha`` here, which means a penalty in scikit-learn: strategy elastic
    takes it as ``strategy=pyddl.strategies.strategy("elastic", alpha=...)``.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(400, 3))
    >>> y = X @ [1.0, -2.0, 0.5] + 3
    >>> regression = LinearRegression(epochs=30, batch_size=40, learning_rate=0.05, random_state=0).fit(X, y)
    >>> regression.score(X, y) > 0.99
    True
    """
