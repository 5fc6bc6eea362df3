"""How fast is one training step of an autoencoder on one thread, against PyTorch?

Three networks, ReLU with a linear code, cross-entropy from logits, Adam; gradient and update, as the trainer runs them.
PyTorch is eager, compiled, and both under bfloat16 autocast; it has its own environment (``make bench`` makes it).
Without that environment the plain NumPy step is the other side. Before anything is timed, both sides must give the same
losses from the same weights over 20 steps.

    python -m benchmarks.step [--size quick|node|cluster] [--networks 784-64-784,...] [--batches 1,32]
                              [--clock wall|cpu]
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.harness import Peer, Record, Timing
from benchmarks.peers.line import CLOCK

__all__ = ["NETWORKS", "Case", "main"]

NETWORKS = ("784-64-784", "784-256-64-256-784", "784-1000-500-250-30-250-500-1000-784")
VERIFIED_STEPS = 20
OURS = {dtype: {"dtype": dtype, "strategy": "local"} for dtype in ("float32", "bfloat16")}
TORCH = {
    "eager float32": {"dtype": "float32", "compiled": False},
    "compiled float32": {"dtype": "float32", "compiled": True},
    "eager bfloat16": {"dtype": "bfloat16", "compiled": False},
    "compiled bfloat16": {"dtype": "bfloat16", "compiled": True},
}
CLOCKS = {
    "choices": ("wall", "cpu"),
    "default": "wall",
    "help": "cpu: processor time, where other work fills the machine",
}
PLAIN: dict[str, dict[str, Any]] = {"plain float32": {"dtype": "float32"}}


class Case:
    """One network and batch size, with its rows and first weights in files that all sides read."""

    def __init__(self, network: str, batch: int, rows: Path, folder: Path):
        self.network, self.batch = network, batch
        self.units = [int(units) for units in network.split("-")]
        self.weights = folder / f"{network}.npz"
        if not self.weights.exists():
            np.savez(self.weights, **first_weights(self.units))  # type: ignore[arg-type]
        self.rows = rows

    def prepare(self, peer: Peer, modes: dict[str, dict[str, Any]]) -> Any:
        """Make trainings of this case on all processes of ``peer``; the first one's answer."""
        return peer.call(
            "prepare",
            units=self.units,
            batch=self.batch,
            rows=str(self.rows),
            weights=str(self.weights),
            modes=modes,
        )[0]

    def losses(self, peer: Peer, setup: str, steps: int = VERIFIED_STEPS) -> np.ndarray:
        """Mean loss of each of the next steps over the rows of all ranks."""
        return np.sum(peer.call("losses", setup=setup, count=steps), axis=0) / (self.batch * peer.processes)


def first_weights(units: Sequence[int]) -> dict[str, np.ndarray]:
    """He's uniform weights and no biases, in the order in which layers hold them."""
    random, tensors = np.random.default_rng(0), {}
    for layer, (fan_in, fan_out) in enumerate(pairwise(units)):
        limit = np.sqrt(6 / fan_in)
        tensors[f"{layer}.weight"] = random.uniform(-limit, limit, (fan_out, fan_in)).astype(np.float32)
        tensors[f"{layer}.bias"] = np.zeros(fan_out, np.float32)
    return tensors


class Machine:
    """What the machine can do: the best product peak and memory bandwidth seen so far in this run."""

    def __init__(self, ours: Peer, dtypes: Sequence[str], seconds: float):
        self._ours, self._seconds = ours, seconds
        self._best: dict[Any, float] = {}
        for _ in range(9):  # other work may disturb some
            for dtype in dtypes:
                self._peak(dtype)

    def limit(self, case: Case, dtype: str, about: dict[str, Any]) -> dict[str, float]:
        """Seconds that a step must take: products at their peak, and the optimizer's bytes through memory.

        Adam reads parameters, gradients and two moments and writes three of them: 28 bytes for each parameter.
        """
        products = case.batch * about["flops"] / self._peak(dtype)
        moving = 28 * about["parameters"] / self._bandwidth(16 * about["parameters"])
        return {"products": products, "limit": products + moving}

    def _peak(self, dtype: str) -> float:
        return self._better(dtype, self._ours.call("peak", dtype=dtype, seconds=self._seconds)[0])

    def _bandwidth(self, nbytes: int) -> float:
        return max(self._better(nbytes, self._ours.call("bandwidth", nbytes=nbytes)[0]) for _ in range(5))

    def _better(self, what: Any, value: float) -> float:
        self._best[what] = max(value, self._best.get(what, 0.0))
        return self._best[what]


