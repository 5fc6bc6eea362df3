"""How near do samples of adversarial pairs come to known distributions, and how fast is a step against PyTorch's?

Quality: N(4, 0.5) (mean and standard deviation of 20,000 samples), 8 Gaussians in a ring of radius 1 and a grid of 25
with spacing 2, all of deviation 0.05: of 2500 samples, modes that at least one lies within 3 deviations of, modes that
20 do, and the share that lies within 3 deviations of any (high quality; new rows of the mixture have 98.9 %). One
process, one thread; seconds are processor time.

Speed (where the environment of PyTorch is there, `make bench` makes it): one step of both networks of 128-128 units in
two dimensions, updates and the averaged generator included, one thread, in turn. Before anything is timed, gradients
must be those of PyTorch's double backward in double precision.

    python -m benchmarks.adversarial [--size quick|node|cluster] [--part all|quality|speed]

PYDDL_BENCH_CLOCK=cpu in the environment counts processor time in both, where other work fills the machine.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.harness import Record
from benchmarks.peers import line as clock
from pyddl import _core, random
from pyddl.data import ArraySource
from pyddl.data.batch import Batch
from pyddl.data.statistics import Statistics
from pyddl.models import GAN
from pyddl.models.gan import BETWEEN
from pyddl.models.stages import stages_of
from pyddl.optim.given import optimizer_of
from pyddl.train import Trainer
from pyddl.train.phase import PhaseState
from pyddl.train.quality import modes

__all__ = ["DEVIATION", "MIXTURES", "main", "rows_of"]

DEVIATION, SAMPLES = 0.05, 2500
MIXTURES = {
    "8 Gaussians": np.array([(np.cos(a), np.sin(a)) for a in np.arange(8) * np.pi / 4]),
    "25 Gaussians": np.array([(x, y) for x in range(-4, 5, 2) for y in range(-4, 5, 2)], dtype=float),
}
RECIPES: dict[str, dict[str, Any]] = {  # of models, and of training; the penalty falls over 4/5 of the steps
    "N(4, 0.5)": {"rows": 10_000, "batch": 128, "steps": 2000, "rate": 1e-3, "average": 0.99, "noise": 1,
                  "generator": (32, 32), "discriminator": (32, 32)},
    "8 Gaussians": {"rows": 20_000, "batch": 256, "steps": 4000, "rate": 2e-3, "noise": 2, "penalty": 0.5,
                    "penalty_end": 2e-3, "generator": (128,) * 3},
    "25 Gaussians": {"rows": 20_000, "batch": 128, "steps": 8000, "rate": 2e-3, "noise": 2, "penalty": 1.0,
                     "penalty_end": 3e-4, "generator": (128,) * 4},
}
SETTINGS = {  # what, part of its steps, seeds; batch sizes, rounds, seconds of each
    "quick": (("N(4, 0.5)",), 0.05, 1, (64,), 2, 0.05),
    "node": (tuple(RECIPES), 1.0, 5, (64, 256), 20, 0.3),
    "cluster": (tuple(RECIPES), 2.0, 10, (64, 128, 256), 40, 0.5),
}
OBJECTIVES = {"non_saturating": 0.0, "wgan_gp": 1.0, "r3gan": 1.0}
UNITS = (128, 128)


def rows_of(name: str, count: int, seed: int) -> np.ndarray:
    """Rows of a known distribution, float32."""
    draw = np.random.default_rng(seed)
    if name not in MIXTURES:
        return draw.normal(4, 0.5, (count, 1)).astype(np.float32)
    centres = MIXTURES[name]
    return (centres[draw.integers(len(centres), size=count)] + draw.normal(0, DEVIATION, (count, 2))).astype(np.float32)


def trained(name: str, seed: int, part: float) -> tuple[dict[str, float], float]:
    """What samples of a trained pair are like, and the seconds of training."""
    recipe = dict(RECIPES[name])
    rows, batch, rate = (recipe.pop(key) for key in ("rows", "batch", "rate"))
    epochs = max(1, round(recipe.pop("steps") * part * batch / rows))
    if "penalty_end" in recipe:
        recipe["penalty_steps"] = max(1, int(0.8 * epochs * rows / batch))
    data = rows_of(name, rows, 1000 + seed)
    model = GAN(data.shape[1], **recipe)
    begin = time.process_time()
    result = Trainer(model, strategy="local", threads=1, batch_size=batch, epochs=epochs, seed=seed, learning_rate=rate,
                     schedule="cosine", minimum_rate=rate / 100).fit(data)
    seconds = time.process_time() - begin
    samples = model.sample(result.averaged, result.buffers, SAMPLES if name in MIXTURES else 20_000, seed)
    if name in MIXTURES:
        return modes(samples, MIXTURES[name], DEVIATION), seconds
    return {"mean": float(samples.mean()), "deviation": float(samples.std())}, seconds


def qualities(record: Record, names: Sequence[str], part: float, seeds: int) -> None:
    lines = []
    for name in names:
        found, seconds = zip(*(trained(name, seed, part) for seed in range(seeds)), strict=True)
        for seed, (each, taken) in enumerate(zip(found, seconds, strict=True)):
            record.add(name=name, seed=seed, training_seconds=taken, **each)
        figures = "; ".join(f"{key} {np.median([each[key] for each in found]):.4g} "
                            f"({', '.join(f'{each[key]:.4g}' for each in found)})" for key in found[0])
        lines.append([name, figures, f"{np.median(seconds):.0f}"])
        harness.show(" | ".join(lines[-1]))
    harness.show(harness.table(["distribution", "median (each seed)", "seconds of a seed"], lines))


# ---- speed


class Ours:
    """pyddl's step: both turns, as the trainer makes them."""

    def __init__(self, rows: np.ndarray, batch: int, objective: str, penalty: float):
        given = {} if objective == "non_saturating" else {"penalty": penalty}
        self.model = model = GAN(2, UNITS, UNITS, noise=2, objective=objective, **given)
        self.rows, self.batch, self.step = rows, batch, 0
        self.parameters, self.gradients = model.layout.zeros(), model.layout.zeros()
        self.buffers = model.buffers.zeros()
        model.initialise(self.parameters, self.buffers, 0, Statistics(ArraySource(rows)))
        views = model.layout.views(self.parameters)
        views["rows.centre"][:], views["rows.scale"][:] = 0, 1  # PyTorch's pair sees the rows as they are
        rates = {"schedule": "constant"}
        self.phases = [PhaseState(phase, number, optimizer_of("adam", rates, 1, 1.0, phase.optimizer), model.layout)
                       for number, phase in enumerate(stages_of(model)[0].phases)]
        for phase in self.phases:
            phase.begin_average(self.parameters[phase.place])

    def steps(self, count: int) -> float:
        from pyddl.comm.operations import Update

        begin, batches = clock.now(), len(self.rows) // self.batch
        for _ in range(count):
            first = self.step % batches * self.batch
            index = np.arange(first, first + self.batch)
            for phase in self.phases:
                self.gradient(phase, Batch(self.rows[first : first + self.batch], index, step=self.step,
                                           turn=phase.number, phase=phase.name))
                phase.update(self.parameters[phase.place], self.gradients[phase.place], None, Update(1 / self.batch),
                             self.step)
            self.step += 1
        return clock.now() - begin

    def gradient(self, phase: PhaseState, batch: Batch) -> Mapping[str, float]:
        return self.model.gradient(self.parameters, self.gradients, self.buffers, batch)

    def weights(self) -> dict[str, np.ndarray]:
        return {name: view for name, view in self.model.layout.views(self.parameters).items()
                if not name.startswith("rows.")}


