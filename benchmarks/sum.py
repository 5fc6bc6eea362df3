"""How long does the sum of a vector over the ranks of a node take, against MPI_Allreduce in place?

From 1 float to 80 MB, on 2, 3 and 4 ranks, against Open MPI's and (where its environment was made) MPICH's. pyddl's
operation also sums a count of samples and waits for all ranks. Before a length is timed, all must give the same sums.
Beside it stands the limit: every rank's vector read and written once, as fast as the ranks add vectors of that length.

    python -m benchmarks.sum [--size quick|node|cluster] [--ranks 2,3,4]
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks import harness
from benchmarks.harness import Peer, Record

__all__ = ["main"]

LENGTHS = (
    1,
    16,
    256,
    2_500,
    25_000,
    100_000,
    435_000,
    2_750_000,
    20_000_000,
)  # floats; 435 k: 784-256-64-256-784
QUICK = (1, 1_001)


def measure(
    peers: dict[str, Peer], ranks: int, floats: int, record: Record, rounds: int, seconds: float
) -> None:
    """Verify, then time one length; one record."""
    for peer in peers.values():
        peer.call("prepare", floats=floats)
    expected = sum_of_all(ranks, floats)
    for name, peer in peers.items():
        for rank, got in enumerate(peer.call("check")):
            harness.verify(f"{name}, {floats} floats, rank {rank} of {ranks}", expected, got, 1e-6)
    timings = harness.in_turn({name: peer.timer("sum") for name, peer in peers.items()}, rounds, seconds)
    faster = {name: harness.speed_up(timings["pyddl"], timings[name]) for name in peers if name != "pyddl"}
    limit = limit_of(ranks, floats, peers["pyddl"].call("bandwidth"))
    record.add(timings, ranks=ranks, bytes=4 * floats, speed_up=faster, limit=limit)
    took = ", ".join(f"{name} {harness.microseconds(timing.median)}" for name, timing in timings.items())
    harness.show(
        f"{ranks} ranks, {4 * floats:>10,} bytes: {took}, limit {harness.microseconds(limit)}; "
        + ", ".join(f"{value:.2f}x {name}" for name, value in faster.items())
    )


def limit_of(ranks: int, floats: int, bandwidths: Sequence[float]) -> float:
    """Seconds that reading and writing all vectors must take; ranks that share a core cannot do so at once."""
    cores = len(os.sched_getaffinity(0))
    return 8 * ranks * floats / sum(sorted(bandwidths)[-cores:])


def sum_of_all(ranks: int, floats: int) -> list[float]:
    """What `check` of the peers must give: first, last and sum of sum_r (i mod 1000 + r)."""
    of_ranks = ranks * (ranks - 1) // 2
    whole, rest = divmod(floats, 1000)
    total = ranks * (whole * 499_500 + rest * (rest - 1) // 2) + floats * of_ranks
    return [of_ranks, ranks * ((floats - 1) % 1000) + of_ranks, total]


def draw(record: Record) -> Path:
    """Microseconds by bytes, a panel for each number of ranks."""
    panels: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for line in record.lines:
        for name, seconds in line["seconds"].items():
            at, values = panels.setdefault(f"{line['ranks']} ranks", {}).setdefault(name, ([], []))
            at.append(line["bytes"])
            values.append(1e6 * seconds["p50"])
        at, values = panels[f"{line['ranks']} ranks"].setdefault("limit", ([], []))
        at.append(line["bytes"])
        values.append(1e6 * line["limit"])
    return harness.plot(record.path.with_suffix(".png"), panels, "bytes", "microseconds")


def main(given: Sequence[str] | None = None) -> Record:
    options = harness.arguments(__doc__, given, ranks={"default": None})
    quick = options.size == "quick"
    counts = (
        [int(ranks) for ranks in options.ranks.split(",")]
        if options.ranks
        else {"quick": (2,), "node": (2, 3, 4), "cluster": (2, 4, 8, 16)}[options.size]
    )
    rounds, seconds = (3, 0.005) if quick else (15, 0.05)
    pythons = [Path(sys.executable)] + [harness.MPICH] * (harness.MPICH.exists() and not quick)
    record = None
    for ranks in counts:
        with ExitStack() as stack:
            peers = {"pyddl": stack.enter_context(harness.mpi_peer("pyddl", "pyddl_sum", ranks))}
            for python in pythons:
                mpi = stack.enter_context(harness.mpi_peer("MPI_Allreduce", "mpi_sum", ranks, python=python))
                peers[mpi.about["mpi"]] = mpi
            record = record or Record("sum", options.size, options.out, threads=1, **peers["pyddl"].about)
            for floats in QUICK if quick else LENGTHS:
                measure(peers, ranks, floats, record, rounds, seconds)
    assert record is not None  # there is at least one number of ranks
    draw(record)
    return record


if __name__ == "__main__":
    main()
