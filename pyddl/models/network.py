"""Network: a chain of layers, whose tensors are slices of a model's flat vectors.

Several networks may share one vector::

    generator = Network([Dense(128, "relu"), Dense(784)], 64, name="generator", group="generator")
    critic = Network([Dense(128, "leaky_relu"), Dense(1)], 784, name="critic", group="critic", number=2)
    layout = Layout([*generator.slices, *critic.slices])
    generator.compile(layout)
    critic.compile(layout)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pyddl import _check, _core
from pyddl.data.batch import Batch
from pyddl.data.statistics import Statistics
from pyddl.errors import InternalError, ParameterError, ShapeError
from pyddl.layout import Layout
from pyddl.models.layers import WHOLE, Conv, ConvTranspose, Dense, Layer, Part, Shape, Transposed
from pyddl.models.together import together
from pyddl.names import DTYPES

__all__ = ["Network", "NetworkModel", "PartOfModel", "sigmoid"]


class Network:
    """A chain of layers, compiled for the vectors of a layout.

    Letters: B rows, I features that enter, O outputs of the last layer.

    Parameters
    ----------
    layers : sequence of Layer
    inputs : int or tuple of int
        Features of a row, or the shape that its values have: (height, width, channels), the channels of a place next to
        each other. Rows are flat in any case.
    name : str, default=""
        Goes before the layers' names: ``critic.0.weight``.
    names : sequence of str, optional
        Of the layers; by default their numbers.
    group : str, default="all"
        Of the slices: the phase that trains them.
    groups : sequence of str, optional
        The same for each layer.
    dtype : {"float32", "bfloat16"}, default="float32"
        Element type that matrix products take; they add in float32, and parameters and gradients are float32 always.
    part : tuple of int, default=(0, 1)
        (k, K): part k of K that hold the network together; see `split`.
    number : int, default=0
        Of the first layer among all of the model: two layers of one number would begin alike.
    winograd : bool, default=True
        In float32, convolutions with kernels of 3 and stride 1, or of 4 and stride 2, take Winograd's algorithm where
        it is faster, which the shapes and the number of rows decide: up to twice as fast, with an error of 1e-6 to 4e-6
        of a result's size (root mean square) where others have 3e-7. So a sum that is 0 exactly otherwise, as of black
        pixels without a bias, may lie on either side of a kink.

    Attributes
    ----------
    slices, buffers : list of Slice
        To make the model's layouts of.
    output : tuple of int
        Shape of an output.
    flops : int
        Floating-point operations of one gradient, per row: of its products.

    Raises
    ------
    ParameterError, ShapeError
        A layer has fewer outputs than there are parts; the processor lacks the element type; shapes do not fit.

    Notes
    -----
    Vectors are those of the whole layout, of which the network reads and writes its own slices. ``batch`` gives the
    keys of what is random, and the hooks; None serves where no layer is random and the network is whole.
    ``batch.ready`` is told of slices unless ``final=False``: more will be added to them. ``add`` adds to ``gradients``
    in the place of overwriting them.

    A pass is kept in a *slot* until the next forward pass into that slot. Its rows are not copied: they must stay as
    they are for as long as the pass is used, and the parameters too. No rows at all are legal everywhere.
    """

    def __init__(self, layers: Sequence[Layer], inputs: int | Sequence[int], *, name: str = "",
                 names: Sequence[str] | None = None, group: str = "all", groups: Sequence[str] | None = None,
                 dtype: str = "float32", part: Part = WHOLE, number: int = 0, winograd: bool = True):
        self.layers = tuple(layers)
        if not self.layers:
            raise ParameterError("layers is empty; expected at least one layer")
        shape = _check.integers("inputs", [inputs] if isinstance(inputs, int | np.integer) else inputs, at_least=1)
        own = [str(i) for i in range(len(self.layers))] if names is None else list(names)
        if len(own) != len(self.layers):
            raise ParameterError(f"names has {len(own)} names; expected one for each of {len(self.layers)} layers")
        self.dtype = _check.one_of("dtype", dtype, DTYPES)
        if dtype == "bfloat16" and not _core.has_bfloat16():
            raise ParameterError(
                "dtype is 'bfloat16', which this processor has no instructions for (AVX512-BF16 or AMX); use float32"
            )
        self.name, self.part, self.number, self.winograd = name, part, number, winograd
        self.groups = (group,) * len(self.layers) if groups is None else tuple(groups)
        self.names = tuple(f"{name}.{each}" if name else each for each in own)
        shapes = [shape]
        for each, layer in zip(self.names, self.layers, strict=True):
            try:
                shapes.append(layer.output(shapes[-1]))
            except ShapeError as error:
                raise ShapeError(f"layer {each}: {error}") from None
        self.shapes: tuple[Shape, ...] = tuple(shapes)
        """What enters each layer, and what leaves the last."""
        self._tied = {layer.of for layer in self.layers if isinstance(layer, Transposed)}
        self._check_tied()
        self._check_parts()
        self.slices = [s for layer, name, shape, group in self._places()
                       for s in layer.slices(name, shape, group, self._part_of(layer))]
        self.buffers = [s for layer, name, shape, group in self._places()
                        for s in layer.buffers(name, shape, group, self._part_of(layer))]
        self._native: Any = _NotCompiled(name or ", ".join(self.names))
        self._layout = self._buffer_layout = Layout()
        self._compiled = False
        self._kept: dict[int, np.ndarray] = {}  # the rows of each slot, which the compiled network points to

    @property
    def output(self) -> Shape:
        return self.shapes[-1]

    @property
    def flops(self) -> int:
        return self._native.flops

    def split(self, part: int, parts: int) -> Network:
        """What rank ``part`` of ``parts`` holds of it: of layers that can be cut, some outputs [1]_.

        In the forward pass a rank computes its columns of a layer's outputs, and those of all ranks are gathered, as
        the next layer needs all of them. In the backward pass each rank has a gradient with respect to all inputs of
        its slice, which are summed over the ranks; each then needs only the columns that it has computed forward.
        Nothing is sent for the rows, nor for the last outputs where the loss is a sum over their columns. Losses and
        scores of all parts add up to those of the whole.

        Cutting a narrow layer after a wide one by its inputs (Shoeybi et al. 2019, Megatron-LM, arXiv:1909.08053) would
        save the wide layer's gather: a third of the bytes of 784-256-64-256-784. Cut by outputs alone, every part of a
        tensor is some of its rows, in vectors as in files.

        .. [1] Das et al. (2016), Distributed deep learning using synchronous stochastic gradient descent,
           arXiv:1602.06709.
        """
        own = [each.removeprefix(f"{self.name}.") if self.name else each for each in self.names]
        return Network(self.layers, self.shapes[0], name=self.name, names=own, groups=self.groups, dtype=self.dtype,
                       part=(part, parts), number=self.number, winograd=self.winograd)

    def compile(self, layout: Layout, buffers: Layout | None = None) -> Network:
        """Make it work on vectors of these layouts, which have its slices among others; returns itself."""
        self._layout, self._buffer_layout = layout, Layout() if buffers is None else buffers
        self._native = _core.Network(
            [{"name": name, "number": self.number + i, "winograd": self.winograd,
              **layer.native(name, shape, layout, self._buffer_layout, self._part_of(layer))}
             | ({"shared": True} if name in self._tied else {})
             for i, (layer, name, shape, _) in enumerate(self._places())], self.dtype)
        self._compiled = True
        self._kept.clear()
        return self

    def initialise(self, parameters: np.ndarray, seed: int) -> None:
        """Fill its slices of ``parameters`` for the start of training; the same for the same seed everywhere."""
        views = self._layout.views(parameters)
        for i, (layer, name, shape, group) in enumerate(self._places()):
            own = {s.name.removeprefix(f"{name}."): views[s.name]
                   for s in layer.slices(name, shape, group, self._part_of(layer))}
            layer.initialise(own, seed, self.number + i, self._part_of(layer))

    def forward(self, parameters: np.ndarray, buffers: np.ndarray | None, batch: Batch | None, rows: np.ndarray,
                out: np.ndarray, *, first: int = 0, last: int | None = None, slot: int | None = None,
                training: bool | None = None, sampling: bool = False) -> None:
        """``out`` := layers [first, last) of ``rows``.

        Parameters
        ----------
        rows : ndarray of shape (B, inputs of layer first), float32
        out : ndarray of shape (B, outputs of layer last - 1), float32
        slot : int, optional
            From 0 to 15: where to keep the pass for `backward` and `tangent`.
        training : bool, optional
            Whether layers that learn otherwise than they serve do so. By default: where the pass is kept. False with a
            slot is a frozen network's: a pass that goes backward through it as it is.
        sampling : bool, default=False
            Whether layers that sample (`Gaussian`) do so when not training.
        """
        if self.part != WHOLE:
            _check_group(batch, rows)
        end = -1 if last is None else last
        if slot is None:
            self._native.forward(parameters, buffers, batch, rows, out, first, end, -1, training, sampling)
            return
        if self._tied and (first, end) not in ((0, -1), (0, len(self.layers))):
            raise ParameterError(f"a pass of layers {first} to {end} is to be kept, and layers of the network share "
                                 "weights: expected one through all layers, or their gradient would lack a part")
        self._kept.pop(slot, None)
        self._native.forward(parameters, buffers, batch, rows, out, first, end, slot, training, sampling)
        self._kept[slot] = rows

    def outputs(self, parameters: np.ndarray, buffers: np.ndarray | None, rows: np.ndarray, *, first: int = 0,
                last: int | None = None) -> np.ndarray:
        """Outputs of layers [first, last) for ``rows`` (n, features), after training. Those of a row do not depend on
        how many others come with it (but to rounding, where the processor lacks AVX-512, and of convolutions)."""
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        end = len(self.layers) if last is None else last
        columns = math.prod(self.shapes[first])
        if rows.ndim != 2 or rows.shape[1] != columns:
            raise ShapeError(f"rows have shape {rows.shape}; expected (n, {columns})")
        if buffers is not None:
            buffers = np.require(buffers, requirements="W")  # as of a file that is mapped; it is only read
        return together(lambda given, out: self.forward(parameters, buffers, None, given, out, first=first, last=end),
                        rows, math.prod(self.shapes[end]))

    def filters(self, parameters: np.ndarray) -> np.ndarray:
        """What the units of the first layer with weights look for: (units, inputs), or (channels, height, width,
        inputs' channels) of a convolution."""
        views = self._layout.views(parameters)
        for layer, name in zip(self.layers, self.names, strict=True):
            if isinstance(layer, Dense):
                return views[f"{name}.weight"]
            if isinstance(layer, Conv | ConvTranspose):
                return views[f"{name}.weight"].transpose((2, 0, 1, 3) if layer.transposed else (3, 0, 1, 2))
        raise InternalError("the network has no layer with weights")

    def gradient(self, parameters: np.ndarray, gradients: np.ndarray, buffers: np.ndarray | None, batch: Batch | None,
                 rows: np.ndarray, targets: np.ndarray, loss: str, *, first: int = 0, add: bool = False,
                 final: bool = True, below: np.ndarray | None = None) -> float:
        """Overwrite its slices of ``gradients`` with the sum over ``rows``; return the sum of the losses.

        Parameters
        ----------
        targets : ndarray
            (B, O) float32, which may be ``rows`` itself; for softmax (B,) int64, each from 0 to O - 1.
        loss : {"mse", "bce", "softmax"}
            Squared error; cross-entropy of each output from logits; cross-entropy of a softmax from logits. Summed over
            outputs and rows, cross-entropies in nats.
        first : int, default=0
            Layers below are frozen: their slices are left alone, and no gradient is passed to them.
        below : ndarray of shape (B, inputs of layer first), float32, optional
            As in `backward`.

        Notes
        -----
        In bfloat16 weights are rounded here, unless ``batch.rounded`` holds the parameters in bfloat16 already.
        """
        if self.part != WHOLE:
            _check_group(batch, rows)
        try:
            return self._native.gradient(parameters, gradients, buffers, batch, rows, targets, loss, first, add, final,
                                         below)
        except ValueError as error:
            if len(rows) > 1 or "one value per channel" not in str(error):
                raise
            raise ParameterError(f"{error}. The last batch of an epoch may be short, and each rank has a slice of it: "
                                 "choose another batch_size, or fewer ranks") from None

    def evaluate(self, parameters: np.ndarray, buffers: np.ndarray | None, batch: Batch | None, rows: np.ndarray,
                 targets: np.ndarray, loss: str, *, sampling: bool = False) -> dict[str, float]:
        """Sums over the rows: ``loss``, and ``squared_error`` (for bce, of sigmoids) or, for softmax, ``accuracy``:
        rows whose largest logit, the first of equal ones, is the label's. Where a layer is `Gaussian`: ``kl`` besides,
        which ``loss`` includes by its weight. ``sampling`` as in `forward`.
        """
        if self.part != WHOLE:
            _check_group(batch, rows)
        return self._native.evaluate(parameters, buffers, batch, rows, targets, loss, sampling)

    def backward(self, parameters: np.ndarray, gradients: np.ndarray | None, buffers: np.ndarray | None,
                 batch: Batch | None, deltas: np.ndarray, *, slot: int = 0, first: int | None = None,
                 below: np.ndarray | None = None, add: bool = False, final: bool = True) -> None:
        """Gradients of a kept pass from given deltas.

        Parameters
        ----------
        gradients : ndarray or None
            None: only ``below`` is wanted, or deltas for `tangent`.
        deltas : ndarray of shape (B, outputs of the pass), float32
            Gradient of a loss with respect to the outputs.
        first : int, optional
            Layers below are frozen, as in `gradient`.
        below : ndarray of shape (B, inputs of layer first), float32, optional
            Receives the gradient with respect to what entered that layer: the rows, by default.
        """
        if self.part != WHOLE:
            _check_group(batch, deltas)
        self._native.backward(parameters, gradients, buffers, batch, self._rows_of(slot), deltas, below, slot,
                              -1 if first is None else first, add, final)

    def tangent(self, parameters: np.ndarray, gradients: np.ndarray, buffers: np.ndarray | None, batch: Batch | None,
                directions: np.ndarray, *, slot: int = 0, add: bool = False, final: bool = True) -> None:
        """The gradient of the derivative along ``directions`` of what a kept pass has gone `backward` from.

        With deltas d, rows x, outputs y and directions u of each row: the gradient of ``sum d . (dy/dx) u`` with
        respect to the parameters, by one linear forward pass of u. So for g = the gradient of ``sum d . y`` with
        respect to the rows (`backward`'s ``below``) and a penalty P(g), ``directions = dP/dg`` gives the gradient of
        the penalty: WGAN-GP, R1.

        Parameters
        ----------
        directions : ndarray of shape (B, inputs of the pass), float32

        Raises
        ------
        ParameterError
            A layer is not piecewise linear: its slopes would depend on the parameters.
        """
        for name, layer in zip(self.names, self.layers, strict=True):
            if not layer.piecewise_linear:
                raise ParameterError(f"layer {name} is {layer}, whose slopes change with the parameters: a penalty on "
                                     "gradients needs piecewise linear layers (activation linear, relu or leaky_relu)")
        if self.part != WHOLE:
            _check_group(batch, directions)
        self._native.tangent(parameters, gradients, buffers, batch, self._rows_of(slot), directions, slot, add, final)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_native": _NotCompiled(self.name), "_kept": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._compiled:
            self.compile(self._layout, self._buffer_layout)

    def _places(self) -> list[tuple[Layer, str, Shape, str]]:
        """Each layer with its name, the shape of what enters it, and its group."""
        return list(zip(self.layers, self.names, self.shapes[:-1], self.groups, strict=True))

    def _part_of(self, layer: Layer) -> Part:
        return self.part if layer.can_be_cut else WHOLE

    def _rows_of(self, slot: int) -> np.ndarray:
        if slot not in self._kept:
            raise ParameterError(f"slot is {slot}, which keeps no pass: call forward(..., slot={slot}) before")
        return self._kept[slot]

    def _check_tied(self) -> None:
        for number, (layer, name, shape, _) in enumerate(self._places()):
            if not isinstance(layer, Transposed):
                continue
            below = dict(zip(self.names[:number], self._places(), strict=False)).get(layer.of)
            if below is None or not isinstance(below[0], Dense):
                raise ParameterError(f"layer {name} shares the weights of {layer.of!r}; expected a dense layer before "
                                     f"it{_check.nearest(layer.of, self.names[:number])}")
            if (*shape, layer.outputs) != (below[0].outputs, *below[2]):
                raise ShapeError(f"layer {name} has {shape[0]} inputs and {layer.outputs} outputs; the weights of "
                                 f"{layer.of}, which it shares, are for {below[0].outputs} and {below[2][0]}")
            if self.part != WHOLE:
                raise ParameterError(f"layer {name} shares the weights of {layer.of}, of which a part of a split model "
                                     "has some rows only: leave out split, or tied")

    def _check_parts(self) -> None:
        k, parts = self.part
        _check.integer("parts", parts, at_least=1)
        _check.integer("part", k, at_least=0, at_most=parts - 1)
        cut = [(shape[-1], name) for layer, name, shape in zip(self.layers, self.names, self.shapes[1:], strict=True)
               if layer.can_be_cut]
        outputs, name = min(cut, key=lambda each: each[0], default=(parts, ""))
        if outputs < parts:
            raise ParameterError(f"split is {parts}, but layer {name} has {outputs} outputs, and a rank would hold "
                                 f"none: give split at most {outputs}, or widen the layer")


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), in place; returns it."""
    x *= 0.5  # it is (1 + tanh(x / 2)) / 2, which cannot overflow
    np.tanh(x, out=x)
    x += 1
    x *= 0.5
    return x


class _NotCompiled:
    """Stands where the compiled network will be."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, wanted: str) -> Any:
        if wanted.startswith("__"):
            raise AttributeError(wanted)
        raise InternalError(f"network {self._name} is used before it was compiled for a layout")


