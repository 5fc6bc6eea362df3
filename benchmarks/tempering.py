"""What do exchanges along a run's own past gain and cost, where persistent chains stay in the clusters they are in?

Persistent chains (pcd) and those that exchange states with the run's earlier machines (ptt), the same options else: 64
bits in 2 and 4 clusters (random patterns, 3 in 100 bits flipped), whose probabilities are known, 12 hidden units; and
MNIST's zeros and ones, thresholded at 1/2, 12 hidden units. Centered, batch 100, SGD whose rate falls to 0. Exact
log-likelihoods of test rows by enumeration, log Z of the ladder against enumeration, and processor seconds of an update
as a quotient, both kinds in turn. A picture shows exact samples of both machines of zeros and ones.

    python -m benchmarks.tempering [--size quick|node|cluster]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import harness
from benchmarks.harness import Record
from pyddl.data import ArraySource, find, load
from pyddl.data.prefetch import label_buffer
from pyddl.models import RBM
from pyddl.train import Result, Trainer
from pyddl.train.crew import Crew

__all__ = ["HEAD", "main", "row_of"]

HIDDEN, BATCH, FLIPS, BITS = 12, 100, 0.03, 64
SHOWN = 20  # images
WEIGHTS = {2: (0.8, 0.2), 4: (0.4, 0.3, 0.2, 0.1)}  # of the patterns
SETTINGS = {"quick": 1, "node": 5, "cluster": 5}  # seeds
KINDS = ("pcd", "ptt")
HEAD = ("rows", "seed", "truth", *KINDS, "log Z of the ladder, off by", "rungs", "least exchange",
        "autocorrelation, sweeps", "cost of an update, of pcd's")


class Case(NamedTuple):
    """Rows and how they are learned.

    Attributes
    ----------
    rows, test : ndarray
    truth : float or None
        Mean log-probability of the test rows under what they were drawn from.
    """

    rows: np.ndarray
    test: np.ndarray
    truth: float | None
    chains: int
    rate: float
    epochs: int


def clusters(patterns: int, seed: int, epochs: int, count: int = 10_000) -> Case:
    """Random patterns, of which each row is one but for flips."""
    rng = np.random.default_rng([seed, patterns])
    of = rng.random((patterns, BITS)) < 0.5
    rows = of[rng.choice(patterns, count + 2000, p=WEIGHTS[patterns])] ^ (rng.random((count + 2000, BITS)) < FLIPS)
    off = (rows[count:, None] != of).sum(axis=2)
    logs = np.log(WEIGHTS[patterns]) + off * np.log(FLIPS) + (BITS - off) * np.log(1 - FLIPS)
    truth = float(np.logaddexp.reduce(logs, axis=1).mean())
    return Case(rows[:count].astype(np.float32), rows[count:].astype(np.float32), truth, 500, 0.1, epochs)


def zeros_and_ones() -> Case:
    """MNIST's, thresholded."""
    source = load("mnist")
    parts = []
    for each in (source, source.test):
        labels = label_buffer(each, len(each))
        each.read_labels(np.arange(len(each)), labels)
        parts.append((np.asarray(each)[labels < 2] >= 0.5).astype(np.float32))
    return Case(*parts, None, 200, 0.05, 8)


def trained(case: Case, chain: str, seed: int, hidden: int = HIDDEN) -> tuple[Result, float]:
    """The run, and its processor seconds for an update."""
    model = RBM(case.rows.shape[1], (hidden,), chain=chain, chains=case.chains)
    begin = time.process_time()
    result = Trainer(model, strategy="local", optimizer="sgd", schedule="linear", learning_rate=case.rate,
                     epochs=case.epochs, batch_size=BATCH, seed=seed).fit(case.rows)
    seconds = time.process_time() - begin
    return result, seconds / (case.epochs * -(-len(case.rows) // BATCH))


def main(given: Sequence[str] | None = None) -> Record:
    options = harness.arguments(__doc__, given)
    seeds = SETTINGS[options.size]
    cases: dict[str, Any] = {"2 clusters, 1,000 updates": lambda seed: clusters(2, seed, 10)}
    if options.size != "quick":
        cases["4 clusters, 2,400 updates"] = lambda seed: clusters(4, seed, 24)
        cases["4 clusters, 6,000 updates"] = lambda seed: clusters(4, seed, 60)
        if find("mnist") is not None:
            digits = zeros_and_ones()
            cases["MNIST zeros and ones"] = lambda seed: digits
    record = Record("tempering", options.size, options.out, hidden=HIDDEN, batch=BATCH, seeds=seeds)
    lines, shown = [], {}
    for name, make in cases.items():
        quotients = []
        for seed in range(seeds):
            case = make(seed)
            found: dict[str, dict[str, float]] = {}
            times: dict[str, float] = {}
            for chain in KINDS:
                result, times[chain] = trained(case, chain, seed)
                found[chain] = result.model.measures["likelihood"](result.parameters, result.buffers,
                                                                   ArraySource(case.test, name=name), Crew())
                if case.truth is None and seed == 0:
                    shown[chain] = samples(result, SHOWN)
            quotients.append(times["ptt"] / times["pcd"])
            record.add(name=name, seed=seed, truth=case.truth, cost=quotients[-1], seconds_per_update=times, **found)
            lines.append(row_of(record.lines[-1]))
            harness.show(" | ".join(map(str, lines[-1])))
        harness.show(f"{name}: an update of ptt costs {statistics.median(quotients):.2f} of pcd's")
    if shown:
        draw(record.path.with_suffix(".png"), {"data": digits.rows[:SHOWN], **shown})
    harness.show(harness.table(HEAD, lines))
    return record


def row_of(line: Mapping[str, Any]) -> list[object]:
    """A result as a row of the table."""
    ladder = line["ptt"]
    return [line["name"], line["seed"], "-" if line["truth"] is None else f"{line['truth']:.2f}",
            *(f"{line[chain]['log_likelihood']:.2f}" for chain in KINDS),
            f"{ladder['log_partition_ladder'] - ladder['log_partition']:+.3f}", f"{ladder['ladder_rungs']:.0f}",
            f"{ladder['ladder_exchanges']:.2f}", f"{ladder['ladder_autocorrelation_time']:.1f}", f"{line['cost']:.2f}"]


def samples(result: Result, count: int) -> np.ndarray:
    """Independent samples of the machine: hidden units by the exact probabilities of all their states, then the means
    of the visible units."""
    states = np.array(list(np.ndindex(*[2] * HIDDEN)), dtype=np.float32)
    energies = np.empty(len(states))
    result.model.native.hidden_free_energy(result.parameters, states, energies)
    p = np.exp(energies.min() - energies)
    drawn = states[np.random.default_rng(0).choice(len(states), count, p=p / p.sum())]
    return result.model.decode(result.parameters, result.buffers, drawn)


def draw(path: Path, rows: Mapping[str, np.ndarray]) -> None:
    """Lines of images by their names."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(rows), 1, figsize=(10, 0.75 * len(rows)))
    for axis, (name, images) in zip(axes, rows.items(), strict=True):
        axis.imshow(images.reshape(-1, 28, 28).transpose(1, 0, 2).reshape(28, -1), cmap="gray_r")
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
        axis.set_xticks([])
        axis.set_yticks([])
    figure.savefig(path, dpi=100, bbox_inches="tight")
    plt.close(figure)


if __name__ == "__main__":
    main()