def verify(theirs: harness.Peer, ours: Ours, pair: Mapping[str, Any], folder: Path) -> float:
    """The largest difference of a tensor's gradients, of the largest in it; raises where it is above 1e-4."""
    count = 64
    noise, places = np.empty((count, 2), np.float32), np.empty((count, 1), np.float32)
    batch = Batch(ours.rows[:count], np.arange(count), seed=3, step=5)
    _core.normal(noise, batch.index, 3, random.NOISE, 5, 0)
    _core.uniform(places, batch.index, 3, random.NOISE, 5, BETWEEN)
    np.savez(folder / "inputs.npz", rows=batch.rows, noise=noise, places=places)
    losses = theirs.call("gradients", pair=pair, inputs=str(folder / "inputs.npz"), out=str(folder / "out.npz"))[0]
    worst = 0.0
    with np.load(folder / "out.npz") as expected:
        for phase in ours.phases:
            batch.phase = phase.name
            loss = ours.gradient(phase, batch)["loss"]
            harness.verify(f"{pair['objective']}, loss", [losses[phase.name]], [loss], 1e-5)
            for name, found in ours.model.layout.views(ours.gradients).items():
                if name.startswith(phase.name):
                    size = max(np.abs(expected[name]).max(), 1e-3)
                    worst = max(worst, float(np.abs(found - expected[name]).max() / size))
    if worst > 1e-4:
        raise RuntimeError(f"{pair['objective']}: not timed, for gradients differ by {worst:.1e} of the largest; "
                           "expected at most 1e-4")
    return worst


