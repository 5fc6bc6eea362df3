"""The dense autoencoder as a scikit-learn transformer."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyddl import models
from pyddl.errors import ShapeError
from pyddl.estimators.base import Estimator, chunks, from_table
from pyddl.estimators.rows import check_rows

__all__ = ["Autoencoder"]


@from_table(models.Autoencoder)
class Autoencoder(Estimator):
    """Dense autoencoder [1]_: an encoder to a small code, and a decoder that mirrors it.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    parameters_ : dict of str to ndarray, float32
        ``encoder.0.weight`` (outputs, inputs), ``encoder.0.bias`` (outputs,), ...; the same on every rank.
    metrics_ : list of dict
        A line per epoch: ``train_loss``, ``test_loss`` (with ``validation``), ``samples_per_second``, ...
    loss_curve_ : list of float
        Training loss of each epoch, mean over samples: nats (bce) or squared units (mse), summed over features.
    seed_ : int
        Seed that was used.
    result_ : Result
        All that the trainer left.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Where X had names.

    Notes
    -----
    With ``loss="bce"`` values of X outside [0, 1] are clipped, in training and afterwards, and `fit` warns: scale X
    first. (The trainer and the command line refuse such data.) Sample weights are not supported. Under mpirun `fit` and
    `partial_fit` are collective, and for the main thread only; all else is local.

    References
    ----------
    .. [1] Hinton and Salakhutdinov (2006), Reducing the dimensionality of data with neural networks, Science 313.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).random((200, 16))
    >>> autoencoder = Autoencoder(hidden=(8, 2), epochs=3, batch_size=20, random_state=0)
    >>> autoencoder
    Autoencoder(hidden=(8, 2), epochs=3, batch_size=20, random_state=0)
    >>> codes = autoencoder.fit_transform(X)
    >>> codes.shape, autoencoder.inverse_transform(codes).shape
    ((200, 2), (200, 16))
    """

    def transform(self, X: Any) -> Any:
        """Codes of X, (rows, features) -> (rows, hidden[-1]), float32. Local."""
        self._check_fitted()
        return self._contained(X, self._apply(self._rows(X), self.model_.encode, self._codes()))

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Reconstructions from codes X, (rows, hidden[-1]) -> (rows, features), float32. Local."""
        self._check_fitted()
        codes, _ = check_rows(X)
        if codes.shape[1] != self._codes():
            raise ShapeError(f"X has {codes.shape[1]} columns; expected codes of {self._codes()}, as transform gives")
        out = np.empty((codes.shape[0], self.n_features_in_), dtype=np.float32)
        for place, part in chunks(codes):
            out[place] = self.model_.decode(self.result_.parameters, self.result_.buffers, part)
        return out

    def score(self, X: Any, y: Any = None) -> float:
        """Minus the reconstruction error of X: squared, summed over features, mean over rows. Local.

        The same for both losses, so that a search may compare them; against X as given, also where it is clipped.
        """
        self._check_fitted()
        rows = self._rows(X)
        low, high = self.model_.input_range or (-np.inf, np.inf)
        error = 0.0
        for _, part in chunks(rows):
            seen = np.clip(part, low, high)
            rebuilt = self.model_.reconstruct(self.result_.parameters, self.result_.buffers, seen)
            error += float(np.square(part.astype(np.float64) - rebuilt).sum())
        return -error / rows.shape[0]

    def _codes(self) -> int:
        return self.model_.hidden[-1]
