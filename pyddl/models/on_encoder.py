"""Models that are a head on an encoder: layers of an earlier run come first, perhaps frozen for some epochs or all."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from pyddl import _check
from pyddl.data.batch import Batch
from pyddl.errors import ParameterError, ShapeError
from pyddl.layout import Layout
from pyddl.models.layers import Corrupt, Flatten, Layer, Reshape, Sparsity, as_plain, from_plain
from pyddl.models.network import Network, NetworkModel
from pyddl.models.protocol import name_of
from pyddl.models.stages import Phase, Stage
from pyddl.models.table import Trained, check_effects

__all__ = ["ENCODER", "Encoder", "OnEncoder", "TakenOver", "taken_over"]

ENCODER, HEAD = "encoder", "head"
Encoder = Trained | Sequence[Mapping[str, Any]] | None


class OnEncoder(NetworkModel):
    """A network of an encoder's layers, ``encoder.0``, ..., in group ``encoder``, and others in group ``head``.

    Parameters
    ----------
    inputs : int
        Features of a row.
    layers : sequence of Layer
        Of the head.
    names : sequence of str
        Theirs.
    encoder : Trained or sequence of dict, optional
        A trained model whose encoder comes first, with its weights; or only its layers, as plain values.
    frozen_epochs : int, default=0
        Epochs in which the head alone is trained; then all layers are.
    freeze : bool, default=False
        The head alone is trained all the time.
    dtype : {"float32", "bfloat16"}

    Raises
    ------
    ParameterError, ShapeError
        The encoder's model has none, or one for rows of another width; an option of the encoder is given without one.
    """

    def __init__(self, inputs: int, layers: Sequence[Layer], names: Sequence[str], *, encoder: Encoder = None,
                 frozen_epochs: int = 0, freeze: bool = False, dtype: str = "float32"):
        self.inputs = _check.integer("inputs", inputs, at_least=1)
        self.frozen_epochs = _check.integer("frozen_epochs", frozen_epochs, at_least=0)
        self.freeze = bool(freeze)
        self._taken = taken_over(encoder, self.inputs)
        below = self._taken.layers
        check_effects(self.name, {"encoder": below, "frozen_epochs": self.frozen_epochs, "freeze": self.freeze})
        if self.frozen_epochs and self.freeze:
            raise ParameterError(f"frozen_epochs is {frozen_epochs} and freeze is given, which freezes the encoder for "
                                 "all epochs: leave one of the two out")
        self.encoder_layers = [as_plain(layer) for layer in below]
        self.network = Network([*below, *layers], self.inputs, dtype=dtype,
                               names=[*(f"{ENCODER}.{i}" for i in range(len(below))), *names],
                               groups=[ENCODER] * len(below) + [HEAD] * len(layers))
        self.encodes = len(self.network.layers) - 1  # for another model that takes it over
        self._compile()
        head = Phase(HEAD, (HEAD,))
        self.stages: tuple[Stage | str, ...] = ("all",)
        if self.freeze:
            self.stages = (Stage((head,)),)
        elif self.frozen_epochs:
            self.stages = (Stage((head,), epochs=self.frozen_epochs), Stage((Phase("all"),)))

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """Plain values that make the same model again."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are made again from the options, and begin with the same encoder."""
        return partial(type(self), **self.options()), (), {"_taken": self._taken}

    def first(self, batch: Batch) -> int:
        return len(self.encoder_layers) if batch.phase == HEAD else 0

    def initialise_part(self, layout: Layout, parameters: np.ndarray, buffer_layout: Layout,
                        buffers: np.ndarray | None) -> None:
        """The encoder's weights are those that it was trained to, and its running statistics those of then."""
        self._taken.put(layout, parameters, buffer_layout, buffers)

    def encode(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """What enters the last layer, for ``rows`` (n, inputs) -> (n, its inputs).

        Raises
        ------
        ParameterError
            The rows themselves do.
        """
        if not self.encodes:
            raise ParameterError(f"model {self.name} has one layer here, and no encoder: codes would be the rows "
                                 "themselves")
        return self._outputs(parameters, buffers, rows, 0, self.encodes)

    def pictures(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        """``weights``: those of the first layer's units, each as a row or as a picture."""
        return {"weights": self.filters(parameters)}


@dataclass(frozen=True)
class TakenOver:
    """Layers of an encoder, from rows to flat codes, and what they were trained to.

    Attributes
    ----------
    layers : list of Layer
        Named ``encoder.0``, ... here.
    values, kept : dict of str to ndarray
        Their parameters and buffers by the names that they get here; none where only layers are known.
    classes : int or sequence of str, optional
        Of a softmax, where its logits are the last layer.
    """

    layers: list[Layer]
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    kept: Mapping[str, np.ndarray] = field(default_factory=dict)
    classes: int | Sequence[str] | None = None

    def put(self, layout: Layout, parameters: np.ndarray, buffer_layout: Layout, buffers: np.ndarray | None) -> None:
        """Into vectors of layouts that may hold some rows of each tensor only."""
        views = layout.views(parameters)
        for name, values in self.values.items():
            first = layout[name].first
            views[name][...] = values[first : first + len(views[name])]
        if buffers is not None:
            kept = buffer_layout.views(buffers)
            for name, values in self.kept.items():
                kept[name][...] = values


def taken_over(encoder: Encoder, inputs: int, *, head: bool = False) -> TakenOver:
    """Layers of an encoder; what was there for the encoder's own training, noise and a penalty, is left behind.

    Parameters
    ----------
    head : bool, default=False
        The logits of a classifier are taken too.

    Raises
    ------
    ParameterError, ShapeError
        The model has no encoder of layers, or is for rows of another width than ``inputs``.
    """
    if encoder is None:
        return TakenOver([])
    if not isinstance(encoder, Trained):
        return TakenOver([from_plain(values) for values in encoder])
    convert: Callable[..., Trained] | None = getattr(encoder.model, "as_network", None)
    named: Any = encoder.model
    if convert is not None:
        encoder = convert(encoder.parameters, encoder.buffers)
    model: Any = encoder.model
    count = getattr(model, "encodes", 0)
    if not count:
        raise ParameterError(f"the run named as encoder holds a model {name_of(model)!r}, which has no encoder of "
                             "layers: name a run of an autoencoder, or of a classifier with hidden layers")
    if model.inputs != inputs:
        raise ShapeError(f"the run named as encoder was trained on rows of {model.inputs} features; these have "
                         f"{inputs}: give the data that it was trained on, or others of their kind")
    network = model.network
    layers: list[Layer] = [Reshape(network.shapes[0])] if len(network.shapes[0]) > 1 else []
    names: dict[str, str] = {}
    head = head and model.loss == "softmax"
    # With fewer outputs than trained, where others of a layer are no codes: the first rows of its tensors are taken.
    for name, layer in zip(network.names[: count + head], getattr(model, "code_layers", network.layers), strict=False):
        if not isinstance(layer, Corrupt | Sparsity):
            names[name] = f"{ENCODER}.{len(layers)}"
            layers.append(layer)
    if len(network.shapes[count]) > 1:
        layers.append(Flatten())
    return TakenOver(layers, _renamed(model.layout.views(encoder.parameters), names),
                     _renamed(model.buffers.views(encoder.buffers), names),
                     (named.class_names or named.classes) if head else None)


def _renamed(views: Mapping[str, np.ndarray], names: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Copies of the tensors of these layers, by the layers' new names."""
    return {f"{new}{tensor.removeprefix(old)}": view.copy() for old, new in names.items()
            for tensor, view in views.items() if tensor.startswith(f"{old}.")}
