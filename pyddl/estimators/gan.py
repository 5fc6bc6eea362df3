"""The adversarial pair as a scikit-learn estimator: what it has learned is a source of new rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyddl import _check
from pyddl.data import ArraySource, Source
from pyddl.errors import ParameterError, ShapeError
from pyddl.estimators.estimator import Estimator, _seed
from pyddl.estimators.from_table import from_table
from pyddl.estimators.roles import OfClasses

__all__ = ["GAN"]


@from_table("gan")
class GAN(OfClasses):
    """Generative adversarial networks [1]_: `sample` gives new rows like those of X.

    Parameters
    ----------
    {parameters}

    Attributes
    ----------
    parameters_ : dict of str to ndarray, float32
        ``generator.0.weight``, ..., ``discriminator.0.weight``, ..., ``rows.centre``, ``rows.scale``; the averaged
        generator, where there is one. The same on every rank.
    classes_ : ndarray of shape (classes,)
        Where conditional: labels in their order, numbers or text.
    metrics_ : list of dict
        A line per epoch: ``train_loss_discriminator``, ``train_loss_generator``, ``train_penalty``,
        ``train_pairs_right``, ...
    loss_curve_ : list of float
        The sum of both losses in each epoch: of no meaning alone.
    seed_ : int
    result_ : Result
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Where X had names.

    Notes
    -----
    ``generator`` and ``discriminator`` are units of hidden layers. Where ``conditional``, `fit` needs y. In `fit` the
    learning rate falls to 0 (``schedule="cosine"``): give ``schedule="constant"`` for many calls of `partial_fit`.
    Under mpirun `fit` and `partial_fit` are collective, and for the main thread only; all else is local.

    References
    ----------
    .. [1] Goodfellow et al. (2014), Generative adversarial nets, NeurIPS.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(4, 0.5, (1000, 1))
    >>> gan = GAN(generator=(16,), discriminator=(32,), epochs=60, batch_size=100, learning_rate=0.003,
    ...           average=0.99, random_state=0).fit(X)
    >>> samples = gan.sample(1000, random_state=0)
    >>> samples.shape, bool(abs(samples.mean() - 4) < 0.3)
    ((1000, 1), True)
    """

    conditional: bool

    def sample(self, count: int = 1, *, labels: Any = None, random_state: Any = None) -> np.ndarray:
        """New rows, (count, features), float32. Local.

        Parameters
        ----------
        count : int, default=1
        labels : array_like of shape (count,), or one label, optional
            Where conditional: classes that are wanted, as in y; by default all in turn.
        random_state : int, RandomState, Generator or None
        """
        self._check_fitted()
        count = _check.integer("count", count, at_least=1)
        seed, vectors = _seed(random_state), (self.result_.averaged, self.result_.buffers)
        samples = self.model_.sample(*vectors, count, seed, None if labels is None else self._places(labels, count))
        return self._unscaled(samples)

    def score(self, X: Any, y: Any = None) -> float:
        """Minus the energy distance of as many samples from X, at most 2000, in its unit: at best 0. Local."""
        from pyddl.train.crew import Crew

        self._check_fitted()
        rows = self._rows(X)
        source = rows if isinstance(rows, Source) else ArraySource(rows, name="X")
        found = self.model_.measures["energy_distance"](self.result_.averaged, self.result_.buffers, source, Crew())
        return -found["energy_distance"]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = bool(self.conditional)
        return tags

    def _source(self, rows: np.ndarray | Source, y: Any, *, first: bool) -> Source:
        if self.conditional:
            return super()._source(rows, y, first=first)
        return Estimator._source(self, rows, y, first=first)

    def _places(self, labels: Any, count: int) -> np.ndarray:
        """Numbers of the classes."""
        if not self.model_.conditional:
            raise ParameterError("labels are given, and this model was trained without: leave labels out, or train "
                                 "with conditional=True")
        given = np.full(count, labels) if np.ndim(labels) == 0 else np.asarray(labels)
        if given.shape != (count,):
            raise ShapeError(f"labels has shape {given.shape}; expected ({count},), a label for each sample, or one "
                             "label for all")
        places = np.searchsorted(self.classes_, given).clip(max=len(self.classes_) - 1)
        if (unknown := given[self.classes_[places] != given]).size:
            raise ParameterError(f"labels has {unknown.tolist()[0]!r}; expected classes of training: "
                                 f"{', '.join(map(str, self.classes_[:10]))}")
        return places

    def _learned(self) -> None:
        super()._learned()
        if self.model_.conditional and not hasattr(self, "classes_"):  # of a run directory
            names = self.model_.class_names
            self.classes_ = np.arange(self.model_.classes) if names is None else np.asarray(names)
