"""The table of models: everything that the command line, estimators, simulations and loading know of them by name.

A new model is a file, a row here, and its options in `pyddl.options.TABLE`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from inspect import signature
from typing import Any, NamedTuple

import numpy as np

from pyddl import _check, options
from pyddl.data.source import Source
from pyddl.effects import effective
from pyddl.models.protocol import Model

__all__ = ["NAMES", "TABLE", "Entry", "Trained", "check_effects", "class_of", "create", "for_data", "preset", "usual"]


@dataclass(frozen=True)
class Entry:
    """One model.

    Parameters
    ----------
    module, member : str
        Where its class is: it is imported when a model is made.
    help : str
        One line, for lists of models.
    defaults : mapping, default={}
        Defaults of options where they differ from those in `pyddl.options.TABLE`; also of training options.
    simulated : mapping, default={}
        The same for `pyddl simulate`, which may hold hundreds of replicas in one process.
    of : str, default=""
        Where it is a `preset`: the model that it is one of, by whose name files of a run know it.
    """

    module: str
    member: str
    help: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    simulated: Mapping[str, Any] = field(default_factory=dict)
    of: str = ""


TABLE: dict[str, Entry] = {
    "autoencoder": Entry("pyddl.models.autoencoder", "Autoencoder",
                         "Autoencoder, dense or convolutional: a small code, and the way back from it.",
                         simulated={"hidden": (32, 8)}),
    "vae": Entry("pyddl.models.vae", "VAE",
                 "Variational autoencoder: a density of the rows, with a short code of each.",
                 {"hidden": (400, 20)}, simulated={"hidden": (32, 8)}),
    "linear": Entry("pyddl.models.linear", "Linear", "Least squares on labels, of rows or of an encoder's codes."),
    "classifier": Entry("pyddl.models.classifier", "Classifier",
                        "Softmax on classes over dense layers, of rows or of an encoder's codes.",
                        {"hidden": ()}),
    "rbm": Entry("pyddl.models.rbm", "RBM",
                 "Restricted Boltzmann machine: binary or Gaussian visible units, trained by Gibbs chains.",
                 {"hidden": (256,), "optimizer": "sgd", "schedule": "linear", "batch_size": 100},
                 simulated={"hidden": (32,)}),
    "ssrbm": Entry("pyddl.models.ssrbm", "SpikeSlabRBM",
                   "Spike-and-slab Boltzmann machine: a density of real values with covariances, and features.",
                   {"hidden": (256,), "chain": "cd", "optimizer": "sgd", "schedule": "linear", "batch_size": 100,
                    "clip_norm": 5.0},
                   simulated={"hidden": (32,)}),
    "dbn": Entry("pyddl.models.dbn", "DBN",
                 "Deep belief net: Boltzmann machines on one another, then perhaps an autoencoder or a classifier.",
                 {"chain": "cd", "optimizer": "adamw", "schedule": "cosine"},
                 simulated={"hidden": (32, 16), "pretrain_epochs": (2,)}),
    "gan": Entry("pyddl.models.gan", "GAN",
                 "Adversarial pair: a generator of new rows, and a discriminator that it learns from.",
                 {"activation": "leaky_relu", "schedule": "cosine"},
                 simulated={"generator": (16,), "discriminator": (16,)}),
    "stacked_gan": Entry("pyddl.models.stacked_gan", "StackedGAN",
                         "Adversarial pairs that invert an encoder's levels one by one, then jointly.",
                         {"activation": "leaky_relu", "schedule": "cosine"},
                         simulated={"generator": (16,), "discriminator": (16,), "pretrain_epochs": (2,)}),
    "torch": Entry("pyddl.models.torch", "Torch", "A PyTorch module of your own, with a loss of your own."),
}


def preset(of: str, help: str, defaults: Mapping[str, Any], simulated: Mapping[str, Any] = {}) -> Entry:
    """The same model under a name of its own, with other defaults: what is not given is as in the model ``of``.

    Its options are that model's: `pyddl.options.share` gives a preset of one's own them by their names.
    """
    base = TABLE[of]
    return replace(base, help=help, of=of, defaults={**base.defaults, **defaults},
                   simulated={**base.simulated, **simulated})


TABLE |= {
    "dcgan": preset("gan", "gan for pictures: convolutions of stride 2, their mirror, and batch norm in that.",
                    {"channels": (32, 64), "batch_norm": "synchronised", "batch_size": 64},
                    simulated={"channels": (4, 8), "generator": None, "discriminator": None}),
    "wgan": preset("gan", "gan by the distance of Wasserstein: a critic of clipped weights, five steps to each of the "
                   "generator's.",
                   {"objective": "wgan", "generator_every": 5, "optimizer": "rmsprop", "learning_rate": 1e-3,
                    "batch_size": 64}),
}
"""The models by their public names. A row may be added at any time: ``pyddl.models.TABLE["mine"] = Entry(...)``."""

NAMES = TABLE.keys()
"""The public names, rows added later among them."""


class Trained(NamedTuple):
    """A model and its vectors after training, averaged copies in their places: what an option of kind ``run`` brings to
    the model that takes it."""

    model: Model
    parameters: np.ndarray
    buffers: np.ndarray

    @classmethod
    def of(cls, run: Any) -> Trained:
        """That of a `train.Run` or `train.Result`."""
        return cls(run.model, run.averaged, run.buffers)


def class_of(name: str) -> type:
    """The class of the model, or of what it is a preset of.

    Raises
    ------
    ParameterError
        There is none; the nearest name is offered.
    """
    entry = TABLE[_check.one_of("model", name, TABLE)]
    return getattr(import_module(entry.module), entry.member)


def create(name: str, **recorded: Any) -> Model:
    """The model of that public name, made again from what its ``options()`` said. Values without effect, which runs of
    earlier versions may have, are left out."""
    own = {key: each.default for key, each in signature(class_of(name)).parameters.items()}
    return class_of(name)(**effective(recorded, own.get))


def check_effects(name: str, values: Mapping[str, Any]) -> None:
    """Refuse ``values`` of the model's options of which one has no effect beside the others (see `pyddl.effects`):
    for constructors, which do not know what was given, and leave defaults of the model and its presets alone.

    Raises
    ------
    ParameterError
    """
    options.check_effects(values, *usual(name))


def usual(name: str) -> list[Mapping[str, Any]]:
    """Defaults of a model and its presets, which say the model's own name."""
    return [entry.defaults for known, entry in TABLE.items() if name in (known, entry.of)]


def for_data(name: str, data: Source, /, **given: Any) -> Model:
    """The model of that public name for these training rows.

    A class that needs to know more than the width of the rows has a class method ``for_data(data, **options)``.

    Parameters
    ----------
    data : Source
    **given
        Options; those of other models, and those of None, are left out. One of kind ``run`` comes as `Trained`.

    Examples
    --------
    >>> from pyddl.data import RandomSource
    >>> for_data("autoencoder", RandomSource(100, 12), hidden=(8, 2), epochs=3).layout.count
    254
    """
    cls: Any = class_of(name)
    usual = TABLE[name].defaults if TABLE[name].of else {}  # a preset's class has others
    own = {option.name: given[option.name] if given.get(option.name) is not None else usual[option.name]
           for option in options.of_model(name)
           if given.get(option.name) is not None or usual.get(option.name) is not None}
    return cls.for_data(data, **own) if hasattr(cls, "for_data") else cls(inputs=data.features, **own)
