"""Encoder and decoder as lists of layers: a decoder that mirrors its encoder, dense or convolutional."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pyddl import _check
from pyddl.data.picture import Picture
from pyddl.data.source import Source
from pyddl.errors import ParameterError, ShapeError
from pyddl.models.layers import (
    BatchNorm,
    Conv,
    ConvTranspose,
    Dense,
    Dropout,
    Flatten,
    Layer,
    LayerNorm,
    Pool,
    Reshape,
    Resize,
    Shape,
    as_plain,
    from_plain,
)
from pyddl.models.text import layers_of

__all__ = ["BATCH_NORM", "Coder", "ConvLayers", "check_pictures", "coder", "mirrored", "picture_for", "plain"]

BATCH_NORM = ("none", "own", "synchronised")
ConvLayers = str | Sequence[Layer | Mapping[str, Any]] | None


@dataclass(frozen=True)
class Coder:
    """The layers of an encoder and of the decoder that mirrors it.

    Attributes
    ----------
    inputs : tuple of int
        Shape of what enters the encoder's first layer: for `Network`.
    encoder, decoder : tuple of Layer
        The decoder's last layer, or the last but one where planes are put in order, is linear: outputs of a loss.
    conv : tuple of Layer
        The convolutional layers among the encoder's, with their activations.
    """

    inputs: Shape
    encoder: tuple[Layer, ...]
    decoder: tuple[Layer, ...]
    conv: tuple[Layer, ...] = ()

    @property
    def names(self) -> list[str]:
        """Of the encoder's layers and the decoder's: ``encoder.0``, ..., ``decoder.0``, ...."""
        return [f"{half}.{i}" for half, layers in (("encoder", self.encoder), ("decoder", self.decoder))
                for i in range(len(layers))]


def coder(inputs: int, hidden: Sequence[int], *, conv: ConvLayers = None,
          image_shape: Sequence[int] | None = None, activation: str = "relu", code_activation: str = "linear",
          batch_norm: str = "none", initialiser: str = "auto", code_values: int = 1) -> Coder:
    """Encoder and decoder from options.

    Parameters
    ----------
    inputs : int
        Features of a row.
    hidden : sequence of int
        Units of the encoder's dense layers, the code last. None at all where the last convolution's outputs are the
        code.
    conv : str or sequence of Layer, optional
        Layers before them: a text of `pyddl.models.text`, or layers as they are, each with its own activation.
    image_shape : sequence of int, optional
        Of a row as a picture: see `Picture.of`. With ``conv`` only.
    activation, code_activation, initialiser : str
        Of dense layers, and of convolutions that a text names.
    batch_norm : {"none", "own", "synchronised"}, default="none"
        After each convolution that a text names, and its mirror: statistics of each worker's own rows, or of all.
    code_values : int, default=1
        Outputs of the last dense layer for each unit of the code: 2 where they are means and log variances.

    Raises
    ------
    ParameterError, ShapeError
        There are no layers at all; the text has a mistake; the layers do not fit the picture, or have no mirror.
    """
    hidden = _check.integers("hidden", hidden, at_least=1)
    _check.one_of("batch_norm", batch_norm, BATCH_NORM)
    if conv is None or len(conv) == 0:
        for name, given in (("image_shape", image_shape is not None), ("batch_norm", batch_norm != "none")):
            if given:
                raise ParameterError(f"{name} is given, which only convolutions ask for: leave it out, or give conv")
        if not hidden:
            raise ParameterError("hidden is empty; expected at least one layer, the code: for example (256, 64)")
        encoder, decoder = mirrored((inputs,), _dense(hidden, activation, code_activation, initialiser))
        return Coder((inputs,), (*encoder[:-1], _times(encoder[-1], code_values)), tuple(decoder))
    picture = _picture(inputs, image_shape)
    layers = _convolutions(conv, activation, batch_norm, initialiser, None if hidden else code_activation)
    below = list(layers)
    if hidden:
        below += [Flatten(), *_dense(hidden, activation, code_activation, initialiser)]
    encoder, decoder = mirrored(picture.shape, below)
    if hidden:
        encoder[-1] = _times(encoder[-1], code_values)
    if not picture.planes:
        return Coder(picture.shape, tuple(encoder), tuple(decoder), tuple(layers))
    return Coder((inputs,), (Reshape(picture.shape, planes=True), *encoder), (*decoder, Flatten(planes=True)),
                 tuple(layers))


def picture_for(data: Source, options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` of a model that takes ``conv``, with the shape of the data's pictures where none is given.

    Raises
    ------
    ParameterError
        Convolutions are wanted, and neither the options nor the data say a shape.
    """
    if not options.get("conv") or options.get("image_shape") is not None:
        return dict(options)
    if data.image_shape is None:
        raise ParameterError(f"conv needs pictures, and {data.name} does not say the shape of one: rows have "
                             f"{data.features} features; give image_shape (--image-shape HEIGHT,WIDTH or "
                             "HEIGHT,WIDTH,CHANNELS), or an array of shape (rows, height, width[, channels])")
    return {**options, "image_shape": tuple(data.image_shape)}


