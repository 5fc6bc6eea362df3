"""Distance of a generator's samples from rows, in the rows' own space: for a look without a classifier.

Source: Szekely, Rizzo (2013), Energy statistics: a class of statistics based on distances, Journal of Statistical
Planning and Inference 143(8), 1249-1272.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pyddl.data.source import Source
from pyddl.models.likelihood import Crew

__all__ = ["energy_distance"]

MOST, CHUNK = 2000, 200  # rows that are looked at, evenly spaced; of a piece of work, whose sums do not depend on ranks
SEED = 0  # of the samples


def energy_distance(model: Any, parameters: np.ndarray, buffers: np.ndarray, source: Source,
                    crew: Crew) -> dict[str, float]:
    """``2 E|x - y| - E|x - x'| - E|y - y'|`` of rows x and as many samples y, estimated without bias: the measure
    ``energy_distance``, in the unit of the data. Collective.

    0 where both are of one distribution; an estimate may fall below it. A conditional model makes samples of the rows'
    classes.
    """
    index = np.unique(np.linspace(0, len(source) - 1, min(MOST, len(source))).astype(np.int64))
    rows = np.empty((len(index), source.features), dtype=np.float32)
    source.read(index, rows)
    labels = {}
    if getattr(model, "conditional", False) and source.labels is not None:
        labels = {"labels": np.asarray(source.labels)[index]}
    samples = model.sample(parameters, buffers, len(rows), SEED, **labels)
    begin, end = crew.part(-(-len(rows) // CHUNK))
    found = [np.zeros((0, 3))]
    for at in range(begin * CHUNK, min(end * CHUNK, len(rows)), CHUNK):
        x, y = rows[at : at + CHUNK], samples[at : at + CHUNK]
        found.append(np.array([[_sum(x, samples), _sum(x, rows), _sum(y, samples)]]))
    between, of_rows, of_samples = np.concatenate(crew.gather(np.concatenate(found))).sum(axis=0)
    count = len(rows)
    return {"energy_distance": float(2 * between / count**2 - (of_rows + of_samples) / (count * max(count - 1, 1)))}


def _sum(x: np.ndarray, y: np.ndarray) -> float:
    """Of the distances between all x and all y."""
    a, b = x.astype(np.float64), y.astype(np.float64)
    squares = np.einsum("ij,ij->i", a, a)[:, None] + np.einsum("ij,ij->i", b, b) - 2 * a @ b.T
    return float(np.sqrt(squares.clip(min=0)).sum())
