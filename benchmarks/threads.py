"""How much faster is one rank's training step on several threads than on one?

Two autoencoders, both types, Adam; gradient and update, as the trainer runs them. Before anything is timed, both
numbers of threads must give the same losses from the same weights over 20 steps.

    python -m benchmarks.threads [--size quick|node|cluster] [--threads 2] [--networks 784-256-64-256-784]
                                 [--batches 32,128]
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import harness
from benchmarks.harness import Peer, Record
from benchmarks.step import NETWORKS, OURS, Case

__all__ = ["main", "setups"]


def setups(dtypes: Sequence[str], threads: int) -> dict[str, dict[str, object]]:
    """Each type on one thread, and on ``threads``."""
    return {
        f"{dtype}, {count} thread{'s' if count > 1 else ''}": {**OURS[dtype], "threads": count}
        for dtype in dtypes
        for count in (1, threads)
    }


def measure(ours: Peer, case: Case, threads: int, record: Record, rounds: int, seconds: float) -> None:
    """Verify, then time one case; one record."""
    modes = setups(ours.about["dtypes"], threads)
    case.prepare(ours, modes)
    names = list(modes)
    pairs = list(zip(names[::2], names[1::2], strict=True))
    for one, several in pairs:
        what = f"{case.network}, batch {case.batch}, {several}"
        harness.verify_losses(
            what, case.losses(ours, one), case.losses(ours, several), several.split(",")[0], case.batch
        )
    timings = harness.in_turn({name: ours.timer(name) for name in names}, rounds, seconds)
    faster = {several: harness.speed_up(timings[several], timings[one]) for one, several in pairs}
    record.add(timings, network=case.network, batch=case.batch, speed_up=faster)
    said = "; ".join(
        f"{name} {1e6 * timings[name].median:.0f} us, {value:.2f}x one" for name, value in faster.items()
    )
    harness.show(f"{case.network:>38} {case.batch:>4}  {said}")


def draw(record: Record) -> Path:
    """Microseconds of a step by batch size, a panel for each network."""
    panels = harness.by_batch(record.lines, lambda line, seconds: 1e6 * seconds)
    return harness.plot(record.path.with_suffix(".png"), panels, "batch size", "microseconds per step")


def main(given: Sequence[str] | None = None) -> Record:
    options = harness.arguments(
        __doc__,
        given,
        threads={"type": int, "default": max(2, len(os.sched_getaffinity(0)))},
        networks={"default": None},
        batches={"default": None},
    )
    quick = options.size == "quick"
    rounds, seconds = (3, 0.01) if quick else (11, 0.1)
    networks = options.networks.split(",") if options.networks else NETWORKS[1:2] if quick else NETWORKS[1:]
    batches = [int(b) for b in options.batches.split(",")] if options.batches else [32] if quick else [32, 128, 512]
    rows, origin = harness.mnist_rows(2048)
    with tempfile.TemporaryDirectory() as folder, harness.python_peer("pyddl", "pyddl_step") as ours:
        file = Path(folder) / "rows.npy"
        np.save(file, rows)
        about = {**ours.about, "threads": options.threads}
        record = Record("threads", options.size, options.out, rows=origin, **about)
        for network in networks:
            for batch in batches:
                measure(ours, Case(network, batch, file, Path(folder)), options.threads, record, rounds, seconds)
    draw(record)
    return record


if __name__ == "__main__":
    main()
