"""Layers: declared values, of which `pyddl.models.network.Network` makes a chain.

A layer says for rows of some shape what shape comes out, which tensors it trains and keeps, how these begin, and what
the compute module compiles. It holds no numbers, and has no name of its own: one value may stand in several networks.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from pyddl import _check, random
from pyddl._names import offers
from pyddl.errors import ParameterError, ShapeError
from pyddl.layout import Layout, Slice
from pyddl.models.initialisers import initialiser
from pyddl.names import ACTIVATIONS, INITIALISERS

__all__ = ["KINDS", "WHOLE", "BatchNorm", "Conv", "ConvTranspose", "Corrupt", "Dense", "Dropout", "Flatten", "Gaussian",
           "Layer", "LayerNorm", "Part", "Pool", "Reshape", "Resize", "Shape", "Sparsity", "Transposed", "as_plain",
           "from_plain"]

__dir__ = offers(__name__)

PIECEWISE_LINEAR = ("linear", "relu", "leaky_relu")

Shape = tuple[int, ...]
"""Of one row: ``(features,)`` or ``(height, width, channels)``.

A row is flat always, the channels of one place next to each other. So a grey picture's row is what it was in its file,
while files with colours (CIFAR-10) hold one plane for each: ``Reshape((32, 32, 3), planes=True)`` brings channels
together, ``Flatten(planes=True)`` takes them apart again, for outputs that are compared with such rows.
"""

Part = tuple[int, int]
"""(k, K): part k of K that hold a layer together."""

WHOLE: Part = (0, 1)


@runtime_checkable
class Layer(Protocol):
    """What a network asks of a layer.

    Attributes
    ----------
    piecewise_linear : bool
        Its outputs are piecewise linear in its inputs, so that tangents pass it.
    can_be_cut : bool
        ``part`` may be other than `WHOLE`: each part computes some outputs. Other layers are held whole on every part.
    """

    @property
    def piecewise_linear(self) -> bool: ...
    @property
    def can_be_cut(self) -> bool: ...

    def output(self, shape: Shape) -> Shape:
        """Shape of an output for an input of that shape; raises `ShapeError` where none fits."""
        ...

    def slices(self, name: str, shape: Shape, group: str = "all", part: Part = WHOLE) -> list[Slice]:
        """Tensors that are trained, for inputs of that shape: each named ``{name}.{tensor}``."""
        ...

    def buffers(self, name: str, shape: Shape, group: str = "all", part: Part = WHOLE) -> list[Slice]:
        """Tensors that are kept and not trained."""
        ...

    def initialise(self, views: Mapping[str, np.ndarray], seed: int, number: int, part: Part = WHOLE) -> None:
        """Fill the tensors, by their names without the layer's; ``number`` is the layer's among all of the model."""
        ...

    def native(self, name: str, shape: Shape, layout: Layout, buffers: Layout, part: Part = WHOLE) -> dict[str, Any]:
        """What the compute module compiles: its ``kind``, sizes, and where its tensors lie in the vectors."""
        ...


def _rule(initialiser: str, activation: str) -> str:
    """Name of the initialiser of weights that come before ``activation``."""
    if initialiser != "auto":
        return initialiser
    return "he_uniform" if activation in ("relu", "leaky_relu", "softplus") else "glorot_uniform"


@dataclass(frozen=True)
class Dense:
    """``activation(inputs weight^T + bias)``.

    Parameters
    ----------
    outputs : int
    activation : str, default="linear"
        linear, sigmoid, relu, leaky_relu (slope 0.01), tanh or softplus.
    bias : bool, default=True
    initialiser : str, default="auto"
        Of the weights; biases start at 0. ``auto`` is He's for relu, leaky_relu and softplus, Glorot's otherwise.

    Notes
    -----
    Tensors: ``weight`` (outputs, inputs), and ``bias`` (outputs,), which weight decay leaves alone. Part k of K holds
    rows ``outputs * k // K`` to ``outputs * (k + 1) // K`` of each.
    """

    outputs: int
    activation: str = "linear"
    bias: bool = True
    initialiser: str = "auto"

    can_be_cut: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "outputs", _check.integer("outputs", self.outputs, at_least=1))
        _check.one_of("activation", self.activation, ACTIVATIONS)
        _check.one_of("initialiser", self.initialiser, ("auto", *INITIALISERS))

    @property
    def piecewise_linear(self) -> bool:
        return self.activation in PIECEWISE_LINEAR

    def output(self, shape: Shape) -> Shape:
        if len(shape) != 1:
            raise ShapeError(f"a dense layer has inputs of shape {shape}; expected (features,): put Flatten() before "
                             "it")
        return (self.outputs,)

    def slices(self, name: str, shape: Shape, group: str = "all", part: Part = WHOLE) -> list[Slice]:
        first, end = self._range(part)
        of = None if part == WHOLE else self.outputs
        weight = Slice(f"{name}.weight", (end - first, shape[0]), group, first=first, of=of)
        bias = Slice(f"{name}.bias", (end - first,), group, decay=False, first=first, of=of)
        return [weight, bias] if self.bias else [weight]

    def buffers(self, name: str, shape: Shape, group: str = "all", part: Part = WHOLE) -> list[Slice]:
        return []

    def initialise(self, views: Mapping[str, np.ndarray], seed: int, number: int, part: Part = WHOLE) -> None:
        rule = _rule(self.initialiser, self.activation)
        of_whole = {"fan_out": self.outputs} if rule.startswith("glorot") else {}
        initialiser(rule)(views["weight"], seed=seed, slice_number=number, first_row=self._range(part)[0], **of_whole)
        if self.bias:
            views["bias"][:] = 0

    def native(self, name: str, shape: Shape, layout: Layout, buffers: Layout, part: Part = WHOLE) -> dict[str, Any]:
        k, parts = part
        cuts = [] if part == WHOLE else [self.outputs * each // parts for each in range(parts + 1)]
        return {"kind": "dense", "inputs": shape[0], "outputs": self.outputs, "activation": self.activation,
                "weight": layout[f"{name}.weight"].begin, "bias": layout[f"{name}.bias"].begin if self.bias else -1,
                "cuts": cuts, "part": k}

    def _range(self, part: Part) -> tuple[int, int]:
        k, parts = part
        return self.outputs * k // parts, self.outputs * (k + 1) // parts


class _Whole:
    """What layers have in common that every part of a split model holds whole. Most train and keep nothing."""

    can_be_cut: ClassVar[bool] = False

    @property
    def piecewise_linear(self) -> bool:
        return True

    def slices(self, name: str, shape: Shape, group: str = "all", part: Part = WHOLE) -> list[Slice]:
        return []

    def buffers(self, name: str, shape: Shape, group: str = "all", part: Part = WHOLE) -> list[Slice]:
        return []

    def initialise(self, views: Mapping[str, np.ndarray], seed: int, number: int, part: Part = WHOLE) -> None:
        pass


@dataclass(frozen=True)
class Transposed(_Whole):
    """``activation(inputs weight + bias)`` with the weights of a dense layer further down: tied weights.

    The weights are one slice of the layout, which the dense layer has; its gradient is the sum of both layers'.

    Parameters
    ----------
    of : str
        Name of that layer in the network, ``encoder.0``: its outputs are as many as this layer's inputs.
    outputs : int
        As many as that layer's inputs.
    activation, bias
        As in `Dense`.

    Notes
    -----
    Tensors: ``bias`` (outputs,), which weight decay leaves alone. A network with such a layer cannot be split, for a
    part has some rows of the weights only, and trains in passes through all its layers; tangents do not pass it.
    """

    of: str
    outputs: int
    activation: str = "linear"
    bias: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "outputs", _check.integer("outputs", self.outputs, at_least=1))
        _check.one_of("activation", self.activation, ACTIVATIONS)

    @property
    def piecewise_linear(self) -> bool:
        return False

    def output(self, shape: Shape) -> Shape:
        if len(shape) != 1:
            raise ShapeError(f"a dense layer has inputs of shape {shape}; expected (features,): put Flatten() before "
                             "it")
        return (self.outputs,)

    def slices(self, name: str, shape: Shape, group: str = "all", part: Part = WHOLE) -> list[Slice]:
        return [Slice(f"{name}.bias", (self.outputs,), group, decay=False)] if self.bias else []

    def initialise(self, views: Mapping[str, np.ndarray], seed: int, number: int, part: Part = WHOLE) -> None:
        if self.bias:
            views["bias"][:] = 0

    def native(self, name: str, shape: Shape, layout: Layout, buffers: Layout, part: Part = WHOLE) -> dict[str, Any]:
        return {"kind": "dense", "inputs": shape[0], "outputs": self.outputs, "activation": self.activation,
                "weight": layout[f"{self.of}.weight"].begin, "transposed": True,
                "bias": layout[f"{name}.bias"].begin if self.bias else -1}


@dataclass(frozen=True)
class Reshape(_Whole):
    """The same values in another shape.

    Parameters
    ----------
    shape : tuple of int
        (height, width, channels) or (features,).
    planes : bool, default=False
        The values that come in are planes, one after another, of a picture's channels: they are put in order.
    """

    shape: Shape
    planes: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", _check.integers("shape", self.shape, at_least=1))
        if len(self.shape) not in (1, 3):
            raise ShapeError(f"shape is {self.shape}; expected (height, width, channels) or (features,)")
        if self.planes and len(self.shape) == 1:
            raise ShapeError(f"planes of shape {self.shape} have no channels; expected (height, width, channels)")

    def output(self, shape: Shape) -> Shape:
        if math.prod(shape) != math.prod(self.shape):
            raise ShapeError(f"inputs of shape {shape} have {math.prod(shape)} values; shape {self.shape} "
                             f"needs {math.prod(self.shape)}")
        return self.shape

    def native(self, name: str, shape: Shape, layout: Layout, buffers: Layout, part: Part = WHOLE) -> dict[str, Any]:
        return {"kind": "reshape", "picture": self.shape, "order": "from_planes" if self.planes else "kept"}


@dataclass(frozen=True)
class Flatten(_Whole):
    """A picture's values as features.

    Parameters
    ----------
    planes : bool, default=False
        Channel by channel, as in files; else place by place, as they are.
    """

    planes: bool = False

    def output(self, shape: Shape) -> Shape:
        return (math.prod(shape),)

    def native(self, name: str, shape: Shape, layout: Layout, buffers: Layout, part: Part = WHOLE) -> dict[str, Any]:
        return {"kind": "reshape", "picture": shape, "order": "to_planes" if self.planes else "kept"}


def _picture(layer: Any, shape: Shape) -> tuple[int, int, int]:
    """(height, width, channels) of what enters the layer."""
    if len(shape) != 3:
        raise ShapeError(f"{layer} has inputs of shape {shape}; expected (height, width, channels): give the network "
                         "inputs of that shape, or put Reshape((height, width, channels)) before it")
    return shape


class _Convolution(_Whole):
    """What a convolution and a transposed one have in common."""

    transposed: ClassVar[bool]
    channels: int
    kernel: int
    stride: int
    padding: str | int
    activation: str
    bias: bool
    initialiser: str

    def __post_init__(self) -> None:
        for name in ("channels", "kernel", "stride"):
            object.__setattr__(self, name, _check.integer(name, getattr(self, name), at_least=1))
        if isinstance(self.padding, str):
            _check.one_of("padding", self.padding, ("same", "valid"))
        elif _check.integer("padding", self.padding, at_least=0) >= self.kernel:
            raise ParameterError(f"padding is {self.padding}, but the kernel is {self.kernel}: expected less than the "
                                 "kernel, or whole rows of outputs would see padding only")
        if self.padding == "same" and (self.kernel - 1) % 2 and ((self.kernel - self.stride) % 2
                                                                 or self.kernel < self.stride):
            raise ParameterError(f"kernel is {self.kernel}, which is even, and stride {self.stride}: padding 'same' "
                                 f"would not be the same on both sides; choose kernel {self.kernel + 1}, or give "
                                 "padding as a number")
        _check.one_of("activation", self.activation, ACTIVATIONS)
        _check.one_of("initialiser", self.initialiser, ("auto", *INITIALISERS))

    @property
    def piecewise_linear(self) -> bool:
        return self.activation in PIECEWISE_LINEAR

    @property
    def _padding(self) -> int:
        """In numbers, on each side."""
        if self.padding == "same":
            return (self.kernel - 1) // 2 if self.kernel % 2 else (self.kernel - self.stride) // 2
        return 0 if self.padding == "valid" else int(self.padding)

    def slices(self, name: str, shape: Shape, group: str = "all", part: Part = WHOLE) -> list[Slice]:
        sides = (self.channels, shape[2]) if self.transposed else (shape[2], self.channels)
        weight = Slice(f"{name}.weight", (self.kernel, self.kernel, *sides), group)
        bias = Slice(f"{name}.bias", (self.channels,), group, decay=False)
        return [weight, bias] if self.bias else [weight]

    def initialise(self, views: Mapping[str, np.ndarray], seed: int, number: int, part: Part = WHOLE) -> None:
        weight, rule = views["weight"], _rule(self.initialiser, self.activation)
        places = self.kernel**2
        inputs = weight.shape[3 if self.transposed else 2]
        shrink = self.stride**2 if self.transposed else 1  # an output sees so many times fewer places than a kernel has
        fans = {"fan_in": max(1, round(inputs * places / shrink))} if rule.startswith(("glorot", "he")) else {}
        if rule.startswith("glorot"):
            fans["fan_out"] = max(1, round(self.channels * places / shrink))
        values = np.empty((self.channels, inputs * places), dtype=np.float32)
        initialiser(rule)(values, seed=seed, slice_number=number, **fans)
        order = (2, 3, 0, 1) if self.transposed else (2, 3, 1, 0)
        weight[...] = values.reshape(self.channels, inputs, self.kernel, self.kernel).transpose(order)
        if self.bias:
            views["bias"][:] = 0

    def native(self, name: str, shape: Shape, layout: Layout, buffers: Layout, part: Part = WHOLE) -> dict[str, Any]:
        return {"kind": "conv_transpose" if self.transposed else "conv", "from": shape, "to": self.output(shape),
                "kernel": self.kernel, "stride": self.stride, "padding": self._padding, "activation": self.activation,
                "weight": layout[f"{name}.weight"].begin,
                "bias": layout[f"{name}.bias"].begin if self.bias else -1}

    @abstractmethod
    def output(self, shape: Shape) -> Shape: ...


@dataclass(frozen=True)
class Conv(_Convolution):
    """Convolution: each output sees ``kernel`` by ``kernel`` places of the picture that enters.

    Parameters
    ----------
    channels : int
        Of the outputs.
    kernel : int
    stride : int, default=1
    padding : {"same", "valid"} or int, default="same"
        Zeros on each side. ``same`` keeps height and width, divided by the stride: rounded up, or down where the kernel
        is even. ``valid`` adds none. With p zeros a height h becomes (h + 2 p - kernel) // stride + 1.
    activation, bias, initialiser
        As in `Dense`.

    Notes
    -----
    Tensors: ``weight`` (kernel, kernel, inputs, channels), which PyTorch has as (channels, inputs, kernel, kernel), and
    ``bias`` (channels,), which weight decay leaves alone.
    """

    transposed: ClassVar[bool] = False
    channels: int
    kernel: int
    stride: int = 1
    padding: str | int = "same"
    activation: str = "linear"
    bias: bool = True
    initialiser: str = "auto"

    def output(self, shape: Shape) -> Shape:
        height, width, _ = _picture(self, shape)
        padded, filled = min(height, width) + 2 * self._padding, 2 * max(height, width) + 1
        if self.kernel > min(padded, filled):  # beyond `filled` there is more padding on a side than picture
            why = f"with its padding, {padded}" if padded <= filled else f"can fill, {filled}"
            raise ShapeError(f"{self} has inputs of shape {shape}: its kernel is larger than the picture {why}; "
                             "choose a smaller kernel, or fewer layers that shrink the picture")
        return (*((size + 2 * self._padding - self.kernel) // self.stride + 1 for size in (height, width)),
                self.channels)


@dataclass(frozen=True)
class ConvTranspose(_Convolution):
    """Transposed convolution, to a larger picture: the adjoint of a convolution of that kernel, stride and padding.

    Parameters
    ----------
    channels : int
        Of the outputs.
    kernel : int
    stride : int, default=2
    padding : {"same", "valid"} or int, default="same"
        What that convolution has. ``same`` multiplies height and width by the stride. With p zeros a height h becomes
        (h - 1) * stride + kernel - 2 p.
    activation, bias, initialiser
        As in `Dense`.

    Notes
    -----
    Tensors: ``weight`` (kernel, kernel, channels, inputs), which PyTorch has as (inputs, channels, kernel, kernel), and
    ``bias`` (channels,), which weight decay leaves alone.
    """

    transposed: ClassVar[bool] = True
    channels: int
    kernel: int
    stride: int = 2
    padding: str | int = "same"
    activation: str = "linear"
    bias: bool = True
    initialiser: str = "auto"

    def output(self, shape: Shape) -> Shape:
        height, width, _ = _picture(self, shape)
        sizes = [size * self.stride if self.padding == "same" else
                 (size - 1) * self.stride + self.kernel - 2 * self._padding for size in (height, width)]
        if min(sizes) < 1:
            raise ShapeError(f"{self} has inputs of shape {shape}: nothing would be left of the picture within its "
                             f"padding, {self._padding} on each side")
        if self.kernel > min(sizes) + 2 * self._padding:
            raise ShapeError(f"{self} has inputs of shape {shape}: its kernel is larger than the picture that comes "
                             f"out, {min(sizes)}, with its padding; choose a smaller kernel")
        return (*sizes, self.channels)


@dataclass(frozen=True)
class Pool(_Whole):
    """The largest value, or the mean, of windows side by side. Rows and columns that fill no window are left out.

    Parameters
    ----------
    size : int, default=2
        Of a window, each way: at most 15.
    kind : {"max", "mean"}, default="max"
    """

    size: int = 2
    kind: str = "max"

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", _check.integer("size", self.size, at_least=1, at_most=15))
        _check.one_of("kind", self.kind, ("max", "mean"))

    def output(self, shape: Shape) -> Shape:
        height, width, channels = _picture(self, shape)
        if self.size > min(height, width):
            raise ShapeError(f"{self} has inputs of shape {shape}: its windows are larger than the picture")
        return height // self.size, width // self.size, channels

    def native(self, name: str, shape: Shape, layout: Layout, buffers: Layout, part: Part = WHOLE) -> dict[str, Any]:
        return {"kind": "pool", "picture": shape, "size": self.size, "largest": self.kind == "max"}


@dataclass(frozen=True)
class Resize(_Whole):
    """A picture ``factor`` times as high and wide.

    Parameters
    ----------
    factor : int, default=2
    kind : {"nearest", "bilinear"}, default="nearest"
        ``bilinear`` takes places as squares: output i lies at (i + 1/2) / factor - 1/2, kept within the picture (as
        PyTorch with ``align_corners=False``).
    """

    factor: int = 2
    kind: str = "nearest"

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", _check.integer("factor", self.factor, at_least=1))
        _check.one_of("kind", self.kind, ("nearest", "bilinear"))

    def output(self, shape: Shape) -> Shape:
        height, width, channels = _picture(self, shape)
        return height * self.factor, width * self.factor, channels

    def native(self, name: str, shape: Shape, layout: Layout, buffers: Layout, part: Part = WHOLE) -> dict[str, Any]:
        return {"kind": "resize", "picture": shape, "factor": self.factor, "bilinear": self.kind == "bilinear"}


class _Normalisation(_Whole):
    """What batch and layer normalisation have in common."""

    activation: str
    epsilon: float

    @property
    def piecewise_linear(self) -> bool:
        return False

    def __post_init__(self) -> None:
        _check.one_of("activation", self.activation, ACTIVATIONS)
        object.__setattr__(self, "epsilon", _check.number("epsilon", self.epsilon, above=0))

    def output(self, shape: Shape) -> Shape:
        return shape

    def slices(self, name: str, shape: Shape, group: str = "all", part: Part = WHOLE) -> list[Slice]:
        return [Slice(f"{name}.{tensor}", (shape[-1],), group, decay=False) for tensor in ("scale", "shift")]

    def initialise(self, views: Mapping[str, np.ndarray], seed: int, number: int, part: Part = WHOLE) -> None:
        views["scale"][:], views["shift"][:] = 1, 0

    def _native(self, kind: str, name: str, shape: Shape, layout: Layout) -> dict[str, Any]:
        return {"kind": kind, "picture": shape, "activation": self.activation, "epsilon": self.epsilon,
                **{tensor: layout[f"{name}.{tensor}"].begin for tensor in ("scale", "shift")}}


@dataclass(frozen=True)
class BatchNorm(_Normalisation):
    """``activation((x - mean) / sqrt(variance + epsilon) * scale + shift)``, by channel, over rows and places [1]_.

    Parameters
    ----------
    activation : str, default="linear"
        relu costs nothing here.
    decay : float, default=0.9
        Of the running statistics in each training pass: PyTorch's ``1 - momentum``.
    synchronised : bool, default=False
        In training, statistics of all workers' rows, by ``batch.sum``: under a synchronous strategy any number of ranks
        then does what one does. Otherwise each worker has those of its own rows.
    epsilon : float, default=1e-5

    Notes
    -----
    Tensors: ``scale`` and ``shift`` (channels,), which weight decay leaves alone. Buffers: ``sums``, ``squares``
    (channels,) and ``rows`` (1,), decayed sums of the values, of their squares and of how many there were, which merge
    exactly. A pass that is not training, or through frozen layers, takes mean and variance from them, and leaves them
    as they are; where nothing has been summed yet, 0 and 1. The variance is that of the rows, not multiplied by
    n / (n - 1).

    References
    ----------
    .. [1] Ioffe, Szegedy (2015), Batch normalization, arXiv:1502.03167.
    """

    activation: str = "linear"
    decay: float = 0.9
    synchronised: bool = False
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "decay", _check.number("decay", self.decay, at_least=0, below=1))

    def buffers(self, name: str, shape: Shape, group: str = "all", part: Part = WHOLE) -> list[Slice]:
        return [Slice(f"{name}.{tensor}", (size,), group, merge="total")
                for tensor, size in (("sums", shape[-1]), ("squares", shape[-1]), ("rows", 1))]

    def native(self, name: str, shape: Shape, layout: Layout, buffers: Layout, part: Part = WHOLE) -> dict[str, Any]:
        return {**self._native("batch_norm", name, shape, layout), "decay": self.decay,
                "synchronised": self.synchronised,
                **{tensor: buffers[f"{name}.{tensor}"].begin for tensor in ("sums", "squares", "rows")}}


@dataclass(frozen=True)
class LayerNorm(_Normalisation):
    """``activation((x - mean) / sqrt(variance + epsilon) * scale + shift)``, over all values of a row [1]_.

    Parameters
    ----------
    activation : str, default="linear"
    epsilon : float, default=1e-5

    Notes
    -----
    Tensors: ``scale`` and ``shift``, one element for each channel (of features: for each), which weight decay leaves
    alone. It is the same in training and after, and the same on any number of ranks.

    References
    ----------
    .. [1] Ba, Kiros, Hinton (2016), Layer normalization, arXiv:1607.06450.
    """

    activation: str = "linear"
    epsilon: float = 1e-5

    def native(self, name: str, shape: Shape, layout: Layout, buffers: Layout, part: Part = WHOLE) -> dict[str, Any]:
        return self._native("layer_norm", name, shape, layout)


@dataclass(frozen=True)
class Dropout(_Whole):
    """In training, values become 0 with probability ``p``, and the others are divided by ``1 - p`` [1]_.

    Random numbers, here and in `Corrupt` and `Gaussian`, are keyed by (seed, what for, layer, step, turn, slot, number
    of the row): they do not depend on ranks. So ``batch`` is needed, with an index for each row.

    References
    ----------
    .. [1] Srivastava et al. (2014), Dropout, JMLR 15, 1929-1958.
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", _check.number("p", self.p, at_least=0, below=1))

    def output(self, shape: Shape) -> Shape:
        return shape

    def native(self, name: str, shape: Shape, layout: Layout, buffers: Layout, part: Part = WHOLE) -> dict[str, Any]:
        return {"kind": "dropout", "size": math.prod(shape), "amount": self.p, "purpose": random.DROPOUT}


