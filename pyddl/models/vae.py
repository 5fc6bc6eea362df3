"""Variational autoencoder.

Sources: Kingma, Welling (2014), Auto-encoding variational Bayes, ICLR, arXiv:1312.6114; Higgins et al. (2017),
beta-VAE, ICLR (a weight of the divergence); for the bound of several samples see `pyddl.models.importance`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from statistics import NormalDist
from typing import Any

import numpy as np

from pyddl import _check, _core, random
from pyddl.data.batch import Batch
from pyddl.data.source import Source
from pyddl.data.statistics import Statistics
from pyddl.errors import ParameterError
from pyddl.layout import Layout, Slice
from pyddl.models.autoencoder import rate_scale
from pyddl.models.coder import ConvLayers, check_pictures, coder, picture_for, plain
from pyddl.models.importance import likelihood
from pyddl.models.layers import WHOLE, Dense, Part
from pyddl.models.likelihood import Measure
from pyddl.models.network import Network, sigmoid
from pyddl.models.table import check_effects
from pyddl.names import ACTIVATIONS, INITIALISERS, LOSSES

__all__ = ["VAE", "PartOfVAE"]

SAMPLES_AT_ONCE = 4096  # that are decoded together
PICTURES = 50
STEPS = 10  # of a walk, and columns of the map of a code of two numbers
LINES = 5


class VAE:
    """Variational autoencoder: an encoder to normal distributions of a short code, and a decoder from samples of them.

    With codes z ~ N(0, I), an encoder q(z | x) = N(mean(x), variance(x)) and a decoder p(x | z), it raises the evidence
    lower bound of each row, in nats::

        ELBO(x) = E_q [log p(x | z)] - KL(q(z | x) || N(0, I))  <=  log p(x)

    Parameters
    ----------
    inputs : int
        Features of a row.
    hidden : sequence of int, default=(400, 20)
        Units of the encoder's dense layers; the last one is the code. The decoder mirrors them.
    conv, image_shape, batch_norm
        Convolutions before them, as in `pyddl.models.Autoencoder`.
    activation : str, default="relu"
        Of all layers but the code and the output: linear, sigmoid, relu, leaky_relu, tanh or softplus.
    loss : {"bce", "mse"}, default="bce"
        Outputs are Bernoulli, from logits, where values in [0, 1] count as probabilities; or normal, of one variance.
    output_variance : float, default=0.1
        Of normal outputs, in squared units of the data.
    kl_weight : float, default=1.0
        Of the divergence in what is minimised. Other values than 1 minimise no bound.
    kl_warmup : int, default=0
        Steps in which the weight grows from 0 in a straight line; counted by ``batch.step``, so that they are those of
        all workers together.
    samples : int, default=1
        Drawn of each row's code in training: the gradient is the mean over them.
    initialiser : str, default="auto"
        Of the weights; biases start at 0. ``auto`` is He's for relu, leaky_relu and softplus, Glorot's otherwise.
    dtype : {"float32", "bfloat16"}, default="float32"
        Element type that matrix products take; they add in float32, and parameters and gradients are float32 always.

    Attributes
    ----------
    layout : Layout
        ``encoder.0.weight`` (outputs, inputs), ``encoder.0.bias`` (outputs,), ..., ``decoder.0.weight``, ... Of the
        encoder's last layer the first half of the rows gives the means, the second the log variances.
    network, decoder : Network
        From rows to means and log variances; from codes to outputs (logits, with loss ``bce``).
    encodes : int
        Layers of ``network``: what `pyddl.models.on_encoder` takes over, as ``code_layers``.
    rate_scale : float
        Factor of the default rates of sgd, momentum and nesterov.
    """

    name = "vae"

    def __init__(self, inputs: int, hidden: Sequence[int] = (400, 20), *, conv: ConvLayers = None,
                 image_shape: Sequence[int] | None = None, batch_norm: str = "none", activation: str = "relu",
                 loss: str = "bce", output_variance: float = 0.1, kl_weight: float = 1.0, kl_warmup: int = 0,
                 samples: int = 1, initialiser: str = "auto", dtype: str = "float32"):
        self.inputs = _check.integer("inputs", inputs, at_least=1)
        self.hidden = _check.integers("hidden", hidden, at_least=1)
        if not self.hidden:
            raise ParameterError("hidden is empty; expected at least one layer, the code: for example (400, 20)")
        self.conv, self.batch_norm = plain(conv), batch_norm
        self.image_shape = None if image_shape is None else tuple(image_shape)
        self.activation = _check.one_of("activation", activation, ACTIVATIONS)
        self.loss = _check.one_of("loss", loss, LOSSES)
        self.output_variance = _check.number("output_variance", output_variance, above=0)
        self.kl_weight = _check.number("kl_weight", kl_weight, at_least=0)
        self.kl_warmup = _check.integer("kl_warmup", kl_warmup, at_least=0)
        self.samples = _check.integer("samples", samples, at_least=1)
        self.initialiser = _check.one_of("initialiser", initialiser, ("auto", *INITIALISERS))
        self.code, self.dtype = self.hidden[-1], dtype
        check_effects("vae", VAE.options(self))
        layers = coder(self.inputs, self.hidden, conv=conv, image_shape=image_shape, activation=activation,
                       batch_norm=batch_norm, initialiser=initialiser, code_values=2)
        self.code_layers = [*layers.encoder[:-1], Dense(self.code, initialiser=initialiser)]
        self._compile(Network(layers.encoder, layers.inputs, name="encoder", dtype=dtype),
                      Network(layers.decoder, self.code, name="decoder", dtype=dtype, number=len(layers.encoder)))
        self.rate_scale = rate_scale(self.loss, self.network, self.decoder) / self._factor
        self.input_range = (0.0, 1.0) if self.loss == "bce" else None

    @classmethod
    def for_data(cls, data: Source, **options: Any) -> VAE:
        """The model for these rows, with the shape of their pictures where ``conv`` needs one."""
        return cls(data.features, **picture_for(data, options))

    def _compile(self, encoder: Network, decoder: Network, part: Part = WHOLE) -> None:
        self.network, self.decoder = encoder, decoder
        self.encodes = len(encoder.layers)
        self.layout = Layout([*encoder.slices, *decoder.slices])
        self.buffers = Layout([*encoder.buffers, *decoder.buffers])
        for each in (encoder, decoder):
            each.compile(self.layout, self.buffers)
        self.dtype = encoder.dtype
        self.takes_rounded = self.dtype == "bfloat16"
        self.flops = encoder.flops + self.samples * decoder.flops
        self.measures: dict[str, Measure] = {"likelihood": partial(likelihood, self)}
        self._reports = part[0] == 0  # what all parts of a split model compute alike is counted once
        # -log p(x | z) is the decoder's loss times this, and a constant for each row
        self._factor = 1.0 if self.loss == "bce" else 1 / (2 * self.output_variance)
        self._constant = 0.0 if self.loss == "bce" else self.inputs / 2 * math.log(2 * math.pi * self.output_variance)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are made again from the options: the compiled networks hold no values."""
        return partial(VAE, **self.options()), ()

    def options(self) -> dict[str, Any]:
        """Plain values that make the same model again: ``VAE(**options)``."""
        shape = None if self.image_shape is None else list(self.image_shape)
        return {"inputs": self.inputs, "hidden": list(self.hidden), "conv": self.conv, "image_shape": shape,
                "batch_norm": self.batch_norm, "activation": self.activation, "loss": self.loss,
                "output_variance": self.output_variance, "kl_weight": self.kl_weight, "kl_warmup": self.kl_warmup,
                "samples": self.samples, "initialiser": self.initialiser, "dtype": self.dtype}

    def check_data(self, data: Source) -> None:
        """Refuse pictures of another shape than the convolutions were made for."""
        check_pictures(self.image_shape, data)

    def split(self, part: int, parts: int) -> PartOfVAE:
        """What rank ``part`` of ``parts`` holds where they hold the model together: some outputs of every layer."""
        return PartOfVAE(self, part, parts)

    # ---- training

    def initialise(self, parameters: np.ndarray, buffers: np.ndarray, seed: int,
                   data: Statistics | None = None) -> None:
        """Fill ``parameters`` for the start of training; the same for the same seed everywhere."""
        self.network.initialise(parameters, seed)
        self.decoder.initialise(parameters, seed)

    def weight(self, step: int) -> float:
        """Of the divergence in the gradient of that step."""
        return self.kl_weight * (min(1.0, step / self.kl_warmup) if self.kl_warmup else 1.0)

    def gradient(self, parameters: np.ndarray, gradients: np.ndarray, buffers: np.ndarray, batch: Batch) -> float:
        """Overwrite ``gradients`` with the sum over the batch's rows, of reconstruction and weighted divergence.

        Returns
        -------
        float
            Sum over rows of minus the ELBO, in nats: with weight 1, so that any two trainings can be compared.
        """
        codes = np.empty((len(batch), 2 * self.code), dtype=np.float32)
        self.network.forward(parameters, buffers, batch, batch.rows, codes, slot=0)
        noise = self._noise(batch, self.samples)
        z, below, deltas = np.empty_like(noise), np.empty_like(noise), np.empty_like(codes)
        _core.sample_codes(codes, noise, z)
        several = self.samples > 1
        factor = self._factor / self.samples
        loss = self.decoder.gradient(parameters, gradients, buffers, self._of_samples(batch, z), z,
                                     np.repeat(batch.rows, self.samples, axis=0) if several else batch.rows, self.loss,
                                     below=below, final=factor == 1)
        if factor != 1:
            for s in reversed(self.decoder_slices):
                _core.scale(gradients[s.begin : s.end], factor)
                if batch.ready is not None:
                    batch.ready(s.begin, s.end)
            _core.scale(below.ravel(), factor)
        _core.codes_backward(codes, noise, below, self.weight(batch.step), deltas)
        self.network.backward(parameters, gradients, buffers, batch, deltas, slot=0)
        return factor * loss + self._of_rows(codes)

    @property
    def decoder_slices(self) -> list[Slice]:
        """The decoder's slices of the layout."""
        return [self.layout[s.name] for s in self.decoder.slices]

    def _noise(self, batch: Batch, samples: int) -> np.ndarray:
        """Normal numbers (rows samples, code), keyed by the rows' numbers."""
        noise = np.empty((len(batch), samples * self.code), dtype=np.float32)
        _core.normal(noise, batch.index, batch.seed % random.SEEDS, random.NOISE, batch.step, batch.turn)
        return noise.reshape(len(batch) * samples, self.code)

    def _of_samples(self, batch: Batch, z: np.ndarray) -> Batch:
        """The batch with samples in the place of rows, each with a number of its own."""
        index = batch.index
        if self.samples > 1:
            index = (index[:, None] * self.samples + np.arange(self.samples)).ravel()
        return Batch(z, index, seed=batch.seed, step=batch.step, turn=batch.turn, phase=batch.phase, sum=batch.sum,
                     ready=batch.ready, rounded=batch.rounded, group=batch.group)

    def _of_rows(self, codes: np.ndarray) -> float:
        """What does not depend on the decoder in the sum over rows of minus the ELBO."""
        return _core.codes_divergence(codes) + self._constant * len(codes) if self._reports else 0.0

    # ---- what a trained model says

    def evaluate(self, parameters: np.ndarray, buffers: np.ndarray, batch: Batch) -> dict[str, float]:
        """Sums over the rows, nats, from one sample of each row's code, which is always the same.

        ``loss``
            Minus ``elbo``, whatever the weight in training; the sum of the next two.
        ``reconstruction``
            Minus log p(x | z).
        ``kl``
            Divergence of the code's distribution from the standard normal one.
        ``squared_error``
            Between a row and its reconstruction from the code's means.
        """
        rows = batch.rows
        codes = np.empty((len(batch), 2 * self.code), dtype=np.float32)
        self.network.forward(parameters, buffers, batch, rows, codes)
        noise, means = self._noise(batch, 1), np.ascontiguousarray(codes[:, : self.code])
        _core.sample_codes(codes, noise, noise)
        found = self.decoder.evaluate(parameters, buffers, batch, noise, rows, self.loss)
        of_means = self.decoder.evaluate(parameters, buffers, batch, means, rows, self.loss)
        kl = _core.codes_divergence(codes) if self._reports else 0.0
        loss = self._factor * found["loss"] + self._of_rows(codes)
        return {"loss": loss, "elbo": -loss, "kl": kl, "reconstruction": loss - kl,
                "squared_error": of_means["squared_error"]}

    def posterior(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Means, then log variances, of the codes of ``rows``: (n, inputs) -> (n, 2 code). A row's do not depend on how
        many others come with it (but to rounding, where the processor lacks AVX-512)."""
        return self.network.outputs(parameters, buffers, rows)

    def encode(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Means of the codes of ``rows``: (n, inputs) -> (n, code)."""
        return np.ascontiguousarray(self.posterior(parameters, buffers, rows)[:, : self.code])

    def decode(self, parameters: np.ndarray, buffers: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Means of rows for ``codes`` (n, code) -> (n, inputs); in (0, 1) with loss ``bce``."""
        output = self.decoder.outputs(parameters, buffers, codes)
        return sigmoid(output) if self.loss == "bce" else output

    def reconstruct(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """`decode` of `encode`: (n, inputs) -> (n, inputs)."""
        return self.decode(parameters, buffers, self.encode(parameters, buffers, rows))

    def log_weights(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray, index: np.ndarray,
                    samples: int, step: int = 0) -> np.ndarray:
        """log p(x, z) - log q(z | x) of ``samples`` codes of each row: (n, inputs) -> (n, samples), nats, float64.

        The mean of a row's is its ELBO, the logarithm of the mean of their exponentials a closer bound. ``index`` are
        the rows' numbers, which key what is drawn; ``step`` that of a further draw.
        """
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        codes = self.posterior(parameters, buffers, rows)
        noise = np.empty((len(rows), samples * self.code), dtype=np.float32)
        _core.normal(noise, index, 0, random.LIKELIHOOD, step)
        noise = noise.reshape(len(rows) * samples, self.code)
        ratios, losses = np.empty(len(noise)), np.empty(len(noise))
        _core.codes_log_ratios(codes, noise, ratios)
        _core.sample_codes(codes, noise, noise)
        _core.loss_of_rows(self.decoder.outputs(parameters, buffers, noise), rows, self.loss, losses)
        return (ratios - self._factor * losses - self._constant).reshape(len(rows), samples)

    def sample(self, parameters: np.ndarray, buffers: np.ndarray, count: int, seed: int) -> np.ndarray:
        """Means of ``count`` rows (count, inputs) for codes drawn from N(0, I)."""
        out = np.empty((count, self.inputs), dtype=np.float32)
        for begin in range(0, count, SAMPLES_AT_ONCE):
            z = np.empty((min(SAMPLES_AT_ONCE, count - begin), self.code), dtype=np.float32)
            _core.normal(z, np.arange(begin, begin + len(z)), seed % random.SEEDS, random.NOISE)
            out[begin : begin + len(z)] = self.decode(parameters, buffers, z)
        return out

    def walk(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Decoded codes on the way from each second row to the one after it, ten steps each; of a code of two numbers
        the plane of the codes instead, ten columns in five lines, between the 5th and the 95th of 100 parts of N(0, I).
        """
        if self.code == 2:
            across, down = ([NormalDist().inv_cdf(p) for p in np.linspace(0.05, 0.95, count)]
                            for count in (STEPS, LINES))
            codes = [(x, -y) for y in down for x in across]
        else:
            ends = self.encode(parameters, buffers, rows)
            if len(ends) % 2:
                ends = np.concatenate([ends, np.zeros((1, self.code), dtype=np.float32)])
            codes = [start + share * (end - start) for start, end in zip(ends[::2], ends[1::2], strict=True)
                     for share in np.linspace(0, 1, STEPS)]
        return self.decode(parameters, buffers, np.array(codes, dtype=np.float32))

    def pictures(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        """``filters``: what the units of the first layer look for; ``samples``; ``walk``."""
        return {"filters": self.network.filters(parameters),
                "samples": self.sample(parameters, buffers, PICTURES, 0),
                "walk": self.walk(parameters, buffers, rows)}


class PartOfVAE(VAE):
    """One rank's part of a `VAE`; all parts together compute what the whole one does, to rounding.

    Attributes
    ----------
    layout : Layout
        The slices of ``whole``, each with this part's rows.
    whole : VAE
    part, parts : int
        This rank's number in its model group, and how many there are.
    """

    def __init__(self, whole: VAE, part: int, parts: int):
        self.__dict__.update(whole.__dict__)
        self.whole, self.part, self.parts = whole, part, parts
        self._compile(whole.network.split(part, parts), whole.decoder.split(part, parts), (part, parts))
        self.flops = whole.flops

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.whole, self.part, self.parts)

    def split(self, part: int, parts: int) -> PartOfVAE:
        """A part of the whole."""
        return self.whole.split(part, parts)
