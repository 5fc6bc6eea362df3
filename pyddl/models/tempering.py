"""Tempering of a Boltzmann machine along its run's own past: a ladder of frozen machines, exchanges of states between
neighbours, and log Z by Bennett's ratio.

Chains that only persist stay in the modes in which they are. Here the run's earlier machines, from the one without
weights on, whose units are independent, are kept as rungs. States climb from rung to rung by exchanges that leave every
rung's distribution as it is, and chains exchange theirs with a reservoir of states of the last rung.

Sources: Bereux, Decelle, Furtlehner, Seoane (2026), Equilibrium training of energy-based models with parallel
trajectory tempering, arXiv 2607.27077; Bennett (1976), Efficient estimation of free energy differences from Monte Carlo
data, Journal of Computational Physics 22, 245-268.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from pyddl import _core, random
from pyddl.data.batch import Batch, Chains
from pyddl.layout import Slice
from pyddl.models.likelihood import BLOCK, Crew, autocorrelation_time

__all__ = ["MOST_RUNGS", "RESERVOIR", "Ladder", "Tempered", "bennett", "climb", "climb_and_measure", "ladder_slices",
           "probability"]

MOST_RUNGS = 256
RESERVOIR = 10  # states of the last rung for each chain
SWEEPS, SETTLE = 40, 20  # of the ladder when a rung is frozen; those before its states are collected
FROZEN_BELOW = 0.5  # mean probability of an exchange
REST = 3  # updates between two rungs at the least
MEMORY, SLOW_MEMORY = 0.5, 0.05  # weight of the newest figure in the running means of exchanges, and of log Z
REFRESH = 16  # updates for each rung, after which one of each chain's states in the reservoir is a new one
MEASURED, SETTLED = 400, 100  # sweeps of a measurement; those before


def ladder_slices(chains: int, hidden: int, parameters: int, rungs: int) -> list[Slice]:
    """Buffers of a ladder of at most ``rungs`` machines whose vectors have ``parameters`` elements.

    What belongs to a chain is a row of a table, so a worker exchanges among its own rows only; the machines and what is
    known of them are equal on all workers.
    """
    return [
        Slice("ladder_chains", (chains, rungs, hidden), merge="rows"),  # hidden units
        Slice("reservoir", (chains, RESERVOIR, hidden), merge="rows"),
        Slice("reservoir_energies", (chains, RESERVOIR), merge="rows"),
        Slice("works", (chains, 2), merge="rows"),  # of the last update's exchanges
        Slice("ladder", (rungs, parameters), merge="equal"),
        Slice("ladder_log_partition", (rungs,), merge="equal"),
        Slice("ladder_exchanges", (rungs - 1,), merge="equal"),  # mean probability, of neighbours
        Slice("rungs", (1,), merge="equal"),
        Slice("updates", (1,), merge="equal"),  # since the last rung was frozen
        Slice("exchanged", (1,), merge="equal"),  # running mean of the chains' probability to exchange
        Slice("log_partition", (1,), merge="equal"),  # of the machine in training, running mean
    ]


def bennett(lower: np.ndarray, upper: np.ndarray) -> float:
    """log Z_1 - log Z_0 from F_1 - F_0 of equally many states of machine 0, ``lower``, and of machine 1, ``upper``.

    The root of sum f(lower + x) - sum f(-upper - x), f(x) = 1 / (1 + exp(x)), which falls with x: by bisection.
    """
    lower, upper = np.ravel(lower).astype(np.float64), np.ravel(upper).astype(np.float64)
    low = -max(lower.max(), upper.max()) - 50
    high = -min(lower.min(), upper.min()) + 50
    for _ in range(80):
        middle = (low + high) / 2
        if _fermi(lower + middle).sum() > _fermi(-upper - middle).sum():
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _fermi(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(np.minimum(x, 700)))


def probability(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Of an exchange of two states, by their works."""
    return np.exp(np.minimum(0, upper - lower))


