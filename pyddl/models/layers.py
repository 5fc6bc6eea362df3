"""Layers: declared values, of which `pyddl.models.network.Network` makes a chain.

A layer says for rows of some shape what shape comes out, which tensors it trains and keeps, how these begin, and what
the compute module compiles. It holds no numbers, and has no name of its own: one value may stand in several networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from pyddl import _check
from pyddl.errors import ShapeError
from pyddl.layout import Layout, Slice
from pyddl.models.initialisers import initialiser
from pyddl.names import ACTIVATIONS, INITIALISERS

__all__ = ["KINDS", "WHOLE", "Dense", "Layer", "Part", "Shape", "as_plain", "from_plain"]

PIECEWISE_LINEAR = ("linear", "relu", "leaky_relu")

Shape = tuple[int, ...]
"""Of one row: ``(features,)``; later also ``(height, width, channels)``."""

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
            raise ShapeError(f"a dense layer has inputs of shape {shape}; expected (features,)")
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
        rule = self.initialiser
        if rule == "auto":
            rule = "he_uniform" if self.activation in ("relu", "leaky_relu", "softplus") else "glorot_uniform"
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


KINDS: dict[str, type] = {"dense": Dense}
"""The layers by their names in files."""


def as_plain(layer: Any) -> dict[str, Any]:
    """A layer as plain values, for files: ``{"kind": "dense", "outputs": 64, ...}``."""
    kind = next(name for name, each in KINDS.items() if each is type(layer))
    return {"kind": kind, **asdict(layer)}


def from_plain(values: Mapping[str, Any]) -> Layer:
    """The layer of `as_plain`."""
    own = dict(values)
    return KINDS[_check.one_of("kind of a layer", own.pop("kind", None), KINDS)](**own)
