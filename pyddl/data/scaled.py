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

    A column with one value in all rows becomes 0, as scikit-learn's scalers have it.

    Raises
    ------
    DataError
        All columns have one value each; or values that are to be pixels are outside 0 to 255.
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
    offset, width = (low, high - low) if kind == "minmax" else (mean, np.sqrt(variance))
    constant = (low == high) | (width < np.finfo(np.float32).tiny)  # whose inverse a float32 holds no more
    if constant.all():
        raise DataError(f"scale is {kind}, and all rows of {source.name} are alike: there is no scale to learn")
    return Scaling(kind, offset, 1 / np.where(constant, 1, width))
