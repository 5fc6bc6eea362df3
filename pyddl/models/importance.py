"""Importance-weighted bounds of the log-likelihood of a variational autoencoder.

Source: Burda, Grosse, Salakhutdinov (2016), Importance weighted autoencoders, ICLR, arXiv:1509.00519. With samples z_k
of q(z | x) and weights w_k = p(x, z_k) / q(z_k | x)::

    L_K = E [log (w_1 + ... + w_K) / K],   ELBO = L_1 <= L_K <= L_(K + 1) <= log p(x)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyddl.data.source import Source
from pyddl.models.likelihood import Crew

__all__ = ["bound", "likelihood"]

ROWS, SAMPLES = 50, 50  # of a piece of work, whose results do not depend on the ranks; samples that are drawn at once
COUNTS = (1, 5, 50, 500)


def bound(log_weights: np.ndarray, samples: int) -> np.ndarray:
    """L_K of each row, nats: from log weights (rows, a multiple of ``samples``), each of which counts once."""
    of_groups = log_weights.reshape(len(log_weights), -1, samples)
    most = of_groups.max(axis=2, keepdims=True)
    return (most[..., 0] + np.log(np.exp(of_groups - most).mean(axis=2))).mean(axis=1)


def likelihood(model: Any, parameters: np.ndarray, buffers: np.ndarray, source: Source, crew: Crew,
               counts: tuple[int, ...] = COUNTS) -> dict[str, float]:
    """Bounds of the mean log-likelihood of the rows, nats per row: the measure ``likelihood``. Collective.

    Parameters
    ----------
    counts : tuple of int
        Numbers K of samples, each a divisor of the last one: so many are drawn of each row.

    Returns
    -------
    dict
        ``iwae_K`` for each of them, where ``iwae_1`` is the ELBO from all samples; and ``effective_samples``, how many
        of the last K carry the weight: near 1 the bound is not to be taken for the likelihood.
    """
    most = max(counts)
    begin, end = crew.part(-(-len(source) // ROWS))
    buffer = np.empty((ROWS, source.features), dtype=np.float32)
    found = [np.empty((0, len(counts) + 1))]
    for at in range(begin * ROWS, min(end * ROWS, len(source)), ROWS):
        index = np.arange(at, min(at + ROWS, len(source)), dtype=np.int64)
        rows = buffer[: len(index)]
        source.read(index, rows)
        weights = np.concatenate([
            model.log_weights(parameters, buffers, rows, index, min(SAMPLES, most - first), first // SAMPLES)
            for first in range(0, most, SAMPLES)], axis=1)
        share = np.exp(weights - weights.max(axis=1, keepdims=True))
        effective = share.sum(axis=1) ** 2 / np.square(share).sum(axis=1)
        found.append(np.stack([*(bound(weights, count) for count in counts), effective], axis=1))
    of_rows = np.concatenate(crew.gather(np.concatenate(found)))
    means = [math.fsum(column) / len(source) for column in of_rows.T]
    return {**{f"iwae_{count}": mean for count, mean in zip(counts, means, strict=False)},
            "effective_samples": means[-1]}
