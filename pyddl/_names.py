"""What modules of pyddl offer: their public names, and nothing else; some of these appear on first use."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazily", "offers"]


def offers(module: str, more: Callable[[], Iterable[str]] = tuple) -> Callable[[], list[str]]:
    """A ``__dir__`` for a module, so that tab completion shows what its ``__all__`` says, and what ``more`` gives.

    >>> import pyddl.errors
    >>> "Any" in dir(pyddl.train), "Trainer" in dir(pyddl.train)
    (False, True)
    """
    return lambda: sorted({*getattr(sys.modules[module], "__all__", ()), *more()})


def lazily(module: str, name: str, homes: Mapping[str, str]) -> Any:
    """A member of a module that is imported on first use: ``homes`` says from where. What its ``__getattr__`` does.

    A submodule is its own home.
    """
    if name not in homes:
        raise AttributeError(f"module {module!r} has no attribute {name!r}", name=name, obj=sys.modules[module])
    home = import_module(homes[name])
    return home if homes[name] == f"{module}.{name}" else getattr(home, name)
