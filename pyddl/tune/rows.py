"""Rows: the data of trials, opened once by each rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pyddl import options
from pyddl.train.named import PICTURES, source_of
from pyddl.tune.space import Space

__all__ = ["Rows"]


class Rows:
    """`pyddl.train.named.source_of`, which keeps what it has opened: children of this process have it too.

    All trials of a search are on the same rows: losses of others do not compare.

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
        """Open what all trials are on, unless they make other pictures of it each.

        Raises
        ------
        PyddlError
            It cannot be opened.
        """
        if {*PICTURES} & {parameter.option for parameter in space.parameters}:
            return
        settings = {option.name: space.fixed.get(option.name, option.default) for option in options.of_section("data")}
        _ = self(settings).test  # a named set reads its test part when it is asked for
        self(settings, "test", "test_labels")

