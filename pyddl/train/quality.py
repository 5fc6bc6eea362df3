"""How good samples are: figures of samples beside those of real rows, in a space of features or in that of the rows.

Letters: N real rows, M samples, D features. The features are a classifier's last hidden layer, so that rows are near
one another which a classifier takes for alike; distances of pixels would call a picture and its shift by one pixel
unlike.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pyddl.data.source import Source
from pyddl.train.crew import Crew

__all__ = ["coverage", "features_of", "frechet", "kernel_distance", "modes", "nearest", "quality",
           "recognised"]

NEIGHBOURS = 5  # of density and coverage
MOST = 5000  # rows whose distances to one another are looked at, spread over all: a set may have an order
CHUNK = 500
DEVIATIONS = 3.0  # from a mode, within which a sample is good


def frechet(real: np.ndarray, samples: np.ndarray) -> float:
    """Frechet distance of the normal distributions with the means and covariances of (N, D) and (M, D) [1]_.

    ``|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))``, in squared units of the features.

    .. [1] Heusel et al. (2017), GANs trained by a two time-scale update rule converge to a local Nash equilibrium,
       NeurIPS.
    """
    a, b = (np.atleast_2d(np.cov(each, rowvar=False)) for each in (real, samples))
    values, vectors = np.linalg.eigh(a)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    both = np.linalg.eigvalsh(root @ b @ root)  # those of C C', which is similar to a symmetric one
    off = real.mean(axis=0) - samples.mean(axis=0)
    return float(off @ off + np.trace(a) + np.trace(b) - 2 * np.sqrt(both.clip(min=0)).sum())


def kernel_distance(real: np.ndarray, samples: np.ndarray, crew: Crew | None = None) -> float:
    """Squared maximum mean discrepancy under the kernel ``(x'y / D + 1)^3``, estimated without bias [1]_. Collective.

    .. [1] Binkowski et al. (2018), Demystifying MMD GANs, ICLR.
    """
    def mean(x: np.ndarray, y: np.ndarray, *, alike: bool = False) -> float:
        def part(begin: int, end: int) -> np.ndarray:
            values = (x[begin:end] @ y.T / x.shape[1] + 1) ** 3
            return values.sum() - (np.trace(values, offset=begin) if alike else 0.0)  # without a row and itself

        return float(_sum_over(crew, len(x), part)) / (len(x) * (len(y) - alike))

    return mean(real, real, alike=True) + mean(samples, samples, alike=True) - 2 * mean(real, samples)


def coverage(real: np.ndarray, samples: np.ndarray, crew: Crew | None = None,
             neighbours: int = NEIGHBOURS) -> dict[str, float]:
    """``density`` and ``coverage``, by balls around real rows that reach to their neighbours [1]_. Collective.

    Density is how many balls a sample lies in, over how many a real row would: about 1; coverage the share of balls
    with a sample in them.

    .. [1] Naeem et al. (2020), Reliable fidelity and diversity metrics for generative models, ICML.
    """
    neighbours = min(neighbours, len(real) - 1)

    def part(begin: int, end: int) -> np.ndarray:
        own = _squared(real[begin:end], real)
        radii = np.partition(own, neighbours, axis=1)[:, neighbours]  # the nearest of all is the row itself
        inside = _squared(real[begin:end], samples) <= radii[:, None]
        return np.array([inside.sum(), inside.any(axis=1).sum()], dtype=np.float64)

    inside, covered = _sum_over(crew, len(real), part)
    return {"density": float(inside / (neighbours * len(samples))), "coverage": float(covered / len(real))}


def modes(samples: np.ndarray, centres: np.ndarray, deviation: float) -> dict[str, float]:
    """Of a known mixture: ``modes`` with at least 1 sample within 3 deviations of their centre, ``modes_of_20`` with at
    least 20, and ``high_quality``, the share of samples that are so near to one."""
    distances = np.sqrt(_squared(samples, centres))
    good = distances.min(axis=1) < DEVIATIONS * deviation
    counts = np.bincount(distances.argmin(axis=1)[good], minlength=len(centres))
    return {"modes": int((counts >= 1).sum()), "modes_of_20": int((counts >= 20).sum()),
            "high_quality": float(good.mean())}


def nearest(samples: np.ndarray, source: Source) -> np.ndarray:
    """The row of ``source`` that is nearest to each sample, (M, features): to see copies."""
    best, found = np.full(len(samples), np.inf), np.empty_like(samples)
    buffer = np.empty((CHUNK, source.features), dtype=np.float32)
    for begin in range(0, len(source), CHUNK):
        index = np.arange(begin, min(begin + CHUNK, len(source)), dtype=np.int64)
        rows = buffer[: len(index)]
        source.read(index, rows)
        distances = _squared(samples, rows)
        place = distances.argmin(axis=1)
        least = distances[np.arange(len(samples)), place]
        better = least < best
        best[better], found[better] = least[better], rows[place[better]]
    return found


def features_of(classifier: Any, rows: np.ndarray | Source, count: int, seed: int = 0) -> np.ndarray:
    """Last hidden layer of a trained classifier (`models.Trained`) for ``count`` rows, drawn where there are more:
    (count, D), float64."""
    if isinstance(rows, Source):
        index = np.arange(len(rows), dtype=np.int64)
        if count < len(rows):
            index = np.sort(np.random.default_rng(seed).choice(len(rows), count, replace=False))
        given = np.empty((len(index), rows.features), dtype=np.float32)
        rows.read(index, given)
    else:
        given = rows[:count]
    parts = [classifier.model.features(classifier.parameters, classifier.buffers, given[begin : begin + CHUNK])
             for begin in range(0, len(given), CHUNK)]
    return np.concatenate(parts).astype(np.float64)


def recognised(classifier: Any, samples: np.ndarray, classes: int) -> float:
    """Share of samples, made of so many classes in turn, that a trained classifier takes for what they were made of."""
    model, parameters, buffers = classifier
    told = [model.probabilities(parameters, buffers, samples[begin : begin + CHUNK]).argmax(axis=1)
            for begin in range(0, len(samples), CHUNK)]
    return float(np.mean(np.concatenate(told) == np.arange(len(samples)) % classes))


def quality(samples: np.ndarray, held_out: Source, training: Source | None, classifier: Any,
            crew: Crew | None = None) -> dict[str, float]:
    """Figures of samples against held-out rows; as ``..._of_rows`` those of as many training rows. Collective.

    Parameters
    ----------
    samples : ndarray of shape (M, features)
    held_out : Source
    training : Source or None
    classifier : Trained
        Of the same rows.

    Returns
    -------
    dict
        ``frechet_distance``, ``kernel_distance``, ``density``, ``coverage``, and the same for training rows: what the
        best generator could get.
    """
    count = min(len(samples), len(held_out))
    real = features_of(classifier, held_out, count)
    some = slice(None, None, -(-count // MOST))
    figures: dict[str, float] = {}
    for ending, rows in (("", samples), ("_of_rows", training)):
        if rows is not None:
            found = features_of(classifier, rows, count, seed=1)
            each = {"frechet_distance": frechet(real, found),
                    "kernel_distance": kernel_distance(real[some], found[some], crew),
                    **coverage(real[some], found[some], crew)}
            figures |= {f"{name}{ending}": value for name, value in each.items()}
    return figures


def _squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared distances (len(x), len(y)), float64."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    found = np.einsum("ij,ij->i", x, x)[:, None] + np.einsum("ij,ij->i", y, y) - 2 * x @ y.T
    return found.clip(min=0)


def _sum_over(crew: Crew | None, count: int, part: Any) -> np.ndarray:
    """The sum of ``part(begin, end)`` over chunks of ``count``, which the crew shares; in one order. Collective."""
    crew = crew or Crew()
    first, last = crew.part(-(-count // CHUNK))
    mine = [part(at * CHUNK, min((at + 1) * CHUNK, count)) for at in range(first, last)]
    return np.sum([each for group in crew.gather(mine) for each in group], axis=0)  # type: ignore[arg-type]
