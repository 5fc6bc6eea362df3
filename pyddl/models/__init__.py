"""Models: functions on flat vectors, one file each, and the table of them."""

from __future__ import annotations

from typing import Any

from pyddl._names import lazily, offers
from pyddl.models.protocol import Model
from pyddl.models.stages import Phase, Stage
from pyddl.models.table import NAMES, TABLE, Entry, Trained, class_of, create, for_data, preset, usual

__all__ = ["NAMES", "TABLE", "Autoencoder", "Entry", "Model", "Network", "Phase", "Stage", "Trained", "class_of",
           "create", "for_data", "layers", "preset", "usual"]


def __getattr__(name: str) -> Any:  # models load the compute module, so each loads when it is first named
    return lazily(__name__, name, _homes())


def _homes() -> dict[str, str]:
    return {**{entry.member: entry.module for entry in TABLE.values()}, "Network": "pyddl.models.network",
            "layers": "pyddl.models.layers"}


__dir__ = offers(__name__, _homes)
