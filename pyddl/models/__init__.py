"""Models: functions on flat vectors, one file each."""

from __future__ import annotations

from typing import Any

from pyddl import _check
from pyddl.models.protocol import Model
from pyddl.models.stages import Phase, Stage

__all__ = ["NAMES", "Autoencoder", "Model", "Network", "Phase", "Stage", "create"]

_MODULES = {"autoencoder": ("pyddl.models.autoencoder", "Autoencoder")}
NAMES = tuple(_MODULES)


def create(name: str, **options: Any) -> Model:
    """The model of that public name, with its options."""
    return _class(_check.one_of("model", name, NAMES))(**options)


def _class(name: str) -> type:
    from importlib import import_module

    module, member = _MODULES[name]
    return getattr(import_module(module), member)


def __getattr__(name: str) -> Any:  # models load the compute module, so each loads when it is first named
    for public, (_, member) in _MODULES.items():
        if member == name:
            return _class(public)
    if name == "Network":
        from pyddl.models.network import Network

        return Network
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
