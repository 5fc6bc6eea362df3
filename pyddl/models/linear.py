"""Least squares: a linear layer on rows, or on the codes of an encoder.

With the whole data set as one batch this is gradient descent on the normal equations' problem, the textbook case of
map-reduce: gradients are sums over rows, so those of several ranks add up to that of all.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pyddl import _check
from pyddl.data.batch import Batch
from pyddl.data.source import Source
from pyddl.errors import DataError, ShapeError
from pyddl.models.layers import Dense
from pyddl.models.on_encoder import Encoder, OnEncoder

__all__ = ["Linear"]


class Linear(OnEncoder):
    """Least squares: ``W code(x) + b`` against the labels y, by the squared error summed over targets.

    Parameters
    ----------
    inputs : int
        Features of a row.
    targets : int, default=1
        Numbers in a label.
    encoder, frozen_epochs, freeze, dtype
        As in `pyddl.models.on_encoder.OnEncoder`; without an encoder the code is the row itself.

    Attributes
    ----------
    layout : Layout
        ``head.weight`` (targets, codes), ``head.bias`` (targets,), after the encoder's.
    """

    name = "linear"
    loss = "mse"
    needs_labels = True

    def __init__(self, inputs: int, targets: int = 1, *, encoder: Encoder = None, frozen_epochs: int = 0,
                 freeze: bool = False, dtype: str = "float32"):
        self.target_count = _check.integer("targets", targets, at_least=1)
        super().__init__(inputs, [Dense(self.target_count)], ["head"], encoder=encoder, frozen_epochs=frozen_epochs,
                         freeze=freeze, dtype=dtype)

    @classmethod
    def for_data(cls, data: Source, **options: Any) -> Linear:
        """The model for these rows and as many targets as their labels have."""
        shape = () if data.label_type is None else data.label_type[0]
        return cls(data.features, shape[0] if shape else 1, **options)

    def options(self) -> dict[str, Any]:
        """Plain values that make the same model again: ``Linear(**options)``."""
        return {"inputs": self.inputs, "targets": self.target_count, "encoder": self.encoder_layers or None,
                "frozen_epochs": self.frozen_epochs, "freeze": self.freeze, "dtype": self.dtype}

    def check_data(self, data: Source) -> None:
        """Refuse labels of another number of targets, and classes with names."""
        if data.label_type is None:
            return
        shape, dtype = data.label_type
        count = shape[0] if shape else 1
        if count != self.target_count:
            raise ShapeError(f"{data.name} has labels of {count} numbers each; the model expects {self.target_count}")
        if data.classes is not None or dtype.kind not in "fiub":
            raise DataError(f"{data.name} has labels that are classes ({', '.join(map(str, data.classes or ()))}), and "
                            "least squares needs numbers: choose model classifier, or other labels")

    def targets(self, batch: Batch) -> np.ndarray:
        labels = np.ascontiguousarray(batch.labels, dtype=np.float32)
        return labels.reshape(len(batch), self.target_count)

    def predict(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Estimates of the targets for ``rows`` (n, inputs) -> (n, targets)."""
        return self._outputs(parameters, buffers, rows, 0, len(self.network.layers))