class Ladder:
    """The ladder in a model's buffers, moved in place.

    Parameters
    ----------
    model : RBM
    buffers : ndarray of shape (model.buffers.size,), float32
    """

    def __init__(self, model: Any, buffers: np.ndarray):
        self.native, self.chains, self.hidden = model.native, model.chains, model.hidden
        self.kept = model.buffers.views(buffers)

    @property
    def rungs(self) -> int:
        return int(self.kept["rungs"][0])

    @property
    def machines(self) -> np.ndarray:
        """Parameters of the rungs, from the lowest up."""
        return self.kept["ladder"][: self.rungs]

    @property
    def log_partition(self) -> float:
        """Of the machine in training, nats: a running mean, so behind by some updates."""
        return float(self.kept["log_partition"][0])

    def begin(self, layout: Any, parameters: np.ndarray, seed: int) -> None:
        """The lowest rung: the machine of ``parameters`` without its weights; its states are drawn, log Z is known."""
        kept, each = self.kept, self.chains * RESERVOIR
        kept["ladder"][0] = parameters
        views = layout.views(kept["ladder"][0])
        views["weights"][:] = 0
        c = views["hidden_bias"]
        on = np.broadcast_to((1 / (1 + np.exp(-c.astype(np.float64)))).astype(np.float32), (each, self.hidden))
        states = np.empty((each, self.hidden), dtype=np.float32)
        _core.bernoulli(states, np.ascontiguousarray(on), np.arange(each), seed, random.TEMPERING)
        kept["reservoir"][:] = states.reshape(kept["reservoir"].shape)
        kept["ladder_chains"][:, 0] = kept["reservoir"][:, -1]
        self._reservoir_energies(kept["ladder"][0], 0, self.chains)
        none = np.empty(1)
        self.native.hidden_free_energy(kept["ladder"][0], np.zeros((1, self.hidden), dtype=np.float32), none)
        kept["ladder_log_partition"][0] = -none[0] + np.logaddexp(0, c.astype(np.float64)).sum()
        kept["rungs"][0], kept["updates"][0], kept["exchanged"][0] = 1, 0, 1
        kept["log_partition"][0] = kept["ladder_log_partition"][0]

    def follow(self, parameters: np.ndarray, batch: Batch, own: Chains) -> None:
        """Hear of the last update's exchanges, of all workers, and freeze ``parameters`` where chains exchange too
        seldom. Collective over the workers of the step."""
        kept, updates = self.kept, int(self.kept["updates"][0])
        works = np.zeros((2, self.chains), dtype=np.float32)
        if updates:
            works[:, own.begin : own.end] = kept["works"][own.begin : own.end].T
        batch.sum(works.reshape(-1))
        if updates and self.chains > updates % 2:
            lower, upper = works[:, updates % 2 :: 2].astype(np.float64)  # the chains that have tried
            found = self.log_partition - float(kept["ladder_log_partition"][self.rungs - 1])
            off = np.log(_fermi(lower + found).sum() / _fermi(-upper - found).sum())
            kept["log_partition"] += max(1 / updates, SLOW_MEMORY) * off
            kept["exchanged"] += max(1 / updates, MEMORY) * (probability(lower, upper).mean() - kept["exchanged"])
        if updates >= REST and kept["exchanged"][0] < FROZEN_BELOW:
            self._freeze(parameters, batch, own)
        elif updates and updates % (REFRESH * self.rungs) == 0:
            self._refresh(updates // (REFRESH * self.rungs) % RESERVOIR, batch, own)
        kept["updates"] += 1

    def _freeze(self, parameters: np.ndarray, batch: Batch, own: Chains) -> None:
        """One more rung, equal to the machine in training: its states go into equilibrium with the others', and become
        the reservoir."""
        kept, mine = self.kept, slice(own.begin, own.end)
        if self.rungs == len(kept["ladder"]):
            self._leave_one_out()
        top = self.rungs
        kept["ladder"][top] = parameters
        kept["ladder_chains"][mine, top] = kept["chains"][mine]
        kept["rungs"][0] = top + 1
        states, numbers = kept["ladder_chains"][mine], np.arange(own.begin, own.end)
        collected = np.zeros((RESERVOIR, top, 2, self.chains), dtype=np.float32)
        for tried in range(SWEEPS // 2):
            works, _ = climb(self.native, self.machines, states, numbers, batch.seed % random.SEEDS, batch.step,
                             2 * tried, 2)
            if tried >= SETTLE // 2:
                at = tried - SETTLE // 2
                collected[at, :, :, mine] = works[0]
                kept["reservoir"][mine, at] = states[:, top]
        batch.sum(collected.reshape(-1))
        kept["ladder_exchanges"][:top] = probability(collected[:, :, 0], collected[:, :, 1]).mean(axis=(0, 2))
        step = bennett(collected[:, -1, 0], collected[:, -1, 1])
        kept["ladder_log_partition"][top] = kept["ladder_log_partition"][top - 1] + step
        kept["log_partition"][0] = kept["ladder_log_partition"][top]
        kept["chains"][mine] = states[:, top]
        self._reservoir_energies(parameters, own.begin, own.end)
        kept["updates"][0], kept["exchanged"][0] = 0, 1

    def _refresh(self, at: int, batch: Batch, own: Chains) -> None:
        """State ``at`` of each chain's reservoir becomes that of the last rung after two more sweeps."""
        mine = slice(own.begin, own.end)
        states = self.kept["ladder_chains"][mine]
        climb(self.native, self.machines, states, np.arange(own.begin, own.end), batch.seed % random.SEEDS, batch.step,
              0, 2)
        self.kept["reservoir"][mine, at] = states[:, self.rungs - 1]
        energies = np.empty(own.end - own.begin)
        self.native.hidden_free_energy(self.machines[-1], np.ascontiguousarray(states[:, self.rungs - 1]), energies)
        self.kept["reservoir_energies"][mine, at] = energies

    def _leave_one_out(self) -> None:
        """Make room on a full ladder: without the rung whose neighbours are likeliest to exchange with each other."""
        kept, last = self.kept, self.rungs - 1
        shares = kept["ladder_exchanges"]
        out = last if last == 1 else 1 + int(np.argmax(shares[: last - 1] * shares[1:last]))
        if out < last:
            shares[out - 1] *= shares[out]
            shares[out : last - 1] = shares[out + 1 : last].copy()
        for name in ("ladder", "ladder_log_partition"):
            kept[name][out:last] = kept[name][out + 1 : last + 1].copy()
        kept["ladder_chains"][:, out:last] = kept["ladder_chains"][:, out + 1 : last + 1].copy()
        kept["rungs"][0] = last

    def _reservoir_energies(self, parameters: np.ndarray, begin: int, end: int) -> None:
        energies = np.empty((end - begin) * RESERVOIR)
        self.native.hidden_free_energy(parameters, self.kept["reservoir"][begin:end].reshape(-1, self.hidden), energies)
        self.kept["reservoir_energies"][begin:end] = energies.reshape(end - begin, RESERVOIR)


def climb(native: Any, machines: np.ndarray, states: np.ndarray, numbers: np.ndarray, seed: int, step: int, first: int,
          sweeps: int) -> tuple[np.ndarray, np.ndarray]:
    """Sweeps of chains (n, rungs or more, hidden) on the ladder of ``machines``; an even number of them.

    Returns
    -------
    works : ndarray of shape (sweeps / 2, pairs of rungs, 2, n), float64
        Of the state below and above, of the exchange that each pair tries once in two sweeps.
    energies : ndarray of shape (sweeps, n), float64
        On the last rung.
    """
    pairs, chains = len(machines) - 1, len(states)
    works, energies = np.empty((sweeps, pairs, 2, chains)), np.empty((sweeps, chains))
    native.climb(machines, states.reshape(chains, states.shape[1] * states.shape[2]), numbers, seed, random.TEMPERING,
                 step, first, sweeps, works.reshape(-1), energies)
    tried = works.reshape(sweeps // 2, 2, pairs, 2, chains)
    return tried[:, np.arange(pairs) % 2, np.arange(pairs)], energies


class Tempered(NamedTuple):
    """What chains on the whole ladder say of the machine above it.

    Attributes
    ----------
    log_partition, error : float
        log Z of the machine, and its standard error: nats.
    rungs : int
        Below the machine.
    exchanges : float
        The least mean probability of an exchange between neighbours.
    autocorrelation : float
        Of the machine's free energies, in sweeps.
    """

    log_partition: float
    error: float
    rungs: int
    exchanges: float
    autocorrelation: float


def climb_and_measure(model: Any, parameters: np.ndarray, buffers: np.ndarray, crew: Crew, *, seed: int = 0,
                      sweeps: int = MEASURED, settle: int = SETTLED) -> Tempered:
    """log Z of the machine by a ladder that it is the top of. Collective; chains are shared out by blocks of 32."""
    ladder = Ladder(model, buffers)
    machines = np.concatenate([ladder.machines, parameters[None]])
    begin, end = crew.part(-(-model.chains // BLOCK))
    found, series = [], []
    for block in range(begin, end):
        numbers = np.arange(block * BLOCK, min((block + 1) * BLOCK, model.chains), dtype=np.int64)
        states = np.concatenate([ladder.kept["ladder_chains"][numbers][:, : ladder.rungs],
                                 ladder.kept["chains"][numbers][:, None]], axis=1)
        for part, (count, kept) in enumerate(((settle, False), (sweeps, True))):
            works, energies = climb(model.native, machines, states, numbers, seed % random.SEEDS, part, 0, count)
            if kept:
                found.append(works.transpose(3, 0, 1, 2))
                series.append(energies.T)
    pairs = ladder.rungs
    works = np.concatenate(crew.gather(np.concatenate([np.empty((0, sweeps // 2, pairs, 2)), *found])))
    energies = np.concatenate(crew.gather(np.concatenate([np.empty((0, sweeps)), *series])))
    log_partition = float(ladder.kept["ladder_log_partition"][0])
    off = np.zeros(len(works))  # by which each chain moves the sum of all ratios, in first order
    for pair in range(pairs):
        lower, upper = works[:, :, pair, 0], works[:, :, pair, 1]
        step = bennett(lower, upper)
        log_partition += step
        below, above = _fermi(lower + step), _fermi(-upper - step)
        slope = (below * (1 - below)).sum() + (above * (1 - above)).sum()
        off += (below - above).sum(axis=1) / max(slope, 1e-300)
    return Tempered(float(log_partition), math.sqrt(float((off**2).sum())), pairs,
                    float(probability(works[:, :, :, 0], works[:, :, :, 1]).mean(axis=(0, 1)).min()),
                    autocorrelation_time(energies))
