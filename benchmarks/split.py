"""When do split weights send less, and take less time, than gradients that are summed over the ranks?

Autoencoders of a narrow and a wide first layer with Adam, on ranks with one thread each, over the rows of all ranks
together. ``allreduce`` has the whole model on each rank and sends gradients; ``split`` has a slice of every
layer and sends activations: fewer bytes while layers are wider than the batch has rows. Before a case is timed, both
must give the same losses from the same weights over 20 steps.

    python -m benchmarks.split [--size quick|node|cluster] [--ranks 2] [--batches 32,128]
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.harness import Peer, Record
from benchmarks.step import Case

__all__ = ["NETWORKS", "head", "main", "rows_of"]

NETWORKS = ("784-256-64-256-784", "784-1024-64-1024-784")
BATCHES = (32, 128, 512, 2048)


def measure(case: Case, peer: Peer, ranks: int, record: Record, rounds: int, seconds: float) -> None:
    """Verify, then time one batch size; one record."""
    modes = {"allreduce": {"split": 1}, "split": {"split": ranks}}
    modes |= {f"{ranks // k} groups of {k}": {"split": k} for k in range(2, ranks) if ranks % k == 0}
    case.prepare(peer, modes)
    expected = case.losses(peer, "allreduce")
    batch = ranks * case.batch
    difference = {name: harness.verify_losses(f"{case.network}, batch {batch}, {name}", expected,
                                              case.losses(peer, name), "float32", batch)
                  for name in modes if name != "allreduce"}
    sent = {name: float(np.mean(peer.call("bytes_per_step", setup=name, count=2))) for name in modes}
    timings = harness.in_turn({name: peer.timer(name) for name in modes}, rounds, seconds)
    faster = {name: harness.speed_up(timings[name], timings["allreduce"]) for name in modes if name != "allreduce"}
    line = record.add(timings, network=case.network, batch=batch, bytes_per_step=sent, difference=difference,
                      speed_up=faster)
    harness.show(" | ".join(str(cell) for cell in rows_of(line)))


def rows_of(line: dict[str, Any]) -> list[str]:
    """Cells of a table: the case; bytes and time of each way; how many times faster than allreduce the others are."""
    cells = [line["network"], f"{line['batch']}"]
    for name, seconds in line["seconds"].items():
        cells += [f"{line['bytes_per_step'][name] / 1e6:.3g}", f"{1e3 * seconds['p50']:.2f}"]
    return [*cells, *(f"{value:.2f}x" for value in line["speed_up"].values())]


def head(line: dict[str, Any]) -> list[str]:
    """The names of these cells."""
    return ["network", "batch", *(f"{name}, {unit}" for name in line["seconds"] for unit in ("MB sent", "ms")),
            *(f"{name}: times faster" for name in line["speed_up"])]


def draw(record: Record) -> Path:
    """Bytes and milliseconds of a step by batch, a panel for each network."""
    panels: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for line in record.lines:
        for name, seconds in line["seconds"].items():
            for what, value in (("MB sent", line["bytes_per_step"][name] / 1e6), ("ms", 1e3 * seconds["p50"])):
                at, values = panels.setdefault(line["network"], {}).setdefault(f"{name}, {what}", ([], []))
                at.append(line["batch"])
                values.append(value)
    return harness.plot(record.path.with_suffix(".png"), panels, "rows of a step", "MB sent per rank, or ms, per step")


def main(given: Sequence[str] | None = None) -> Record:
    options = harness.arguments(__doc__, given, ranks={"type": int}, batches={"default": None})
    quick = options.size == "quick"
    ranks = options.ranks or {"quick": 2, "node": 2, "cluster": 8}[options.size]
    batches = [int(b) for b in options.batches.split(",")] if options.batches else BATCHES[1:2] if quick else BATCHES
    rounds, seconds = (3, 0.02) if quick else (11, 0.1)
    rows, origin = harness.mnist_rows(2 * max(batches))
    with tempfile.TemporaryDirectory() as folder, harness.mpi_peer("pyddl", "pyddl_split", ranks) as peer:
        file = Path(folder) / "rows.npy"
        np.save(file, rows)
        record = Record("split", options.size, options.out, rows=origin, **peer.about)
        for network in NETWORKS[:1] if quick else NETWORKS:
            for batch in batches:
                measure(Case(network, batch // ranks, file, Path(folder)), peer, ranks, record, rounds, seconds)
    harness.show(harness.table(head(record.lines[0]), [rows_of(line) for line in record.lines]))
    draw(record)
    return record


if __name__ == "__main__":
    main()
