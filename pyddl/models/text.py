"""Layers as a short text: ``conv32,conv32,pool2,conv64k5s2,dropout0.2``.

========================  =====================================================================================
``conv32``                convolution to 32 channels, kernel 3, stride 1, zeros at the edges so that the size stays
``conv32k5``, ``...s2``   kernel 5; stride 2
``pool2``, ``mean2``      the largest value, or the mean, of windows of 2 by 2
``dropout0.2``            dropout with probability 0.2
========================  =====================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from pyddl import _check
from pyddl.errors import ParameterError
from pyddl.models.layers import Conv, Dropout, Layer, Pool

__all__ = ["KINDS", "Kind", "layers_of", "parts_of"]

NUMBER = r"\d+(?:\.\d+)?"


class Kind(NamedTuple):
    """What follows a word, as a regular expression, what its groups make, and an example."""

    pattern: str
    make: Callable[..., Layer]
    example: str


KINDS: dict[str, Kind] = {
    "conv": Kind(r"(\d+)(?:k(\d+))?(?:s(\d+))?",
                 lambda channels, kernel, stride: Conv(int(channels), int(kernel or 3), int(stride or 1)),
                 "conv32, conv32k5 or conv32k5s2"),
    "pool": Kind(r"(\d+)", lambda size: Pool(int(size)), "pool2"),
    "mean": Kind(r"(\d+)", lambda size: Pool(int(size), "mean"), "mean2"),
    "dropout": Kind(f"({NUMBER})", lambda p: Dropout(float(p)), "dropout0.2"),
}


def layers_of(text: str, name: str = "conv") -> list[Layer]:
    """The layers of such a text, without activations.

    Raises
    ------
    ParameterError
        It has a mistake: at which character, and which name is near; or a layer has sizes that cannot be.

    Examples
    --------
    >>> layers_of("conv8k5s2, pool2")[1]
    Pool(size=2, kind='max')
    """
    return [layer for layer, _ in parts_of(text, name, KINDS)]


def parts_of(text: str, name: str, kinds: Mapping[str, Kind]) -> Iterator[tuple[Layer, str]]:
    """The layers of a text of such words, each with the beginning of a message about it. A number alone is ``dense``,
    where that is a word."""
    place = 1
    for part in text.split(","):
        item = part.strip()
        at = place + len(part) - len(part.lstrip())
        where = f"{name} is {text!r}; at character {at} "
        yield _layer(item, where, kinds), f"{where}{item!r} "
        place += len(part) + 1


def _layer(item: str, where: str, kinds: Mapping[str, Kind]) -> Layer:
    if not item:
        raise ParameterError(f"{where}a layer is missing; expected for example {kinds['conv'].example}")
    kind = re.match(r"[a-zA-Z_]*", item)[0]  # type: ignore[index]
    word = "dense" if not kind and item[0].isdigit() and "dense" in kinds else kind
    if word not in kinds:
        raise ParameterError(f"{where}is {item!r}; expected one of {', '.join(kinds)}, each with a number, as in "
                             f"{kinds['conv'].example}{_check.nearest(kind, kinds)}")
    sizes = re.fullmatch(kinds[word].pattern, item[len(kind) :])
    if sizes is None:
        raise ParameterError(f"{where}is {item!r}; expected {kinds[word].example}")
    try:
        return kinds[word].make(*sizes.groups())
    except ParameterError as error:
        raise ParameterError(f"{where}is {item!r}: {error}") from None
