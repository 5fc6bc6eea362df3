"""How fast do several ranks train a module of PyTorch, against PyTorch's DDP over gloo, and one rank, against PyTorch?

The autoencoder 784-256-64-256-784 with 32, 128 and 512 rows per rank, and a small convolutional one (1-16-32 channels
of 28 x 28 pixels and back) with 32 and 128: the same module, loss and Adam on both sides, one thread per rank. pyddl's
ranks train it as a `pyddl.models.Torch` by ``allreduce``, the same with ``--shard-optimizer``, and ``local``, which
sends nothing. DDP's gradients are views of its buckets; it is eager, eager with a static graph, and compiled; one
process of PyTorch is eager and compiled. Before anything is timed, all must give the same losses from the same weights
over 20 steps: those of several ranks, as one process has them that takes all their rows at once.

    python -m benchmarks.torch_modules [--size quick|node|cluster] [--ranks 2] [--cases 784-256-64-256-784:32,...]

It needs the environment with PyTorch (``make bench`` makes it).
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness, step
from benchmarks.harness import Peer, Record, Timing
from pyddl.comm import launcher

__all__ = ["AIMS", "CASES", "Case", "against", "bound", "main", "near", "rates", "section"]

CONVOLUTIONS = [(16, 1, 3, 3), (16,), (32, 16, 3, 3), (32,), (32, 16, 3, 3), (16,), (16, 1, 3, 3), (1,)]
"""Shapes of the convolutional module's parameters, in its order."""

CASES = (*(f"{step.NETWORKS[1]}:{batch}" for batch in (32, 128, 512)), "convolutions:32", "convolutions:128")
AIMS = dict(zip(CASES, (2.5, 1.6, 1.2, 1.0, 1.0), strict=True))
"""How many times as fast as the best of DDP."""

TOGETHER = {how: {"dtype": "float32", "strategy": how} for how in ("allreduce", "local")}
TOGETHER["sharded"] = {**TOGETHER["allreduce"], "shard_optimizer": True}
EAGER, COMPILED = ({"dtype": "float32", "compiled": compiled} for compiled in (False, True))
DDP = {"DDP": EAGER, "DDP, static graph": {**EAGER, "ddp": {"static_graph": True}}, "DDP, compiled": COMPILED}
ALONE = {"PyTorch": EAGER, "PyTorch, compiled": COMPILED}
RIVALS = {"pyddl": DDP, "pyddl sharded": DDP, "pyddl 1 rank": ALONE}


class Case(step.Case):
    """A module by its name and the rows of a rank, with rows and first weights in files that all sides read."""

    def __init__(self, name: str, rows: Path, folder: Path):
        self.name = name
        self.network, batch = name.split(":")
        self.batch, self.rows = int(batch), rows
        self.weights = folder / f"{self.network}.npz"
        if not self.weights.exists():
            np.savez(self.weights, **first_weights(self.network))  # type: ignore[arg-type]

    def prepare(self, peer: Peer, modes: Mapping[str, Any], ranks: int = 1) -> Any:
        """Make trainings of this case, with the rows of so many ``ranks`` in each process of ``peer``."""
        return peer.call("prepare", name=self.network, batch=ranks * self.batch, rows=str(self.rows),
                         weights=str(self.weights), modes=modes)[0]


def first_weights(network: str) -> dict[str, np.ndarray]:
    """He's uniform weights and no biases, in the order of the module's parameters."""
    if network != "convolutions":
        return step.first_weights([int(units) for units in network.split("-")])
    random, tensors = np.random.default_rng(0), {}
    for number, shape in enumerate(CONVOLUTIONS):
        limit = np.sqrt(6 / np.prod(shape[1:])) if len(shape) > 1 else 0.0
        tensors[str(number)] = random.uniform(-limit, limit, shape).astype(np.float32)
    return tensors


def against(timings: Mapping[str, Timing], ours: str, others: Iterable[str]) -> dict[str, Any]:
    """How many times as fast ``ours`` is as the fastest of the others that were timed: its name, the median of the
    rounds' quotients, and their quartiles."""
    best = min((name for name in others if name in timings),
               key=lambda name: harness.speed_up(timings[ours], timings[name]))
    quotients = [b / a for a, b in zip(timings[ours].rounds, timings[best].rounds, strict=True)]
    low, middle, high = statistics.quantiles(quotients, n=4, method="inclusive")
    return {"best": best, "faster": middle, "quartiles": [low, high]}


def near(what: str, expected: np.ndarray, got: np.ndarray) -> float:
    """The largest difference of losses: the first step's is rounding, compiled convolutions' among it; training makes
    it grow."""
    harness.verify(f"{what}, first step", expected[:1], got[:1], 1e-5)
    return harness.verify(what, expected, got, 1e-3)


def verify(case: Case, ranks: int, many: Peer, one: Peer, ddp: Peer, torch: Peer, ways: Mapping[str, Any],
           alone: Mapping[str, Any]) -> dict[str, float]:
    """Prepare all sides; the largest difference of each from PyTorch's eager process that takes the same rows."""

    def compared(expected: np.ndarray, peer: Peer, setups: Iterable[str], ranks: int = 1) -> dict[str, float]:
        named = {name: f"pyddl, {name}, {ranks} ranks" if peer in (many, one) else name for name in setups}
        return {what: near(f"{case.name}, {what}", expected, case.losses(peer, name)) for name, what in named.items()}

    case.prepare(torch, {"PyTorch": EAGER}, ranks)
    whole = case.losses(torch, "PyTorch") / ranks
    case.prepare(many, TOGETHER)
    case.prepare(ddp, ways)
    difference = compared(whole, many, ["allreduce", "sharded"], ranks) | compared(whole, ddp, ways, ranks)
    case.prepare(one, {"local": TOGETHER["local"]})
    case.prepare(torch, alone)
    expected = case.losses(torch, "PyTorch")
    return difference | compared(expected, one, ["local"]) | compared(expected, torch, [*alone][1:])


