"""Hidden layers of a network as a short text, ``3136,reshape7x7x64,norm,up32,up1``, fitted to what enters them.

Beside the words of `pyddl.models.text`:

=============================  ================================================================================
``128``, ``dense128``          dense layer of 128 units
``up32``, ``up32k4s2``         transposed convolution to 32 channels, kernel 4, stride 2: twice the height and width
``resize2``                    pictures twice as high and wide, by bilinear interpolation
``reshape7x7``, ``...x64``     the same values as a picture: height, width, channels
``norm``                       batch norm, after whose layer the activation comes
=============================  ================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pyddl.errors import ShapeError
from pyddl.models.layers import (
    BatchNorm,
    Conv,
    ConvTranspose,
    Dense,
    Flatten,
    Layer,
    Pool,
    Reshape,
    Resize,
    Shape,
)
from pyddl.models.text import KINDS, Kind, parts_of

__all__ = ["hidden_layers"]

WORDS: dict[str, Kind] = {
    "dense": Kind(r"(\d+)", lambda units: Dense(int(units)), "dense128, or 128"),
    **KINDS,
    "up": Kind(r"(\d+)(?:k(\d+))?(?:s(\d+))?",
               lambda channels, kernel, stride: ConvTranspose(int(channels), int(kernel or 4), int(stride or 2)),
               "up32, up32k4 or up32k4s2"),
    "resize": Kind(r"(\d+)", lambda factor: Resize(int(factor), "bilinear"), "resize2"),
    "reshape": Kind(r"(\d+)x(\d+)(?:x(\d+))?", lambda *sizes: Reshape(tuple(int(each or 1) for each in sizes)),
                    "reshape7x7x64, or reshape28x28"),
    "norm": Kind(r"", BatchNorm, "norm"),
}
OF_PICTURES = (Conv, ConvTranspose, Pool, Resize)


def hidden_layers(text: str, name: str, shape: Shape, *, pictures: Sequence[Layer] = (), activation: str,
                  initialiser: str, synchronised: bool = False) -> tuple[list[Layer], Shape]:
    """The layers of such a text for inputs of that shape, and the shape that comes out.

    Pictures are made flat before a dense layer.

    Parameters
    ----------
    text, name : str
        And what it is called, for messages.
    pictures : sequence of Layer, optional
        Make pictures of the inputs: put first where the text begins with a layer of pictures.
    activation, initialiser : str
    synchronised : bool, default=False
        Of batch norms.

    Raises
    ------
    ParameterError, ShapeError
        The text has a mistake, or a layer does not fit what comes before it: at which character.
    """
    found = list(parts_of(text, name, WORDS))
    layers: list[Layer] = []

    def add(layer: Layer) -> None:
        nonlocal shape
        shape = layer.output(shape)
        layers.append(layer)

    for number, (layer, where) in enumerate(found):
        normed = number + 1 < len(found) and isinstance(found[number + 1][0], BatchNorm)
        try:
            if not layers and isinstance(layer, OF_PICTURES):
                for each in pictures:
                    add(each)
            if isinstance(layer, Dense) and len(shape) > 1:
                add(Flatten())
            add(_fitted(layer, "linear" if normed else activation, initialiser, synchronised))
        except ShapeError as error:
            raise ShapeError(f"{where}does not fit what comes before it, {_said(shape)}: {error}") from None
    return layers, shape


def _fitted(layer: Any, activation: str, initialiser: str, synchronised: bool) -> Layer:
    if isinstance(layer, BatchNorm):
        return replace(layer, activation=activation, synchronised=synchronised)
    if isinstance(layer, Dense | Conv | ConvTranspose):
        return replace(layer, activation=activation, initialiser=initialiser)
    return layer


def _said(shape: Shape) -> str:
    if len(shape) == 1:
        return f"{shape[0]} values"
    return f"pictures of {shape[0]} by {shape[1]} with {shape[2]} channels, {math.prod(shape)} values"
