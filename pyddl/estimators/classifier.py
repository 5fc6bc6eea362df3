"""The classifier as a scikit-learn classifier."""

from __future__ import annotations

from pyddl.estimators.from_table import from_table
from pyddl.estimators.roles import Classifies

__all__ = ["Classifier"]


@from_table("classifier")
class Classifier(Classifies):
    """Softmax cross-entropy over dense layers: logistic regression where ``hidden`` is empty.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    classes_ : ndarray of shape (classes,)
        Labels in their order, numbers or text.
    parameters_ : dict of str to ndarray, float32
        ``hidden.0.weight``, ..., ``head.weight`` (classes, codes), ``head.bias`` (classes,), after the encoder's; the
        same on every rank.
    metrics_ : list of dict
        A line per epoch: ``train_loss``; with ``validation`` also ``test_loss``, ``test_accuracy``; ...
    loss_curve_ : list of float
        Training loss of each epoch, mean over rows, in nats.
    seed_ : int
    result_ : Result
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Where X had names.

    Notes
    -----
    Under mpirun `fit` and `partial_fit` are collective, and for the main thread only; all else is local. Sample weights
    are not supported.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).random((300, 4))
    >>> y = np.where(X[:, 0] > X[:, 1], "left", "right")
    >>> classifier = Classifier(hidden=(16,), epochs=40, batch_size=30, learning_rate=0.01, random_state=0).fit(X, y)
    >>> classifier.score(X, y) > 0.95, classifier.predict_proba(X[:2]).shape
    (True, (2, 2))
    """
