"""Generative adversarial networks: a generator of noise and a discriminator of rows, trained in turn.

Source: Goodfellow et al. (2014), Generative adversarial nets, NeurIPS. What the two play for is an objective of
`pyddl.models.objectives`, each with its paper. A penalty on the discriminator's slopes is that of a piecewise linear
network: its gradient is one tangent pass (`Network.tangent`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from functools import partial
from typing import Any, ClassVar

import numpy as np

from pyddl import _check, _core, random
from pyddl.data.batch import Batch
from pyddl.data.joined import reaches_beyond
from pyddl.data.source import Source
from pyddl.data.statistics import Statistics
from pyddl.errors import DataError, ParameterError, ShapeError
from pyddl.layout import Layout, Slice
from pyddl.models.classifier import check_classes, classes_of
from pyddl.models.distance import energy_distance
from pyddl.models.layers import Dense
from pyddl.models.likelihood import Measure
from pyddl.models.network import Network
from pyddl.models.objectives import OBJECTIVES
from pyddl.models.packing import Packs
from pyddl.models.pair_layers import UNITS, Layers, PairLayers, picture_for
from pyddl.models.stages import Phase, Stage
from pyddl.models.table import check_effects
from pyddl.names import ACTIVATIONS, INITIALISERS, RULES

__all__ = ["GAN"]

OUTPUTS = ("linear", "sigmoid", "tanh")
MOST_NOISE = 64  # numbers, where nothing else is said
LEAST_SLOPE = np.float32(1e-6)  # of a loss that has a penalty: one tangent pass divides by it
NOISE_KINKS = 2.0  # deviations of the noise over which the generator's first kinks are spread
SHOWN, POINTS = 50, 500  # samples after each epoch; of one or two features
ALIKE = 1e-3  # variance of samples, of the data's, below which they are all one
SURE = 0.999  # share of rows and samples that a discriminator gets right which teaches nothing more
BETWEEN = 1 << 15  # among substeps of random numbers: places of the points between rows and samples


class GAN:
    """A generator and a discriminator, of which each is trained on what the other has come to.

    Rows are standardised for the discriminator by their own means and one scale for all features, which are kept with
    the parameters; a generator without bounds works on that scale too.

    Parameters
    ----------
    inputs : int
        Features of a row.
    generator, discriminator : sequence of int or of Layer, or str, optional
        Units of dense hidden layers, by default (128, 128, 128) and (128, 128), with ``channels`` none; or a text of
        hidden layers, see `pyddl.models.network_text`, to which the last one is added, unless the generator's end with
        pictures like the rows; or all layers, the last one included: the generator's has the features of a row as
        outputs, the discriminator's one linear output, or where conditional one for each class. But in the last case a
        discriminator of which only differences count has no bias there.
    channels : sequence of int, optional
        Of convolutions of stride 2 at the discriminator's beginning, for pictures; the generator mirrors them [1]_.
    image_shape : sequence of int, optional
        Of a row as a picture, with ``channels`` or a text of layers: see `pyddl.data.picture.Picture.of`.
    upsample : {"transposed", "resize"}, default="transposed"
        How the generator's pictures grow: by transposed convolutions, or resized and convolved.
    batch_norm : {"none", "own", "synchronised"}, default="none"
        In the generator of pictures, by statistics of each worker's own rows or of all; running ones in the
        discriminator's turns.
    noise : int, optional
        Normal numbers that a sample is made of; by default as many as features, from 2 to 64.
    objective : {"r3gan", "non_saturating", "minimax", "wgan", "wgan_gp"}, default="r3gan"
        See `pyddl.models.objectives`.
    penalty : float, optional
        Weight of the penalty on the discriminator's slopes: by default 1 in r3gan and wgan_gp; in non_saturating and
        minimax, where it is R1, 0. A peak of the data's density as narrow as s, in deviations of the data, needs a
        penalty of s^2 in the end.
    penalty_end : float, optional
        Weight to which the penalty falls, by a constant factor in each step, within ``penalty_steps``.
    penalty_steps : int, optional
    clip_weights : float, optional
        In wgan: the discriminator's weights are clamped to [-clip_weights, clip_weights] after each update; 0.01 by
        default.
    label_smoothing : float, default=0
        In non_saturating and minimax: rows count as real with 1 minus so much only.
    generator_every : int, default=1
        Steps between two updates of the generator; the discriminator has one in each, on other rows.
    packing : int, default=1
        Rows that the discriminator judges together, and samples, one beside the other [2]_.
    pretrain_steps : int, default=0
        Steps at the beginning in which the discriminator alone is trained.
    average : float, default=0.999
        The averaged copy of the generator, which samples are drawn from, keeps so much of itself in each update (less
        at first: see `Phase`); 0: there is none.
    conditional : bool, default=False
        Samples are of a class that is asked for: the generator sees the row's label, and the discriminator has an
        output for each class, of which the label's counts [3]_.
    classes : int or sequence of str, optional
        Of the labels, where conditional.
    activation : str, default="leaky_relu"
        Of dense hidden layers that are given by their units, and of convolutions.
    generator_activation : str, optional
        The generator's, by default the same. With relu it has places where its samples do not move, and so leaves
        fewer between the modes of the data.
    output : {"linear", "sigmoid", "tanh"}, default="linear"
        Of a generator given by its units: `for_data` chooses sigmoid for rows within [0, 1].
    generator_optimizer, discriminator_optimizer : str, optional
        Update rules; by default that of training.
    generator_rate, discriminator_rate : float, optional
        Learning rates; by default that of training.
    beta1, beta2 : float, default=0, 0.99
        Of the rules adam and adamw.
    initialiser : str, default="auto"
    dtype : {"float32", "bfloat16"}
        Of the products.

    Attributes
    ----------
    layout : Layout
        ``generator.0.weight``, ..., ``discriminator.0.weight``, ..., and, which no phase trains, ``rows.centre``
        (inputs,) and ``rows.scale`` (1,).
    buffers : Layout
        Of layers that keep statistics.
    stages : tuple of Stage
        Phases ``discriminator`` and ``generator``, after one of the discriminator alone where it is pretrained.

    References
    ----------
    .. [1] Radford, Metz, Chintala (2016), Unsupervised representation learning with deep convolutional generative
       adversarial networks, ICLR.
    .. [2] Lin, Khetan, Fanti, Oh (2018), PacGAN: The power of two samples in generative adversarial networks, NeurIPS.
    .. [3] Mescheder, Geiger, Nowozin (2018), Which training methods for GANs do actually converge?, ICML.
    """

    name = "gan"
    outputs: ClassVar[tuple[str, ...]] = OUTPUTS
    ending = ""  # of the names of networks, groups and phases: a stack has several pairs

    def __init__(self, inputs: int, generator: Layers | None = None, discriminator: Layers | None = None, *,
                 channels: Sequence[int] | None = None, image_shape: Sequence[int] | None = None,
                 upsample: str = "transposed", batch_norm: str = "none", noise: int | None = None,
                 objective: str = "r3gan", penalty: float | None = None, penalty_end: float | None = None,
                 penalty_steps: int | None = None, clip_weights: float | None = None,
                 label_smoothing: float = 0.0, generator_every: int = 1, packing: int = 1,
                 pretrain_steps: int = 0, average: float = 0.999, conditional: bool = False,
                 classes: int | Sequence[str] | None = None, activation: str = "leaky_relu",
                 generator_activation: str | None = None, output: str = "linear",
                 generator_optimizer: str | None = None, discriminator_optimizer: str | None = None,
                 generator_rate: float | None = None, discriminator_rate: float | None = None, beta1: float = 0.0,
                 beta2: float = 0.99, initialiser: str = "auto", dtype: str = "float32"):
        self.inputs = _check.integer("inputs", inputs, at_least=1)
        self.noise = (min(max(self.inputs, 2), MOST_NOISE) if noise is None else
                      _check.integer("noise", noise, at_least=1))
        self.activation = _check.one_of("activation", activation, ACTIVATIONS)
        if generator_activation is not None:
            _check.one_of("generator_activation", generator_activation, ACTIVATIONS)
        self.generator_activation = generator_activation
        self.output = _check.one_of("output", output, self.outputs)
        self.initialiser = _check.one_of("initialiser", initialiser, ("auto", *INITIALISERS))
        self.label_smoothing = _check.number("label_smoothing", label_smoothing, at_least=0, below=1)
        self.objective = OBJECTIVES[_check.one_of("objective", objective, OBJECTIVES)](self.label_smoothing)
        self._set_penalty(penalty, penalty_end, penalty_steps, clip_weights)
        self._set_classes(conditional, classes)
        self.generator_every = _check.integer("generator_every", generator_every, at_least=1)
        self.packing = self.rows_together = self._packing(packing)
        self.pretrain_steps = _check.integer("pretrain_steps", pretrain_steps, at_least=0)
        self.average = _check.number("average", average, at_least=0, below=1)
        self.rules = {"generator_optimizer": generator_optimizer, "discriminator_optimizer": discriminator_optimizer,
                      "generator_rate": generator_rate, "discriminator_rate": discriminator_rate,
                      "beta1": _check.number("beta1", beta1, at_least=0, below=1),
                      "beta2": _check.number("beta2", beta2, at_least=0, below=1)}
        self.channels = () if channels is None else _check.integers("channels", channels, at_least=1)
        self.image_shape, self.upsample, self.batch_norm = image_shape, upsample, batch_norm
        self.picture = picture_for(self.inputs, self.channels, image_shape, upsample, batch_norm,
                                   texts=any(isinstance(each, str) for each in (generator, discriminator)))
        made = PairLayers(
            self.inputs, seen=self.noise + self.beside, judged=self.classes or 1, packing=self.packing,
            bias=not self.objective.of_differences, output=self.output, initialiser=self.initialiser,
            activation={"generator": generator_activation or self.activation, "discriminator": self.activation},
            channels=self.channels, picture=self.picture, upsample=upsample, batch_norm=batch_norm)
        (first, first_given), (second, second_given) = (
            made.of(*each) for each in (("generator", generator), ("discriminator", discriminator)))
        self._given = {"generator": first_given, "discriminator": second_given}
        names = [f"{network}{self.ending}" for network in ("generator", "discriminator")]
        self.generator = Network(first, self.noise + self.beside, name=names[0], group=names[0], dtype=dtype)
        self.discriminator = Network(second, self.packing * self.inputs, name=names[1], group=names[1], dtype=dtype,
                                     number=len(first))
        self._check_networks()
        self.dtype = self.generator.dtype
        check_effects("gan", {**GAN.options(self), "penalty": penalty})
        self.compile(Layout(self.slices), Layout([*self.generator.buffers, *self.discriminator.buffers]))
        self.stages = self._stages()
        self.needs_labels = self.conditional
        self.flops = self.generator.flops + self.discriminator.flops // self.packing
        self.measures: dict[str, Measure] = {"energy_distance": partial(energy_distance, self)}

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(GAN, **self.options()), ()

    @classmethod
    def for_data(cls, data: Source, conditional: bool = False, output: str | None = None, **options: Any) -> GAN:
        """The model for these rows: with their classes where conditional, outputs of their range, and their shape."""
        return cls(data.features, conditional=conditional, classes=classes_of(data) if conditional else None,
                   output=output_for(data) if output is None else output, **with_shape(options, data))

    def options(self) -> dict[str, Any]:
        """Plain values that make the same model again: ``GAN(**options)``."""
        return {"inputs": self.inputs, **self._given, "channels": list(self.channels) or None,
                "image_shape": None if self.image_shape is None else list(self.image_shape),
                "upsample": self.upsample, "batch_norm": self.batch_norm, "noise": self.noise,
                "objective": self.objective.name,
                "penalty": self.penalty if self.objective.penalised else None, "penalty_end": self.penalty_end,
                "penalty_steps": self.penalty_steps, "clip_weights": self.clip_weights,
                "label_smoothing": self.label_smoothing, "generator_every": self.generator_every,
                "packing": self.packing, "pretrain_steps": self.pretrain_steps, "average": self.average,
                "conditional": self.conditional,
                "classes": list(self.class_names) if self.class_names else self.classes or None,
                "activation": self.activation, "generator_activation": self.generator_activation,
                "output": self.output, **self.rules, "initialiser": self.initialiser, "dtype": self.dtype}

    # ---- how it is made

    @property
    def slices(self) -> list[Slice]:
        """To make a layout of."""
        own = f"rows{self.ending}"
        return [*self.generator.slices, *self.discriminator.slices,
                Slice(f"{own}.centre", (self.inputs,), "rows", decay=False),
                Slice(f"{own}.scale", (1,), "rows", decay=False)]

    def compile(self, layout: Layout, buffers: Layout) -> None:
        """Make it work on vectors of these layouts, which have its slices among others."""
        self.layout, self.buffers = layout, buffers
        self._place, self._place_of_scale = (layout[f"rows{self.ending}.{name}"].begin for name in ("centre", "scale"))
        for network in (self.generator, self.discriminator):
            network.compile(layout, buffers)

    def _set_penalty(self, weight: float | None, end: float | None, steps: int | None, clip: float | None) -> None:
        name, kind = self.objective.name, self.objective
        self.penalty, self.penalty_end, self.penalty_steps, self.clip_weights = kind.penalty, end, steps, clip
        if weight is not None:
            self.penalty = _check.number("penalty", weight, at_least=0)
        if (end is None) != (steps is None):
            raise ParameterError("penalty_end says where the penalty falls to, and penalty_steps within how many "
                                 "steps: give both, or none")
        if end is not None:
            _check.number("penalty_end", end, above=0)
            _check.integer("penalty_steps", steps, at_least=1)
            if self.penalty == 0:
                raise ParameterError("penalty_end is given, and there is no penalty that could fall: give penalty")
        if name == "wgan":
            self.clip_weights = _check.number("clip_weights", 0.01 if clip is None else clip, above=0)

    def _set_classes(self, conditional: bool, classes: int | Sequence[str] | None) -> None:
        self.conditional = bool(conditional)
        self.beside = 0  # numbers that the generator sees beside the noise
        self.class_names = None if classes is None or isinstance(classes, int | np.integer) else tuple(classes)
        if not self.conditional:
            self.classes = 0
            return
        count = classes if self.class_names is None else len(self.class_names)
        if count is None:
            raise ParameterError("conditional needs classes: how many the labels are of, or their names")
        self.classes = self.beside = _check.integer("classes", count, at_least=2)

    def _packing(self, together: int) -> int:
        found = _check.integer("packing", together, at_least=1)
        if found > 1 and self.conditional:
            raise ParameterError(f"packing is {found}, and conditional: the rows of a pack are of several classes, of "
                                 "which the discriminator is asked for one; leave one of the two out")
        return found

    def _check_networks(self) -> None:
        made = int(np.prod(self.generator.output))
        if made != self.inputs:
            raise ShapeError(f"the generator's output has {made} features {self.generator.output}, and a row has "
                             f"{self.inputs}: let its last layer have as many outputs")
        last, numbers = self.discriminator.layers[-1], self.classes or 1
        if self.discriminator.output != (numbers,) or getattr(last, "activation", "linear") != "linear":
            each = " for each class" if self.classes else ""
            raise ParameterError(f"the discriminator ends with {last}; objective {self.objective.name} needs one "
                                 f"number without bounds{each}: let the last layer be Dense({numbers})")
        if self.discriminator.buffers:
            raise ParameterError(f"the discriminator keeps {self.discriminator.buffers[0].name}, statistics in which "
                                 "rows and samples would mix: leave its batch norm out")
        if self.penalised:
            for name, layer in zip(self.discriminator.names, self.discriminator.layers, strict=True):
                if not layer.piecewise_linear:
                    raise ParameterError(
                        f"layer {name} is {layer}, whose slopes change with the parameters; the penalty of objective "
                        f"{self.objective.name} needs a piecewise linear discriminator: activation relu or leaky_relu, "
                        "and no normalisation (or penalty 0)")

    def _stages(self) -> tuple[Stage, ...]:
        usual = {"usual": {"beta1": self.rules["beta1"], "beta2": self.rules["beta2"]}}

        def rule(network: str) -> dict[str, Any]:
            named = {"optimizer": self.rules[f"{network}_optimizer"], "learning_rate": self.rules[f"{network}_rate"]}
            if named["optimizer"] is not None:
                _check.one_of(f"{network}_optimizer", named["optimizer"], RULES)
            if named["learning_rate"] is not None:
                _check.number(f"{network}_rate", named["learning_rate"], above=0)
            return {**usual, **{name: value for name, value in named.items() if value is not None}}

        clipped = {} if self.clip_weights is None else {"bound": self.clip_weights}
        names = self.discriminator.name, self.generator.name
        critic = Phase(names[0], names[:1], optimizer={**rule("discriminator"), **clipped})
        maker = Phase(names[1], names[1:], every=self.generator_every, optimizer=rule("generator"),
                      average=self.average or None)
        alone = (Stage((critic,), steps=self.pretrain_steps),) if self.pretrain_steps else ()
        return (*alone, Stage((critic, maker)))

    @property
    def penalised(self) -> bool:
        """Whether there is a penalty on the discriminator's slopes."""
        return self.objective.penalised != "" and self.penalty > 0

    def weight_at(self, step: int) -> float:
        """The penalty's weight in that step of training."""
        if self.penalty_end is None or self.penalty_steps is None:
            return self.penalty
        return self.penalty * (self.penalty_end / self.penalty) ** min(1.0, step / self.penalty_steps)

    def check_data(self, data: Source) -> None:
        """Refuse labels that are no classes of this model."""
        if self.conditional:
            check_classes(data, self.classes, self.class_names)

    # ---- training

    def initialise(self, parameters: np.ndarray, buffers: np.ndarray, seed: int, data: Statistics) -> None:
        """Layers as they begin; centre and scale of the rows.

        Biases of the discriminator's first layer, if it is dense, spread its kinks over the data, and those of the
        generator's over the noise: a network whose kinks all lie at 0 is linear where the data are.
        """
        if data.count > 1 and not data.variance.any():
            raise DataError(f"all {data.count} rows are the same, and so would all samples be: there is nothing to "
                            "learn; values that differ by less than a 1e-7th of themselves are equal in float32 "
                            "(subtract what they have in common first)")
        views = self.layout.views(parameters)
        for network in (self.generator, self.discriminator):
            network.initialise(parameters, seed)
        views[f"rows{self.ending}.centre"][:] = data.mean
        scale = float(np.sqrt(np.mean(data.variance))) or 1.0
        views[f"rows{self.ending}.scale"][:] = scale
        reach = float(np.max(data.maximum.astype(np.float64) - data.minimum)) / 2 / scale
        for number, (network, width) in enumerate(((self.generator, NOISE_KINKS), (self.discriminator, reach))):
            weight, bias = (views.get(f"{network.names[0]}.{tensor}") for tensor in ("weight", "bias"))
            if isinstance(network.layers[0], Dense) and weight is not None and bias is not None:
                places = np.empty((len(bias), 1), dtype=np.float32)
                _core.uniform(places, np.arange(len(bias)), seed % random.SEEDS, random.INITIALISE, number, BETWEEN)
                bias[:] = width * (2 * places[:, 0] - 1) * np.linalg.norm(weight, axis=1)

    @np.errstate(over="ignore", invalid="ignore")  # of a run that diverges: the loss tells
    def gradient(self, parameters: np.ndarray, gradients: np.ndarray, buffers: np.ndarray,
                 batch: Batch) -> dict[str, float]:
        """Overwrite the phase's slices of ``gradients`` with the sum over the batch's rows.

        Returns
        -------
        dict
            Sums over the rows. In the discriminator's turn ``loss``, penalty included, ``penalty``, and what it gets
            right: ``real_right`` and ``fake_right``, or ``pairs_right`` where a row is compared with its own sample. In
            the generator's ``loss``.
        """
        if batch.phase != "generator":
            seen = self.seen(parameters, buffers, batch)
            return self.of_discriminator(parameters, gradients, buffers, batch, seen)
        seen = self.seen(parameters, buffers, batch, slot=0, rows=self.objective.paired)
        found, slopes = self.of_samples(parameters, buffers, batch, seen)
        self.of_generator(parameters, gradients, buffers, batch, slopes)
        return {"loss": found}

    def of_discriminator(self, parameters: np.ndarray, gradients: np.ndarray, buffers: np.ndarray, batch: Batch,
                         seen: np.ndarray) -> dict[str, float]:
        """The discriminator's turn, given what it sees (`seen`)."""
        objective, critic, packs = self.objective, self.discriminator, Packs(len(batch), self.packing)
        seen = packs.of(seen)
        places, own, batch = self._places(batch, 2), batch, _judged_in(batch, packs, 2)
        judged = self._judged(parameters, buffers, batch, seen, places, slot=0)
        r, f = judged[: packs.count], judged[packs.count :]
        losses, of_r, of_f = objective.of_discriminator(r, f)
        slopes, weights = np.concatenate([of_r, of_f]), np.tile(packs.weights, 2)
        found = self._found(packs, losses, r, f)
        if not self.penalised:
            critic.backward(parameters, gradients, buffers, batch, self._deltas(slopes * weights, places), slot=0)
            return found
        if objective.penalised == "between":
            critic.backward(parameters, gradients, buffers, batch, self._deltas(slopes * weights, places), slot=0,
                            final=False)
            points, places, batch = self._between(seen, own, packs), self._places(own), _judged_in(own, packs)
            self._judged(parameters, buffers, batch, points, places, slot=1)
            slopes, weights, penalised, slot = np.ones_like(packs.weights), packs.weights, packs.count, 1
            g = np.empty_like(points)
            critic.backward(parameters, None, buffers, batch, self._deltas(weights, places), slot=1, below=g)
        else:
            # One backward pass serves loss and penalty: its gradients with respect to the rows are g times the loss's
            # slopes, and the derivative along u / slope of what it went backward from is that along u of D.
            slopes = np.where(np.abs(slopes) < LEAST_SLOPE, LEAST_SLOPE, slopes)
            penalised, slot = len(seen) if objective.penalised == "both" else packs.count, 0
            g = np.empty_like(seen)
            critic.backward(parameters, gradients, buffers, batch, self._deltas(slopes * weights, places), slot=0,
                            below=g, final=False)
        g /= (slopes * weights)[:, None]
        penalties, along = objective.at_slopes(g[:penalised], self.weight_at(batch.step))
        directions = np.empty_like(g)
        directions[penalised:] = 0
        np.divide(along, slopes[:penalised, None], out=directions[:penalised])
        critic.tangent(parameters, gradients, buffers, batch, directions, slot=slot, add=True)
        found["penalty"] = float((weights[:penalised] * penalties).sum(dtype=np.float64))
        found["loss"] += found["penalty"]
        return found

    def of_samples(self, parameters: np.ndarray, buffers: np.ndarray, batch: Batch,
                   seen: np.ndarray) -> tuple[float, np.ndarray]:
        """The sum of the generator's losses, and their slopes with respect to the samples that are ``seen``."""
        objective, critic, packs = self.objective, self.discriminator, Packs(len(batch), self.packing)
        seen = packs.of(seen)
        places, batch = self._places(batch), _judged_in(batch, packs)
        f, r = self._judged(parameters, buffers, batch, seen[packs.count :], places, slot=0), None
        if objective.paired:  # with what dropout leaves of the sample
            r = self._judged(parameters, buffers, batch, seen[: packs.count], places, training=True)
        losses, slopes = objective.of_generator(f if r is None else r, f)
        below = np.empty_like(seen[packs.count :])
        critic.backward(parameters, None, buffers, batch, self._deltas(slopes * packs.weights, places), slot=0,
                        below=below)
        return packs.sum(losses), packs.back(below)

    def of_generator(self, parameters: np.ndarray, gradients: np.ndarray, buffers: np.ndarray, batch: Batch,
                     slopes: np.ndarray, below: np.ndarray | None = None) -> None:
        """The generator's turn, given a loss's ``slopes`` with respect to the samples that `seen` has kept in slot 0;
        ``below`` receives those with respect to what the generator saw."""
        if self.output != "linear":
            slopes /= self._scale(parameters)
        self.generator.backward(parameters, gradients, buffers, batch, slopes, slot=0, below=below)

    def seen(self, parameters: np.ndarray, buffers: np.ndarray, batch: Batch, *, slot: int | None = None,
              rows: bool = True) -> np.ndarray:
        """What the discriminator sees of a turn: the batch's rows, if wanted, over as many samples (2 B, ...)."""
        count = len(batch)
        seen = np.empty((2 * count, self.inputs), dtype=np.float32)
        if rows:
            self._standardised(parameters, batch.rows, seen[:count])
        given = self._with(self.noise_of(batch), batch.labels)
        self.generator.forward(parameters, buffers, batch, given, seen[count:], slot=slot)
        if self.output != "linear":
            self._standardised(parameters, seen[count:], seen[count:])
        return seen

    def noise_of(self, batch: Batch) -> np.ndarray:
        """The numbers that the samples of a turn are made of, (B, noise)."""
        noise = np.empty((len(batch), self.noise), dtype=np.float32)
        _core.normal(noise, batch.index, batch.seed % random.SEEDS, random.NOISE, batch.step, batch.turn)
        return noise

    def _places(self, batch: Batch, times: int = 1) -> np.ndarray | None:
        """Which output of the discriminator counts for each row, and for so many samples of each; None where it has
        one."""
        if not self.classes:
            return None
        return np.tile(np.asarray(batch.labels, dtype=np.int64).reshape(len(batch), 1), (times, 1))

    def _judged(self, parameters: np.ndarray, buffers: np.ndarray, batch: Batch, seen: np.ndarray,
                places: np.ndarray | None, slot: int | None = None, training: bool | None = None) -> np.ndarray:
        """The discriminator's numbers of what it sees, (n,)."""
        out = np.empty((len(seen), self.classes or 1), dtype=np.float32)
        self.discriminator.forward(parameters, buffers, batch, seen, out, slot=slot, training=training)
        return (out if places is None else np.take_along_axis(out, places, axis=1))[:, 0]

    def _deltas(self, slopes: np.ndarray, places: np.ndarray | None) -> np.ndarray:
        """The slopes of a loss with respect to those numbers, (n,), as deltas of the outputs."""
        if places is None:
            return np.ascontiguousarray(slopes[:, None])
        out = np.zeros((len(slopes), self.classes), dtype=np.float32)
        np.put_along_axis(out, places, slopes[:, None], axis=1)
        return out

    def _between(self, seen: np.ndarray, batch: Batch, packs: Packs) -> np.ndarray:
        """A point between each row, or pack, and its sample, at a place that is drawn."""
        places = np.empty((packs.count, 1), dtype=np.float32)
        _core.uniform(places, batch.index[packs.first], batch.seed % random.SEEDS, random.NOISE, batch.step,
                      BETWEEN + batch.turn)
        return places * seen[: packs.count] + (1 - places) * seen[packs.count :]

    def _found(self, packs: Packs, losses: np.ndarray, r: np.ndarray, f: np.ndarray) -> dict[str, float]:
        """Sums over the rows: the loss, and what the discriminator gets right."""
        right = self.objective.right(r, f)
        return {"loss": packs.sum(losses), **{name: packs.sum(hits) for name, hits in right.items()}}

    def _standardised(self, parameters: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
        np.subtract(rows, self._centre(parameters), out=out)
        out /= self._scale(parameters)

    def _centre(self, parameters: np.ndarray) -> np.ndarray:
        return parameters[self._place : self._place + self.inputs]

    def _scale(self, parameters: np.ndarray) -> np.float32:
        return parameters[self._place_of_scale]

    def _with(self, noise: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        """What the generator sees: noise, and where conditional a 1 at the place of the label among zeros."""
        return np.concatenate([noise, one_hot(labels, self.classes)], axis=1) if self.classes else noise

    # ---- what a trained pair says

    def evaluate(self, parameters: np.ndarray, buffers: np.ndarray, batch: Batch) -> dict[str, float]:
        """Sums over rows, each beside a sample of the (averaged) generator.

        ``loss``
            The generator's.
        ``loss_discriminator``
            Without the penalty.
        ``real_right``, ``fake_right`` or ``pairs_right``
            What the discriminator gets right.
        """
        own = Batch(batch.rows, batch.index, labels=batch.labels)  # the noise of a row is always the same
        return self.scores(parameters, buffers, own, self.seen(parameters, buffers, own))

    def scores(self, parameters: np.ndarray, buffers: np.ndarray, batch: Batch, seen: np.ndarray) -> dict[str, float]:
        """Those of `evaluate`, given what the discriminator sees."""
        packs = Packs(len(batch), self.packing)
        judged = self._judged(parameters, buffers, batch, packs.of(seen), self._places(batch, 2))
        r, f = judged[: packs.count], judged[packs.count :]
        found = self._found(packs, self.objective.of_discriminator(r, f)[0], r, f)
        return {"loss": packs.sum(self.objective.of_generator(r, f)[0]), "loss_discriminator": found.pop("loss"),
                **found}

    def generate(self, parameters: np.ndarray, buffers: np.ndarray, noise: np.ndarray,
                 labels: np.ndarray | None = None) -> np.ndarray:
        """Samples of ``noise`` (n, noise) and, where conditional, of ``labels`` (n,) -> (n, inputs)."""
        given = np.ascontiguousarray(self._with(noise, labels), dtype=np.float32)
        out = self.generator.outputs(parameters, buffers, given)
        if self.output == "linear":
            out *= self._scale(parameters)
            out += self._centre(parameters)
        return out

    def sample(self, parameters: np.ndarray, buffers: np.ndarray, count: int, seed: int,
               labels: np.ndarray | None = None) -> np.ndarray:
        """``count`` samples (count, inputs); where conditional, of ``labels`` (count,), by default all in turn."""
        noise, number = np.empty((count, self.noise), dtype=np.float32), np.arange(count)
        _core.normal(noise, number, seed % random.SEEDS, random.NOISE)
        if self.conditional and labels is None:
            labels = number % self.classes
        return self.generate(parameters, buffers, noise, labels)

    def pictures(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        """``samples``, always of the same noise."""
        return {"samples": self.shown(parameters, buffers)}

    def shown(self, parameters: np.ndarray, buffers: np.ndarray) -> np.ndarray:
        """Samples of one noise (n, inputs)."""
        return self.sample(parameters, buffers, SHOWN if self.inputs > 2 else POINTS, 0)

    def warnings(self, parameters: np.ndarray, buffers: np.ndarray, line: Mapping[str, Any],
                 shown: np.ndarray) -> list[str]:
        """A discriminator that is always right, and samples that are all alike."""
        trained = "train_loss_generator" in line  # else the discriminator is trained alone
        return signs_of_collapse(line if trained else {}, shown, self._scale(parameters), self.objective.name)


def _judged_in(batch: Batch, packs: Packs, times: int = 1) -> Batch:
    """The batch, with the number of a row for each pack of so many such batches over one another: what layers of a
    discriminator draw belongs to that row, and is the same for a row and its sample."""
    own = copy(batch)
    own.index = np.tile(batch.index[packs.first], times)
    return own


def signs_of_collapse(line: Mapping[str, Any], samples: np.ndarray, scale: np.float32, objective: str) -> list[str]:
    """What the line of an epoch in which both networks were trained, and samples after it, warn of; ``scale`` is the
    rows'."""
    texts, held = [], "lower clip_weights" if objective == "wgan" else "raise penalty"
    right = [line[f"train_{name}"] for name in ("pairs_right", "real_right", "fake_right") if f"train_{name}" in line]
    if right and min(right) > SURE:
        texts.append(f"the discriminator gets all rows and samples right, and teaches the generator little: {held}, "
                     "lower discriminator_rate, or give the generator more units or generator_every 1")
    spread = (samples / np.float64(scale)).var(axis=0).mean()
    if not np.isfinite(spread):
        texts.append("samples are infinite or NaN: lower generator_rate")
    if spread < ALIKE:
        another = "lower generator_rate" if objective == "r3gan" else "lower generator_rate, or choose objective r3gan"
        texts.append(f"all samples are alike (their variance is {spread:.1g} of the data's): {held}, "
                     f"{another}")
    return texts


def with_shape(options: dict[str, Any], data: Source) -> dict[str, Any]:
    """Options of a pair, with the shape of the rows as pictures where its networks see such."""
    pictured = options.get("channels") or any(isinstance(options.get(name), str) for name in UNITS)
    if pictured and options.get("image_shape") is None and data.image_shape is not None:
        return {**options, "image_shape": tuple(data.image_shape)}
    return options


def output_for(data: Source) -> str:
    """The activation of a generator's outputs that has the range of these rows."""
    return "linear" if reaches_beyond(data, 0, 1) else "sigmoid"


def one_hot(labels: Any, classes: int) -> np.ndarray:
    """A 1 at the place of each label among zeros, (n, classes)."""
    places = np.asarray(labels, dtype=np.int64).reshape(-1)
    out = np.zeros((len(places), classes), dtype=np.float32)
    out[np.arange(len(places)), places] = 1
    return out

