"""The variational autoencoder as a scikit-learn transformer."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from pyddl import _check
from pyddl.estimators.estimator import _seed
from pyddl.estimators.from_table import from_table
from pyddl.estimators.roles import Encodes, Scores
from pyddl.estimators.rows import chunks
from pyddl.models.importance import bound

__all__ = ["VAE"]


@from_table("vae")
class VAE(Encodes, Scores):
    """Variational autoencoder [1]_: a density of the rows, with a short code of each, a normal distribution.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    parameters_ : dict of str to ndarray, float32
        ``encoder.0.weight`` (outputs, inputs), ``encoder.0.bias`` (outputs,), ..., ``decoder.0.weight``, ...; the same
        on every rank.
    metrics_ : list of dict
        A line per epoch: ``train_loss``; with ``validation`` also ``test_loss``, ``test_elbo``, ``test_kl``, ...
    loss_curve_ : list of float
        Training loss of each epoch, mean over rows: minus the evidence lower bound, in nats.
    seed_ : int
    result_ : Result
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Where X had names.

    Notes
    -----
    With ``loss="bce"`` values of X outside [0, 1] are clipped, in training and afterwards, and `fit` warns: scale X
    first, or take ``loss="mse"``. Under mpirun `fit` and `partial_fit` are collective, and for the main thread only;
    all else is local.

    References
    ----------
    .. [1] Kingma and Welling (2014), Auto-encoding variational Bayes, ICLR, arXiv:1312.6114.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).random((200, 16))
    >>> vae = VAE(hidden=(8, 2), epochs=3, batch_size=20, random_state=0).fit(X)
    >>> vae.transform(X).shape, vae.sample(5).shape, vae.score_samples(X).shape
    ((200, 2), (5, 16), (200,))
    """

    def score_samples(self, X: Any, samples: int = 1) -> np.ndarray:
        """A lower bound of each row's log-likelihood, (rows,), nats, float64: the higher, the better. Local.

        Parameters
        ----------
        X : array_like of shape (rows, features), or Source
        samples : int, default=1
            Of each row's code. 1: an estimate of the evidence lower bound; more: the importance-weighted bound of so
            many, which is closer. They are drawn by the row's values, so that a row has one score in any company.
        """
        self._check_fitted()
        samples = _check.integer("samples", samples, at_least=1)
        model, result = self.model_, self.result_
        low, high = model.input_range or (-np.inf, np.inf)
        scores = []
        for _, part in chunks(self._rows(X)):
            rows = np.clip(part, low, high)
            numbers = np.array([zlib.crc32(row.tobytes()) for row in rows], dtype=np.int64)
            for begin in range(0, len(rows), max(1, 4096 // samples)):
                some = slice(begin, begin + max(1, 4096 // samples))
                weights = model.log_weights(result.averaged, result.buffers, rows[some], numbers[some], samples)
                scores.append(bound(weights, samples))
        return np.concatenate(scores)

    def score(self, X: Any, y: Any = None) -> float:
        """Mean of `score_samples`: the evidence lower bound, nats. Local."""
        return float(self.score_samples(X).mean())

    def sample(self, count: int = 1, *, random_state: Any = None) -> np.ndarray:
        """Means of new rows, (count, features), float32, for codes drawn from N(0, I). Local."""
        self._check_fitted()
        count = _check.integer("count", count, at_least=1)
        samples = self.model_.sample(self.result_.averaged, self.result_.buffers, count, _seed(random_state))
        return self._unscaled(samples)
