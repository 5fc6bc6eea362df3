"""Models: functions on flat vectors, one file each, and the table of them."""

from __future__ import annotations

from typing import Any

from pyddl.models.protocol import Model
from pyddl.models.stages import Phase, Stage
from pyddl.models.table import NAMES, TABLE, Entry, Trained, class_of, create, for_data

__all__ = ["NAMES", "TABLE", "Autoencoder", "Entry", "Model", "Network", "Phase", "Stage", "Trained", "class_of",
           "create", "for_data", "layers"]


def __getattr__(name: str) -> Any:  # models load the compute module, so each loads when it is first named
    for public, entry in TABLE.items():
        if entry.member == name:
            return class_of(public)
    if name == "Network":
        from pyddl.models.network import Network

        return Network
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
