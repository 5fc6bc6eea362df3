"""Deep belief net: Boltzmann machines on top of one another, trained one after another; then perhaps a network made of
them.

Sources: Hinton, Osindero, Teh (2006), A fast learning algorithm for deep belief nets, Neural Computation 18,
1527-1554; Hinton, Salakhutdinov (2006), Reducing the dimensionality of data with neural networks, Science 313, 504-507.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from pyddl import _check, _core, random
from pyddl.data.batch import Batch
from pyddl.data.source import Source
from pyddl.data.statistics import Statistics
from pyddl.errors import ParameterError
from pyddl.layout import Layout
from pyddl.models.autoencoder import rate_scale
from pyddl.models.classifier import check_classes, classes_of, softmax, targets_of
from pyddl.models.layers import Corrupt, Dense
from pyddl.models.network import Network, NetworkModel, sigmoid
from pyddl.models.rbm import RBM, SAMPLE_STEPS
from pyddl.models.stages import Begin, Phase, Stage
from pyddl.models.table import Trained, check_effects

__all__ = ["DBN"]

ENCODER, DECODER, HEAD = "encoder", "decoder", "head"
RATE, OF_UNITS, OF_GAUSSIAN = 0.05, 10.0, 0.005  # of levels: see `DBN._default_rate`
MOMENTUM, DECAY = 0.9, 1e-4  # of all levels
FRESH = 1.0  # of a random start, added to the autoencoder's weights: see `DBN._unroll`
SHOWN = 50  # filters and samples in a picture
SUBSTEP = 3  # of the first random numbers on the way down: those before are the last machine's


Tensors = tuple[np.ndarray, np.ndarray]


class DBN:
    """A stack of Boltzmann machines, of which each learns the mean activities of the one below.

    Training has a stage for each of them, then one for the network that is made of them, if any.

    Parameters
    ----------
    inputs : int
        Features of a row.
    hidden : sequence of int, default=(256, 64)
        Hidden units of each machine, at least two.
    finetune : {"none", "autoencoder", "classifier"}
        The network that the stack becomes: none; unrolled to an encoder and the decoder that mirrors it, with a weight
        of its own for each direction; or an encoder and a softmax over classes, which needs labels. Its hidden units
        are of tanh: logistic ones shifted and scaled, which compute the same and learn faster; a binary code is
        logistic.
    classes : int or sequence of str, optional
        Of a classifier: how many, at least 2; or their names, in the order of the labels' numbers.
    visible : {"bernoulli", "gaussian"}
        Of the first machine, as in `RBM`. Reconstructions then have cross-entropy, or squared error, for their loss.
    code_units : {"bernoulli", "gaussian"}, optional
        Hidden units of the last machine; gaussian ones become a linear code. By default gaussian where the stack
        becomes an autoencoder.
    pretrain_epochs : sequence of int, default=(10,)
        Of each machine, or one number for all. Without a network the last machine has the epochs of training.
    pretrain_learning_rate : sequence of float, optional
        Of each machine, or one for all; it falls linearly to 0, under momentum 0.9. By default 10 over the number of
        its hidden units, at most 0.05; 0.005 where units are Gaussian.
    chain, gibbs_steps, chains, centering
        Of all machines, as in `RBM`. A network made of centered ones learns far faster: their hidden units are on half
        of the time, so that its own are around 0.
    corrupt : float, default=0
        The network is trained on spoiled rows, as an `Autoencoder`: probability that a value becomes 0, or the standard
        deviation of what is added.
    corruption : {"masking", "gaussian"}, default="masking"
    dtype : {"float32", "bfloat16"}

    Attributes
    ----------
    layout : Layout
        ``level_1.weights`` (inputs, hidden), ``level_1.visible_bias``, ``level_1.hidden_bias``, ``level_2.weights``,
        ...: the stack, which stays as it was trained. Then the network's own tensors: ``encoder.0.weight`` (outputs,
        inputs), ``encoder.0.bias``, ...; ``decoder.0.weight``, ... or ``head.weight``, .... What has not begun is 0.
    buffers : Layout
        Those of each machine, by its name: ``level_1.chains``, ....
    levels : tuple of RBM
    network : Network or None

    Raises
    ------
    ParameterError
        There is one machine only; numbers of epochs or rates are not as many; classes lack or have no use.
    """

    name = "dbn"
    range_cure = "use visible gaussian"

    def __init__(self, inputs: int, hidden: Sequence[int] = (256, 64), *, finetune: str = "none",
                 classes: int | Sequence[str] | None = None, visible: str = "bernoulli", code_units: str | None = None,
                 pretrain_epochs: Sequence[int] = (10,), pretrain_learning_rate: Sequence[float] | None = None,
                 chain: str = "cd", gibbs_steps: int = 1, chains: int = 100, centering: bool = True,
                 corrupt: float = 0.0, corruption: str = "masking", dtype: str = "float32"):
        self.inputs = _check.integer("inputs", inputs, at_least=1)
        self.hidden = _check.integers("hidden", hidden, at_least=1)
        if len(self.hidden) < 2:
            raise ParameterError(f"hidden is {list(self.hidden)}: a deep belief net has at least two layers, for "
                                 "example 256,64; one alone is an rbm")
        self.finetune = _check.one_of("finetune", finetune, ("none", "autoencoder", "classifier"))
        self.visible = _check.one_of("visible", visible, ("bernoulli", "gaussian"))
        by_default = "gaussian" if finetune == "autoencoder" else "bernoulli"
        self.code_units = _check.one_of("code_units", code_units or by_default, ("bernoulli", "gaussian"))
        self.corrupt, self.corruption = _check.number("corrupt", corrupt, at_least=0), corruption
        check_effects("dbn", {"corrupt": corrupt, "corruption": corruption, "finetune": finetune})
        _check.one_of("chain", chain, ("cd", "pcd"))
        units = (self.inputs, *self.hidden)
        self.levels = tuple(
            RBM(below, (above,), visible=self.visible if k == 0 else "bernoulli", chain=chain, gibbs_steps=gibbs_steps,
                chains=chains, centering=centering, dtype=dtype,
                hidden_units=self.code_units if k == len(self.hidden) - 1 else "bernoulli")
            for k, (below, above) in enumerate(pairwise(units)))
        self.chain, self.gibbs_steps, self.chains = chain, gibbs_steps, chains  # which the machines have checked
        self.centering, self.dtype = bool(centering), dtype
        self.class_names = None if classes is None or isinstance(classes, int | np.integer) else tuple(classes)
        self.classes = self._checked_classes(classes)
        self.needs_labels = self.finetune == "classifier"
        self.network = self._network()
        self.loss = {"classifier": "softmax"}.get(finetune, "bce" if self.visible == "bernoulli" else "mse")
        self._lay_out()
        self.pretrain_epochs = self._per_level("pretrain_epochs", _check.integers("pretrain_epochs", pretrain_epochs,
                                                                                  at_least=1), self.network is None)
        rates = [self._default_rate(machine) for machine in self.levels] if pretrain_learning_rate is None else [
            _check.number("pretrain_learning_rate", rate, above=0) for rate in pretrain_learning_rate]
        self.pretrain_learning_rate = self._per_level("pretrain_learning_rate", rates)
        self.stages = self._stages()
        self.input_range = (0.0, 1.0) if self.visible == "bernoulli" else None
        self.takes_rounded = dtype == "bfloat16"
        self.rate_scale = 1.0 if self.network is None or self.needs_labels else rate_scale(self.loss, self.network)
        self.flops = sum(machine.flops for machine in self.levels) if self.network is None else self.network.flops

    # ---- how it is made

    @classmethod
    def for_data(cls, data: Source, **options: Any) -> DBN:
        """The model for these rows, and the classes of their labels where it becomes a classifier."""
        classes = classes_of(data) if options.get("finetune") == "classifier" else None
        return cls(data.features, classes=classes, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(DBN, **self.options()), ()

    def options(self) -> dict[str, Any]:
        """Plain values that make the same model again: ``DBN(**options)``."""
        return {"inputs": self.inputs, "hidden": list(self.hidden), "finetune": self.finetune,
                "classes": self.classes if self.class_names is None else list(self.class_names),
                "visible": self.visible, "code_units": self.code_units, "pretrain_epochs": list(self.pretrain_epochs),
                "pretrain_learning_rate": list(self.pretrain_learning_rate), "chain": self.chain,
                "gibbs_steps": self.gibbs_steps, "chains": self.chains, "centering": self.centering,
                "corrupt": self.corrupt, "corruption": self.corruption, "dtype": self.dtype}

    def _checked_classes(self, classes: int | Sequence[str] | None) -> int | None:
        if self.finetune != "classifier":
            if classes is not None:
                raise ParameterError(f"classes are given, and finetune is {self.finetune!r}: leave them out, or choose "
                                     "finetune classifier")
            return None
        if classes is None:
            raise ParameterError("finetune is 'classifier', and no classes are given: say how many, or name them")
        return _check.integer("classes", classes if self.class_names is None else len(self.class_names), at_least=2)

    def _network(self) -> Network | None:
        depth, noise = len(self.hidden), [Corrupt(self.corrupt, self.corruption)] if self.corrupt else []
        if self.finetune == "autoencoder":
            above = [*(Dense(units, "tanh") for units in self.hidden[-2::-1]), Dense(self.inputs)]
            names, groups = [f"{DECODER}.{i}" for i in range(depth)], [DECODER] * depth
        elif self.finetune == "classifier":
            assert self.classes is not None
            above, names, groups = [Dense(self.classes)], [HEAD], [HEAD]
        else:
            return None
        return Network([*noise, *self._layers(), *above], self.inputs, dtype=self.dtype,
                       names=[*("corruption" for _ in noise), *(f"{ENCODER}.{i}" for i in range(depth)), *names],
                       groups=[ENCODER] * (len(noise) + depth) + groups)

    def _lay_out(self) -> None:
        """The stack's tensors, level by level as `RBM` has them, so that each finds its own in a part of the vectors;
        then the network's."""
        slices, kept, self._places, self._buffer_places = [], [], [], []
        for name, machine in zip(self._names, self.levels, strict=True):
            slices += [replace(s, name=f"{name}.{s.name}", group=name if s.group == "all" else s.group)
                       for s in machine.layout]
            kept += [replace(s, name=f"{name}.{s.name}") for s in machine.buffers]
        self.layout = Layout([*slices, *([] if self.network is None else self.network.slices)])
        self.buffers = Layout(kept)
        begin = buffer_begin = 0
        for machine in self.levels:
            self._places.append(slice(begin, begin + machine.layout.size))
            self._buffer_places.append(slice(buffer_begin, buffer_begin + machine.buffers.size))
            begin, buffer_begin = self._places[-1].stop, self._buffer_places[-1].stop
        if self.network is not None:
            self.network.compile(self.layout)

    @property
    def _names(self) -> list[str]:
        return [f"level_{k + 1}" for k in range(len(self.hidden))]

    def _per_level(self, name: str, values: Sequence[Any], but_the_last: bool = False) -> tuple[Any, ...]:
        count = len(self.levels) - but_the_last
        if len(values) not in (1, count):
            last = ", as the last layer has the epochs of training" if but_the_last else ""
            raise ParameterError(f"{name} is {list(values)}; expected one number for all of {len(self.levels)} layers, "
                                 f"or {count}{last}")
        return tuple(values) * count if len(values) == 1 else tuple(values)

    @staticmethod
    def _default_rate(machine: RBM) -> float:
        """Wide machines bear smaller steps: the more hidden units, the further a step moves a visible unit's input."""
        return OF_GAUSSIAN if machine.squared_loss else min(RATE, OF_UNITS / machine.hidden)

    def _stages(self) -> tuple[Stage, ...]:
        """Rules of the levels are their own: those that training was given are the network's."""
        stages = []
        for k, name in enumerate(self._names):
            rule = {"optimizer": "momentum", "momentum": MOMENTUM, "momentum_schedule": "constant",
                    "learning_rate": self.pretrain_learning_rate[k], "schedule": "linear", "minimum_rate": 0.0,
                    "warmup": 0, "weight_decay": DECAY, "clip_norm": None}
            begin: Begin | None = None if k == 0 else partial(self._begin_level, k)
            epochs = self.pretrain_epochs[k] if k < len(self.pretrain_epochs) else None
            stages.append(Stage((Phase(name, (name,), optimizer=rule),), epochs=epochs, begin=begin))
        if self.network is not None:
            phase = Phase(self.finetune, tuple(dict.fromkeys(self.network.groups)))
            stages.append(Stage((phase,), begin=self._unroll))
        return tuple(stages)

    # ---- training

    def initialise(self, parameters: np.ndarray, buffers: np.ndarray, seed: int, data: Statistics) -> None:
        """The first machine as an `RBM`; all others are 0 until their stages begin."""
        parameters[:] = 0
        buffers[:] = 0
        self.levels[0].initialise(*self._own(0, parameters, buffers), seed, data)

    def _begin_level(self, k: int, parameters: np.ndarray, buffers: np.ndarray, seed: int, data: Statistics) -> None:
        """Level k + 1 begins as an `RBM` whose data are the hidden units below: their running means are known where
        machines are centered, and matter there only."""
        below = self.levels[k - 1].buffers.views(self._own(k - 1, parameters, buffers)[1])
        means: Any = _Means(below.get("hidden_offsets"))
        self.levels[k].initialise(*self._own(k, parameters, buffers), seed + k * random.SEED_OF_LEVEL, means)

    def _unroll(self, parameters: np.ndarray, buffers: np.ndarray, seed: int, data: Statistics) -> None:
        """The network begins as the stack: layers up as hidden units given visible ones, layers down the other way.

        To an autoencoder's weights those of a random start are added, others up than down: the directions that the
        stack makes no use of are then open. Measured after 6 epochs of 10,000 images of MNIST, 784-400-200-30: an error
        of 7.8 where it was 8.6 without; where pretraining was short it decides."""
        assert self.network is not None
        self.network.initialise(parameters, seed)
        fresh = FRESH if self.finetune == "autoencoder" else 0
        layers = [(f"{ENCODER}.{k}", *layer) for k, layer in enumerate(self._layers_up(parameters))]
        if self.finetune == "autoencoder":
            layers += [(f"{DECODER}.{k}", *layer) for k, layer in enumerate(self._layers_down(parameters))]
        views = self.layout.views(parameters)
        for name, weight, bias in layers:
            views[f"{name}.weight"][:] = weight + np.float32(fresh) * views[f"{name}.weight"]
            views[f"{name}.bias"][:] = bias

    def gradient(self, parameters: np.ndarray, gradients: np.ndarray, buffers: np.ndarray, batch: Batch) -> float:
        """Overwrite the phase's ``gradients`` with the sum over the batch's rows; return the sum of their losses: of a
        level as `RBM.gradient`, of the network as `Network.gradient`."""
        if batch.phase not in self._names:
            assert self.network is not None
            return self.network.gradient(parameters, gradients, buffers, batch, batch.rows, self._targets(batch),
                                         self.loss)
        k = self._names.index(batch.phase)
        place, ready, rounded = self._places[k], batch.ready, batch.rounded
        own = Batch(self._up(parameters, batch.rows, k), batch.index, seed=batch.seed, step=batch.step, turn=batch.turn,
                    total=batch.total, chains=batch.chains, sum=batch.sum,
                    ready=None if ready is None else lambda begin, end: ready(place.start + begin, place.start + end),
                    rounded=None if rounded is None else rounded[place])
        mine, kept = self._own(k, parameters, buffers)
        return self.levels[k].gradient(mine, gradients[place], kept, own)

    # ---- what it says

    def evaluate(self, parameters: np.ndarray, buffers: np.ndarray, batch: Batch) -> dict[str, float]:
        """Sums over the rows. Of the network: see `Network.evaluate`. Until it has begun, of the stack as far as that
        is there: ``loss`` of its last machine, as in `RBM.evaluate`, and ``squared_error`` between a row and the
        stack's reconstruction of it by means."""
        if self.unrolled(parameters):
            assert self.network is not None
            return self.network.evaluate(parameters, buffers, batch, batch.rows, self._targets(batch), self.loss)
        last = self._begun(parameters) - 1
        inputs = self._up(parameters, batch.rows, last)
        scores = self.levels[last].evaluate(*self._own(last, parameters, buffers), Batch(inputs, batch.index))
        rebuilt = self._rebuilt(parameters, buffers, batch.rows)
        return {"loss": scores["loss"], "squared_error": float(np.square(rebuilt - batch.rows, dtype=np.float64).sum())}

    def encode(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Codes of ``rows`` (n, inputs) -> (n, hidden[-1]): by the network, or means of the stack. A row's do not
        depend on how many others come with it (but to rounding, where the processor lacks AVX-512)."""
        if self.unrolled(parameters):
            assert self.network is not None
            return self.network.outputs(parameters, None, rows, last=self.encodes)
        return self._encoded(parameters, buffers, rows)

    def decode(self, parameters: np.ndarray, buffers: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Reconstructions from ``codes`` (n, hidden[-1]) -> (n, inputs): by the autoencoder, or means of the stack."""
        if self.finetune != "autoencoder" or not self.unrolled(parameters):
            return self._decoded(parameters, buffers, codes)
        assert self.network is not None
        out = self.network.outputs(parameters, None, codes, first=self.encodes)
        return sigmoid(out) if self.loss == "bce" else out

    def reconstruct(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """`decode` of `encode`: (n, inputs) -> (n, inputs); of a classifier, by the stack in both directions."""
        if self.finetune == "autoencoder":
            return self.decode(parameters, buffers, self.encode(parameters, buffers, rows))
        return self._rebuilt(parameters, buffers, rows)

    def probabilities(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Probabilities of the classes for ``rows`` (n, inputs) -> (n, classes).

        Raises
        ------
        ParameterError
            It is no classifier, or not yet.
        """
        if self.finetune != "classifier":
            raise ParameterError(f"this deep belief net has finetune {self.finetune!r}, and knows no classes: choose "
                                 "classifier")
        if not self.unrolled(parameters):
            raise ParameterError("this deep belief net is still being pretrained, and knows no classes yet: train to "
                                 "the end")
        assert self.network is not None
        return softmax(self.network.outputs(parameters, None, rows))

    def sample(self, parameters: np.ndarray, buffers: np.ndarray, count: int, seed: int,
               steps: int = SAMPLE_STEPS) -> np.ndarray:
        """``count`` samples (count, inputs) of the stack: ``steps`` Gibbs steps of the last machine, then each layer
        below drawn from the one above; of the visible units the means. A network made of the stack has no part in it.
        """
        last, numbers, key = self._begun(parameters) - 1, np.arange(count), seed % random.SEEDS
        units = self.levels[last].sample(*self._own(last, parameters, buffers), count, seed, steps)
        for k in range(last - 1, -1, -1):
            units = self.levels[k].decode(*self._own(k, parameters, buffers), units)
            if k > 0:
                _core.bernoulli(units, units, numbers, key, random.NOISE, 0, SUBSTEP + k)
        return units

    def pictures(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        """``filters_1``, ``filters_2``, ...: what drives the first hidden units of a level, were all layers below it
        linear, by the encoder's weights as they are now; ``samples``, see `sample`."""
        shown: dict[str, np.ndarray] = {}
        weights = [weight for weight, _ in self._encoder(parameters)]
        for k in range(self._begun(parameters)):
            filters = weights[k][:SHOWN]
            for below in weights[:k][::-1]:
                filters = filters @ below
            shown[f"filters_{k + 1}"] = np.ascontiguousarray(filters)
        return {**shown, "samples": self.sample(parameters, buffers, SHOWN, 0)}

    # ---- for others

    @property
    def encodes(self) -> int:
        """How many of the network's layers encode."""
        return len(self.hidden) + bool(self.corrupt)

    def as_network(self, parameters: np.ndarray, buffers: np.ndarray) -> Trained:
        """Its encoder as a model of layers, for `pyddl.models.on_encoder`; a classifier with its head."""
        names, layers, tensors = [f"{ENCODER}.{k}" for k in range(len(self.hidden))], self._layers(), self._encoder(
            parameters)
        if self.classes is not None and self.unrolled(parameters):
            own = self.layout.views(parameters)
            names, layers = [*names, HEAD], [*layers, Dense(self.classes)]
            tensors = [*tensors, (own[f"{HEAD}.weight"], own[f"{HEAD}.bias"])]
        encoder = NetworkModel(Network(layers, self.inputs, names=names), "softmax" if HEAD in names else "mse")
        encoder.encodes = len(self.hidden)
        vector = encoder.layout.zeros()
        views = encoder.layout.views(vector)
        for name, (weight, bias) in zip(names, tensors, strict=True):
            views[f"{name}.weight"][:], views[f"{name}.bias"][:] = weight, bias
        return Trained(encoder, vector, encoder.buffers.zeros())

    def check_data(self, data: Source) -> None:
        """Refuse labels that are no classes of this model, where it becomes a classifier."""
        if self.classes is not None:
            check_classes(data, self.classes, self.class_names)

    # ---- parts of it

    def _own(self, k: int, parameters: np.ndarray, buffers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A level's parts of the vectors."""
        return parameters[self._places[k]], buffers[self._buffer_places[k]]

    def _begun(self, parameters: np.ndarray) -> int:
        """How many levels have begun: the weights of others are 0."""
        views = self.layout.views(parameters)
        return max(1, sum(bool(views[f"{name}.weights"].any()) for name in self._names))

    def unrolled(self, parameters: np.ndarray) -> bool:
        """Whether the network has begun."""
        return self.network is not None and bool(self.layout.views(parameters)[f"{ENCODER}.0.weight"].any())

    def _layers(self) -> list[Dense]:
        """Of an encoder."""
        code = Dense(self.hidden[-1], "sigmoid" if self.code_units == "bernoulli" else "linear")
        return [*(Dense(units, "tanh") for units in self.hidden[:-1]), code]

    def _layers_up(self, parameters: np.ndarray) -> list[Tensors]:
        """Weights (outputs, inputs) and biases of layers that give the stack's means, from rows to codes."""
        views, last = self.layout.views(parameters), len(self.levels) - 1
        layers = [(views[f"{name}.weights"].T, views[f"{name}.hidden_bias"]) for name in self._names]
        if self.visible == "gaussian":
            weight, bias = layers[0]
            layers[0] = weight / np.exp(views[f"{self._names[0]}.log_variance"]), bias
        return [_by_tanh(*layer, below=k > 0, above=k < last) for k, layer in enumerate(layers)]

    def _layers_down(self, parameters: np.ndarray) -> list[Tensors]:
        """The same from codes to rows."""
        views, last = self.layout.views(parameters), len(self.levels) - 1
        layers = [(views[f"{name}.weights"], views[f"{name}.visible_bias"]) for name in self._names[::-1]]
        return [_by_tanh(*layer, below=k > 0, above=k < last) for k, layer in enumerate(layers)]

    def _encoder(self, parameters: np.ndarray) -> list[Tensors]:
        """The same of the network, where it has begun."""
        if not self.unrolled(parameters):
            return self._layers_up(parameters)
        views = self.layout.views(parameters)
        return [(views[f"{ENCODER}.{k}.weight"], views[f"{ENCODER}.{k}.bias"]) for k in range(len(self.hidden))]

    def _up(self, parameters: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
        """Means of the hidden units of the first ``count`` levels' last one; the rows themselves for none."""
        for machine, place in zip(self.levels[:count], self._places, strict=False):
            means = np.empty((len(rows), machine.hidden), dtype=np.float32)
            machine.native.hidden_mean(parameters[place], rows, means)
            rows = means
        return rows

    def _encoded(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        for k in range(self._begun(parameters)):
            rows = self.levels[k].encode(*self._own(k, parameters, buffers), rows)
        return rows

    def _decoded(self, parameters: np.ndarray, buffers: np.ndarray, codes: np.ndarray) -> np.ndarray:
        for k in range(self._begun(parameters) - 1, -1, -1):
            codes = self.levels[k].decode(*self._own(k, parameters, buffers), codes)
        return codes

    def _rebuilt(self, parameters: np.ndarray, buffers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return self._decoded(parameters, buffers, self._encoded(parameters, buffers, rows))

    def _targets(self, batch: Batch) -> np.ndarray:
        return batch.rows if self.classes is None else targets_of(batch)


def _by_tanh(weight: np.ndarray, bias: np.ndarray, *, below: bool, above: bool) -> Tensors:
    """A layer between logistic units as one between units of tanh, where there are such ``below`` and ``above``: for
    sigmoid(x) = (1 + tanh(x / 2)) / 2 the function stays what it is."""
    if below:
        weight, bias = weight / 2, bias + weight.sum(axis=1) / 2
    return (weight / 2, bias / 2) if above else (weight, bias)


class _Means(NamedTuple):
    """What a level may know of its inputs; nothing where it is not centered."""

    mean: np.ndarray | None