def measure(
    ours: Peer,
    theirs: Peer,
    machine: Machine,
    modes: dict[str, dict[str, Any]],
    case: Case,
    record: Record,
    dtypes: Sequence[str],
    rounds: int,
    seconds: float,
) -> None:
    """Verify, then time one case in all modes; one record."""
    about = case.prepare(ours, {dtype: OURS[dtype] for dtype in dtypes})
    adam = case.prepare(theirs, modes)
    expected = case.losses(theirs, next(iter(modes)))
    difference = {}
    for name in dtypes:
        what = f"{case.network}, batch {case.batch}, pyddl {name}"
        difference[f"pyddl {name}"] = harness.verify_losses(
            what, expected, case.losses(ours, name), name, case.batch
        )
    for name in list(modes)[1:]:
        what = f"{case.network}, batch {case.batch}, PyTorch {name}"
        difference[name] = harness.verify_losses(
            what, expected, case.losses(theirs, name), name.split()[-1], case.batch
        )
    competitors = {f"pyddl {name}": ours.timer(name) for name in dtypes} | {
        name: theirs.timer(name) for name in modes
    }
    timings = harness.in_turn(competitors, rounds, seconds)
    limits = {name: machine.limit(case, name, about) for name in dtypes}
    parts = {name: median_parts(ours, name, seconds / timings[f"pyddl {name}"].median) for name in dtypes}
    speed_ups = {name: best_of(timings, name) for name in dtypes}
    record.add(
        timings,
        network=case.network,
        batch=case.batch,
        **about,
        adam=adam,
        difference=difference,
        limits=limits,
        parts=parts,
        speed_up={name: faster for name, (faster, _) in speed_ups.items()},
    )
    said = [f"{case.network:>38} {case.batch:>4}"]
    for name, (faster, peer) in speed_ups.items():
        step = timings[f"pyddl {name}"].median
        split = " ".join(f"{part} {1e6 * value:.0f}" for part, value in parts[name].items())
        said.append(
            f"{name} {1e6 * step:.0f} us ({split}), {case.batch / step:,.0f}/s, {faster:.2f}x {peer}, "
            f"{step / limits[name]['limit']:.2f}x the limit"
        )
    harness.show("; ".join(said))


def median_parts(ours: Peer, setup: str, count: float) -> dict[str, float]:
    """Seconds of a step by part, the median of five slices of about ``count`` steps."""
    slices = [ours.call("parts", setup=setup, count=max(1, round(count)))[0] for _ in range(5)]
    return {part: statistics.median(each[part] for each in slices) for part in slices[0]}


def best_of(timings: dict[str, Timing], dtype: str) -> tuple[float, str]:
    """How much faster pyddl is than the best of the others of that type, and which one that is."""
    ours = timings[f"pyddl {dtype}"]
    others = [name for name in timings if name.endswith(dtype) and not name.startswith("pyddl")]
    others = others or [name for name in timings if not name.startswith("pyddl")]
    return min((harness.speed_up(ours, timings[name]), name) for name in others)


def draw(record: Record) -> Path:
    """Samples per second by batch size, a panel for each network."""
    panels = harness.by_batch(record.lines, lambda line, seconds: line["batch"] / seconds)
    return harness.plot(record.path.with_suffix(".png"), panels, "batch size", "samples/s, one thread")


def main(given: Sequence[str] | None = None) -> Record:
    options = harness.arguments(
        __doc__,
        given,
        networks={"default": None},
        batches={"default": None},
        clock=CLOCKS,
        peer={"choices": ("torch", "plain"), "default": "torch" if harness.TORCH.exists() else "plain"},
    )
    quick = options.size == "quick"
    rounds, seconds = (3, 0.01) if quick else (15, 0.05)
    networks = options.networks.split(",") if options.networks else NETWORKS[1:2] if quick else NETWORKS
    batches = (
        [int(b) for b in options.batches.split(",")]
        if options.batches
        else (1, 32)
        if quick
        else (1, 8, 32, 128, 512)
    )
    rows, origin = harness.mnist_rows(2048 if quick else 16384)
    clock = {CLOCK: options.clock}
    with (
        tempfile.TemporaryDirectory() as folder,
        harness.python_peer("pyddl", "pyddl_step", environ=clock) as ours,
        (
            harness.python_peer("PyTorch", "torch_step", python=harness.TORCH, environ=clock)
            if options.peer == "torch"
            else harness.python_peer("NumPy", "plain_step", environ=clock)
        ) as theirs,
    ):
        np.save(Path(folder) / "rows.npy", rows)
        dtypes = ours.about["dtypes"]
        modes = {
            name: mode
            for name, mode in (TORCH if options.peer == "torch" else PLAIN).items()
            if mode["dtype"] in dtypes
        }
        record = Record(
            "step",
            options.size,
            options.out,
            rows=origin,
            clock=options.clock,
            **ours.about,
            **{name: value for name, value in theirs.about.items() if name not in ours.about},
        )
        machine = Machine(ours, dtypes, seconds)
        for network in networks:
            for batch in batches:
                case = Case(network, batch, Path(folder) / "rows.npy", Path(folder))
                measure(ours, theirs, machine, modes, case, record, dtypes, rounds, seconds)
    draw(record)
    return record


if __name__ == "__main__":
    main()