def measure(case: Case, ranks: int, many: Peer, one: Peer, ddp: Peer, torch: Peer, record: Record, *,
            compiled: bool, rounds: int, seconds: float) -> None:
    """Verify, then time one case; one record."""
    ways = {name: how for name, how in DDP.items() if compiled or not how["compiled"]}
    alone = {name: how for name, how in ALONE.items() if compiled or not how["compiled"]}
    difference = verify(case, ranks, many, one, ddp, torch, ways, alone)
    timings = harness.in_turn(
        {"pyddl": many.timer("allreduce"), "pyddl sharded": many.timer("sharded"), "pyddl local": many.timer("local"),
         "pyddl 1 rank": one.timer("local"),
         **{name: ddp.timer(name) for name in ways}, **{name: torch.timer(name) for name in alone}}, rounds, seconds)
    faster = {name: against(timings, name, rivals) for name, rivals in RIVALS.items()}
    parts = step.median_parts(one, "local", seconds / timings["pyddl 1 rank"].median)
    record.add(timings, case=case.name, network=case.network, batch=case.batch, ranks=ranks, difference=difference,
               against=faster, scaling=harness.speed_up(timings["pyddl"], timings["pyddl 1 rank"]),
               share_of_local=harness.speed_up(timings["pyddl"], timings["pyddl local"]), parts=parts)
    said = [f"{name} {rate:,.0f}" for name, rate in rates(record.lines[-1]).items()]
    said += [f"{name} {times(each)} of {each['best']}" for name, each in faster.items()]
    said.append("a step of 1 rank: " + ", ".join(f"{part} {1e6 * value:.0f} us" for part, value in parts.items()))
    harness.show(f"{case.name} on {ranks} ranks, samples/s: " + "; ".join(said))


def times(found: Mapping[str, Any]) -> str:
    """What `against` has found, in words."""
    low, high = found["quartiles"]
    return f"{found['faster']:.2f}x ({low:.2f} to {high:.2f})"


def rates(line: Mapping[str, Any]) -> dict[str, float]:
    """Samples per second of each side of a record, over all its ranks."""
    return {name: line["batch"] * (1 if name in ("pyddl 1 rank", *ALONE) else line["ranks"]) / each["p50"]
            for name, each in line["seconds"].items()}


def bound(line: Mapping[str, Any]) -> float:
    """How many times as fast as the best of DDP as many processes of PyTorch would be that never meet, by the rate of
    the best one alone."""
    rate, others = rates(line), line["against"]
    return line["ranks"] * rate[others["pyddl 1 rank"]["best"]] / rate[others["pyddl"]["best"]]


def section(lines: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Of the page of results."""
    yield f"\n### Modules of PyTorch, samples/s of all {lines[0]['ranks']} ranks, one thread each\n"
    yield harness.table(
        ["module, rows per rank", *lines[0]["seconds"],
         *(f"{name} / best of {next(iter(rivals))} (quartiles)" for name, rivals in RIVALS.items())],
        [[line["case"].replace(":", ", "), *(f"{rate:,.0f}" for rate in rates(line).values()),
          *(times(each) for each in line["against"].values())] for line in lines])


def main(given: Sequence[str] | None = None) -> Record:
    options = harness.arguments(__doc__, given, ranks={"type": int, "default": 2}, cases={"default": ",".join(CASES)})
    if not harness.TORCH.exists():
        raise SystemExit(f"{harness.TORCH} is not there; make bench sets it up")
    quick = options.size == "quick"
    rounds, seconds = (7, 0.1) if quick else (15, 0.15)
    cases = options.cases.split(",")
    if unknown := set(cases) - set(CASES):
        raise SystemExit(f"no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    rows, origin = harness.mnist_rows(max(4096, 4 * options.ranks * 512))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as peers:
        file = Path(folder) / "rows.npy"
        np.save(file, rows)
        mpirun = {"PYDDL_MPIRUN": launcher.find().path}  # none lies beside that Python
        torch = harness.TORCH
        sides = [peers.enter_context(peer) for peer in (
            harness.mpi_peer("pyddl", "pyddl_modules", options.ranks, python=torch, environ=mpirun),
            harness.python_peer("pyddl 1 rank", "pyddl_modules", python=torch),
            harness.python_peer("DDP", "torch_modules", python=torch, processes=options.ranks),
            harness.python_peer("PyTorch", "torch_modules", python=torch))]
        record = Record("torch_modules", options.size, options.out, rows=origin, **sides[0].about,
                        torch=sides[-1].about["torch"])
        for name in cases:
            measure(Case(name, file, Path(folder)), options.ranks, *sides, record, compiled=not quick, rounds=rounds,
                    seconds=seconds)
    harness.show("\n".join(section(record.lines)))
    return record


if __name__ == "__main__":
    main()
