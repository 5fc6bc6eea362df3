"""A dense autoencoder whose layers are split over several ranks.

Every rank holds a slice of each layer's outputs: rows of its weight matrix, elements of its bias. In the forward pass
a rank computes its columns of a layer's outputs, and those of all ranks are gathered, as the next layer needs all of
them. In the backward pass each rank has a gradient with respect to all inputs of its slice, which are summed over the
ranks; each then needs only the columns of the sum that it has computed forward. Nothing is sent for the data, nor for
the reconstruction, whose loss is a sum over its columns.

Source: Das et al. (2016), Distributed deep learning using synchronous stochastic gradient descent, arXiv:1602.06709.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pyddl import _core
from pyddl.data.batch import Batch
from pyddl.errors import InternalError, ParameterError
from pyddl.layout import Layout, Slice
from pyddl.models.autoencoder import Autoencoder
from pyddl.models.protocol import Ready

__all__ = ["SplitAutoencoder"]


class SplitAutoencoder:
    """One rank's part of an `Autoencoder`; all parts together compute what the whole one does, to rounding.

    Letters below: B rows, I inputs and O outputs of a layer, of which this part has some.

    Parameters
    ----------
    whole : Autoencoder
    part, parts : int
        This rank's number in its model group, and how many there are.

    Attributes
    ----------
    layout : Layout
        The slices of ``whole``, each with this part's rows.
    cuts : list of list of int
        For each layer the first output of every part, and the number of outputs.

    Raises
    ------
    ParameterError
        A layer has fewer outputs than there are parts; the element type is bfloat16.
    """

    name = Autoencoder.name
    phases = Autoencoder.phases

    def __init__(self, whole: Autoencoder, part: int, parts: int):
        narrowest = min(whole.layers, key=lambda layer: layer.outputs)
        if narrowest.outputs < parts:
            raise ParameterError(f"split is {parts}, but layer {narrowest.name} has {narrowest.outputs} outputs, and "
                                 f"a rank would hold none: give split at most {narrowest.outputs}, or widen the layer")
        if whole.dtype != "float32":
            raise ParameterError(f"split layers compute in float32; dtype is {whole.dtype}: leave out dtype, or split")
        self.whole, self.part, self.parts = whole, part, parts
        self.inputs, self.input_range, self.flops = whole.inputs, whole.input_range, whole.flops
        self.cuts = [[layer.outputs * k // parts for k in range(parts + 1)] for layer in whole.layers]
        slices = []
        for layer, cuts in zip(whole.layers, self.cuts, strict=True):
            first, end = cuts[part : part + 2]
            slices.append(Slice(f"{layer.name}.weight", (end - first, layer.inputs), first=first, of=layer.outputs))
            slices.append(Slice(f"{layer.name}.bias", (end - first,), decay=False, first=first, of=layer.outputs))
        self.layout = Layout(slices)
        self.buffers = Layout()
        self._memory: dict[tuple[str, int], np.ndarray] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return SplitAutoencoder, (self.whole, self.part, self.parts)

    def options(self) -> dict[str, Any]:
        """Those of the whole."""
        return self.whole.options()

    def initialise(self, parameters: np.ndarray, buffers: np.ndarray, seed: int) -> None:
        """Fill ``parameters`` with this part of what the whole would begin with."""
        self.whole.initialise_layers(self.layout, parameters, seed)

    def gradient(self, parameters: np.ndarray, gradients: np.ndarray, buffers: np.ndarray, batch: Batch,
                 ready: Ready | None = None) -> float:
        """Overwrite ``gradients`` with the sum over the rows; return this part of the sum of their losses."""
        if len(batch) == 0:
            gradients[:] = 0
            return 0.0
        group = _group_of(batch)
        weights, slopes = self._layers_of(parameters), self._layers_of(gradients)
        inputs, outputs = self._forward(weights, batch)
        last = len(outputs) - 1
        deltas = outputs[last]
        loss = _core.loss_gradient(outputs[last], self._targets(batch), self.whole.loss, "linear", deltas)
        for i in range(last, -1, -1):
            layer = self.whole.layers[i]
            below = group.room(len(batch), layer.inputs) if i > 0 else None
            _core.dense_backward(inputs[i], weights[i][0], outputs[i], layer.activation, deltas, *slopes[i], below)
            if ready is not None:
                weight, bias = self.layout[f"{layer.name}.weight"], self.layout[f"{layer.name}.bias"]
                ready(weight.begin, bias.end)
            if below is not None:
                deltas = self._array("deltas", i - 1, len(batch), outputs[i - 1].shape[1])
                group.sum_columns(below, self.cuts[i - 1], deltas)
        return loss

    def evaluate(self, parameters: np.ndarray, buffers: np.ndarray, batch: Batch) -> dict[str, float]:
        """This part of the sums over the rows that the whole gives."""
        loss = squared_error = 0.0
        if len(batch):
            _, outputs = self._forward(self._layers_of(parameters), batch)
            loss, squared_error = _core.loss_sums(outputs[-1], self._targets(batch), self.whole.loss)
        return {"loss": loss, "squared_error": squared_error}

    def _forward(self, weights: list[tuple[np.ndarray, np.ndarray]],
                 batch: Batch) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Inputs (B, I) of each layer, and this part of its outputs."""
        inputs, outputs = [batch.rows], []
        for i, (layer, (weight, bias)) in enumerate(zip(self.whole.layers, weights, strict=True)):
            mine = self._array("outputs", i, len(batch), len(bias))
            _core.dense_forward(inputs[i], weight, bias, layer.activation, mine)
            outputs.append(mine)
            if i + 1 < len(weights):
                inputs.append(self._array("inputs", i + 1, len(batch), layer.outputs))
                _group_of(batch).gather_columns(mine, self.cuts[i], inputs[i + 1])
        return inputs, outputs

    def _targets(self, batch: Batch) -> np.ndarray:
        """The columns of the rows that this part reconstructs."""
        first, end = self.cuts[-1][self.part : self.part + 2]
        targets = self._array("targets", 0, len(batch), end - first)
        targets[...] = batch.rows[:, first:end]
        return targets

    def _layers_of(self, vector: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        views = self.layout.views(vector)
        return [(views[f"{layer.name}.weight"], views[f"{layer.name}.bias"]) for layer in self.whole.layers]

    def _array(self, what: str, layer: int, rows: int, columns: int) -> np.ndarray:
        """Memory that is used again in the next step; it keeps no value."""
        found = self._memory.get((what, layer))
        if found is None or len(found) < rows:
            found = self._memory[what, layer] = np.empty((rows, columns), dtype=np.float32)
        return found[:rows]


def _group_of(batch: Batch) -> Any:
    if batch.group is None:
        raise InternalError("a part of a split model needs the ranks that hold the others: batch.group is None")
    return batch.group
