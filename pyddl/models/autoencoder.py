"""Autoencoder: dense or convolutional, denoising, sparse, with tied weights.

Sources: Hinton and Salakhutdinov (2006), Reducing the dimensionality of data with neural networks, Science 313,
504-507: an encoder to a small linear code, and a decoder that mirrors it. Vincent et al. (2010), Stacked denoising
autoencoders, JMLR 11, 3371-3408. Masci et al. (2011), Stacked convolutional auto-encoders, ICANN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from pyddl import _check
from pyddl.data.batch import Batch
from pyddl.data.source import Source
from pyddl.errors import ParameterError
from pyddl.models.coder import Coder, ConvLayers, check_pictures, coder, picture_for, plain
from pyddl.models.layers import Corrupt, Dense, Layer, Sparsity, Transposed
from pyddl.models.network import Network, NetworkModel, sigmoid
from pyddl.models.table import check_effects
from pyddl.names import ACTIVATIONS, INITIALISERS, LOSSES

__all__ = ["Autoencoder", "rate_scale"]

RATES = {"bce": (1280, 1), "mse": (640, 2)}  # a constant and a power of the depth: see `Autoencoder.rate_scale`
MOST_PARAMETERS = 2**48  # a petabyte: places in so long a vector are far from overflowing


class Autoencoder(NetworkModel):
    """Autoencoder: inputs - hidden - code - hidden - inputs.

    Parameters
    ----------
    inputs : int
        Features of a row.
    hidden : sequence of int, default=(256, 64)
        Units of the encoder's dense layers; the last one is the code. The decoder mirrors them. With ``conv`` there may
        be none: the code is then what the convolutions give.
    conv : str or sequence of Layer, optional
        Convolutions before them: a text, ``conv32,pool2,conv64,pool2`` (see `pyddl.models.text`), or layers as they
        are, each with its own activation. The decoder mirrors them: see `pyddl.models.coder.mirrored`.
    image_shape : sequence of int, optional
        Shape of a row as a picture, for ``conv``: (height, width), (height, width, channels) or (channels, height,
        width). `for_data` has it from the data.
    batch_norm : {"none", "own", "synchronised"}, default="none"
        After each convolution that a text names but the last of the decoder: ``own`` has statistics of each worker's
        rows, ``synchronised`` those of all workers'.
    activation : str, default="relu"
        Of all layers but the code and the output: linear, sigmoid, relu, leaky_relu, tanh or softplus.
    code_activation : str, default="linear"
        Of the code layer.
    loss : {"bce", "mse"}, default="bce"
        Binary cross-entropy from logits, in nats, for data in [0, 1]; or squared error with a linear output. Both
        are summed over features.
    corrupt : float, default=0
        Training shows spoiled rows and wants the whole ones back: the probability that a value becomes 0, or the
        standard deviation of what is added. 0: it shows the rows. Scores and codes are those of whole rows.
    corruption : {"masking", "gaussian"}, default="masking"
    sparsity : float, optional
        Mean wanted of each unit of the code, whose activation must be sigmoid: see `pyddl.models.layers.Sparsity`.
    sparsity_cost : float, default=0.1
        Factor of that divergence, in nats per unit of the code.
    tied : bool, default=False
        The decoder's weights are the transposes of the encoder's: one tensor, whose gradient is the sum of both.
    initialiser : str, default="auto"
        Of the weights; biases start at 0. ``auto`` is He's for relu, leaky_relu and softplus, Glorot's otherwise.
    dtype : {"float32", "bfloat16"}, default="float32"
        Element type that matrix products take; they add in float32, and parameters and gradients are float32 always.

    Attributes
    ----------
    layout : Layout
        ``encoder.0.weight`` (outputs, inputs), ``encoder.0.bias`` (outputs,), ..., ``decoder.0.weight``, ...
    network : Network
        From the inputs to the reconstruction.
    code : tuple of int
        Shape of a code: (hidden[-1],), or (height, width, channels).
    rate_scale : float
        Factor of the default rates of sgd, momentum and nesterov. The loss is a sum over the inputs, and a wider or
        deeper network bears smaller steps; the rule was found by measuring, on digits, MNIST and CIFAR-10.
    """

    name = "autoencoder"

    def __init__(self, inputs: int, hidden: Sequence[int] = (256, 64), *, conv: ConvLayers = None,
                 image_shape: Sequence[int] | None = None, batch_norm: str = "none", activation: str = "relu",
                 code_activation: str = "linear", loss: str = "bce", corrupt: float = 0.0, corruption: str = "masking",
                 sparsity: float | None = None, sparsity_cost: float = 0.1, tied: bool = False,
                 initialiser: str = "auto", dtype: str = "float32"):
        self.inputs = _check.integer("inputs", inputs, at_least=1)
        self.hidden = _check.integers("hidden", hidden, at_least=1)
        self.conv, self.batch_norm = plain(conv), batch_norm
        self.image_shape = None if image_shape is None else tuple(image_shape)
        self.activation = _check.one_of("activation", activation, ACTIVATIONS)
        self.code_activation = _check.one_of("code_activation", code_activation, ACTIVATIONS)
        self.loss = _check.one_of("loss", loss, LOSSES)
        self.corruption = _check.one_of("corruption", corruption, ("masking", "gaussian"))
        self.corrupt = _check.number("corrupt", corrupt, at_least=0, below=1 if corruption == "masking" else None)
        self.sparsity, self.sparsity_cost = sparsity, sparsity_cost
        self.tied = bool(tied)
        self.initialiser = _check.one_of("initialiser", initialiser, ("auto", *INITIALISERS))
        self.dtype = dtype
        check_effects("autoencoder", Autoencoder.options(self))
        layers = coder(self.inputs, self.hidden, conv=conv, image_shape=image_shape, activation=activation,
                       code_activation=code_activation, batch_norm=batch_norm, initialiser=initialiser)
        encoder, decoder = list(layers.encoder), list(layers.decoder)
        encoder_names, decoder_names = layers.names[: len(encoder)], layers.names[len(encoder) :]
        if self.tied:
            decoder = _tied(layers)
        if self.corrupt > 0:
            encoder, encoder_names = [Corrupt(self.corrupt, corruption), *encoder], ["corruption", *encoder_names]
        self.encodes = len(encoder)
        if sparsity is not None:
            encoder, encoder_names = [*encoder, self._sparsity()], [*encoder_names, "sparsity"]
        self.network = Network([*encoder, *decoder], layers.inputs, names=[*encoder_names, *decoder_names], dtype=dtype)
        if (size := sum(s.size for s in self.network.slices)) > MOST_PARAMETERS:
            raise ParameterError(f"{self.inputs} inputs and hidden {self.hidden} make {size:,} parameters, "
                                 "more than any memory holds: choose fewer units")
        self.code = self.network.shapes[self.encodes]
        self._compile()
        self.rate_scale = rate_scale(self.loss, self.network)
        self.input_range = (0.0, 1.0) if self.loss == "bce" else None

    @classmethod
    def for_data(cls, data: Source, **options: Any) -> Autoencoder:
        """The model for these rows, with the shape of their pictures where ``conv`` needs one."""
        return cls(data.features, **picture_for(data, options))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are made again from the options: the compiled network holds no values."""
        return partial(Autoencoder, **self.options()), ()

    def options(self) -> dict[str, Any]:
        """Plain values that make the same model again: ``Autoencoder(**options)``."""
        shape = None if self.image_shape is None else list(self.image_shape)
        return {"inputs": self.inputs, "hidden": list(self.hidden), "conv": self.conv, "image_shape": shape,
                "batch_norm": self.batch_norm, "activation": self.activation, "code_activation": self.code_activation,
                "loss": self.loss, "corrupt": self.corrupt, "corruption": self.corruption, "sparsity": self.sparsity,
                "sparsity_cost": self.sparsity_cost, "tied": self.tied, "initialiser": self.initialiser,
                "dtype": self.dtype}

    def check_data(self, data: Source) -> None:
        """Refuse pictures of another shape than the convolutions were made for."""
        check_pictures(self.image_shape, data)

    def encode(self, parameters: np.ndarray, buffers: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
        """Codes of ``rows`` (n, inputs) -> (n, values of a code). A row's code does not depend on how many others come
        with it (but to rounding, where the processor lacks AVX-512, and of convolutions)."""
        return self._outputs(parameters, buffers, rows, 0, self.encodes)

    def decode(self, parameters: np.ndarray, buffers: np.ndarray | None, codes: np.ndarray) -> np.ndarray:
        """Reconstructions from ``codes`` (n, values of a code) -> (n, inputs); in (0, 1) with loss ``bce``."""
        output = self._outputs(parameters, buffers, codes, self.encodes, len(self.network.layers))
        return sigmoid(output) if self.loss == "bce" else output

    def reconstruct(self, parameters: np.ndarray, buffers: np.ndarray | None, rows: np.ndarray) -> np.ndarray:
        """`decode` of `encode`: (n, inputs) -> (n, inputs)."""
        return self.decode(parameters, buffers, self.encode(parameters, buffers, rows))

    def corrupted(self, rows: np.ndarray, seed: int = 0) -> np.ndarray | None:
        """``rows`` as training would show them, for pictures; None where it shows them as they are."""
        if self.corrupt == 0:
            return None
        rows, out = np.ascontiguousarray(rows, dtype=np.float32), np.empty(rows.shape, dtype=np.float32)
        nothing, kept = self.layout.zeros(), self.buffers.zeros()
        self.network.forward(nothing, kept, Batch(rows, seed=seed), rows, out, last=1, training=True)
        return out

    def pictures(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        """``filters``: what the units of the first layer look for."""
        return {"filters": self.filters(parameters)}

    def _sparsity(self) -> Layer:
        if self.code_activation != "sigmoid":
            raise ParameterError(f"sparsity is {self.sparsity}, a mean wanted of each unit of the code, which is "
                                 f"{self.code_activation}: give code_activation sigmoid (--code-activation sigmoid), "
                                 "whose values lie between 0 and 1, or leave sparsity out")
        return Sparsity(_check.number("sparsity", self.sparsity, above=0, below=1),
                        _check.number("sparsity_cost", self.sparsity_cost, above=0))


def rate_scale(loss: str, *networks: Network) -> float:
    """`Autoencoder.rate_scale` of the networks that are encoder and decoder together."""
    rate, power = RATES[loss]
    widest = max(math.prod(shape) for network in networks for shape in network.shapes)
    depth = sum(hasattr(layer, "activation") and hasattr(layer, "bias") for each in networks for layer in each.layers)
    return rate / (widest * max(depth, 4) ** power)


def _tied(layers: Coder) -> list[Layer]:
    """The decoder, with the weights of the encoder's layers."""
    if layers.conv:
        raise ParameterError("tied is given with conv: weights of dense layers can be tied, those of convolutions not; "
                             "leave one of the two out")
    dense = [each for each in layers.decoder if isinstance(each, Dense)]
    return [Transposed(f"encoder.{len(dense) - 1 - i}", each.outputs, each.activation) for i, each in enumerate(dense)]
