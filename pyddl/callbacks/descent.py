"""Descents ready to use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pyddl import _check
from pyddl.callbacks import arrays

__all__ = ["AdaGradDescent"]


class AdaGradDescent:
    """AdaGrad [1]_ on a model's arrays, on whole ones or on some of their rows: a ``descent`` for `ParameterServer`.

    ``s += g ** 2; p -= learning_rate * g / (sqrt(s) + epsilon)``, as in `pyddl.optim.AdaGrad`. Of an update's
    ``(rows, values)`` only those rows of p and s are touched; a row that is named several times gets the sum. This is
    what Downpour SGD has on its server [2]_.

    Parameters
    ----------
    parameters : callable
        ``parameters(model)`` gives the model's arrays that move: one, or a dictionary, also of dictionaries.
    learning_rate : float, default=0.01
    epsilon : float, default=1e-10
        At least 0.

    Attributes
    ----------
    squared_sums : dict of str to ndarray
        By the parameter's name, of its shape: the optimizer's state.

    References
    ----------
    .. [1] Duchi, Hazan, Singer (2011), Adaptive subgradient methods, JMLR 12, the diagonal form.
    .. [2] Dean et al. (2012), Large scale distributed deep networks, NIPS 25.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.zeros((3, 2), np.float32)
    >>> descent = AdaGradDescent(lambda model: {"w": model}, learning_rate=0.5)
    >>> descent(w, {"w": (np.array([2, 0, 2]), np.ones((3, 2), np.float32))})
    >>> w.tolist()
    [[-0.5, -0.5], [0.0, 0.0], [-0.5, -0.5]]
    """

    def __init__(self, parameters: Callable[[Any], Any], learning_rate: float = 0.01, *, epsilon: float = 1e-10):
        self.parameters = _check.function("parameters", parameters, "(model)")
        self.learning_rate = _check.number("learning_rate", learning_rate, above=0)
        self.epsilon = _check.number("epsilon", epsilon, at_least=0)
        self.squared_sums: dict[str, np.ndarray] = {}

    def __call__(self, model: Any, update: Any) -> None:
        moved = arrays.named_parameters(self.parameters(model))
        arrays.require_fit(update, moved, "update")
        for name, leaf in arrays.named(update):
            if name not in moved or arrays.is_empty(leaf):
                continue
            p = moved[name]
            s = self.squared_sums.setdefault(name, np.zeros_like(p))
            if arrays.is_pair(leaf):
                rows, g = summed_rows(*leaf)
                s[rows] += g * g
                p[rows] -= self.learning_rate * g / (np.sqrt(s[rows]) + self.epsilon)
            else:
                s += leaf * leaf
                p -= self.learning_rate * leaf / (np.sqrt(s) + self.epsilon)


def summed_rows(rows: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows in ascending order, and for each the sum of its values."""
    rows, values = np.asarray(rows), np.asarray(values)
    if rows.size < 2 or (rows[1:] > rows[:-1]).all():
        return rows, values
    order = np.argsort(rows, kind="stable")
    distinct, starts = np.unique(rows[order], return_index=True)
    return distinct, np.add.reduceat(values[order], starts)
