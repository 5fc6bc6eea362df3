"""How fast is one training step of a convolutional autoencoder on one thread, against PyTorch? Two ranks, against DDP?

The seed network (3x3 convolutions with batch norm and ReLU, 32-32-pool-64-64-pool-128-128-256-256 and its mirror) and a
small one (16-pool-32-pool, a dense code of 64, and its mirror) on 28 x 28 pixels, cross-entropy from logits, Adam;
gradient and update, as the trainer runs them. PyTorch is eager, eager with channels last, and compiled with channels
last, each also under bfloat16 autocast. Before anything is timed, all sides must give the same losses from the same
weights over three steps.

Beside each time: the products' share of the processor's peak, once with the products that padding only adds counted
(nominal) and once without them, and the shares of the step that oneDNN's primitives say they took, by kind.

    python -m benchmarks.convolution [--size quick|node|cluster] [--cases seed-64,small-32] [--clock wall|cpu]
                                     [--ranks 2] [--modes eager]
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.harness import Peer, Record
from benchmarks.peers.line import CLOCK
from benchmarks.step import CLOCKS, best_of
from pyddl.models import Autoencoder
from pyddl.models.layers import Conv, as_plain
from pyddl.models.network import Network

__all__ = ["AIMS", "NETWORKS", "TORCH", "Case", "described", "main"]

NETWORKS = {
    "seed": {"conv": "conv32,conv32,pool2,conv64,conv64,pool2,conv128,conv128,conv256,conv256", "hidden": (),
             "batch_norm": "own", "code_activation": "relu"},
    "small": {"conv": "conv16,pool2,conv32,pool2", "hidden": (64,)},
}
CASES = {"quick": ("small-8",), "node": ("seed-64", "seed-128", "small-32", "small-128")}
CASES["cluster"] = CASES["node"]
AIMS = {"seed-64": {"float32": 1.7, "bfloat16": 1.08}, "seed-128": {"float32": 1.75, "bfloat16": 1.08},
        "small-32": {"float32": 1.5}, "small-128": {"float32": 1.5}}
"""How many times as fast as the best of PyTorch."""

STEPS = 3  # verified
TORCH = {f"{way} {dtype}": {"dtype": dtype, "compiled": way == "compiled", "channels_last": way != "planes"}
         for dtype in ("float32", "bfloat16") for way in ("eager", "planes", "compiled")}
OURS = {dtype: {"dtype": dtype, "strategy": "local"} for dtype in ("float32", "bfloat16")}
TOGETHER = {how: {"dtype": "float32", "strategy": how} for how in ("allreduce", "local")}


def described(network: Network) -> list[dict[str, Any]]:
    """Its layers as plain values, each with its ``name`` and the shape ``from``."""
    return [{**as_plain(layer), "name": name, "from": shape}
            for layer, name, shape in zip(network.layers, network.names, network.shapes, strict=False)]


class Case:
    """A network and a batch size, with its rows and first weights in files that all sides read."""

    def __init__(self, name: str, rows: Path, folder: Path):
        self.name = name
        network, batch = name.split("-")
        self.network, self.batch = network, int(batch)
        self.options = {"inputs": 784, "image_shape": (28, 28), **NETWORKS[network]}
        self.model = Autoencoder(**self.options)
        self.rows, self.weights = rows, folder / f"{network}.npz"
        parameters = self.model.layout.zeros()
        self.model.initialise(parameters, self.model.buffers.zeros(), 0)
        np.savez(self.weights, **self.model.layout.views(parameters))  # type: ignore[arg-type]

    def prepare(self, peer: Peer, modes: Mapping[str, Any], batch: int | None = None) -> Any:
        theirs = peer.name in ("PyTorch", "DDP")
        how = {"layers": described(self.model.network)} if theirs else {"options": self.options}
        return peer.call("prepare", batch=batch or self.batch, rows=str(self.rows), weights=str(self.weights),
                         modes=modes, **how)[0]

    def losses(self, peer: Peer, setup: str, batch: int | None = None) -> np.ndarray:
        """Mean loss of each of the next steps over the rows of all ranks."""
        sums = np.sum(peer.call("losses", setup=setup, count=STEPS), axis=0)
        return sums / ((batch or self.batch) * peer.processes)

    @property
    def useful(self) -> float:
        """Share of the convolutions' nominal products that are not with padding: of layers whose stride is 1."""
        nominal = real = 0.0
        for layer, shape in zip(self.model.network.layers, self.model.network.shapes, strict=False):
            if not isinstance(layer, Conv):
                continue
            reach, taps = layer.kernel // 2, []
            for size in shape[:2]:
                seen = [min(size, i + reach + 1) - max(0, i - reach) for i in range(size)]
                taps.append(sum(seen) / (layer.kernel * size))
            products = float(np.prod(shape)) * layer.channels * layer.kernel**2
            nominal, real = nominal + products, real + products * taps[0] * taps[1]
        return real / nominal


