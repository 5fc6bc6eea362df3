"""The table of estimators: a new one is a file and a row."""

from __future__ import annotations

from importlib import import_module

__all__ = ["OTHERS", "TABLE", "Place", "named"]

Place = tuple[str, str]
"""Module and name of a class."""

TABLE: dict[str, Place] = {
    "autoencoder": ("pyddl.estimators.autoencoder", "Autoencoder"),
    "vae": ("pyddl.estimators.vae", "VAE"),
    "linear": ("pyddl.estimators.linear", "LinearRegression"),
    "classifier": ("pyddl.estimators.classifier", "Classifier"),
    "rbm": ("pyddl.estimators.rbm", "RBM"),
    "ssrbm": ("pyddl.estimators.ssrbm", "SpikeSlabRBM"),
    "dbn": ("pyddl.estimators.dbn", "DBN"),
    "gan": ("pyddl.estimators.gan", "GAN"),
}
"""The estimators of models, by the models' public names. A row may be added at any time."""

OTHERS: dict[str, Place] = {
    "ZCA": ("pyddl.estimators.whitening", "ZCA"),
    "Estimator": ("pyddl.estimators.estimator", "Estimator"),
    "Transformer": ("pyddl.estimators.transformer", "Transformer"),
    "load": ("pyddl.estimators.loading", "load"),
    **{role: ("pyddl.estimators.roles", role) for role in ("Classifies", "Encodes", "Regresses", "Scores")},
}
"""What else `pyddl.estimators` has, by its name."""


def named(place: Place) -> object:
    """What is there; its module is imported."""
    module, name = place
    return getattr(import_module(module), name)
