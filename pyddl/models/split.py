"""A dense autoencoder whose layers are split over several ranks.

Every rank holds a slice of each layer's outputs: rows of its weight matrix, elements of its bias. In the forward pass
a rank computes its columns of a layer's outputs, and those of all ranks are gathered, as the next layer needs all of
them. In the backward pass each rank has a gradient with respect to all inputs of its slice, which are summed over the
ranks; each then needs only the columns of the sum that it has computed forward. Nothing is sent for the data, nor for
the reconstruction, whose loss is a sum over its columns.

Cutting a narrow layer after a wide one by its inputs (Shoeybi et al. 2019, Megatron-LM, arXiv:1909.08053) would save
the wide layer's gather: a third of the bytes of 784-256-64-256-784. Cut by outputs alone, every part of a tensor is
some of its rows, in vectors as in files.

Source: Das et al. (2016), Distributed deep learning using synchronous stochastic gradient descent, arXiv:1602.06709.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pyddl import _core
from pyddl.data.batch import Batch, ModelGroup
from pyddl.data.statistics import Statistics
from pyddl.errors import InternalError, ParameterError
from pyddl.layout import Layout, Slice
from pyddl.models.autoencoder import Autoencoder

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
        pairs = [[self.layout[f"{layer.name}.{what}"] for what in ("weight", "bias")] for layer in whole.layers]
        self._places = [(weight.begin, weight.end, bias.begin, bias.end) for weight, bias in pairs]
        self._memory = Memory(0, [0], [0])

    def __reduce__(self) -> tuple[Any, ...]:
        return SplitAutoencoder, (self.whole, self.part, self.parts)

    def options(self) -> dict[str, Any]:
        """Those of the whole."""
        return self.whole.options()

    def initialise(self, parameters: np.ndarray, buffers: np.ndarray, seed: int,
                   data: Statistics | None = None) -> None:
        """Fill ``parameters`` with this part of what the whole would begin with."""
        self.whole.initialise_layers(self.layout, parameters, seed)

    def gradient(self, parameters: np.ndarray, gradients: np.ndarray, buffers: np.ndarray, batch: Batch) -> float:
        """Overwrite ``gradients`` with the sum over the rows; return this part of the sum of their losses."""
        rows = len(batch)
        if rows == 0:
            gradients[:] = 0
            return 0.0
        group, memory = _group_of(batch), self._memory_for(rows)
        weights, slopes = self._layers_of(parameters), self._layers_of(gradients)
        self._forward(weights, batch.rows, group, memory)
        last = len(weights) - 1
        deltas = memory.outputs[last]
        loss = _core.loss_gradient(deltas, self._targets(batch.rows, memory), self.whole.loss, "linear", deltas)
        for i in range(last, -1, -1):
            layer = self.whole.layers[i]
            below = group.room(rows, layer.inputs) if i > 0 else None
            inputs = memory.inputs[i - 1] if i > 0 else batch.rows
            _core.dense_backward(inputs, weights[i][0], memory.outputs[i], layer.activation, deltas, *slopes[i], below)
            if batch.ready is not None:
                batch.ready(self._places[i][0], self._places[i][-1])
            if below is not None:
                deltas = memory.deltas[i - 1]
                group.sum_columns(below, self.cuts[i - 1], deltas)
        return loss

    def evaluate(self, parameters: np.ndarray, buffers: np.ndarray, batch: Batch) -> dict[str, float]:
        """This part of the sums over the rows that the whole gives."""
        loss = squared_error = 0.0
        if len(batch):
            memory = self._memory_for(len(batch))
            self._forward(self._layers_of(parameters), batch.rows, _group_of(batch), memory)
            targets = self._targets(batch.rows, memory)
            loss, squared_error = _core.loss_sums(memory.outputs[-1], targets, self.whole.loss)
        return {"loss": loss, "squared_error": squared_error}

    def _forward(self, weights: list[tuple[np.ndarray, np.ndarray]], rows: np.ndarray, group: ModelGroup,
                 memory: Memory) -> None:
        """Fill the memory's outputs of this part, and inputs of all."""
        inputs = rows
        for i, (layer, (weight, bias)) in enumerate(zip(self.whole.layers, weights, strict=True)):
            _core.dense_forward(inputs, weight, bias, layer.activation, memory.outputs[i])
            if i + 1 < len(weights):
                inputs = memory.inputs[i]
                group.gather_columns(memory.outputs[i], self.cuts[i], inputs)

    def _targets(self, rows: np.ndarray, memory: Memory) -> np.ndarray:
        """The columns of the rows that this part reconstructs."""
        first, end = self.cuts[-1][self.part : self.part + 2]
        memory.targets[...] = rows[:, first:end]
        return memory.targets

    def _layers_of(self, vector: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Weights and bias of each layer."""
        return [(vector[begin:end].reshape(-1, layer.inputs), vector[bias_begin:bias_end])
                for layer, (begin, end, bias_begin, bias_end) in zip(self.whole.layers, self._places, strict=True)]

    def _memory_for(self, rows: int) -> Memory:
        if len(self._memory.targets) != rows:
            self._memory = Memory(rows, [cuts[-1] for cuts in self.cuts],
                                  [cuts[self.part + 1] - cuts[self.part] for cuts in self.cuts])
        return self._memory


class Memory:
    """What a step computes, for ``rows`` rows: used again by the next, and of no value between two.

    ``inputs`` are those of the layers above the first, ``outputs`` and ``deltas`` of this part of each layer.
    """

    def __init__(self, rows: int, outputs: Sequence[int], mine: Sequence[int]):
        def arrays(columns: Sequence[int]) -> list[np.ndarray]:
            return [np.empty((rows, each), dtype=np.float32) for each in columns]

        self.inputs, self.outputs, self.deltas = arrays(outputs[:-1]), arrays(mine), arrays(mine[:-1])
        self.targets, = arrays(mine[-1:])


def _group_of(batch: Batch) -> ModelGroup:
    if batch.group is None:
        raise InternalError("a part of a split model needs the ranks that hold the others: batch.group is None")
    return batch.group