def check_pictures(image_shape: Sequence[int] | None, data: Source) -> None:
    """Raise `ShapeError` where the data say another shape of their pictures than convolutions were made for."""
    if image_shape is None or data.image_shape is None:
        return
    if Picture.of(image_shape) != Picture.of(data.image_shape):
        raise ShapeError(f"{data.name} has pictures of shape {tuple(data.image_shape)}; the convolutions of this "
                         f"model are made for {tuple(image_shape)}")


def plain(conv: ConvLayers) -> Any:
    """``conv`` as plain values, for files."""
    if conv is None or isinstance(conv, str):
        return conv
    return [as_plain(each) if isinstance(each, Layer) else dict(each) for each in conv]


def mirrored(shape: Shape, encoder: Sequence[Layer]) -> tuple[list[Layer], list[Layer]]:
    """The encoder's layers, and those of a decoder that undoes their shapes one by one, the last one linear.

    A dense layer's mirror is a dense layer, a convolution's a convolution (transposed, where that has a stride or adds
    no zeros), a pool's a resize to the nearest. A mirror that rebuilds a layer's outputs has that layer's activation
    and normalisation; dropout has no mirror.

    Parameters
    ----------
    shape : tuple of int
        Of what enters: (features,) or (height, width, channels).
    encoder : sequence of Layer

    Raises
    ------
    ShapeError
        A layer does not fit its input, or its mirror would not give that input's shape: which one, and what it got.
    ParameterError
        A layer has no mirror.

    Examples
    --------
    >>> [type(each).__name__ for each in mirrored((8, 8, 1), [Conv(4, 3, activation="relu"), Pool(2)])[1]]
    ['Resize', 'Conv']
    """
    shapes = [shape]
    for number, layer in enumerate(encoder):
        try:
            shapes.append(layer.output(shapes[-1]))
        except ShapeError as error:
            raise ShapeError(f"layer encoder.{number}: {error}") from None
    decoder: list[Layer] = []
    norms: list[Layer] = []  # to come as soon as the values have the shape that they normalise
    for number in range(len(encoder) - 1, -1, -1):
        layer = encoder[number]
        if isinstance(layer, BatchNorm | LayerNorm | Dropout):
            continue
        below = next((i for i in range(number - 1, -1, -1) if isinstance(encoder[i], _TRAINED)), None)
        activation = "linear" if below is None else encoder[below].activation  # type: ignore[attr-defined]
        mirror = _mirror(layer, number, shapes[number], activation)
        if mirror.output(shapes[number + 1]) != shapes[number]:
            size, got = "{} x {}".format(*shapes[number]), "{} x {}".format(*mirror.output(shapes[number + 1]))
            raise ShapeError(f"layer encoder.{number} is {layer} and gets pictures of {size}, which its mirror in the "
                             f"decoder would make {got}: choose layers that divide height and width without a rest, or "
                             "pictures of another size")
        if isinstance(layer, _TRAINED) and below is not None and (norms := _norms(encoder, below)):
            mirror = replace(mirror, bias=False, activation="linear")  # type: ignore[type-var]
        decoder.append(mirror)
        if below is not None and len(shapes[number]) == len(shapes[below + 1]):
            decoder += norms
            norms = []
    return list(encoder), decoder


