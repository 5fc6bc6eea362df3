"""pyddl: distributed training of unsupervised deep models over MPI ranks on CPU machines."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Names appear on first use, so that `import pyddl` stays light: a thousand ranks may start from one file
# system.
_SUBMODULES = ("comm", "data", "estimators", "models", "optim", "server", "strategies", "train")
_HOME = {"Autoencoder": "pyddl.estimators", "Layout": "pyddl.layout", "ParameterServer": "pyddl.server",
         "Slice": "pyddl.layout", "ZCA": "pyddl.estimators", "load": "pyddl.estimators", "use": "pyddl.comm",
         "world": "pyddl.comm"}


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"pyddl.{name}")
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'pyddl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_SUBMODULES, *_HOME])
