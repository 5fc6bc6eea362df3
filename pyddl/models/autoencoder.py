"""Dense autoencoder.

Source: Hinton and Salakhutdinov (2006), Reducing the dimensionality of data with neural networks, Science 313,
504-507: an encoder to a small linear code, and a decoder that mirrors it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from pyddl import _check
from pyddl.errors import ParameterError
from pyddl.models.layers import Dense
from pyddl.models.network import Network, NetworkModel
from pyddl.names import ACTIVATIONS, INITIALISERS, LOSSES

__all__ = ["Autoencoder"]

RATES = {"bce": (1280, 1), "mse": (640, 2)}  # a constant and a power of the depth: see `Autoencoder.rate_scale`
MOST_PARAMETERS = 2**48  # a petabyte: places in so long a vector are far from overflowing


class Autoencoder(NetworkModel):
    """Dense autoencoder: inputs - hidden - code - hidden - inputs.

    Parameters
    ----------
    inputs : int
        Features of a row.
    hidden : sequence of int, default=(256, 64)
        Units of the encoder's layers; the last one is the code. The decoder mirrors them.
    activation : str, default="relu"
        Of all layers but the code and the output: linear, sigmoid, relu, leaky_relu, tanh or softplus.
    code_activation : str, default="linear"
        Of the code layer.
    loss : {"bce", "mse"}, default="bce"
        Binary cross-entropy from logits, in nats, for data in [0, 1]; or squared error with a linear output. Both
        are summed over features.
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
    rate_scale : float
        Factor of the default rates of sgd, momentum and nesterov. The loss is a sum over the inputs, and a wider or
        deeper network bears smaller steps; the rule was found by measuring, on digits, MNIST and CIFAR-10.
    """

    name = "autoencoder"

    def __init__(self, inputs: int, hidden: Sequence[int] = (256, 64), *, activation: str = "relu",
                 code_activation: str = "linear", loss: str = "bce", initialiser: str = "auto",
                 dtype: str = "float32"):
        self.inputs = _check.integer("inputs", inputs, at_least=1)
        self.hidden = _check.integers("hidden", hidden, at_least=1)
        if not self.hidden:
            raise ParameterError("hidden is empty; expected at least one layer, the code: for example (256, 64)")
        self.activation = _check.one_of("activation", activation, ACTIVATIONS)
        self.code_activation = _check.one_of("code_activation", code_activation, ACTIVATIONS)
        self.loss = _check.one_of("loss", loss, LOSSES)
        self.initialiser = _check.one_of("initialiser", initialiser, ("auto", *INITIALISERS))
        units = [*self.hidden, *self.hidden[-2::-1], self.inputs]
        depth = len(self.hidden)
        activations = [self.activation] * (2 * depth)
        activations[depth - 1] = self.code_activation
        activations[-1] = "linear"
        self.network = Network(
            [Dense(*each, initialiser=self.initialiser) for each in zip(units, activations, strict=True)], self.inputs,
            names=[f"{half}.{i}" for half in ("encoder", "decoder") for i in range(depth)], dtype=dtype)
        if (size := sum(s.size for s in self.network.slices)) > MOST_PARAMETERS:
            raise ParameterError(f"{self.inputs} inputs and hidden {self.hidden} make {size:,} parameters, "
                                 "more than any memory holds: choose fewer units")
        self.encodes = depth
        self._compile()
        rate, power = RATES[self.loss]
        self.rate_scale = rate / (max(units) * max(2 * depth, 4) ** power)
        self.input_range = (0.0, 1.0) if self.loss == "bce" else None

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are made again from the options: the compiled network holds no values."""
        return partial(Autoencoder, **self.options()), ()

    def options(self) -> dict[str, Any]:
        """Plain values that make the same model again: ``Autoencoder(**options)``."""
        return {"inputs": self.inputs, "hidden": list(self.hidden), "activation": self.activation,
                "code_activation": self.code_activation, "loss": self.loss, "initialiser": self.initialiser,
                "dtype": self.dtype}

    def encode(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Codes of ``rows`` (n, inputs) -> (n, hidden[-1]). A row's code does not depend on how many others come with
        it (but to rounding, where the processor lacks AVX-512)."""
        return self._outputs(parameters, rows, 0, len(self.hidden))

    def decode(self, parameters: np.ndarray, buffers: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Reconstructions from ``codes`` (n, hidden[-1]) -> (n, inputs); in (0, 1) with loss ``bce``."""
        depth = len(self.hidden)
        output = self._outputs(parameters, codes, depth, 2 * depth)
        if self.loss == "bce":
            output *= 0.5  # sigmoid(x) = (1 + tanh(x / 2)) / 2, which cannot overflow
            np.tanh(output, out=output)
            output += 1
            output *= 0.5
        return output

    def reconstruct(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """`decode` of `encode`: (n, inputs) -> (n, inputs)."""
        return self.decode(parameters, buffers, self.encode(parameters, buffers, rows))
