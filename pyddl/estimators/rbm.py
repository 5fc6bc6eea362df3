"""The restricted Boltzmann machine as a scikit-learn transformer."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyddl import _check
from pyddl.estimators.boltzmann import Boltzmann
from pyddl.estimators.from_table import from_table

__all__ = ["RBM"]

KINDS = ("pseudo_likelihood", "free_energy")


@from_table("rbm", centering=False)
class RBM(Boltzmann):
    """Restricted Boltzmann machine [1]_, a feature extractor: `transform` gives the hidden units' probabilities.

    Where scikit-learn's BernoulliRBM stood in a Pipeline, ``RBM(hidden=256)`` may stand. It is not centered by default,
    unlike ``pyddl train rbm``: without, features are sparser and serve classifiers better; ``centering=True`` gives
    better likelihoods and samples.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    components_ : ndarray of shape (hidden, visible), float32
        Weights of the plain energy; the same on every rank.
    intercept_hidden_ : ndarray of shape (hidden,), float32
    intercept_visible_ : ndarray of shape (visible,), float32
    parameters_ : dict of str to ndarray, float32
        ``weights`` (visible, hidden), ``visible_bias``, ``hidden_bias``; of Gaussian units also ``log_variance``.
    metrics_ : list of dict
        A line per epoch: ``train_loss``; with ``validation`` also ``test_loss``, ``test_free_energy``; ...
    loss_curve_ : list of float
        Training loss of each epoch, mean over rows: minus an estimate of the log pseudo-likelihood, in nats; of
        Gaussian units the squared error.
    seed_ : int
    result_ : Result
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Where X had names.

    Notes
    -----
    ``hidden`` may be a number. Values of X outside [0, 1] are clipped where visible units are Bernoulli, and `fit`
    warns. In `fit` the learning rate falls to 0 (``schedule="linear"``); in call number k of `partial_fit` from a k-th
    of it: give ``schedule="constant"`` for many calls. Under mpirun `fit` and `partial_fit` are collective, and for the
    main thread only; all else is local.

    References
    ----------
    .. [1] Hinton (2002), Training products of experts by minimizing contrastive divergence, Neural Computation 14(8).

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).integers(0, 2, (200, 16))
    >>> rbm = RBM(hidden=8, epochs=3, random_state=0).fit(X)
    >>> rbm.transform(X).shape, rbm.components_.shape, rbm.sample(5).shape
    ((200, 8), (8, 16), (5, 16))
    """

    @property
    def components_(self) -> np.ndarray:
        return self.parameters_["weights"].T

    @property
    def intercept_hidden_(self) -> np.ndarray:
        return self.parameters_["hidden_bias"]

    @property
    def intercept_visible_(self) -> np.ndarray:
        return self.parameters_["visible_bias"]

    def score_samples(self, X: Any, kind: str | None = None) -> np.ndarray:
        """How well the machine knows each row, nats, float64: the higher, the better. Local.

        Parameters
        ----------
        X : array_like of shape (rows, features), or Source
        kind : {"pseudo_likelihood", "free_energy"}, optional
            The logarithm of the pseudo-likelihood, of all units, where scikit-learn draws one and multiplies; the
            default of Bernoulli units. Or minus the free energy: the logarithm of the probability but for a constant;
            Gaussian units have only this.
        """
        self._check_fitted()
        if kind is None:
            kind = KINDS[self.model_.visible == "gaussian"]
        if _check.one_of("kind", kind, KINDS) == "free_energy":
            return -self.free_energy(X)
        return self._of_rows(X, lambda part: self.model_.pseudo_likelihood(self.result_.averaged, part))

    def score(self, X: Any, y: Any = None) -> float:
        """Mean of `score_samples`: the log pseudo-likelihood; of Gaussian units minus the squared error of the
        reconstruction, since free energies of two machines cannot be compared. Local."""
        self._check_fitted()
        if self.model_.visible == "gaussian":
            return super().score(X)
        return float(self.score_samples(X).mean())
