"""The layers of adversarial pairs for pictures: convolutions of stride 2 down, and their mirror up.

Source: Radford, Metz, Chintala (2016), Unsupervised representation learning with deep convolutional generative
adversarial networks, ICLR. Instead of transposed convolutions a picture may be resized and convolved (Odena, Dumoulin,
Olah 2016, Deconvolution and checkerboard artifacts, Distill).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pyddl import _check
from pyddl.data.picture import Picture
from pyddl.errors import ShapeError
from pyddl.models.coder import BATCH_NORM
from pyddl.models.layers import BatchNorm, Conv, ConvTranspose, Dense, Flatten, Layer, Reshape, Resize, Shape

__all__ = ["UPSAMPLES", "discriminator_of", "ending_in", "generator_of", "picture_of", "pictures_of"]

UPSAMPLES = ("transposed", "resize")
KERNEL = 4  # of strided convolutions: a multiple of the stride, so that all places count alike


def picture_of(shape: Sequence[int], channels: Sequence[int], inputs: int) -> Picture:
    """The picture that rows of ``inputs`` features are, which ``channels`` halve so often.

    Raises
    ------
    ShapeError
        It has another number of values, or sides that cannot be halved so often.
    """
    picture, factor = Picture.of(shape), 2 ** len(channels)
    if picture.size != inputs:
        raise ShapeError(f"image_shape is {tuple(shape)}, {picture.size} values; rows have {inputs}")
    if picture.height % factor or picture.width % factor:
        raise ShapeError(f"pictures of {picture.height} by {picture.width} cannot be halved {len(channels)} times: "
                         f"expected multiples of {factor}, or fewer channels")
    return picture


def discriminator_of(picture: Picture, channels: Sequence[int], hidden: Sequence[int], *, outputs: int, bias: bool,
                     activation: str, initialiser: str, packing: int = 1) -> list[Layer]:
    """From a row, or ``packing`` rows one after another, whose channels are put together, to ``outputs`` numbers: a
    convolution for each of ``channels``, dense layers for ``hidden``."""
    down = [Conv(each, KERNEL, 2, activation=activation, initialiser=initialiser) for each in channels]
    dense = [Dense(units, activation, initialiser=initialiser) for units in hidden]
    return [*pictures_of(picture, packing), *down, Flatten(), *dense,
            Dense(outputs, bias=bias, initialiser=initialiser)]


def generator_of(picture: Picture, channels: Sequence[int], hidden: Sequence[int], *, output: str, activation: str,
                 initialiser: str, upsample: str, batch_norm: str) -> list[Layer]:
    """From noise to a row: dense layers for ``hidden``, and the mirror of those convolutions; a normalisation, where
    wanted, after each layer but the last."""
    _check.one_of("upsample", upsample, UPSAMPLES)
    _check.one_of("batch_norm", batch_norm, BATCH_NORM)
    inner = "linear" if batch_norm != "none" else activation
    norm: list[Layer] = [] if batch_norm == "none" else [BatchNorm(activation, synchronised=batch_norm != "own")]

    def up(count: int, after: str) -> list[Layer]:
        if upsample == "transposed":
            return [ConvTranspose(count, KERNEL, 2, activation=after, initialiser=initialiser)]
        return [Resize(2, "bilinear"), Conv(count, 3, activation=after, initialiser=initialiser)]

    factor = 2 ** len(channels)
    first = (picture.height // factor, picture.width // factor, channels[-1])
    layers: list[Layer] = [Dense(units, activation, initialiser=initialiser) for units in hidden]
    layers += [Dense(first[0] * first[1] * first[2], inner, initialiser=initialiser), Reshape(first), *norm]
    for count in channels[-2::-1]:
        layers += [*up(count, inner), *norm]
    return [*layers, *up(picture.channels, output), Flatten(planes=picture.planes)]


def pictures_of(picture: Picture, packing: int) -> list[Layer]:
    """So many pictures, one after another, as one, with the channels of all."""
    height, width, channels = picture.shape
    together = (height, width, packing * channels)
    if packing == 1 or picture.planes or channels == 1:
        return [Reshape(together, planes=picture.planes or packing > 1)]
    return [Reshape((height, width * channels, packing), planes=True), Reshape(together)]


def ending_in(picture: Picture | None, inputs: int, last: Layer, shape: Shape, said: str, *, output: str,
              initialiser: str) -> list[Layer]:
    """What takes the place of the last layer of a generator, whose outputs have that shape, so that its outputs are
    rows: the same with the activation ``output``, and where it has other channels than they, a convolution more.

    Raises
    ------
    ShapeError
        The pictures are no rows; ``said`` begins the message.
    """
    if picture is None or shape[:2] != (picture.height, picture.width):
        rows = f"{inputs} values" if picture is None else f"pictures of {picture.height} by {picture.width}"
        raise ShapeError(f"{said}: it ends with pictures of {shape[0]} by {shape[1]}, and rows are {rows}: "
                         + ("give image_shape, or end with a dense layer" if picture is None else
                            "let reshape, up and resize come to the rows' height and width"))
    flat = Flatten(planes=picture.planes)
    if shape[2] == picture.channels and isinstance(last, Conv | ConvTranspose):
        return [replace(last, activation=output), flat]
    return [last, Conv(picture.channels, 3, activation=output, initialiser=initialiser), flat]
