"""What server and workers say to each other, besides the model, lists of units, and the report at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Acknowledged", "Ask", "Failed", "Hello", "ModelSent", "Push"]


@dataclass
class Hello:
    """A worker has come, with these options and as many items."""

    options: dict[str, Any]
    items: int | None


@dataclass
class Ask:
    """A worker has nothing to do, and a model of this version."""

    version: int


@dataclass
class ModelSent:
    """A version of the model: its named arrays, or the whole object where none were named."""

    version: int
    content: Any


@dataclass
class Push:
    """The update for the oldest unit that the worker holds, computed from this version."""

    version: int
    update: Any


@dataclass
class Acknowledged:
    """The update is applied."""


@dataclass
class Failed:
    """The sender leaves training by an exception."""

    why: str
