"""The deep belief net as a scikit-learn transformer, or classifier."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from pyddl import _check
from pyddl.data import Source
from pyddl.errors import ParameterError
from pyddl.estimators.estimator import Estimator, _seed
from pyddl.estimators.from_table import from_table
from pyddl.estimators.roles import Classifies, Encodes, Scores
from pyddl.estimators.transformer import Transformer
from pyddl.options import Option

__all__ = ["DBN"]


class _OfClassifier:
    """A method that is there only where the net becomes a classifier, as scikit-learn's tools ask by ``hasattr``."""

    def __init__(self, function: Callable[..., Any]):
        self._function = function
        functools.update_wrapper(self, function)  # type: ignore[arg-type]

    def __get__(self, estimator: Any, owner: type) -> Any:
        if estimator is None:
            return self._function
        if estimator.finetune != "classifier":
            raise AttributeError(f"{owner.__name__} has no {self._function.__name__} with finetune="
                                 f"{estimator.finetune!r}, but with 'classifier'")
        return self._function.__get__(estimator, owner)


@from_table("dbn")
class DBN(Encodes, Scores, Classifies):
    """Deep belief net [1]_: Boltzmann machines on one another, then perhaps an autoencoder [2]_ or a classifier.

    `transform` gives the codes. With ``finetune="classifier"`` it is a classifier besides: `fit` needs ``y``, and it
    has `predict`, `predict_proba` and ``classes_``.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    parameters_ : dict of str to ndarray, float32
        ``level_1.weights`` (visible, hidden), ``level_1.visible_bias``, ``level_1.hidden_bias``, ``level_2.weights``,
        ...; those of the network, ``encoder.0.weight`` (outputs, inputs), ...; the same on every rank.
    classes_ : ndarray of shape (classes,)
        Of a classifier: labels in their order, numbers or text.
    metrics_ : list of dict
        A line per epoch, of each machine and then of the network.
    loss_curve_ : list of float
        Training loss of each epoch, mean over rows: of another kind in each stage.
    seed_ : int
    result_ : Result
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Where X had names.

    Notes
    -----
    ``pretrain_epochs`` and ``pretrain_learning_rate`` may be numbers. Values of X outside [0, 1] are clipped where
    visible units are Bernoulli, and `fit` warns. `partial_fit` goes on with the epoch that comes next, of a machine or
    of the network. Under mpirun `fit` and `partial_fit` are collective, and for the main thread only; all else is
    local. Sample weights are not supported.

    References
    ----------
    .. [1] Hinton, Osindero, Teh (2006), A fast learning algorithm for deep belief nets, Neural Computation 18.
    .. [2] Hinton and Salakhutdinov (2006), Reducing the dimensionality of data with neural networks, Science 313.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).random((200, 16))
    >>> dbn = DBN(hidden=(8, 2), finetune="autoencoder", pretrain_epochs=2, epochs=3, batch_size=20, random_state=0)
    >>> codes = dbn.fit_transform(X)
    >>> codes.shape, dbn.inverse_transform(codes).shape, dbn.sample(5).shape
    ((200, 2), (200, 16), (5, 16))
    """

    predict = _OfClassifier(Classifies.predict)  # type: ignore[assignment]
    predict_proba = _OfClassifier(Classifies.predict_proba)  # type: ignore[assignment]

    def sample(self, count: int = 1, *, steps: int = 1000, random_state: Any = None) -> np.ndarray:
        """Samples of the stack, (count, features), float32: means of the visible units after so many Gibbs steps of the
        last machine. Local."""
        self._check_fitted()
        count = _check.integer("count", count, at_least=1)
        steps = _check.integer("steps", steps, at_least=1)
        samples = self.model_.sample(self.result_.averaged, self.result_.buffers, count, _seed(random_state), steps)
        return self._unscaled(samples)

    def score(self, X: Any, y: Any = None) -> float:
        """Minus the squared error of reconstructions, as `Scores`; of a classifier the accuracy. Local."""
        return Classifies.score(self, X, y) if self._classifies else Scores.score(self, X, y)

    def __sklearn_tags__(self) -> Any:
        return super().__sklearn_tags__() if self._classifies else Transformer.__sklearn_tags__(self)

    @property
    def _estimator_type(self) -> str | None:  # type: ignore[override]
        return "classifier" if self._classifies else None

    @property
    def _classifies(self) -> bool:
        return self.finetune == "classifier"  # type: ignore[attr-defined]

    def _source(self, rows: np.ndarray | Source, y: Any, *, first: bool) -> Source:
        role: Any = Classifies if self._classifies else Estimator
        return role._source(self, rows, y, first=first)

    def _value_of(self, option: Option) -> Any:
        value = super()._value_of(option)
        if option.name in ("pretrain_epochs", "pretrain_learning_rate") and np.ndim(value) == 0 and value is not None:
            if isinstance(value, bool | str):
                raise ParameterError(f"{option.name} is {value!r}; expected a number, or one for each layer")
            return (value,)
        return value

    def _learned(self) -> None:
        if self._classifies and self.model_.unrolled(self.result_.averaged):
            super()._learned()
        else:
            Estimator._learned(self)
            one = np.zeros((1, self.n_features_in_), dtype=np.float32)
            self._n_features_out = self.model_.encode(self.result_.averaged, self.result_.buffers, one).shape[1]
