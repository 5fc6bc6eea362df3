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
from collections.abc import Callable

from pyddl import _check
from pyddl.errors import ParameterError
from pyddl.models.layers import Conv, Dropout, Layer, Pool

__all__ = ["layers_of"]

NUMBER = r"\d+(?:\.\d+)?"
KINDS: dict[str, tuple[str, Callable[..., Layer]]] = {
    "conv": (r"(\d+)(?:k(\d+))?(?:s(\d+))?",
             lambda channels, kernel, stride: Conv(int(channels), int(kernel or 3), int(stride or 1))),
    "pool": (r"(\d+)", lambda size: Pool(int(size))),
    "mean": (r"(\d+)", lambda size: Pool(int(size), "mean")),
    "dropout": (f"({NUMBER})", lambda p: Dropout(float(p))),
}
EXAMPLES = {"conv": "conv32, conv32k5 or conv32k5s2", "pool": "pool2", "mean": "mean2", "dropout": "dropout0.2"}


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
    layers, place = [], 1
    for part in text.split(","):
        item = part.strip()
        at = place + len(part) - len(part.lstrip())
        layers.append(_layer(item, f"{name} is {text!r}; at character {at} "))
        place += len(part) + 1
    return layers


def _layer(item: str, where: str) -> Layer:
    if not item:
        raise ParameterError(f"{where}a layer is missing; expected for example {EXAMPLES['conv']}")
    kind = re.match(r"[a-zA-Z_]*", item)[0]  # type: ignore[index]
    if kind not in KINDS:
        raise ParameterError(f"{where}is {item!r}; expected one of {', '.join(KINDS)}, each with a number, as in "
                             f"{EXAMPLES['conv']}{_check.nearest(kind, KINDS)}")
    pattern, make = KINDS[kind]
    sizes = re.fullmatch(pattern, item[len(kind) :])
    if sizes is None:
        raise ParameterError(f"{where}is {item!r}; expected {EXAMPLES[kind]}")
    try:
        return make(*sizes.groups())
    except ParameterError as error:
        raise ParameterError(f"{where}is {item!r}: {error}") from None
