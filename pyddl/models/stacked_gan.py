"""Stacked generative adversarial network: an encoder's levels, inverted one by one by adversarial pairs, then jointly.

Source: Huang, Li, Poursaeed, Hopcroft, Belongie (2017), Stacked generative adversarial networks, CVPR. There the
network that recovers the noise shares layers with the discriminator; here it has its own, for a penalty on slopes is on
the discriminator's alone, and what the two play for is any objective of `pyddl.models.objectives`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from pyddl import _check
from pyddl.data.batch import Batch
from pyddl.data.source import Source
from pyddl.data.statistics import Statistics
from pyddl.errors import ParameterError
from pyddl.layout import Layout, Slice
from pyddl.models.classifier import check_classes, softmax, targets_of
from pyddl.models.distance import energy_distance
from pyddl.models.gan import GAN, POINTS, SHOWN, one_hot, output_for, signs_of_collapse, with_shape
from pyddl.models.layers import Dense, Layer, as_plain
from pyddl.models.likelihood import Measure
from pyddl.models.network import Network
from pyddl.models.objectives import OBJECTIVES
from pyddl.models.on_encoder import ENCODER, Encoder, taken_over
from pyddl.models.stages import Phase, Stage
from pyddl.names import ACTIVATIONS
from pyddl.random import SEED_OF_LEVEL

__all__ = ["Level", "StackedGAN"]

NOISE = 16  # numbers of each level, where nothing else is said
MAKER, CRITIC = "generator", "discriminator"

Link = tuple[int, Batch, np.ndarray]
"""Of a chain of levels: its number, a batch of its own, and what its discriminator sees."""


class Level(GAN):
    """The pair of one level. Its generator makes the level's values of noise and of the level above, and a network
    beside it recovers the noise from them.

    Values are compared *standardised*: by the mean of each and one scale for all. What the generator is given comes in
    the place of a batch's labels, (B, beside).

    Parameters
    ----------
    number : int
        0: the rows themselves.
    inputs : int
        Values of the level.
    beside : int
        Values that the generator is given beside the noise.
    recovers : bool
        Whether the noise is recovered.
    **options
        As of `GAN`, not conditional.
    """

    outputs = ACTIVATIONS
    recovery: Network | None = None

    def __init__(self, number: int, inputs: int, beside: int, recovers: bool, **options: Any):
        self.ending, self._given_beside = f"_{number}", beside
        super().__init__(inputs, **options)
        if recovers:
            layers = [*self.discriminator.layers[:-1], Dense(self.noise, initialiser=self.initialiser)]
            self.recovery = Network(layers, inputs, name=f"recovery{self.ending}", group=self.generator.name,
                                    dtype=self.dtype, number=len(self.generator.layers) + len(layers))

    def _set_classes(self, conditional: bool, classes: int | Sequence[str] | None) -> None:
        super()._set_classes(conditional, classes)
        self.beside = self._given_beside

    @property
    def slices(self) -> list[Slice]:
        return [*super().slices, *([] if self.recovery is None else self.recovery.slices)]

    def compile(self, layout: Layout, buffers: Layout) -> None:
        super().compile(layout, buffers)
        if self.recovery is not None:
            self.recovery.compile(layout, buffers)

    def initialise(self, parameters: np.ndarray, buffers: np.ndarray, seed: int, data: Statistics) -> None:
        super().initialise(parameters, buffers, seed, data)
        if self.recovery is not None:
            self.recovery.initialise(parameters, seed)

    def _with(self, noise: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
        return noise if labels is None else np.concatenate([noise, labels], axis=1)

    def standard(self, parameters: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Values as they are compared."""
        out = np.empty_like(values)
        self._standardised(parameters, values, out)
        return out

    def plain(self, parameters: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Values as they are compared, as the encoder has them."""
        return values * self._scale(parameters) + self._centre(parameters)

    def scale(self, parameters: np.ndarray) -> np.float32:
        """By which values are divided to be compared."""
        return self._scale(parameters)

    def recover(self, parameters: np.ndarray, gradients: np.ndarray | None, buffers: np.ndarray, batch: Batch,
                samples: np.ndarray, weight: float) -> tuple[float, np.ndarray]:
        """The sum over ``samples`` of the squared error of the noise that is recovered from them, mean over its
        numbers; and the slopes of ``weight`` times it with respect to the samples."""
        assert self.recovery is not None
        errors, below = np.empty((len(samples), self.noise), dtype=np.float32), np.empty_like(samples)
        self.recovery.forward(parameters, buffers, batch, samples, errors, slot=0, training=gradients is not None)
        errors -= self.noise_of(batch)
        deltas = errors * np.float32(2 * weight / self.noise)
        self.recovery.backward(parameters, gradients, buffers, batch, deltas, slot=0, below=below)
        return _squares(errors) / self.noise, below


class StackedGAN:
    """Pairs of a generator and a discriminator, one for each level of an encoder that stays as it is.

    Level 0 are the rows, the levels above what leaves each dense layer of the encoder; a classifier's classes stand on
    top of them. The generator of a level makes its values of noise and of those of the level above. Training has a
    stage for each level, in which what is above comes from the encoder, and then one for all together, in which it
    comes from the generator above, as in a sample. To what `GAN` has for its loss, generators add

    - the *conditional* loss: how far the encoder's next level of a sample is from what the sample was made of: squared,
      mean over values, which are standardised; of the classes the cross-entropy in nats;
    - the *entropy* loss: the squared error, mean over numbers, of the noise that a network recovers from the sample: up
      to constants, a bound on the entropy of samples that are made of the same.

    Parameters
    ----------
    inputs : int
        Features of a row.
    encoder : Trained or sequence of dict
        A trained model whose encoder is inverted, with its weights; or only its layers, as plain values.
    classes : int or sequence of str, optional
        Where the encoder is given by its layers: of which the last ones are the logits. A `Trained` encoder has its
        own.
    conditional_weight, entropy_weight : float, default=1, 1
        Of the two losses; at 0 there is no such loss.
    pretrain_epochs : sequence of int, default=(10,)
        Of each level, from the rows upward, or one number for all. All together have the epochs of training.
    generator, discriminator : sequence of int or str, optional
        Units of the dense hidden layers of each level's networks, by default as in `GAN`; or a text of layers, which
        is of the pair of the rows, while those above have the default.
    channels, image_shape, upsample, batch_norm, output
        As in `GAN`, of the pair of the rows. Generators above have the activation of the encoder's layer.
    noise : int, default=16
        Normal numbers of each level.
    penalty : float, optional
        As in `GAN`, of the pair of the rows; where it is on the squares of slopes, so much less in a level above as
        that has fewer values.
    objective, clip_weights, label_smoothing, generator_every, average, activation, generator_optimizer, \
discriminator_optimizer, generator_rate, discriminator_rate, beta1, beta2, initialiser, dtype
        As in `GAN`, of all pairs.

    Attributes
    ----------
    layout : Layout
        ``generator_0.0.weight``, ..., ``recovery_0.0.weight``, ..., ``generator_1.0.weight``, ..., then those of
        ``discriminator_0``, ...; and, which no phase trains, ``rows_0.centre`` (values of the level,), ``rows_0.scale``
        (1,), ... and ``encoder.0.weight``, ....
    levels : tuple of Level
    stages : tuple of Stage
        Of the phases ``discriminator_0`` and ``generator_0``, and so on; the last one of ``discriminators`` and
        ``generators``.

    Raises
    ------
    ParameterError, ShapeError
        There is no encoder, or it has no levels, or is for other rows; numbers of epochs are not as many as levels.
    """

    name = "stacked_gan"

    def __init__(self, inputs: int, encoder: Encoder = None, classes: int | Sequence[str] | None = None, *,
                 conditional_weight: float = 1.0, entropy_weight: float = 1.0, pretrain_epochs: Sequence[int] = (10,),
                 generator: Sequence[int] | str | None = None, discriminator: Sequence[int] | str | None = None,
                 channels: Sequence[int] | None = None, image_shape: Sequence[int] | None = None,
                 upsample: str = "transposed", batch_norm: str = "none", noise: int | None = None,
                 objective: str = "r3gan", penalty: float | None = None, clip_weights: float | None = None,
                 label_smoothing: float = 0.0, generator_every: int = 1, average: float = 0.999,
                 activation: str = "leaky_relu", output: str = "linear", generator_optimizer: str | None = None,
                 discriminator_optimizer: str | None = None, generator_rate: float | None = None,
                 discriminator_rate: float | None = None, beta1: float = 0.0, beta2: float = 0.99,
                 initialiser: str = "auto", dtype: str = "float32"):
        self.inputs = _check.integer("inputs", inputs, at_least=1)
        self.conditional_weight = _check.number("conditional_weight", conditional_weight, at_least=0)
        self.entropy_weight = _check.number("entropy_weight", entropy_weight, at_least=0)
        self._taken = taken_over(encoder, self.inputs, head=True)
        classes = classes if self._taken.classes is None else self._taken.classes
        self.class_names = None if classes is None or isinstance(classes, int | np.integer) else tuple(classes)
        self.classes = (0 if classes is None else len(self.class_names) if self.class_names else
                        _check.integer("classes", classes, at_least=2))
        self.conditional = self.needs_labels = self.classes > 0
        self._cuts = _levels_of(self._taken.layers, self.conditional)
        self._shared: dict[str, Any] = {
            "generator": _plain(generator), "discriminator": _plain(discriminator),
            "noise": NOISE if noise is None else noise, "objective": objective, "penalty": penalty,
            "clip_weights": clip_weights, "label_smoothing": label_smoothing, "generator_every": generator_every,
            "average": average, "activation": activation, "generator_optimizer": generator_optimizer,
            "discriminator_optimizer": discriminator_optimizer, "generator_rate": generator_rate,
            "discriminator_rate": discriminator_rate, "beta1": beta1, "beta2": beta2, "initialiser": initialiser,
            "dtype": dtype}
        self._of_rows: dict[str, Any] = {"channels": _plain(channels), "image_shape": _plain(image_shape),
                                         "upsample": upsample, "batch_norm": batch_norm, "output": output}
        self.encoder = Network(self._taken.layers, self.inputs, dtype=dtype, group=ENCODER,
                               names=[f"{ENCODER}.{i}" for i in range(len(self._taken.layers))])
        self.widths = [math.prod(self.encoder.shapes[cut]) for cut in self._cuts]
        self.levels = tuple(
            Level(i, width, beside, self.entropy_weight > 0, **{**self._shared, "penalty": self._penalty(width),
                                                                **(self._of_rows if i == 0 else self._above(i))})
            for i, (width, beside) in enumerate(zip(self.widths, [*self.widths[1:], self.classes], strict=True)))
        self.pretrain_epochs = _check.integers("pretrain_epochs", pretrain_epochs, at_least=1)
        if len(self.pretrain_epochs) not in (1, len(self.levels)):
            raise ParameterError(f"pretrain_epochs is {list(self.pretrain_epochs)}; expected one number for all of "
                                 f"{len(self.levels)} levels, the rows among them, or {len(self.levels)}")
        self._lay_out()
        self.dtype, self.stages = self.encoder.dtype, self._stages()
        self.flops = self.encoder.flops + sum(level.flops for level in self.levels)
        self.measures: dict[str, Measure] = {"energy_distance": partial(energy_distance, self)}

    # ---- how it is made

    def _above(self, i: int) -> dict[str, Any]:
        """What only levels above the rows have: the range of the encoder's values, and no pictures."""
        texts = {name: None for name in (MAKER, CRITIC) if isinstance(self._shared[name], str)}
        return {**texts, "output": getattr(self._taken.layers[self._cuts[i] - 1], "activation", "linear")}

    def _penalty(self, width: int) -> float | None:
        """Of a level with so many values: a critic of more of them has smaller slopes, by the root of their number."""
        given = self._shared["penalty"]
        kind = OBJECTIVES[_check.one_of("objective", self._shared["objective"], OBJECTIVES)]
        if kind.penalised not in ("real", "both") or (given is None and not kind.penalty):
            return given
        weight = kind.penalty if given is None else _check.number("penalty", given, at_least=0)
        return weight * width / self.inputs

    @classmethod
    def for_data(cls, data: Source, output: str | None = None, **options: Any) -> StackedGAN:
        """The model for these rows: with outputs of their range, and of their shape."""
        return cls(data.features, **with_shape(options, data), output=output_for(data) if output is None else output)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are made again from the options, and begin with the same encoder."""
        return partial(StackedGAN, **self.options()), (), {"_taken": self._taken}

    def options(self) -> dict[str, Any]:
        """Plain values that make the same model again: ``StackedGAN(**options)``."""
        return {"inputs": self.inputs, "encoder": [as_plain(layer) for layer in self._taken.layers],
                "classes": list(self.class_names) if self.class_names else self.classes or None,
                "conditional_weight": self.conditional_weight, "entropy_weight": self.entropy_weight,
                "pretrain_epochs": list(self.pretrain_epochs), **self._of_rows, **self._shared}

    def _lay_out(self) -> None:
        """All generators, all discriminators, then what stays as it is: phases are ranges."""
        order = [MAKER, CRITIC, "rows"]
        slices = sorted((s for level in self.levels for s in level.slices),
                        key=lambda s: order.index(s.group.split("_")[0]))
        self.layout = Layout([*slices, *self.encoder.slices])
        self.buffers = Layout([*(s for level in self.levels for s in level.buffers), *self.encoder.buffers])
        for level in self.levels:
            level.compile(self.layout, self.buffers)
        self.encoder.compile(self.layout, self.buffers)

    def _stages(self) -> tuple[Stage, ...]:
        epochs = self.pretrain_epochs * (len(self.levels) if len(self.pretrain_epochs) == 1 else 1)
        alone = [replace(level.stages[0], epochs=each) for level, each in zip(self.levels, epochs, strict=True)]

        def joined(*phases: Phase) -> Phase:
            name = phases[0].name.split("_")[0]
            return replace(phases[0], name=f"{name}s", groups=tuple(phase.groups[0] for phase in phases))

        return (*alone, Stage([joined(*phases) for phases in zip(*(stage.phases for stage in alone), strict=True)]))

    def check_data(self, data: Source) -> None:
        """Refuse labels that are no classes of the encoder."""
        if self.conditional:
            check_classes(data, self.classes, self.class_names)

    # ---- training

    def initialise(self, parameters: np.ndarray, buffers: np.ndarray, seed: int, data: Statistics) -> None:
        """The encoder as it was trained; each pair as a `GAN` whose rows are the encoder's values."""
        self.encoder.initialise(parameters, seed)
        self._taken.put(self.layout, parameters, self.buffers, buffers)
        for i, level in enumerate(self.levels):
            def own(rows: np.ndarray, i: int = i) -> np.ndarray:
                return self._codes(parameters, buffers, rows, i)[i]

            level.initialise(parameters, buffers, seed + i * SEED_OF_LEVEL, data.through(own, self.widths[i]))

    @np.errstate(over="ignore", invalid="ignore")  # of a run that diverges: the loss tells
    def gradient(self, parameters: np.ndarray, gradients: np.ndarray, buffers: np.ndarray,
                 batch: Batch) -> dict[str, float]:
        """Overwrite the phase's slices of ``gradients`` with the sum over the batch's rows.

        Returns
        -------
        dict
            Sums over the rows, of the phase's levels together. In the discriminators' turn as of `GAN`, but that what
            they get right is a mean over the levels; in the generators' ``loss``, and of it ``conditional`` and
            ``entropy``, without their weights.
        """
        kind, _, number = batch.phase.partition("_")
        which = range(int(number), int(number) + 1) if number else range(len(self.levels))
        if kind.startswith(MAKER):
            chain = [*self._chain(parameters, buffers, batch, which, slot=0)]
            return self._of_generators(parameters, gradients, buffers, chain)
        found: dict[str, float] = {}
        for i, own, seen in self._chain(parameters, buffers, batch, which):
            _add(found, self.levels[i].of_discriminator(parameters, gradients, buffers, own, seen), len(which))
        return found

    def _of_generators(self, parameters: np.ndarray, gradients: np.ndarray | None, buffers: np.ndarray,
                       chain: Sequence[Link]) -> dict[str, float]:
        """Losses from the rows upward: a level's samples count for its own losses, and for those of the level below,
        whose generator was given them. Without ``gradients`` those of a stack alone, and not what the objective has."""
        found, passed = {"loss": 0.0}, None
        for i, own, seen in reversed(chain):
            level, samples, count = self.levels[i], seen[len(own) :], len(own)
            slopes, of_given = np.zeros_like(samples), np.float32(0)
            if gradients is not None:
                loss, slopes = level.of_samples(parameters, buffers, own, seen)
                _add(found, {"loss": loss})
            if passed is not None:
                slopes += passed
            if self.entropy_weight:
                loss, below = level.recover(parameters, gradients, buffers, own, samples, self.entropy_weight)
                _add(found, {"loss": self.entropy_weight * loss, "entropy": loss})
                slopes += below
            if self.conditional_weight and own.labels is not None:
                loss, below, of_given = self._conditional(parameters, buffers, i, own, samples)
                _add(found, {"loss": self.conditional_weight * loss, "conditional": loss})
                slopes += below
            if gradients is not None:
                given = np.empty((count, level.noise + level.beside), dtype=np.float32)
                level.of_generator(parameters, gradients, buffers, own, slopes, given)
                passed = given[:, level.noise :] + of_given
        return found

    def _conditional(self, parameters: np.ndarray, buffers: np.ndarray, i: int, own: Batch,
                     samples: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """The sum of the conditional losses of a level's samples; and slopes of that, with its weight, with respect to
        them and to what they were made of."""
        level, given = self.levels[i], own.labels
        assert given is not None
        first, last = self._part(i)
        again, below = np.empty_like(given), np.empty_like(samples)
        self.encoder.forward(parameters, buffers, own, level.plain(parameters, samples), again, first=first, last=last,
                             slot=0, training=False)
        if i == len(self.levels) - 1:
            probabilities = softmax(again.copy())
            right = probabilities[given == 1]
            loss = -float(np.log(np.maximum(right, np.finfo(np.float32).tiny)).sum(dtype=np.float64))
            deltas, of_given = probabilities - given, np.zeros_like(given)
        else:
            above = self.levels[i + 1]
            errors = above.standard(parameters, again) - given
            loss = _squares(errors) / errors.shape[1]
            of_given = errors * np.float32(-2 / errors.shape[1])
            deltas = -of_given / above.scale(parameters)
        self.encoder.backward(parameters, None, buffers, own, deltas * np.float32(self.conditional_weight), slot=0,
                              first=first, below=below)
        return loss, below * level.scale(parameters), of_given * np.float32(self.conditional_weight)

    def _chain(self, parameters: np.ndarray, buffers: np.ndarray, batch: Batch, which: range,
               slot: int | None = None) -> Iterator[Link]:
        """These levels, from the uppermost down; the labels of their batches are what their generators are given. To
        the uppermost that comes from the encoder, to others from the generator above."""
        codes, top = self._codes(parameters, buffers, batch.rows, min(which.stop, len(self.levels) - 1)), which[-1]
        if top < len(self.levels) - 1:
            given: np.ndarray | None = self.levels[top + 1].standard(parameters, codes[top + 1])
        else:
            given = one_hot(targets_of(batch), self.classes) if self.conditional else None
        for i in reversed(which):
            own = Batch(codes[i], batch.index, labels=given, seed=batch.seed + i * SEED_OF_LEVEL, step=batch.step,
                        turn=batch.turn, phase=batch.phase, total=batch.total, sum=batch.sum, ready=batch.ready)
            seen = self.levels[i].seen(parameters, buffers, own, slot=slot)
            yield i, own, seen
            given = seen[len(batch) :]

    def _part(self, i: int) -> tuple[int, int]:
        """Which of the encoder's layers lead from level i to the next."""
        return self._cuts[i], (*self._cuts, len(self.encoder.layers))[i + 1]

    def _codes(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray, last: int) -> list[np.ndarray]:
        """The encoder's values of levels 0 to ``last``, for rows (n, inputs)."""
        codes = [rows]
        for i in range(last):
            first, end = self._part(i)
            codes.append(np.empty((len(rows), self.widths[i + 1]), dtype=np.float32))
            self.encoder.forward(parameters, buffers, None, codes[i], codes[-1], first=first, last=end)
        return codes

    # ---- what it has learned

    def evaluate(self, parameters: np.ndarray, buffers: np.ndarray, batch: Batch) -> dict[str, float]:
        """Sums over rows, each beside a sample of all generators together.

        ``loss``, ``conditional``, ``entropy``
            As in `gradient`, of the generators.
        ``loss_discriminator``, ``pairs_right``, ...
            As in `GAN.evaluate`: the first summed over the levels, others a mean.
        ``recognised``
            Where there are classes: samples that the encoder takes for the class that they were made of.
        """
        own, which = Batch(batch.rows, batch.index, labels=batch.labels), range(len(self.levels))
        chain = [*self._chain(parameters, buffers, own, which)]
        found = self._of_generators(parameters, None, buffers, chain)
        for i, each, seen in chain:
            _add(found, self.levels[i].scores(parameters, buffers, each, seen), len(which))
        if self.conditional:
            rows = self.levels[0].plain(parameters, seen[len(own) :])
            logits = np.empty((len(own), self.classes), dtype=np.float32)
            self.encoder.forward(parameters, buffers, None, rows, logits)
            found["recognised"] = float(np.count_nonzero(logits.argmax(axis=1) == targets_of(own)))
        return found

    def sample(self, parameters: np.ndarray, buffers: np.ndarray, count: int, seed: int,
               labels: np.ndarray | None = None) -> np.ndarray:
        """``count`` samples (count, inputs); where there are classes, of ``labels`` (count,), by default all in turn.
        """
        given = None
        if self.conditional:
            given = one_hot(np.arange(count) % self.classes if labels is None else labels, self.classes)
        return self._made(parameters, buffers, len(self.levels), given, count, seed)

    def invert(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray, level: int,
               seed: int = 0) -> np.ndarray:
        """Rows that the generators below ``level``, from 1 on, make of the encoder's values of ``rows`` (n, inputs)
        there: what the level knows of a row, and what it leaves open."""
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        values = self._codes(parameters, buffers, rows, level)[level]
        return self._made(parameters, buffers, level, self.levels[level].standard(parameters, values), len(rows), seed)

    def _made(self, parameters: np.ndarray, buffers: np.ndarray, levels: int, given: np.ndarray | None, count: int,
              seed: int) -> np.ndarray:
        """Rows that the lowest ``levels`` generators make of what the uppermost of them is given."""
        for i in reversed(range(levels)):
            rows = self.levels[i].sample(parameters, buffers, count, seed + i * SEED_OF_LEVEL, given)
            given = self.levels[i].standard(parameters, rows)
        return rows

    def pictures(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        """``samples``, always of the same noise; ``inverted_1``, ...: `invert` of some rows, by each level."""
        some = rows[:SHOWN]
        return {"samples": self.shown(parameters, buffers), **{
            f"inverted_{i}": self.invert(parameters, buffers, some, i) for i in range(1, len(self.levels))}}

    def shown(self, parameters: np.ndarray, buffers: np.ndarray) -> np.ndarray:
        """Samples of one noise (n, inputs)."""
        return self.sample(parameters, buffers, SHOWN if self.inputs > 2 else POINTS, 0)

    def warnings(self, parameters: np.ndarray, buffers: np.ndarray, line: Mapping[str, Any],
                 shown: np.ndarray) -> list[str]:
        """Once all are trained together: discriminators that are always right, and samples that are all alike."""
        if f"train_loss_{MAKER}s" not in line:
            return []
        return signs_of_collapse(line, shown, self.levels[0].scale(parameters), self.levels[0].objective.name)


def _levels_of(layers: Sequence[Layer], head: bool) -> list[int]:
    """After how many of an encoder's layers each level is reached.

    Raises
    ------
    ParameterError
        There are none but the rows.
    """
    count = len(layers) - head
    if count <= 0:
        said = "no encoder is given" if not layers else "the encoder has no levels, only the logits of its classes"
        raise ParameterError(f"{said}, whose levels could be inverted: name a run of a classifier with hidden layers, "
                             "an autoencoder or a dbn with encoder (--encoder RUN)")
    dense = [i + 1 for i, layer in enumerate(layers[:count]) if isinstance(layer, Dense)]
    return [0, *dense[:-1], count]


def _add(found: dict[str, float], more: Mapping[str, float], levels: int = 1) -> None:
    """Add figures of one of some levels; shares are to be means over them."""
    for name, value in more.items():
        found[name] = found.get(name, 0.0) + (value / levels if name.endswith("_right") else value)


def _plain(given: Sequence[int] | str | None) -> list[int] | str | None:
    return given if given is None or isinstance(given, str) else list(given)


def _squares(values: np.ndarray) -> float:
    return float(np.square(values, dtype=np.float64).sum())
