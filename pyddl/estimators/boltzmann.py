"""What the estimators of Boltzmann machines share: one number of hidden units, free energies, chains, samples."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyddl import _check
from pyddl.errors import ParameterError
from pyddl.estimators.estimator import _seed
from pyddl.estimators.roles import Encodes, Scores
from pyddl.estimators.rows import chunks
from pyddl.options import Option

__all__ = ["Boltzmann"]


class Boltzmann(Encodes, Scores):
    """Of a model with ``free_energy(parameters, rows)``, ``gibbs`` and ``sample``."""

    _step: int = 0  # of `gibbs` since training: each call has its own random numbers

    def free_energy(self, X: Any) -> np.ndarray:
        """-log sum_h exp(-E(v, h)) of each row, nats, float64: the lower, the more probable. Local."""
        return self._of_rows(X, lambda part: self.model_.free_energy(self.result_.averaged, part))

    def gibbs(self, X: Any, steps: int = 1) -> np.ndarray:
        """Visible units (rows, features), float32, after so many Gibbs steps from X. Each call draws anew. Local."""
        self._check_fitted()
        steps = _check.integer("steps", steps, at_least=1)
        rows = self._rows(X)
        low, high = getattr(self.model_, "input_range", None) or (-np.inf, np.inf)
        start = np.empty(rows.shape, dtype=np.float32)
        for place, part in chunks(rows):
            start[place] = np.clip(part, low, high)
        moved = self.model_.gibbs(self.result_.averaged, start, steps, self.seed_, self._step)
        self._step += steps
        return self._unscaled(moved)

    def sample(self, count: int = 1, *, steps: int = 1000, random_state: Any = None) -> np.ndarray:
        """Samples of the machine, (count, features), float32: its persistent chains after more Gibbs steps. Local."""
        self._check_fitted()
        count = _check.integer("count", count, at_least=1)
        steps = _check.integer("steps", steps, at_least=1)
        samples = self.model_.sample(self.result_.averaged, self.result_.buffers, count, _seed(random_state), steps)
        return self._unscaled(samples)

    def _of_rows(self, X: Any, function: Any) -> np.ndarray:
        self._check_fitted()
        rows = self._rows(X)
        low, high = getattr(self.model_, "input_range", None) or (-np.inf, np.inf)
        return np.concatenate([function(np.clip(part, low, high)) for _, part in chunks(rows)])

    def _value_of(self, option: Option) -> Any:
        value = super()._value_of(option)
        if option.name != "hidden":
            return value
        if isinstance(value, bool) or np.size(value) != 1:
            raise ParameterError(f"hidden is {value!r}; expected one number of hidden units, for example 256")
        return value if isinstance(value, tuple | list) else (value,)

    def _learned(self) -> None:
        super()._learned()
        self._step = 0