_TRAINED = (Dense, Conv, ConvTranspose)


def _norms(encoder: Sequence[Layer], number: int) -> list[Layer]:
    """The normalisation that follows a layer."""
    after = next((each for each in encoder[number + 1 :] if not isinstance(each, Dropout)), None)
    return [after] if isinstance(after, BatchNorm | LayerNorm) else []


def _mirror(layer: Layer, number: int, shape: Shape, activation: str) -> Layer:
    if isinstance(layer, Dense):
        return Dense(shape[0], activation, initialiser=layer.initialiser)
    if isinstance(layer, Conv):
        if layer.stride == 1 and layer.padding == "same":
            return Conv(shape[2], layer.kernel, activation=activation, initialiser=layer.initialiser)
        return ConvTranspose(shape[2], layer.kernel, layer.stride, layer.padding, activation,
                             initialiser=layer.initialiser)
    if isinstance(layer, ConvTranspose):
        return Conv(shape[2], layer.kernel, layer.stride, layer.padding, activation, initialiser=layer.initialiser)
    if isinstance(layer, Pool):
        return Resize(layer.size)
    if isinstance(layer, Flatten | Reshape):
        return Reshape(shape) if len(shape) == 3 else Flatten()
    raise ParameterError(f"layer encoder.{number} is {layer}, which has no mirror; expected dense layers, "
                         "convolutions, pools, normalisations, dropout, flatten and reshape")


def _dense(hidden: Sequence[int], activation: str, code_activation: str, initialiser: str) -> list[Layer]:
    dense = [Dense(units, activation, initialiser=initialiser) for units in hidden]
    return [*dense[:-1], replace(dense[-1], activation=code_activation)]


def _times(layer: Any, values: int) -> Layer:
    return replace(layer, outputs=layer.outputs * values)


def _picture(inputs: int, image_shape: Sequence[int] | None) -> Picture:
    if image_shape is None:
        raise ParameterError(f"conv needs pictures, and rows have {inputs} features: give image_shape, for example "
                             "(28, 28) or (32, 32, 3)")
    picture = Picture.of(image_shape)
    if picture.size != inputs:
        raise ShapeError(f"image_shape is {tuple(image_shape)}, which has {picture.size} values; rows have {inputs} "
                         "features")
    return picture


def _convolutions(conv: str | Sequence[Any], activation: str, batch_norm: str, initialiser: str,
                  code_activation: str | None) -> list[Layer]:
    """The layers that ``conv`` names; those of a text with activations, the last convolution's that of the code where
    it is the code."""
    if not isinstance(conv, str):
        given: Sequence[Any] = conv
        return [each if isinstance(each, Layer) else from_plain(each) for each in given]
    layers: list[Layer] = []
    found = layers_of(conv)
    last = max((i for i, each in enumerate(found) if isinstance(each, Conv)), default=-1)
    for i, layer in enumerate(found):
        if not isinstance(layer, Conv):
            layers.append(layer)
            continue
        of_it = code_activation if i == last and code_activation is not None else activation
        if batch_norm == "none":
            layers.append(replace(layer, activation=of_it, initialiser=initialiser))
        else:
            layers += [replace(layer, bias=False, initialiser=initialiser),
                       BatchNorm(of_it, synchronised=batch_norm == "synchronised")]
    return layers
