"""pyddl: distributed training of unsupervised deep models over MPI ranks on CPU machines."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Names appear on first use, so that `import pyddl` stays light: a thousand ranks may start from one file
# system.
_SUBMODULES = ("callbacks", "comm", "data", "estimators", "models", "optim", "server", "strategies", "train")
_HOME = {"Layout": "pyddl.layout", "ParameterServer": "pyddl.callbacks", "Slice": "pyddl.layout",
         "ZCA": "pyddl.estimators", "load": "pyddl.estimators", "use": "pyddl.comm", "world": "pyddl.comm"}


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"pyddl.{name}")
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    if name[:1].isupper() and (place := _estimators().get(name)):
        return import_module(place).__dict__[name]
    raise AttributeError(f"module 'pyddl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBMODULES, *_HOME, *_estimators()})


def _estimators() -> dict[str, str]:
    """Those of models, each with its module: their table knows them."""
    return {name: module for module, name in import_module("pyddl.estimators").TABLE.values()}
