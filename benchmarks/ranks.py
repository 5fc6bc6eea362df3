"""How fast do several ranks train together, against PyTorch's DDP over gloo, and against that many times one rank?

The autoencoder 784-256-64-256-784 with 32, 128 and 512 rows per rank (weak scaling), one thread per rank. pyddl's ranks
run ``allreduce``, the same with ``--shard-optimizer``, and ``local``, which sends nothing: what is left of the machine
when all its cores work. On several nodes, a further training lets no slice of the gradient travel during the backward
pass. Before anything is timed, all must give the same losses from the same weights over 20 steps.

    python -m benchmarks.ranks [--size quick|node|cluster] [--ranks 2] [--batches 32,128]
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.harness import Peer, Record
from benchmarks.step import NETWORKS, Case

__all__ = ["main"]

TOGETHER = {how: {"dtype": "float32", "strategy": how} for how in ("allreduce", "local")}
TOGETHER["sharded"] = {**TOGETHER["allreduce"], "shard_optimizer": True}
WAITING = {"waiting": {**TOGETHER["allreduce"], "travels": False}}
ALONE = {"local": TOGETHER["local"]}
EAGER = {"eager": {"dtype": "float32", "compiled": False}}


def verify(case: Case, peers: Mapping[str, tuple[Peer, str]], one: Peer) -> dict[str, float]:
    """Prepare all peers; largest difference of each from one rank of pyddl that takes all ranks' rows at once."""
    ranks = max(peer.processes for peer, _ in peers.values())
    whole = Case(case.network, case.batch * ranks, case.rows, case.weights.parent)
    whole.prepare(one, ALONE)
    expected = whole.losses(one, "local")
    together = {name: (peer, setup) for name, (peer, setup) in peers.items() if peer.processes == ranks}
    return {
        name: harness.verify_losses(
            f"batch {case.batch} on {ranks} ranks, {name}",
            expected,
            case.losses(peer, setup),
            "float32",
            case.batch,
        )
        for name, (peer, setup) in together.items()
    }


def measure(
    case: Case,
    ranks: int,
    one: Peer,
    many: Peer,
    torch: Sequence[Peer],
    record: Record,
    rounds: int,
    seconds: float,
) -> None:
    """Verify, then time one batch size per rank; one record."""
    several = many.about["nodes"] > 1
    case.prepare(many, TOGETHER | WAITING if several else TOGETHER)
    for peer in torch:
        case.prepare(peer, EAGER)
    checked = {"pyddl": (many, "allreduce"), "pyddl sharded": (many, "sharded")}
    checked |= {"DDP": (torch[0], "eager")} if torch else {}
    difference = verify(case, checked, one)
    about = case.prepare(one, ALONE)
    competitors = {
        "pyddl": many.timer("allreduce"),
        "pyddl sharded": many.timer("sharded"),
        "pyddl local": many.timer("local"),
        "pyddl 1 rank": one.timer("local"),
    }
    if several:
        competitors["pyddl, slices wait"] = many.timer("waiting")
    if torch:
        competitors |= {"DDP": torch[0].timer("eager"), "PyTorch 1 process": torch[1].timer("eager")}
    timings = harness.in_turn(competitors, rounds, seconds)
    faster = {
        name: harness.speed_up(timings["pyddl"], timings[name])
        for name in ("DDP", "pyddl, slices wait")
        if name in timings
    }
    ways = ("pyddl", "pyddl sharded")
    scaling = {name: harness.speed_up(timings[name], timings["pyddl 1 rank"]) for name in ways}
    of_local = {name: harness.speed_up(timings[name], timings["pyddl local"]) for name in ways}
    record.add(
        timings,
        network=case.network,
        batch=case.batch,
        **about,
        difference=difference,
        speed_up=faster,
        scaling=scaling,
        share_of_local=of_local,
    )
    said = [
        f"{ranks} ranks x {case.batch:>3} rows",
        f"pyddl {ranks * case.batch / timings['pyddl'].median:,.0f}/s",
        f"{scaling['pyddl']:.0%} of {ranks} x one rank ({scaling['pyddl sharded']:.0%} with sharded optimizer state)",
        f"{of_local['pyddl']:.0%} of {ranks} ranks that send nothing",
    ]
    said += [f"{value:.2f}x {name}" for name, value in faster.items()]
    harness.show("; ".join(said))


def rates(line: Mapping[str, Any], ranks: int) -> dict[str, float]:
    """Samples per second of each side of a record, over all its ranks."""
    alone = ("pyddl 1 rank", "PyTorch 1 process")
    return {
        name: line["batch"] * (1 if name in alone else ranks) / seconds["p50"]
        for name, seconds in line["seconds"].items()
    }


def draw(record: Record, ranks: int) -> Path:
    """Samples per second by batch size per rank."""
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for line in record.lines:
        for name, rate in rates(line, ranks).items():
            at, values = curves.setdefault(name, ([], []))
            at.append(line["batch"])
            values.append(rate)
    return harness.plot(
        record.path.with_suffix(".png"),
        {f"{record.lines[0]['network']}, {ranks} ranks": curves},
        "rows per rank and step",
        "samples/s in all",
    )


def main(given: Sequence[str] | None = None) -> Record:
    options = harness.arguments(
        __doc__,
        given,
        ranks={"type": int},
        batches={"default": None},
        peer={"choices": ("torch", "none"), "default": "torch" if harness.TORCH.exists() else "none"},
    )
    quick = options.size == "quick"
    ranks = options.ranks or {"quick": 2, "node": 2, "cluster": 8}[options.size]
    rounds, seconds = (3, 0.02) if quick else (15, 0.1)
    batches = (
        [int(b) for b in options.batches.split(",")]
        if options.batches
        else (32,)
        if quick
        else (32, 128, 512)
    )
    rows, origin = harness.mnist_rows(max(2048, 4 * ranks * max(batches)))
    with (
        tempfile.TemporaryDirectory() as folder,
        harness.mpi_peer("pyddl", "pyddl_step", ranks) as many,
        harness.python_peer("pyddl 1 rank", "pyddl_step") as one,
    ):
        file = Path(folder) / "rows.npy"
        np.save(file, rows)
        torch: list[Peer] = []
        try:
            if options.peer == "torch":
                torch += [
                    harness.python_peer("DDP", "torch_step", python=harness.TORCH, processes=ranks),
                    harness.python_peer("PyTorch", "torch_step", python=harness.TORCH),
                ]
            record = Record(
                "ranks",
                options.size,
                options.out,
                rows=origin,
                **many.about,
                torch=torch[0].about["torch"] if torch else None,
            )
            for batch in batches:
                case = Case(NETWORKS[1], batch, file, Path(folder))
                measure(case, ranks, one, many, torch, record, rounds, seconds)
        finally:
            for peer in torch:
                peer.close()
    draw(record, ranks)
    return record


if __name__ == "__main__":
    main()