def _check_group(batch: Batch | None, rows: np.ndarray) -> None:
    if len(rows) and (batch is None or batch.group is None):
        raise InternalError("a part of a split model needs the ranks that hold the others: batch.group is None")


class NetworkModel:
    """A model that is one network and one loss, trained to reproduce its rows: or what its subclasses say in `targets`.

    Parameters
    ----------
    network : Network
    loss : {"bce", "mse", "softmax"}, default="mse"
        As in `Network.gradient`.

    Attributes
    ----------
    network : Network
    loss : str
        As in `Network.gradient`.
    layout, buffers : Layout
        Set by `_compile`.
    encodes : int
        How many layers, from the first on, encode: what `pyddl.models.on_encoder` takes over. 0: none do.
    """

    name: str
    network: Network
    loss: str
    layout: Layout
    buffers: Layout
    encodes: int = 0

    def __init__(self, network: Network, loss: str = "mse"):
        self.name, self.network, self.loss = network.name or "network", network, loss
        self.inputs = math.prod(network.shapes[0])
        self._compile()

    def _compile(self) -> None:
        """Take layouts from the network, and compile it for them."""
        self.layout, self.buffers = Layout(self.network.slices), Layout(self.network.buffers)
        self.network.compile(self.layout, self.buffers)
        self.dtype, self.flops = self.network.dtype, self.network.flops
        self.takes_rounded = self.dtype == "bfloat16"

    def targets(self, batch: Batch) -> np.ndarray:
        """What the outputs are compared with: the rows themselves, unless a model says otherwise."""
        return batch.rows

    def first(self, batch: Batch) -> int:
        """The first layer that the batch's phase trains: those below are frozen in its turn."""
        return 0

    def initialise(self, parameters: np.ndarray, buffers: np.ndarray, seed: int,
                   data: Statistics | None = None) -> None:
        """Fill both vectors for the start of training; the same for the same seed everywhere."""
        self.network.initialise(parameters, seed)
        self.initialise_part(self.layout, parameters, self.buffers, buffers)

    def gradient(self, parameters: np.ndarray, gradients: np.ndarray, buffers: np.ndarray, batch: Batch) -> float:
        """Overwrite ``gradients`` with the sum over the batch's rows; return the sum of their losses.

        In bfloat16 weights are rounded here, unless ``batch.rounded`` holds the parameters in bfloat16 already.
        """
        return self.network.gradient(parameters, gradients, buffers, batch, batch.rows, self.targets(batch), self.loss,
                                     first=self.first(batch))

    def evaluate(self, parameters: np.ndarray, buffers: np.ndarray, batch: Batch) -> dict[str, float]:
        """Sums over the rows: see `Network.evaluate`."""
        return self.network.evaluate(parameters, buffers, batch, batch.rows, self.targets(batch), self.loss)

    def initialise_part(self, layout: Layout, parameters: np.ndarray, buffer_layout: Layout,
                        buffers: np.ndarray | None) -> None:
        """After its layers have begun: what a model puts in their place, in vectors of layouts that may hold some rows
        of each tensor only."""

    def split(self, part: int, parts: int) -> PartOfModel:
        """What rank ``part`` of ``parts`` holds where they hold the model together: some outputs of every layer."""
        return PartOfModel(self, part, parts)

    def filters(self, parameters: np.ndarray) -> np.ndarray:
        """What the units of the first layer with weights look for: see `Network.filters`."""
        return self.network.filters(parameters)

    def _outputs(self, parameters: np.ndarray, buffers: np.ndarray | None, rows: np.ndarray, first: int,
                 end: int) -> np.ndarray:
        """Outputs of layer ``end - 1``, (n, values), for ``rows`` that enter layer ``first``: see `Network.outputs`."""
        return self.network.outputs(parameters, buffers, rows, first=first, last=end)


