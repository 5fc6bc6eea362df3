"""How well does `auto` predict what a step takes with each strategy?

The autoencoder 784-256-64-256-784 with Adam, 256 rows of all ranks together, one thread per rank, on 2 and 4 ranks. A
round is a rehearsal and then an epoch of training with each strategy, all by the same processes; the figure is the
median over the rounds of the time measured over the time predicted in that round. Before anything is timed, `allreduce`
chosen by `auto` is the training that its name stands for (tests/train/test_auto.py).

    python -m benchmarks.auto [--size quick|node|cluster] [--ranks 2,4] [--batch 256]
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import harness
from benchmarks.harness import Record
from benchmarks.step import NETWORKS

__all__ = ["NEAR", "main"]

NEAR = 0.25  # how far reality may be from a prediction


def main(given: Sequence[str] | None = None) -> Record:
    options = harness.arguments(__doc__, given, ranks={"default": None}, batch={"type": int, "default": 256})
    quick = options.size == "quick"
    counts = [int(n) for n in (options.ranks or {"quick": "2", "node": "2,4", "cluster": "8"}[options.size]).split(",")]
    network, rounds, steps = (NETWORKS[0], 2, 10) if quick else (NETWORKS[1], 5, 60)
    rows, origin = harness.mnist_rows(steps * options.batch)
    record = None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.npy"
        np.save(file, rows)
        for ranks in counts:
            with harness.mpi_peer("pyddl", "pyddl_auto", ranks) as peer:
                about = {name: value for name, value in peer.about.items() if name != "ranks"}
                record = record or Record("auto", options.size, options.out, rows=origin, batch=options.batch,
                                          network=network, **about)
                peer.call("prepare", units=[int(n) for n in network.split("-")], batch=options.batch, rows=str(file))
                predicted, measured = in_rounds(peer, rounds)
            ratios = {name: statistics.median(m / p for m, p in zip(measured[name], predicted[name], strict=True))
                      for name in predicted}
            record.add(ranks=ranks, predicted=predicted, measured=measured, ratio=ratios)
            harness.show(f"{ranks} ranks\n" + harness.table(
                ["strategy", "predicted, ms", "measured, ms", "measured / predicted"],
                [[name, f"{1e3 * statistics.median(predicted[name]):.2f}",
                  f"{1e3 * statistics.median(measured[name]):.2f}", f"{ratio:.2f}"] for name, ratio in ratios.items()]))
    assert record is not None
    draw(record)
    return record


def draw(record: Record) -> Path:
    """Time measured over time predicted, a point for each strategy; a panel for each number of ranks."""
    panels = {}
    for line in record.lines:
        points = {name: ([1e3 * statistics.median(line["predicted"][name])], [1e3 * statistics.median(measured)])
                  for name, measured in line["measured"].items()}
        ends = [f([at for (at,), _ in points.values()]) for f in (min, max)]
        panels[f"{line['ranks']} ranks"] = {**points, "as predicted": (ends, ends)}
    return harness.plot(record.path.with_suffix(".png"), panels, "predicted, ms per step", "measured")


def in_rounds(peer: harness.Peer, rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of a step by strategy, predicted and measured in each round; the slowest rank's."""
    predicted: dict[str, list[float]] = {}
    measured: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, seconds in peer.call("predict")[0].items():
            predicted.setdefault(name, []).append(seconds)
            measured.setdefault(name, []).append(max(peer.call("measure", strategy=name)))
    return predicted, measured


if __name__ == "__main__":
    main()
