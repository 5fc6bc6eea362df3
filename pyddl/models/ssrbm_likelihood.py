"""Exact likelihood of a spike-and-slab machine: given its spikes the visible units are Gaussian, so that Z is a sum of
2^N Gaussian normalisers.

Source of the densities: Courville, Bergstra, Bengio (2011), Unsupervised models of images by spike-and-slab RBMs, ICML.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pyddl.data.source import Source
from pyddl.errors import DataError, ParameterError
from pyddl.models.likelihood import Crew

__all__ = ["MOST_SPIKES", "exact_log_partition", "likelihood"]

MOST_SPIKES = 20  # that are enumerated
PIECES = 256  # of an enumeration, at most
ROWS = 500  # whose free energies are computed at once
MOST_OUTSIDE = 1e-3  # of the density that a ball may cut off, which changes log-likelihoods by as many nats
TILTS = (0.9, 0.7, 0.5, 0.3, 0.1)  # shares of the smallest precision


def likelihood(model: Any, parameters: np.ndarray, buffers: np.ndarray, source: Source, crew: Crew) -> dict[str, float]:
    """Mean log-likelihood of the rows, nats per row in the data's unit: the measure ``likelihood``. Collective.

    Returns
    -------
    dict
        ``log_likelihood``, ``log_partition``; where there is a ball also ``outside_ball``, an upper bound of the share
        of the density without the ball that lies outside.

    Raises
    ------
    ParameterError
        More than 20 spikes.
    DataError
        Some state of the spikes is improper, so that there is no density without the ball; or the ball cuts off more
        than a thousandth of it.
    """
    views = model.layout.views(parameters)
    log_partition = exact_log_partition(model, parameters, crew)
    found: dict[str, float] = {}
    if radius := float(views["radius"][0] / views["scale"][0]):
        outside = _outside(model, parameters, crew, radius, log_partition)
        if outside > MOST_OUTSIDE:
            raise DataError(f"up to {outside:.3g} of this machine's density lies outside the ball of radius "
                            f"{float(views['radius'][0]):.4g}, which makes it another one: give a larger radius, or "
                            "in form mu none")
        found = {"outside_ball": outside}
    begin, end = crew.part(-(-len(source) // ROWS))
    buffer, energies = np.empty((ROWS, source.features), dtype=np.float32), [0.0]
    for at in range(begin * ROWS, min(end * ROWS, len(source)), ROWS):
        index = np.arange(at, min(at + ROWS, len(source)), dtype=np.int64)
        source.read(index, buffer[: len(index)])
        energies.append(math.fsum(model.free_energy(parameters, buffer[: len(index)])))
    energy = math.fsum(np.concatenate(crew.gather(np.array(energies)))) / len(source)
    of_unit = model.inputs * math.log(float(views["scale"][0]))
    return {"log_likelihood": -energy - log_partition - of_unit, "log_partition": log_partition, **found}


def exact_log_partition(model: Any, parameters: np.ndarray, crew: Crew) -> float:
    """log Z by a sum over all states of the spikes, without a ball. Collective over the crew.

    Raises
    ------
    ParameterError, DataError
        As `likelihood`.
    """
    if model.hidden > MOST_SPIKES:
        raise ParameterError(f"{model.hidden} hidden units are too many for an enumeration, which takes up to "
                             f"{MOST_SPIKES}: train a smaller machine, or look at free energies")
    log_sum, improper = _log_normalisers(model, parameters, crew, 0.0)
    if improper:
        raise DataError(f"{improper} of {1 << model.hidden} states of the spikes are improper: without its ball this "
                        "machine is no density, and with it the integral is not known. Form mu has proper states only")
    return log_sum


def _outside(model: Any, parameters: np.ndarray, crew: Crew, radius: float, log_partition: float) -> float:
    """An upper bound of P(|u| > radius): E exp(t |u|^2) / exp(t radius^2), whose expectation is the quotient of Z with
    precisions less 2t to Z (Chernoff). The best of a few t."""
    least = math.exp(float(model.layout.views(parameters)["log_precision"].min()))
    bounds = [0.0]
    for tilt in (share * least for share in TILTS):
        log_sum, improper = _log_normalisers(model, parameters, crew, tilt)
        if not improper:
            bounds.append(log_sum - log_partition - tilt / 2 * radius**2)
    return math.exp(min(bounds))


def _log_normalisers(model: Any, parameters: np.ndarray, crew: Crew, shift: float) -> tuple[float, int]:
    """Of all states, shared out by pieces that do not depend on the ranks: log of their sum, improper ones."""
    states = 1 << model.hidden
    pieces = min(states, PIECES)
    begin, end = crew.part(pieces)
    found = [model.native.log_normalisers(parameters, piece * states // pieces, (piece + 1) * states // pieces, shift)
             for piece in range(begin, end)]
    sums = np.concatenate(crew.gather(np.array(found, dtype=np.float64).reshape(-1, 2)))
    most = float(sums[:, 0].max())
    if most == -math.inf:
        return most, int(sums[:, 1].sum())
    return most + math.log(math.fsum(np.exp(sums[:, 0] - most))), int(sums[:, 1].sum())