def verify(what: str, expected: np.ndarray, got: np.ndarray, dtype: str) -> float:
    """Losses of the steps: the first to the rounding of Winograd or bfloat16; later ones to what Adam makes of that,
    whose first steps follow the sign of a gradient, however small."""
    first = harness.verify(f"{what}, first step", expected[:1], got[:1], 2e-5 if dtype == "float32" else 1e-2)
    return max(first, harness.verify(what, expected, got, 1e-2 if dtype == "float32" else 2e-2))


def primitives(case: Case, dtype: str, steps: int = 2) -> dict[str, float]:
    """Seconds of a step that oneDNN's primitives took, by their kinds, as they say themselves."""
    with harness.python_peer("pyddl", "pyddl_layers", environ={"ONEDNN_VERBOSE": "profile_exec"}) as peer:
        case.prepare(peer, {dtype: OURS[dtype]})
        peer.call("losses", setup=dtype, count=1)
        before = len(peer.said())
        peer.call("losses", setup=dtype, count=steps)
        text = peer.said()[before:]
    seconds: Counter[str] = Counter()
    for kind, milliseconds in re.findall(r"^onednn_verbose,exec,cpu,(\w+),.*,([\d.]+)$", text, re.M):
        seconds[kind] += float(milliseconds) / 1e3 / steps
    return dict(seconds)


def measure(case: Case, ours: Peer, theirs: Peer | None, dtypes: Sequence[str], modes: Mapping[str, Any],
            record: Record, rounds: int, seconds: float) -> None:
    """Verify, then time one case in all modes; one record."""
    about = case.prepare(ours, {dtype: OURS[dtype] for dtype in dtypes})
    expected, difference = None, {}
    if theirs is not None:
        case.prepare(theirs, modes)
        for name in modes:
            found = case.losses(theirs, name)
            expected = found if expected is None else expected
            difference[name] = verify(f"{case.name}, PyTorch {name}", expected, found, name.split()[-1])
    for dtype in dtypes:
        found = case.losses(ours, dtype)
        expected = found if expected is None else expected
        difference[f"pyddl {dtype}"] = verify(f"{case.name}, pyddl {dtype}", expected, found, dtype)
    sides = {f"pyddl {dtype}": ours.timer(dtype) for dtype in dtypes}
    if theirs is not None:
        sides |= {name: theirs.timer(name) for name in modes}
    timings = harness.in_turn(sides, rounds, seconds)
    faster = {} if theirs is None else {dtype: best_of(timings, dtype) for dtype in dtypes}
    share, by_kind = {}, {}
    for dtype in dtypes:
        step = timings[f"pyddl {dtype}"].median
        peak = max(ours.call("peak", dtype=dtype, seconds=seconds)[0] for _ in range(5))
        nominal = case.batch * about["flops"] / step / peak
        share[dtype] = {"nominal": nominal, "useful": nominal * case.useful}
        by_kind[dtype] = {kind: taken / step for kind, taken in primitives(case, dtype).items()}
    record.add(timings, case=case.name, network=case.network, batch=case.batch, **about, difference=difference,
               speed_up={dtype: value for dtype, (value, _) in faster.items()},
               best={dtype: name for dtype, (_, name) in faster.items()}, share=share, primitives=by_kind)
    for dtype in dtypes:
        step = timings[f"pyddl {dtype}"].median
        against = "" if theirs is None else f", {faster[dtype][0]:.2f}x {faster[dtype][1]}"
        harness.show(f"{case.name} {dtype}: {1e3 * step:.2f} ms{against}, {share[dtype]['nominal']:.0%} of the peak, "
                     f"reorders {by_kind[dtype].get('reorder', 0):.1%}")


def together(case: Case, ranks: int, many: Peer, one: Peer, ddp: Peer | None, record: Record, rounds: int,
             seconds: float) -> None:
    """Ranks with the case's rows each, against one rank and DDP; one record. Each rank normalises by its own rows."""
    case.prepare(many, TOGETHER)
    case.prepare(one, {"local": TOGETHER["local"]})
    sides = {"pyddl": many.timer("allreduce"), "pyddl local": many.timer("local"), "pyddl 1 rank": one.timer("local")}
    difference = {}
    if ddp is not None:
        case.prepare(ddp, {"eager float32": TORCH["eager float32"]})
        sides["DDP"] = ddp.timer("eager float32")
        difference["pyddl"] = verify(f"{case.name} on {ranks} ranks", case.losses(ddp, "eager float32"),
                                     case.losses(many, "allreduce"), "float32")
    timings = harness.in_turn(sides, rounds, seconds)
    faster = {} if ddp is None else {"DDP": harness.speed_up(timings["pyddl"], timings["DDP"])}
    scaling = harness.speed_up(timings["pyddl"], timings["pyddl 1 rank"])
    of_local = harness.speed_up(timings["pyddl"], timings["pyddl local"])
    record.add(timings, case=f"{case.name} on {ranks} ranks", network=case.network, batch=case.batch, ranks=ranks,
               difference=difference, speed_up=faster, scaling=scaling, share_of_local=of_local)
    harness.show(f"{case.name} on {ranks} ranks: {ranks * case.batch / timings['pyddl'].median:,.0f}/s, {scaling:.0%} "
                 f"of {ranks} x one rank, {of_local:.0%} of ranks that send nothing"
                 + "".join(f", {value:.2f}x {name}" for name, value in faster.items()))


