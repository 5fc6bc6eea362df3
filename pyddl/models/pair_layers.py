"""The layers of the two networks of an adversarial pair: from units, from a text of layers, or as they are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyddl import _check
from pyddl.data.picture import Picture
from pyddl.errors import ParameterError
from pyddl.models.dcgan import discriminator_of, ending_in, generator_of, picture_of, pictures_of
from pyddl.models.layers import Dense, Flatten, Layer, as_plain, from_plain
from pyddl.models.network_text import hidden_layers

__all__ = ["UNITS", "Layers", "PairLayers", "picture_for"]

Layers = str | Sequence[int | Layer | Mapping[str, Any]]

UNITS = {"generator": (128, 128, 128), "discriminator": (128, 128)}  # a third layer makes far sharper samples


def picture_for(inputs: int, channels: Sequence[int], shape: Sequence[int] | None, upsample: str, batch_norm: str,
                texts: bool) -> Picture | None:
    """The picture that rows of ``inputs`` features are for convolutions: those of ``channels``, or in ``texts``.

    Raises
    ------
    ParameterError
        What is of convolutions is given, and there are none; or there are, and no shape.
    ShapeError
        The shape is none of such rows.
    """
    if not channels and not texts:
        for name, value, usual in (("image_shape", shape, None), ("upsample", upsample, "transposed"),
                                   ("batch_norm", batch_norm, "none")):
            if value != usual:
                raise ParameterError(f"{name} is {value!r}, which is of convolutions: leave it out, or give "
                                     "channels, for example 64,128")
    if channels and shape is None:
        raise ParameterError("channels are of convolutions, and the rows do not say the shape of a picture: give "
                             "image_shape (--image-shape HEIGHT,WIDTH or HEIGHT,WIDTH,CHANNELS), or choose model "
                             "gan without channels")
    return None if shape is None else picture_of(shape, channels, inputs)


@dataclass(frozen=True)
class PairLayers:
    """What layers of a pair are made by.

    Attributes
    ----------
    inputs : int
        Features of a row.
    seen : int
        Numbers that the generator sees.
    judged : int
        Numbers that the discriminator gives, with a bias where ``bias``.
    packing : int
        Rows that it sees at a time.
    activation : dict of str
        Of hidden layers, by network.
    output : str
        Activation of rows.
    initialiser : str
    channels : tuple of int
        Of convolutions; of none where networks are dense.
    picture : Picture or None
    upsample, batch_norm : str
    """

    inputs: int
    seen: int
    judged: int
    bias: bool
    packing: int
    activation: Mapping[str, str]
    output: str
    initialiser: str
    channels: tuple[int, ...]
    picture: Picture | None
    upsample: str
    batch_norm: str

    def of(self, network: str, given: Layers | None) -> tuple[list[Layer], str | list[Any]]:
        """The layers of ``"generator"`` or ``"discriminator"``, and plain values that give them again.

        Raises
        ------
        ParameterError, ShapeError
            It is no description of layers, or they do not fit.
        """
        if given is None:
            given = () if self.channels else UNITS[network]
        if isinstance(given, str):
            return self._of_text(network, given), given
        if not isinstance(given, Sequence):
            raise ParameterError(f"{network} is {given!r}; expected units of hidden layers, for example (128, 128), a "
                                 "text of layers, or layers of pyddl.models.layers")
        if all(isinstance(each, int | np.integer) for each in given):
            units = _check.integers(network, given, at_least=1)
            return self._of_units(network, units), list(units)
        layers: list[Any] = []
        for each in given:
            if isinstance(each, int | np.integer):
                raise ParameterError(f"{network} mixes numbers and layers: give units of hidden layers, or all layers")
            layers.append(from_plain(each) if isinstance(each, Mapping) else each)
        return layers, [as_plain(each) for each in layers]

    @property
    def _row(self) -> Dense:
        return Dense(self.inputs, self.output, initialiser=self.initialiser)

    @property
    def _judgement(self) -> Dense:
        return Dense(self.judged, bias=self.bias, initialiser=self.initialiser)

    def _of_units(self, network: str, units: Sequence[int]) -> list[Layer]:
        shared: dict[str, Any] = {"activation": self.activation[network], "initialiser": self.initialiser}
        if self.channels and self.picture is not None:
            if network == "generator":
                return generator_of(self.picture, self.channels, units, output=self.output, upsample=self.upsample,
                                    batch_norm=self.batch_norm, **shared)
            return discriminator_of(self.picture, self.channels, units, packing=self.packing, outputs=self.judged,
                                    bias=self.bias, **shared)
        return [*(Dense(each, **shared) for each in units), self._row if network == "generator" else self._judgement]

    def _of_text(self, network: str, text: str) -> list[Layer]:
        shared: dict[str, Any] = {"activation": self.activation[network], "initialiser": self.initialiser,
                                  "synchronised": self.batch_norm == "synchronised"}
        if network == "discriminator":
            pictures = [] if self.picture is None else pictures_of(self.picture, self.packing)
            layers, shape = hidden_layers(text, network, (self.packing * self.inputs,), pictures=pictures, **shared)
            return [*layers, *([] if len(shape) == 1 else [Flatten()]), self._judgement]
        layers, shape = hidden_layers(text, network, (self.seen,), **shared)
        if len(shape) == 1:
            return [*layers, self._row]
        return [*layers[:-1], *ending_in(self.picture, self.inputs, layers[-1], shape, f"generator is {text!r}",
                                         output=self.output, initialiser=self.initialiser)]
