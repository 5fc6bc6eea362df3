"""Classifier: dense layers and a softmax, on rows or on the codes of an encoder.

With no hidden layer it is multinomial logistic regression. Source: Bridle (1990), Probabilistic interpretation of
feedforward classification network outputs, Neurocomputing, NATO ASI Series 68, 227-236.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pyddl import _check
from pyddl.data.batch import Batch
from pyddl.data.source import Source
from pyddl.errors import DataError, ParameterError
from pyddl.models.layers import Dense
from pyddl.models.on_encoder import Encoder, OnEncoder
from pyddl.models.table import check_effects
from pyddl.names import ACTIVATIONS, INITIALISERS

__all__ = ["Classifier", "check_classes", "classes_of", "softmax", "targets_of"]


class Classifier(OnEncoder):
    """Softmax cross-entropy over dense layers, in nats.

    Parameters
    ----------
    inputs : int
        Features of a row.
    classes : int or sequence of str
        How many classes, at least 2; or their names, in the order of the labels' numbers.
    hidden : sequence of int, default=()
        Units of the layers between the code and the classes.
    activation : str, default="relu"
        Of the hidden layers: linear, sigmoid, relu, leaky_relu, tanh or softplus.
    initialiser : str, default="auto"
        Of the weights of hidden layers and head; biases start at 0.
    encoder, frozen_epochs, freeze, dtype
        As in `pyddl.models.on_encoder.OnEncoder`; without an encoder the code is the row itself.

    Attributes
    ----------
    layout : Layout
        ``hidden.0.weight``, ..., ``head.weight`` (classes, codes), ``head.bias`` (classes,), after the encoder's.
    """

    name = "classifier"
    loss = "softmax"
    needs_labels = True

    def __init__(self, inputs: int, classes: int | Sequence[str], hidden: Sequence[int] = (), *,
                 activation: str = "relu", initialiser: str = "auto", encoder: Encoder = None, frozen_epochs: int = 0,
                 freeze: bool = False, dtype: str = "float32"):
        self.class_names = None if isinstance(classes, int | np.integer) else tuple(map(str, classes))
        count = classes if self.class_names is None else len(self.class_names)
        if twice := [name for i, name in enumerate(self.class_names or ()) if name in (self.class_names or ())[:i]]:
            raise ParameterError(f"classes names {twice[0]!r} twice; expected different names")
        self.classes = _check.integer("classes", count, at_least=2)
        self.hidden = _check.integers("hidden", hidden, at_least=1)
        self.activation = _check.one_of("activation", activation, ACTIVATIONS)
        self.initialiser = _check.one_of("initialiser", initialiser, ("auto", *INITIALISERS))
        check_effects("classifier", {"activation": activation, "hidden": self.hidden, "freeze": freeze})
        layers = [*(Dense(units, activation, initialiser=initialiser) for units in self.hidden),
                  Dense(self.classes, initialiser=initialiser)]
        super().__init__(inputs, layers, [*(f"hidden.{i}" for i in range(len(self.hidden))), "head"], encoder=encoder,
                         frozen_epochs=frozen_epochs, freeze=freeze, dtype=dtype)

    @classmethod
    def for_data(cls, data: Source, **options: Any) -> Classifier:
        """The model for these rows and the classes of their labels."""
        return cls(data.features, classes_of(data), **options)

    def options(self) -> dict[str, Any]:
        """Plain values that make the same model again: ``Classifier(**options)``."""
        return {"inputs": self.inputs, "classes": self.classes if self.class_names is None else list(self.class_names),
                "hidden": list(self.hidden), "activation": self.activation, "initialiser": self.initialiser,
                "encoder": self.encoder_layers or None, "frozen_epochs": self.frozen_epochs, "freeze": self.freeze,
                "dtype": self.dtype}

    def check_data(self, data: Source) -> None:
        """Refuse labels that are no classes of this model."""
        check_classes(data, self.classes, self.class_names)

    def targets(self, batch: Batch) -> np.ndarray:
        return targets_of(batch)

    def probabilities(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Probabilities of the classes for ``rows`` (n, inputs) -> (n, classes)."""
        return softmax(self._outputs(parameters, buffers, rows, 0, len(self.network.layers)))

    def features(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Values of the last hidden layer for ``rows`` (n, inputs) -> (n, units): what classes are told by."""
        layers = len(self.network.layers)
        if layers < 2:
            raise ParameterError("this classifier has no hidden layer, whose values are the features: train one with "
                                 "some, for example hidden 256,64")
        return self._outputs(parameters, buffers, rows, 0, layers - 1)


def targets_of(batch: Batch) -> np.ndarray:
    """The batch's labels as numbers of classes, (n,) int64."""
    return np.ascontiguousarray(batch.labels, dtype=np.int64).reshape(len(batch))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (n, classes), in the place of ``logits``."""
    logits -= logits.max(axis=1, keepdims=True, initial=-np.inf)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits


def check_classes(data: Source, classes: int, class_names: tuple[str, ...] | None) -> None:
    """Refuse labels that are not of these classes.

    Raises
    ------
    DataError
    """
    if data.label_type is None:
        return
    if data.classes is not None and data.classes != class_names:
        own = f"numbers from 0 to {classes - 1}" if class_names is None else _listed(class_names)
        raise DataError(f"{data.name} has labels of the classes {_listed(data.classes)}; those of the model are "
                        f"{own}: give labels of the same classes, or make the model for these")
    if (largest := _labels_of(data).max()) >= classes:
        raise DataError(f"{data.name} has the label {largest}; the model knows {classes} classes, numbered from 0 to "
                        f"{classes - 1}")


def _labels_of(data: Source) -> np.ndarray:
    """The labels of all rows, numbers of classes.

    Raises
    ------
    DataError
        There are none, several for a row, or values that are no whole numbers from 0 on.
    """
    if data.label_type is None:
        raise DataError(f"{data.name} has no labels, which this model needs: give them with labels (--labels SPEC)")
    shape, _ = data.label_type
    if shape and shape[0] != 1:
        raise DataError(f"{data.name} has labels of {shape[0]} numbers each; a classifier needs one, the row's class")
    labels = np.asarray(data.labels).ravel()
    wrong = np.flatnonzero(~((labels >= 0) & (labels == np.floor(labels))))
    if wrong.size:
        raise DataError(f"{data.name} has the label {labels[wrong[0]]} in row {wrong[0]}; classes are whole numbers "
                        "from 0 on: for quantities choose model linear")
    return labels


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def classes_of(data: Source) -> int | tuple[str, ...]:
    """The classes that the source names, or how many there are: one more than the largest label.

    Raises
    ------
    ParameterError
        There is one only, or the numbers have large gaps.
    """
    labels = _labels_of(data)
    if data.classes is not None and len(data.classes) > 1:
        return data.classes  # of which not all need occur
    found = np.unique(labels) if data.classes is None else data.classes
    if len(found) < 2:
        raise ParameterError(f"all {len(labels)} labels of {data.name} are {found[0]}: one class only; a classifier "
                             "needs two at least")
    count = int(found[-1]) + 1
    if count > 10 * len(found) + 1000:
        raise ParameterError(f"{data.name} has labels of {len(found)} different values up to {int(found[-1])}: number "
                             "the classes from 0 on")
    return count