def section(lines: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Of the page of results."""
    alone = [line for line in lines if "share" in line]
    yield "\n### Convolutional autoencoders on one thread, ms per step\n"
    names = list(alone[0]["seconds"])
    yield harness.table(
        ["network, batch", *names, *(f"pyddl / best, {dtype}" for dtype in alone[0]["speed_up"])],
        [[line["case"], *(f"{1e3 * line['seconds'][name]['p50']:.1f}" for name in names),
          *(f"{value:.2f}x" for value in line["speed_up"].values())] for line in alone])
    yield "\nShare of the product peak, and of a step's time in oneDNN's primitives:\n"
    rows = []
    for line in alone:
        for dtype, share in line["share"].items():
            kinds = line["primitives"][dtype]
            rows.append([line["case"], dtype, f"{share['nominal']:.0%}", f"{share['useful']:.0%}",
                         *(f"{kinds.get(kind, 0):.1%}" for kind in ("convolution", "matmul", "reorder"))])
    yield harness.table(["network, batch", "type", "of the peak, nominal", "without padding", "convolution", "matmul",
                         "reorder"], rows)
    many = [line for line in lines if "scaling" in line]
    if many:
        yield "\n### Convolutional autoencoders on several ranks, samples/s of all\n"
        names = list(many[0]["seconds"])
        yield harness.table(
            ["network, rows per rank", *names, "pyddl / ranks x one", *(f"pyddl / {name}" for name in
                                                                        many[0]["speed_up"])],
            [[line["case"], *(f"{(1 if name == 'pyddl 1 rank' else line['ranks']) * line['batch'] / each['p50']:,.0f}"
                              for name, each in line["seconds"].items()), f"{line['scaling']:.0%}",
              *(f"{value:.2f}x" for value in line["speed_up"].values())] for line in many])


def main(given: Sequence[str] | None = None) -> Record:
    options = harness.arguments(
        __doc__,
        given,
        cases={"default": None},
        clock=CLOCKS,
        modes={"default": None, "help": "PyTorch's ways to time: eager, planes, compiled; by default all"},
        ranks={"type": int, "default": 2, "help": "0: only one rank"},
        peer={"choices": ("torch", "none"), "default": "torch" if harness.TORCH.exists() else "none"},
    )
    quick = options.size == "quick"
    rounds, seconds = (2, 0.01) if quick else (9, 0.3)
    names = options.cases.split(",") if options.cases else CASES[options.size]
    rows, origin = harness.mnist_rows(256 if quick else 2048)
    clock = {CLOCK: options.clock}
    torch = options.peer == "torch"
    with tempfile.TemporaryDirectory() as folder, harness.python_peer("pyddl", "pyddl_layers", environ=clock) as ours:
        file = Path(folder) / "rows.npy"
        np.save(file, rows)
        dtypes = [dtype for dtype in OURS if dtype in ours.about["dtypes"]]
        ways = options.modes.split(",") if options.modes else ("eager", "planes", "compiled")
        modes = {name: mode for name, mode in TORCH.items() if mode["dtype"] in dtypes and name.split()[0] in ways}
        record = Record("convolution", options.size, options.out, rows=origin, clock=options.clock, **ours.about)
        cases = [Case(name, file, Path(folder)) for name in names]
        theirs = harness.python_peer("PyTorch", "torch_layers", python=harness.TORCH, environ=clock) if torch else None
        try:
            if theirs is not None:
                record.header["torch"] = theirs.about["torch"]
            for case in cases:
                measure(case, ours, theirs, dtypes, modes, record, rounds, seconds)
        finally:
            if theirs is not None:
                theirs.close()
        if options.ranks > 1:
            _together(cases, options.ranks, torch, record, rounds, seconds)
    return record


def _together(cases: Sequence[Case], ranks: int, torch: bool, record: Record, rounds: int, seconds: float) -> None:
    """By the wall's clock in any case: processes wait for each other."""
    with (harness.mpi_peer("pyddl", "pyddl_layers", ranks) as many,
          harness.python_peer("pyddl", "pyddl_layers") as one):
        ddp = harness.python_peer("DDP", "torch_layers", python=harness.TORCH, processes=ranks) if torch else None
        try:
            for case in {case.network: case for case in reversed(cases)}.values():  # the smallest batch of each
                together(case, ranks, many, one, ddp, record, rounds, seconds)
        finally:
            if ddp is not None:
                ddp.close()


if __name__ == "__main__":
    main()