@dataclass(frozen=True)
class Corrupt(_Whole):
    """In training, spoiled inputs, of which a denoising autoencoder makes whole ones [1]_.

    Parameters
    ----------
    amount : float
        Probability that a value becomes 0, or the standard deviation of what is added.
    kind : {"masking", "gaussian"}, default="masking"

    References
    ----------
    .. [1] Vincent et al. (2010), Stacked denoising autoencoders, JMLR 11, 3371-3408.
    """

    amount: float
    kind: str = "masking"

    def __post_init__(self) -> None:
        _check.one_of("kind", self.kind, ("masking", "gaussian"))
        object.__setattr__(self, "amount", _check.number("amount", self.amount, at_least=0,
                                                         below=1 if self.kind == "masking" else None))

    def output(self, shape: Shape) -> Shape:
        return shape

    def native(self, name: str, shape: Shape, layout: Layout, buffers: Layout, part: Part = WHOLE) -> dict[str, Any]:
        return {"kind": "masking" if self.kind == "masking" else "noise", "size": math.prod(shape),
                "amount": self.amount, "purpose": random.CORRUPT}


@dataclass(frozen=True)
class Gaussian(_Whole):
    """A sample of a normal distribution, whose means are the first half of the inputs, and log variances the second.

    ``mean + exp(log variance / 2) e`` with normal numbers e in training, and where a pass is ``sampling``; else the
    mean.

    Parameters
    ----------
    kl : float, default=0
        Weight, in the network's loss and gradient, of the divergence from a standard normal distribution, ``sum
        (mean^2 + variance - 1 - log variance) / 2``: 1 for a variational autoencoder [1]_. `Network.evaluate` gives the
        divergence itself, without the weight, as ``kl``.

    References
    ----------
    .. [1] Kingma, Welling (2013), Auto-encoding variational Bayes, arXiv:1312.6114.
    """

    kl: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "kl", _check.number("kl", self.kl, at_least=0))

    @property
    def piecewise_linear(self) -> bool:
        return False

    def output(self, shape: Shape) -> Shape:
        if len(shape) != 1 or shape[0] % 2:
            raise ShapeError(f"{self} has inputs of shape {shape}; expected (2 n,), n means and n log variances")
        return (shape[0] // 2,)

    def native(self, name: str, shape: Shape, layout: Layout, buffers: Layout, part: Part = WHOLE) -> dict[str, Any]:
        return {"kind": "gaussian", "size": shape[0] // 2, "weight": self.kl, "purpose": random.NOISE}


@dataclass(frozen=True)
class Sparsity(_Whole):
    """Passes values on, and asks that each has a mean of ``target``: for a code of sigmoid units [1]_.

    In training the loss of each row has ``cost`` times ``sum t log(t / m) + (1 - t) log((1 - t) / (1 - m))`` besides,
    the divergence in nats of the wanted means t from those found, m, over all workers' rows of the step
    (``batch.sum``). So under a synchronous strategy any number of ranks does what one does; elsewhere means are of each
    worker's own rows. Scores do not have it.

    Parameters
    ----------
    target : float
        In (0, 1).
    cost : float, default=1
        Above 0.

    References
    ----------
    .. [1] Lee, Ekanadham, Ng (2007), Sparse deep belief net model for visual area V2, NIPS 20; Ng (2011), Sparse
       autoencoder, CS294A lecture notes.
    """

    target: float
    cost: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", _check.number("target", self.target, above=0, below=1))
        object.__setattr__(self, "cost", _check.number("cost", self.cost, above=0))

    @property
    def piecewise_linear(self) -> bool:
        return False

    def output(self, shape: Shape) -> Shape:
        return shape

    def native(self, name: str, shape: Shape, layout: Layout, buffers: Layout, part: Part = WHOLE) -> dict[str, Any]:
        return {"kind": "sparsity", "size": math.prod(shape), "target": self.target, "cost": self.cost}


KINDS: dict[str, type] = {"dense": Dense, "reshape": Reshape, "flatten": Flatten, "conv": Conv,
                          "conv_transpose": ConvTranspose, "pool": Pool, "resize": Resize, "batch_norm": BatchNorm,
                          "layer_norm": LayerNorm, "dropout": Dropout, "corrupt": Corrupt, "gaussian": Gaussian,
                          "transposed": Transposed, "sparsity": Sparsity}
"""The layers by their names in files."""


def as_plain(layer: Any) -> dict[str, Any]:
    """A layer as plain values, for files: ``{"layer": "dense", "outputs": 64, ...}``."""
    kind = next(name for name, each in KINDS.items() if each is type(layer))
    return {"layer": kind, **asdict(layer)}


def from_plain(values: Mapping[str, Any]) -> Layer:
    """The layer of `as_plain`."""
    own = dict(values)
    kind = own.pop("layer") if "layer" in own else own.pop("kind", None)  # as older runs have it
    return KINDS[_check.one_of("kind of a layer", kind, KINDS)](**own)