class PartOfModel(NetworkModel):
    """One rank's part of a `NetworkModel`; all parts together compute what the whole one does, to rounding.

    Attributes
    ----------
    layout : Layout
        The slices of ``whole``, each with this part's rows.
    whole : NetworkModel
    part, parts : int
        This rank's number in its model group, and how many there are.
    """

    def __init__(self, whole: Any, part: int, parts: int):
        self.whole, self.part, self.parts = whole, part, parts
        self.name, self.loss = whole.name, whole.loss
        for optional in ("inputs", "input_range", "needs_labels", "rate_scale", "stages"):
            if hasattr(whole, optional):
                setattr(self, optional, getattr(whole, optional))
        self.network = whole.network.split(part, parts)
        self._compile()
        self.flops = whole.flops

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.whole, self.part, self.parts)

    def options(self) -> dict[str, Any]:
        """Those of the whole."""
        return self.whole.options()

    def targets(self, batch: Batch) -> np.ndarray:
        return self.whole.targets(batch)

    def first(self, batch: Batch) -> int:
        return self.whole.first(batch)

    def initialise(self, parameters: np.ndarray, buffers: np.ndarray, seed: int,
                   data: Statistics | None = None) -> None:
        self.network.initialise(parameters, seed)
        self.whole.initialise_part(self.layout, parameters, self.buffers, buffers)

    def split(self, part: int, parts: int) -> PartOfModel:
        """A part of the whole."""
        return self.whole.split(part, parts)