def speeds(record: Record, batches: Sequence[int], rounds: int, seconds: float) -> None:
    lines: list[list[str]] = []
    rows = rows_of("25 Gaussians", 8192, 0) / np.float32(2.8)
    with tempfile.TemporaryDirectory() as name, harness.python_peer(
            "PyTorch", "torch_adversarial", python=harness.TORCH) as theirs:
        folder = Path(name)
        np.save(folder / "rows.npy", rows)
        for batch in batches:
            sides: dict[str, Callable[[int], float]] = {}
            off: dict[str, float] = {}
            for objective, penalty in OBJECTIVES.items():
                ours = Ours(rows, batch, objective, penalty)
                np.savez(folder / "weights.npz", **ours.weights())
                pair = {"generator": [2, *UNITS, 2], "discriminator": [2, *UNITS, 1], "objective": objective,
                        "penalty": penalty, "weights": str(folder / "weights.npz")}
                off[objective] = verify(theirs, ours, pair, folder)
                theirs.call("prepare", setup=objective, pair=pair, rows=str(folder / "rows.npy"), batch=batch)
                sides |= {f"pyddl, {objective}": ours.steps, f"PyTorch, {objective}": theirs.timer(objective)}
            taken = harness.in_turn(sides, rounds, seconds)
            for objective in OBJECTIVES:
                mine, other = taken[f"pyddl, {objective}"], taken[f"PyTorch, {objective}"]
                faster = harness.speed_up(mine, other)
                record.add({"pyddl": mine, "PyTorch": other}, objective=objective, batch=batch, speed_up=faster,
                           difference=off[objective])
                lines.append([objective, str(batch), f"{1e3 * mine.median:.2f}", f"{1e3 * other.median:.2f}",
                              f"{faster:.1f}", f"{mine.median / taken['pyddl, non_saturating'].median:.2f}"])
                harness.show(" | ".join(lines[-1]))
    harness.show(harness.table(["objective", "batch", "pyddl, ms", "PyTorch eager, ms", "times faster",
                                "times a step without penalty"], lines))


def main(given: Sequence[str] | None = None) -> Record:
    options = harness.arguments(
        __doc__, given, part={"choices": ("all", "quality", "speed"), "default": "all"})
    names, part, seeds, batches, rounds, seconds = SETTINGS[options.size]
    before = _core.threads()
    _core.set_threads(1)
    try:
        record = Record("adversarial", options.size, options.out, threads=1, clock="cpu" if clock.CPU else "wall",
                        recipes=RECIPES)
        if options.part != "speed":
            qualities(record, names, part, seeds)
        if options.part != "quality":
            if harness.TORCH.exists():
                speeds(record, batches, rounds, seconds)
            else:
                harness.show(f"no speed: {harness.TORCH} is not there (make bench)")
    finally:
        _core.set_threads(before)
    return record


if __name__ == "__main__":
    main()
