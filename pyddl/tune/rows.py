"""Rows: the data of trials, opened once by each rank."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pyddl import options
from pyddl.errors import PyddlError
from pyddl.train.named import PICTURES, source_of
from pyddl.tune.space import Space

__all__ = ["Rows"]

TEST = ("test", "test_labels")


class Rows:
    """`pyddl.train.named.source_of`, which keeps what it has opened: children of this process have it too.

    Examples
    --------
    >>> rows, settings = Rows(), {"data": "random:10x3", "labels": None}
    >>> rows(settings) is rows(settings)
    True
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], Any] = {}

    def __call__(self, settings: Mapping[str, Any], data: str = "data", labels: str = "labels") -> Any:
        key = (data, *(settings.get(name) for name in (data, labels, *PICTURES)))
        if key not in self._kept:
            self._kept[key] = source_of(settings, data, labels)
        return self._kept[key]

    def open(self, space: Space) -> None:
        """Open what all trials are on.

        Raises
        ------
        PyddlError
            It cannot be opened.
        """
        names = {option.name: option.default for option in options.of_section("data")}
        if not names.keys() & {parameter.option for parameter in space.parameters}:
            self._both({**names, **{name: value for name, value in space.fixed.items() if name in names}})

    def of_trial(self, settings: Mapping[str, Any]) -> None:
        """Open what a trial is on; what fails, fails in the trial."""
        with suppress(PyddlError, MemoryError, KeyError):
            self._both({**{option.name: option.default for option in options.of_section("data")}, **settings})

    def _both(self, settings: Mapping[str, Any]) -> None:
        source = self(settings)
        _ = source.test, self(settings, *TEST)  # a named set reads its test part when it is asked for
