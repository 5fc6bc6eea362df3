"""How fast is one training step of an adversarial pair on one thread, against PyTorch?

A step is a turn of the discriminator and one of the generator, noise drawn anew for each, updates and the averaged
generator included: of a dense pair in two dimensions (128-128 units), and of a DCGAN on 28 x 28 pixels (100 numbers -
7 x 7 x 256 - 14 x 14 x 128 - 28 x 28, batch norm and ReLU; and convolutions of 64 and 128 channels of 4 x 4, stride 2,
leaky ReLU). PyTorch is eager with channels last, eager with planes and compiled with channels last, each also under
bfloat16 autocast; what has a penalty needs double backward, which PyTorch cannot compile.

Before anything is timed, gradients must be those of PyTorch's double backward in double precision, and all sides must
have the same losses over three steps from the same weights and noises.

    python -m benchmarks.adversarial_step [--size quick|node|cluster] [--cases dcgan-non_saturating-64,...]
                                          [--modes eager,planes,compiled] [--dtypes float32,bfloat16]

PYDDL_BENCH_CLOCK=cpu in the environment counts processor time, where other work fills the machine.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.convolution import TORCH, described
from benchmarks.harness import Peer, Record
from benchmarks.peers import line as clock
from benchmarks.step import best_of
from pyddl import _core, random
from pyddl.comm.operations import Update
from pyddl.data import ArraySource
from pyddl.data.batch import Batch
from pyddl.data.statistics import Statistics
from pyddl.models import GAN
from pyddl.models.gan import BETWEEN
from pyddl.models.layers import BatchNorm, Conv, ConvTranspose, Dense, Flatten, Reshape
from pyddl.models.stages import stages_of
from pyddl.optim.given import optimizer_of
from pyddl.train.phase import PhaseState

__all__ = ["AIMS", "PAIRS", "Ours", "main"]

UNITS = (128, 128)
UP = {"kernel": 4, "bias": False}
# Running statistics are those of the last batch, on which pyddl and PyTorch agree: how they decay differs.
NORM = BatchNorm("relu", decay=0.0)
PAIRS: dict[str, dict[str, Any]] = {
    "dense": {"inputs": 2, "noise": 2, "generator": UNITS, "discriminator": UNITS},
    "dcgan": {
        "inputs": 784, "noise": 100, "output": "sigmoid",
        "generator": (Dense(7 * 7 * 256, bias=False), Reshape((7, 7, 256)), NORM, ConvTranspose(128, **UP), NORM,
                      ConvTranspose(1, 4, activation="sigmoid"), Flatten()),
        "discriminator": (Reshape((28, 28, 1)), Conv(64, 4, 2, activation="leaky_relu"),
                          Conv(128, 4, 2, activation="leaky_relu"), Flatten(), Dense(1)),
    },
}
OBJECTIVES = {"non_saturating": 0.0, "wgan_gp": 1.0, "r3gan": 1.0}
CASES = {"quick": ("dense-r3gan-64",),
         "node": tuple(f"{pair}-{objective}-{batch}" for pair, batches in (("dense", (64, 256)), ("dcgan", (64, 128)))
                       for objective in OBJECTIVES for batch in batches)}
CASES["cluster"] = CASES["node"]
AIMS = {"dense-non_saturating-64": {"float32": 3.0}, "dcgan-non_saturating-64": {"float32": 1.3, "bfloat16": 1.2},
        "dcgan-non_saturating-128": {"float32": 1.35, "bfloat16": 1.2}}
"""How many times as fast as the best of PyTorch."""
MOST = 3.0
"""Times a step without penalty that one with it may take."""

STEPS = 3  # verified
NEAR = {"float32": 1e-2, "bfloat16": 0.1}  # gradients of a tensor, of their norm: rounding crosses a kink now and then
NEAR_LOSSES = {"float32": (1e-4, 5e-3), "bfloat16": (5e-2, 1e-1)}  # first step, later ones


class Ours:
    """pyddl's step: both turns, as the trainer makes them."""

    def __init__(self, rows: np.ndarray, batch: int, pair: str, objective: str, dtype: str):
        given = {} if objective == "non_saturating" else {"penalty": OBJECTIVES[objective]}
        self.model = model = GAN(**PAIRS[pair], objective=objective, dtype=dtype, **given)
        self.rows, self.batch, self.step = rows, batch, 0
        self.parameters, self.gradients = model.layout.zeros(), model.layout.zeros()
        self.buffers = model.buffers.zeros()
        model.initialise(self.parameters, self.buffers, 0, Statistics(ArraySource(rows)))
        views = model.layout.views(self.parameters)
        views["rows.centre"][:], views["rows.scale"][:] = 0, 1  # PyTorch's pair sees the rows as they are
        for number, (name, view) in enumerate(views.items()):  # black pixels would lie on kinks, whose slope is open
            if name.endswith(".bias") and pair == "dcgan":
                view[:] = np.random.default_rng(number).normal(0, 0.02, view.shape)
        rates = {"schedule": "constant"}
        self.phases = [PhaseState(phase, number, optimizer_of("adam", rates, 1, 1.0, phase.optimizer), model.layout)
                       for number, phase in enumerate(stages_of(model)[0].phases)]
        for phase in self.phases:
            phase.begin_average(self.parameters[phase.place])

    def next(self) -> list[float]:
        """The losses of both turns of one step."""
        first = self.step % (len(self.rows) // self.batch) * self.batch
        index, losses = np.arange(first, first + self.batch), []
        for phase in self.phases:
            batch = Batch(self.rows[first : first + self.batch], index, step=self.step, turn=phase.number,
                          phase=phase.name)
            losses.append(self.gradient(batch)["loss"])
            phase.update(self.parameters[phase.place], self.gradients[phase.place], None, Update(1 / self.batch),
                         self.step)
        self.step += 1
        return losses

    def gradient(self, batch: Batch) -> Mapping[str, float]:
        return self.model.gradient(self.parameters, self.gradients, self.buffers, batch)

    def drawn(self, steps: int) -> list[np.ndarray]:
        """The random numbers of the first steps, in the order in which they are used."""
        out = []
        for step in range(steps):
            first = step % (len(self.rows) // self.batch) * self.batch
            index = np.arange(first, first + self.batch)
            noises = np.empty((2, self.batch, self.model.noise), np.float32)
            places = np.empty((self.batch, 1), np.float32)
            for turn, noise in enumerate(noises):
                _core.normal(noise, index, 0, random.NOISE, step, turn)
            _core.uniform(places, index, 0, random.NOISE, step, BETWEEN)
            out += [noises[0], places, noises[1]] if self.model.objective.penalised == "between" else [*noises]
        return out

    def weights(self) -> dict[str, np.ndarray]:
        return {name: view for name, view in self.model.layout.views(self.parameters).items()
                if not name.startswith("rows.")}

    def time(self, count: int) -> float:
        return clock.clocked(self.next, count)


def verify_gradients(what: str, theirs: Peer, ours: Ours, pair: Mapping[str, Any], folder: Path) -> float:
    """The largest difference of a tensor's gradients, of their norm, or of a hundredth of the largest norm."""
    count = ours.batch
    noise, places = np.empty((count, ours.model.noise), np.float32), np.empty((count, 1), np.float32)
    batch = Batch(ours.rows[:count], np.arange(count), seed=3, step=5)
    _core.normal(noise, batch.index, 3, random.NOISE, 5, 0)
    _core.uniform(places, batch.index, 3, random.NOISE, 5, BETWEEN)
    np.savez(folder / "inputs.npz", rows=batch.rows, noise=noise, places=places)
    losses = theirs.call("gradients", pair=pair, inputs=str(folder / "inputs.npz"), out=str(folder / "out.npz"))[0]
    worst, dtype = 0.0, ours.model.dtype
    named = {"scale": "weight", "shift": "bias"}  # of batch norm
    with np.load(folder / "out.npz") as expected:
        for phase in ours.phases:
            batch.phase = phase.name
            loss = ours.gradient(batch)["loss"]
            harness.verify(f"{what}, loss", [losses[phase.name]], [loss], NEAR_LOSSES[dtype][0])
            least = 0.01 * max(np.linalg.norm(expected[name]) for name in expected if name.startswith(phase.name))
            for name, found in ours.model.layout.views(ours.gradients).items():
                if name.startswith(phase.name):
                    layer, tensor = name.rsplit(".", 1)
                    wanted = expected[f"{layer}.{named.get(tensor, tensor)}"]
                    off = np.linalg.norm(found - wanted) / max(np.linalg.norm(wanted), least)
                    worst = max(worst, float(off))
    if worst > NEAR[dtype]:
        raise RuntimeError(f"{what}: not timed, for gradients differ by {worst:.1e} of their norm; expected at most "
                           f"{NEAR[dtype]}")
    ours.buffers[:] = 0
    return worst


def verify_losses(what: str, expected: Any, found: np.ndarray, dtype: str) -> None:
    """Those of some steps, to what rounding and Adam make of it."""
    first, later = NEAR_LOSSES[dtype]
    harness.verify(f"{what}, first step", expected[0], found[0], first)
    harness.verify(what, expected.ravel(), found.ravel(), later)


def measure(theirs: Peer | None, record: Record, name: str, dtypes: Sequence[str], ways: Sequence[str], rounds: int,
            seconds: float) -> None:
    """Verify, then time one case: pair, objective and batch; one record."""
    pair, objective, size = name.split("-")
    batch, penalised = int(size), OBJECTIVES[objective] > 0
    rows = rows_of(pair)
    modes = {mode: how for mode, how in TORCH.items() if how["dtype"] in dtypes and mode.split()[0] in ways
             and not (penalised and how["compiled"]) and (pair != "dense" or mode.startswith("eager"))}
    sides: dict[str, Callable[[int], float]] = {}
    difference: dict[str, float] = {}
    expected = None
    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        np.save(folder / "rows.npy", rows)
        for dtype in dtypes:
            ours = Ours(rows, batch, pair, objective, dtype)
            sides[f"pyddl {dtype}"] = ours.time
            if penalised:
                sides[f"plain {dtype}"] = Ours(rows, batch, pair, "non_saturating", dtype).time
            if theirs is None:
                continue
            np.savez(folder / "weights.npz", **ours.weights())  # type: ignore[arg-type]
            about = {each: described(getattr(ours.model, each)) for each in ("generator", "discriminator")}
            about |= {"objective": objective, "penalty": OBJECTIVES[objective], "weights": str(folder / "weights.npz")}
            difference[dtype] = verify_gradients(f"{name}, {dtype}", theirs, ours, about, folder)
            if expected is None:
                np.savez(folder / "drawn.npz", *ours.drawn(STEPS))
                theirs.call("prepare", pair=about, rows=str(folder / "rows.npy"), batch=batch, modes=modes)
                for mode, how in modes.items():
                    found = theirs.call("losses", setup=mode, drawn=str(folder / "drawn.npz"), count=STEPS)
                    losses = np.array(found[0])
                    expected = losses if expected is None else expected
                    verify_losses(f"{name}, PyTorch {mode}", expected, losses, how["dtype"])
            verify_losses(f"{name}, {dtype}", expected, np.array([ours.next() for _ in range(STEPS)]), dtype)
        if theirs is not None:
            sides |= {mode: theirs.timer(mode) for mode in modes}
        timings = harness.in_turn(sides, rounds, seconds)
    plain = {dtype: 1 / harness.speed_up(timings[f"pyddl {dtype}"], timings[f"plain {dtype}"]) if penalised else 1.0
             for dtype in dtypes}
    others = {key: each for key, each in timings.items() if not key.startswith("plain")}
    faster = {} if theirs is None else {dtype: best_of(others, dtype) for dtype in dtypes
                                        if any(how["dtype"] == dtype for how in modes.values())}
    record.add(timings, case=name, pair=pair, objective=objective, batch=batch, difference=difference,
               speed_up={dtype: value for dtype, (value, _) in faster.items()},
               best={dtype: mode for dtype, (_, mode) in faster.items()}, times_plain=plain)
    harness.show(name + ": " + "; ".join(
        f"{side} {1e3 * timing.median:.2f} ms" for side, timing in timings.items()))


def section(lines: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Of the page of results."""
    yield "\n### Steps of adversarial pairs on one thread\n"
    rows = []
    for line in lines:
        for dtype, times in line["times_plain"].items():
            mode = line["best"].get(dtype)
            rows.append([line["pair"], line["objective"], str(line["batch"]), dtype,
                         f"{1e3 * line['seconds'][f'pyddl {dtype}']['p50']:.4g}",
                         f"{1e3 * line['seconds'][mode]['p50']:.4g} ({mode.split()[0]})" if mode else "",
                         f"{line['speed_up'][dtype]:.2f}" if mode else "", f"{times:.2f}"])
    yield harness.table(["pair", "objective", "batch", "type", "pyddl, ms", "best of PyTorch, ms", "times faster",
                         "times a step without penalty"], rows)


def rows_of(pair: str) -> np.ndarray:
    """Rows that the pair is of, float32."""
    if pair == "dcgan":
        return harness.mnist_rows(1024)[0]
    places = np.random.default_rng(0)
    grid = places.integers(-2, 3, (8192, 2)) + places.normal(0, 0.025, (8192, 2))
    return (grid / 1.4).astype(np.float32)


def main(given: Sequence[str] | None = None) -> Record:
    options = harness.arguments(
        __doc__, given,
        cases={"default": None, "help": "pair-objective-batch, ...: by default all of the size"},
        dtypes={"default": "float32,bfloat16"},
        modes={"default": "eager,planes,compiled", "help": "PyTorch's ways to time"},
        peer={"choices": ("torch", "none"), "default": "torch" if harness.TORCH.exists() else "none"})
    rounds, seconds = (2, 0.01) if options.size == "quick" else (9, 0.3)
    cases = options.cases.split(",") if options.cases else CASES[options.size]
    before = _core.threads()
    _core.set_threads(1)
    try:
        record = Record("adversarial_step", options.size, options.out, threads=1, clock="cpu" if clock.CPU else "wall")
        theirs = (harness.python_peer("PyTorch", "torch_adversarial", python=harness.TORCH)
                  if options.peer == "torch" else None)
        with theirs or nullcontext():
            for name in cases:
                dtypes = [each for each in options.dtypes.split(",") if each == "float32" or
                          (not name.startswith("dense") and _core.has_bfloat16())]
                measure(theirs, record, name, dtypes, options.modes.split(","), rounds, seconds)
        harness.show("\n".join(section(record.lines)))
    finally:
        _core.set_threads(before)
    return record


if __name__ == "__main__":
    main()
