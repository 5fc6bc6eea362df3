"""Likelihood of a Boltzmann machine: exact where one side can be enumerated, else an interval by annealed importance
sampling, forward and in reverse.

Sources: Salakhutdinov, Murray (2008), On the quantitative analysis of deep belief networks, ICML; Burda, Grosse,
Salakhutdinov (2015), Accurate and conservative estimates of MRF log-likelihood using reverse annealing, AISTATS; Sokal
(1997), Monte Carlo methods in statistical mechanics, section 3 (autocorrelation times).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from pyddl import _core, random
from pyddl.data.source import Source
from pyddl.errors import DataError, ParameterError

__all__ = ["MOST_UNITS", "Annealed", "Crew", "Measure", "annealed", "autocorrelation_time", "exact_log_partition",
           "likelihood", "sides"]

Measure = Callable[..., dict[str, float]]

MOST_UNITS = 25  # that are enumerated
PIECES = 256  # of an enumeration, at most
ROWS = 500  # whose free energies are computed at once
CHAINS, BLOCK = 128, 32  # a block's chains move together, so that results do not depend on the ranks
TEMPERATURES, SWEEPS = 4000, 1000
PLAN = ((0.1, 0.0, 0.5), (0.3, 0.5, 0.9), (0.6, 0.9, 1.0))  # share of the temperatures, from, to
FORWARD, SETTLE, BACKWARD = (number << 32 for number in (1, 2, 3))  # first steps of the chains' random numbers


class Crew(Protocol):
    """Ranks that share work out: see `pyddl.train.crew.Crew`."""

    def part(self, count: int) -> tuple[int, int]: ...
    def gather(self, array: np.ndarray) -> list[np.ndarray]: ...


class Annealed(NamedTuple):
    """Estimates of log Z, in nats.

    Attributes
    ----------
    forward : float
        By annealed importance sampling: the logarithm of an unbiased estimate of Z, so rather too low.
    reverse : float
        From chains that run back from the model, mean of their log weights: too high on average, where they start in
        equilibrium.
    spread, reverse_spread : float
        Standard deviations of the log weights: of several nats where an estimate is not to be trusted.
    autocorrelation : float
        Of the chains' free energies, in Gibbs steps.
    """

    forward: float
    reverse: float
    spread: float
    reverse_spread: float
    autocorrelation: float


def likelihood(model: Any, parameters: np.ndarray, buffers: np.ndarray, source: Source, crew: Crew,
               tempered: Callable[[np.ndarray, np.ndarray, Crew], Any] | None = None) -> dict[str, float]:
    """Mean log-likelihood of the rows, nats per row: the measure ``likelihood``. Collective over the crew.

    Parameters
    ----------
    tempered : callable, optional
        Gives the `pyddl.models.tempering.Tempered` of ``(parameters, buffers, crew)``, where chains have a ladder.

    Returns
    -------
    dict
        ``log_likelihood`` and ``log_partition`` where one side has at most 25 units, which are enumerated. Else the
        interval from ``log_likelihood_reverse_ais`` to ``log_likelihood_ais``, ``log_weight_spread`` and
        ``reverse_log_weight_spread`` (standard deviations), and ``autocorrelation_time`` in Gibbs steps.
        With a ladder also ``log_likelihood_ladder`` and ``log_partition_ladder``, the standard error ``ladder_error``
        of both, ``ladder_rungs``, ``ladder_exchanges`` (the least mean probability by which neighbours exchange) and
        ``ladder_autocorrelation_time`` in sweeps.
        ``log_probability_of_rows``, of Bernoulli units: that of all distinct rows together, never above 0; where it is,
        the estimate is refused. ``thresholded_rows``: those that held other values than 0 and 1, which have no
        probability; their values were replaced by 1 from 1/2 on, 0 below.

    Raises
    ------
    DataError
        An estimate that contradicts the data: their summed probability would be above 1.
    """
    bernoulli = model.visible == "bernoulli"
    energies, mean, digests, thresholded = _of_rows(model, parameters, source, crew, bernoulli)
    data_energy = math.fsum(energies) / len(energies)
    found: dict[str, float] = {}
    if sides(model):
        log_partition = exact_log_partition(model, parameters, crew)
        found = {"log_likelihood": -data_energy - log_partition, "log_partition": log_partition}
    else:
        estimates = annealed(model, parameters, buffers, mean, crew)
        log_partition = estimates.forward
        found = {"log_likelihood_ais": -data_energy - estimates.forward,
                 "log_likelihood_reverse_ais": -data_energy - estimates.reverse,
                 "log_weight_spread": estimates.spread, "reverse_log_weight_spread": estimates.reverse_spread,
                 "autocorrelation_time": estimates.autocorrelation}
    together = -math.inf
    if bernoulli:
        _, first = np.unique(digests, return_index=True)
        together = _log_sum(-energies[first])
        _refuse_above_one(together - log_partition, 1e-3, len(first), source.name,
                          "train with smaller steps, or fewer hidden units (up to 25 are enumerated)")
        found |= {"log_probability_of_rows": together - log_partition, "thresholded_rows": float(thresholded)}
    if tempered is not None:
        ladder = tempered(parameters, buffers, crew)
        if bernoulli:
            _refuse_above_one(together - ladder.log_partition, 1e-3 + 4 * ladder.error, len(first), source.name,
                              "train with smaller steps, more chains or a longer ladder")
        found |= {"log_likelihood_ladder": -data_energy - ladder.log_partition,
                  "log_partition_ladder": ladder.log_partition, "ladder_error": ladder.error,
                  "ladder_rungs": float(ladder.rungs), "ladder_exchanges": ladder.exchanges,
                  "ladder_autocorrelation_time": ladder.autocorrelation}
    return found


def _refuse_above_one(together: float, tolerance: float, rows: int, name: str, cure: str) -> None:
    if together > tolerance:
        raise DataError(f"the {rows} distinct rows of {name} would have a summed probability of exp({together:.3g}), "
                        "above 1: the chains of this machine do not mix, and the estimate of log Z is too low. There "
                        f"is no likelihood to be had this way: {cure}")


def _of_rows(model: Any, parameters: np.ndarray, source: Source, crew: Crew,
             bernoulli: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Free energies of all rows, their mean, what tells distinct ones apart, and how many were no binary rows."""
    begin, end = crew.part(-(-len(source) // ROWS))
    buffer = np.empty((ROWS, source.features), dtype=np.float32)
    energies, sums, digests, thresholded = [], np.zeros(source.features), [], 0
    for at in range(begin * ROWS, min(end * ROWS, len(source)), ROWS):
        index = np.arange(at, min(at + ROWS, len(source)), dtype=np.int64)
        rows = buffer[: len(index)]
        source.read(index, rows)
        rows = model.seen(rows, index)
        if bernoulli and (other := ((rows != 0) & (rows != 1)).any(axis=1)).any():
            thresholded += int(other.sum())
            rows = (rows >= 0.5).astype(np.float32)
        out = np.empty(len(rows))
        model.native.free_energy(parameters, rows, out)
        energies.append(out)
        sums += rows.sum(axis=0, dtype=np.float64)
        digests.append(np.packbits(rows != 0, axis=1))
    width = -(-source.features // 8)
    all_energies = np.concatenate(crew.gather(np.concatenate([np.empty(0), *energies])))
    packed = np.concatenate(crew.gather(np.concatenate([np.empty((0, width), np.uint8), *digests])))
    mean = sum(crew.gather(sums), np.zeros(source.features)) / len(source)
    count = int(sum(int(each[0]) for each in crew.gather(np.array([thresholded]))))
    return all_energies, mean, np.ascontiguousarray(packed).view(f"V{width}").ravel(), count


# ---- enumeration


def sides(model: Any) -> tuple[str, ...]:
    """Which sides of the machine can be enumerated: ``hidden``, ``visible``; the cheaper one first."""
    units = {"hidden": model.hidden} | ({"visible": model.inputs} if model.visible == "bernoulli" else {})
    return tuple(sorted((side for side, count in units.items() if count <= MOST_UNITS), key=lambda side: units[side]))


def exact_log_partition(model: Any, parameters: np.ndarray, crew: Crew) -> float:
    """log Z by the sum over all states of one side, in nats. Collective; the same on any number of ranks.

    Raises
    ------
    ParameterError
        No side has few enough units.
    """
    able = sides(model)
    if not able:
        raise ParameterError(f"{model.inputs} {model.visible} visible and {model.hidden} hidden units are too many for "
                             f"an enumeration; expected at most {MOST_UNITS} on one side: use AIS")
    of_hidden = able[0] == "hidden"
    states = model.native.pieces(of_hidden)
    pieces = min(states, PIECES)
    begin, end = crew.part(pieces)
    logs = [model.native.log_sum(parameters, of_hidden, states * piece // pieces, states * (piece + 1) // pieces)
            for piece in range(begin, end)]
    return _log_sum(np.concatenate(crew.gather(np.array(logs, dtype=np.float64)))) + _constant(model, parameters)


def _constant(model: Any, parameters: np.ndarray) -> float:
    """What the native sum leaves out, of Gaussian units."""
    if model.visible == "bernoulli":
        return 0.0
    views = model.layout.views(parameters)
    log_variance, bias = views["log_variance"].astype(np.float64), views["visible_bias"].astype(np.float64)
    return float(np.sum((math.log(2 * math.pi) + log_variance) / 2 - bias**2 / (2 * np.exp(log_variance))))


# ---- annealed importance sampling


def temperatures(count: int) -> np.ndarray:
    """Inverse temperatures from 0 to 1, closer together towards 1."""
    parts = [np.linspace(low, high, max(1, round(count * share)), endpoint=False) for share, low, high in PLAN]
    return np.concatenate([*parts, [1.0]])


def annealed(model: Any, parameters: np.ndarray, buffers: np.ndarray, mean: np.ndarray, crew: Crew, *, seed: int = 0,
             chains: int = CHAINS, steps: int = TEMPERATURES, sweeps: int = SWEEPS) -> Annealed:
    """log Z by annealed importance sampling, forward and in reverse. Collective; chains are shared out by blocks of 32.

    The base has no weights and, where visible units are Bernoulli, their ``mean`` in the data. Chains of the reverse
    begin at persistent chains, or where the forward ones end, and take ``sweeps`` Gibbs steps first.
    """
    views = model.layout.views(parameters)
    if model.visible == "bernoulli":
        p = np.clip(mean, 1e-3, 1 - 1e-3)
        base = np.log(p / (1 - p)).astype(np.float32)
        log_base = float(np.logaddexp(0, base.astype(np.float64)).sum())
        start = np.broadcast_to(p.astype(np.float32), (chains, model.inputs))
    else:
        base = views["visible_bias"].copy()
        log_base = float(np.sum(math.log(2 * math.pi) + views["log_variance"].astype(np.float64))) / 2
    log_base += model.hidden * math.log(2)
    betas = temperatures(steps)
    begin, end = crew.part(-(-chains // BLOCK))
    key = (seed % random.SEEDS, random.LIKELIHOOD)
    forward, reverse, energies = [], [], []
    for block in range(begin, end):
        numbers = np.arange(block * BLOCK, min((block + 1) * BLOCK, chains), dtype=np.int64)
        rows = np.empty((len(numbers), model.inputs), dtype=np.float32)
        if model.visible == "bernoulli":
            _core.bernoulli(rows, np.ascontiguousarray(start[: len(numbers)]), numbers, *key)
        else:
            _core.normal(rows, numbers, *key)
            rows *= np.exp(views["log_variance"] / 2)
            rows += base
        weights, back = np.zeros(len(numbers)), np.zeros(len(numbers))
        model.native.anneal(parameters, base, betas, rows, numbers, *key, FORWARD, weights)
        if model.chain != "cd":
            hidden = model.buffers.views(buffers)["chains"][numbers % model.chains]
            rows = model.decode(parameters, buffers, hidden)
        series = np.empty((sweeps, len(numbers)))
        model.native.gibbs(parameters, rows, numbers, *key, SETTLE, sweeps, series)
        model.native.anneal(parameters, base, np.ascontiguousarray(betas[::-1]), rows, numbers, *key, BACKWARD, back)
        forward.append(weights)
        reverse.append(-back)
        energies.append(series.T)
    forwards, reverses = (np.concatenate(crew.gather(np.concatenate([np.empty(0), *each])))
                          for each in (forward, reverse))
    series = np.concatenate(crew.gather(np.concatenate([np.empty((0, sweeps)), *energies])))
    return Annealed(log_base + _log_sum(forwards) - math.log(chains), log_base + float(reverses.mean()),
                    float(forwards.std()), float(reverses.std()), autocorrelation_time(series[:, sweeps // 5 :]))


def autocorrelation_time(series: np.ndarray) -> float:
    """Integrated autocorrelation time, in steps, of a quantity that chains (chains, steps) have in common.

    1 + 2 sum_t rho(t), up to the first t that is at least 5 times the sum (Sokal's window). Chains that never meet keep
    their distances, so that the sum is cut at the end of the series: then it is a lower bound.
    """
    steps = series.shape[1]
    centred = series - series.mean()
    variance = float(np.mean(centred**2))
    if steps < 2 or variance == 0:
        return 1.0
    spectrum = np.abs(np.fft.rfft(centred, 2 * steps, axis=1)) ** 2
    covariance = np.fft.irfft(spectrum, axis=1)[:, :steps].mean(axis=0) / np.arange(steps, 0, -1)
    total = 1.0
    for t in range(1, steps):
        total += 2 * float(covariance[t]) / variance
        if t >= 5 * total:
            break
    return max(total, 1.0)


def _log_sum(logs: np.ndarray) -> float:
    most = float(logs.max())
    return most + math.log(math.fsum(np.exp(logs - most)))
