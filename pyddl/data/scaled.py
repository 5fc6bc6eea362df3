"""A scale for columns, learned from training rows."""

from __future__ import annotations

import numpy as np

from pyddl import _check
from pyddl.data.scaling import Scaling
from pyddl.data.source import Source
from pyddl.data.statistics import Statistics
from pyddl.errors import DataError
from pyddl.names import SCALES

__all__ = ["learned"]


def learned(kind: str, source: Source, statistics: Statistics | None = None) -> Scaling:
    """The scaling of this kind that these rows give. Collective where ranks share the work of their ``statistics``.

    Raises
    ------
    DataError
        A column has the same value in all rows; or it is to be pixels, and values are outside 0 to 255.
    """
    _check.one_of("scale", kind, SCALES)
    if kind == "pixels":
        if source.minimum < 0 or source.maximum > 255:
            raise DataError(f"scale pixels divides values of 0 to 255 by 255; {source.name} reaches from "
                            f"{source.minimum:g} to {source.maximum:g}: choose scale minmax or standard")
        return Scaling(kind, np.zeros(1), np.full(1, 1 / 255))
    found = statistics or Statistics(source)
    low, high = found.minimum.astype(np.float64), found.maximum.astype(np.float64)
    mean, variance = found.mean, found.variance
    if source.image_shape is not None:
        low, high = low.min(keepdims=True), high.max(keepdims=True)
        variance = np.mean(variance + np.square(mean - mean.mean()), keepdims=True)
        mean = mean.mean(keepdims=True)
    _refuse_constant(kind, source, low, high)
    return Scaling(kind, low, 1 / (high - low)) if kind == "minmax" else Scaling(kind, mean, 1 / np.sqrt(variance))


def _refuse_constant(kind: str, source: Source, low: np.ndarray, high: np.ndarray) -> None:
    constant = np.flatnonzero(low == high)
    if not constant.size:
        return
    names = [str(i) if source.columns is None else repr(source.columns[i]) for i in constant[:5]]
    more = f" and {constant.size - 5} more" if constant.size > 5 else ""
    raise DataError(f"scale is {kind}, and column{'s' if constant.size > 1 else ''} {', '.join(names)}{more} of "
                    f"{source.name} {'have' if constant.size > 1 else 'has'} one value in all rows "
                    f"({low[constant[0]]:g}), which no scale changes: leave such columns out; for rows that are "
                    "pictures choose scale pixels")
