"""The spike-and-slab machine as a scikit-learn transformer."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyddl.estimators.boltzmann import Boltzmann
from pyddl.estimators.from_table import from_table

__all__ = ["SpikeSlabRBM"]


@from_table("ssrbm")
class SpikeSlabRBM(Boltzmann):
    """Spike-and-slab Boltzmann machine [1]_ [2]_ of real values: features that see covariances, and a density.

    `transform` gives the probabilities of the spikes, or with ``code="input"`` what those are the sigmoid of, which
    serves a linear classifier better after a StandardScaler.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    components_ : ndarray of shape (hidden * pool, features), float32
        Weights of each slab, those of a spike side by side; the same on every rank.
    intercept_hidden_ : ndarray of shape (hidden,), float32
    parameters_ : dict of str to ndarray, float32
        All tensors: see `pyddl.models.SpikeSlabRBM`.
    metrics_ : list of dict
        A line per epoch: ``train_loss``; with ``validation`` also ``test_loss``, ``test_rejection_rate``; ...
    loss_curve_ : list of float
        Training loss of each epoch, mean over rows: an estimate of the reconstruction's squared error.
    seed_ : int
    result_ : Result
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Where X had names.

    Notes
    -----
    ``hidden`` may be a number. X may have any scale: it is standardised by one mean row and one deviation. In `fit` the
    learning rate falls to 0 (``schedule="linear"``); in call number k of `partial_fit` from a k-th of it: give
    ``schedule="constant"`` for many calls. Under mpirun `fit` and `partial_fit` are collective, and for the main thread
    only; all else is local.

    References
    ----------
    .. [1] Courville, Bergstra, Bengio (2011), A spike and slab restricted Boltzmann machine, AISTATS.
    .. [2] Courville, Bergstra, Bengio (2011), Unsupervised models of images by spike-and-slab RBMs, ICML.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(200, 16))
    >>> machine = SpikeSlabRBM(hidden=8, pool=2, epochs=3, random_state=0).fit(X)
    >>> machine.transform(X).shape, machine.components_.shape, machine.sample(5).shape
    ((200, 8), (16, 16), (5, 16))
    """

    @property
    def components_(self) -> np.ndarray:
        weights = self.parameters_["weights"]
        return weights.transpose(2, 1, 0).reshape(-1, weights.shape[0])

    @property
    def intercept_hidden_(self) -> np.ndarray:
        return self.parameters_["spike_bias"]

    def score_samples(self, X: Any) -> np.ndarray:
        """Minus the free energy of each row, nats, float64: the logarithm of its density but for a constant, which is
        another one for each machine. Local."""
        return -self.free_energy(X)
