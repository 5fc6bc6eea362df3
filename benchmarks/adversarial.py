"""How near do samples of adversarial pairs come to known distributions, and to digits?

Mixtures: N(4, 0.5) (mean and standard deviation of 20,000 samples), 8 Gaussians in a ring of radius 1 and a grid of 25
with spacing 2, all of deviation 0.05: of 2500 samples, modes that at least one lies within 3 deviations of, modes that
20 do, and the share that lies within 3 deviations of any (high quality; new rows of the mixture have 98.9 %).

Digits (MNIST, where it is there): Frechet distance of as many samples as there are test images from these, density and
coverage, in the features of a classifier that is trained first; and what as many training images have. All ten digits,
and sevens alone. Presets: the same figures of all digits after `pyddl train`'s other adversarial pairs, dense and of
convolutions. One process, one thread; seconds are processor time.

    python -m benchmarks.adversarial [--size quick|node|cluster] [--part all|mixtures|digits|presets]

How fast a step is: `benchmarks.adversarial_step`; what several ranks are worth: `benchmarks.adversarial_ranks`.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.harness import Record
from pyddl import _core
from pyddl.cli.quality import TO_TRAIN
from pyddl.data import ArraySource, Source, find, load
from pyddl.models import GAN
from pyddl.models.table import Trained
from pyddl.train import Trainer
from pyddl.train.quality import features_of, frechet, modes, quality
from pyddl.train.run import load_run

__all__ = ["DEVIATION", "DIGITS", "MIXTURES", "Judge", "classifier_of", "main", "rows_of"]

DEVIATION, SAMPLES = 0.05, 2500
SEVEN = 7
MIXTURES = {
    "8 Gaussians": np.array([(np.cos(a), np.sin(a)) for a in np.arange(8) * np.pi / 4]),
    "25 Gaussians": np.array([(x, y) for x in range(-4, 5, 2) for y in range(-4, 5, 2)], dtype=float),
}
RECIPES: dict[str, dict[str, Any]] = {  # of models, and of training; a penalty falls over 4/5 of the steps
    "N(4, 0.5)": {"rows": 10_000, "batch": 128, "steps": 2000, "rate": 1e-3, "average": 0.99, "noise": 1,
                  "generator": (32, 32), "discriminator": (32, 32)},
    "8 Gaussians": {"rows": 20_000, "batch": 256, "steps": 4000, "rate": 2e-3, "noise": 2, "penalty": 0.5,
                    "penalty_end": 2e-3, "generator": (128,) * 3},
    "25 Gaussians": {"rows": 20_000, "batch": 128, "steps": 32_000, "rate": 2e-3, "noise": 2, "penalty": 1.0,
                     "penalty_end": 3e-4, "generator": (128,) * 4},
}
DIGITS: dict[str, dict[str, Any]] = {
    "all digits": {"batch": 128, "steps": 1876, "rate": 4e-3, "noise": 32, "penalty": 10.0, "generator": (128,) * 3,
                   "discriminator": (256, 128)},
    "sevens": {"batch": 128, "steps": 1960, "rate": 4e-3, "noise": 32, "penalty": 10.0, "generator": (128,) * 3,
               "discriminator": (256, 128)},
}
PRESETS = {  # `pyddl train`'s arguments
    "wgan, 10 epochs": "wgan --epochs 10",
    "wgan with penalty, 10 epochs": "wgan --objective wgan_gp --optimizer adam --epochs 10",
    "dcgan, 2 epochs": "dcgan --epochs 2",
}
SETTINGS = {  # distributions, part of their steps, seeds
    "quick": (("N(4, 0.5)",), 0.05, 1),
    "node": (tuple(RECIPES), 1.0, 5),
    "cluster": (tuple(RECIPES), 1.0, 10),
}

Figures = dict[str, Any]  # numbers


def rows_of(name: str, count: int, seed: int) -> np.ndarray:
    """Rows of a known distribution, float32."""
    draw = np.random.default_rng(seed)
    if name not in MIXTURES:
        return draw.normal(4, 0.5, (count, 1)).astype(np.float32)
    centres = MIXTURES[name]
    return (centres[draw.integers(len(centres), size=count)] + draw.normal(0, DEVIATION, (count, 2))).astype(np.float32)


def trained(rows: Source, recipe: dict[str, Any], seed: int, part: float) -> tuple[Callable[[int], np.ndarray], float]:
    """What draws so many samples of a trained pair, and the seconds of training."""
    own = dict(recipe)
    batch, rate = own.pop("batch"), own.pop("rate")
    epochs = max(1, round(own.pop("steps") * part * batch / len(rows)))
    if "penalty_end" in own:
        own["penalty_steps"] = max(1, int(0.8 * epochs * len(rows) / batch))
    model = GAN.for_data(rows, **own)
    begin = time.process_time()
    result = Trainer(model, strategy="local", threads=1, batch_size=batch, epochs=epochs, seed=seed, learning_rate=rate,
                     schedule="cosine", minimum_rate=rate / 100).fit(rows)
    seconds = time.process_time() - begin
    return lambda count: model.sample(result.averaged, result.buffers, count, seed), seconds


def mixture(name: str, seed: int, part: float) -> tuple[Figures, float]:
    """What samples are like, and the seconds of training."""
    recipe = dict(RECIPES[name])
    rows = rows_of(name, recipe.pop("rows"), 1000 + seed)
    sample, seconds = trained(ArraySource(rows), recipe, seed, part)
    if name in MIXTURES:
        return modes(sample(SAMPLES), MIXTURES[name], DEVIATION), seconds
    samples = sample(20_000)
    return {"mean": float(samples.mean()), "deviation": float(samples.std())}, seconds


def classifier_of(data: str, folder: Path) -> Path:
    """The run directory of a classifier of these rows, trained as `pyddl evaluate --quality` says."""
    out = folder / "classifier"
    subprocess.run([sys.executable, "-m", "pyddl", "train", "classifier", "--data", data, *TO_TRAIN.split(), "--quiet",
                    "--out", str(out)], check=True, stdin=subprocess.DEVNULL)
    return out


class Judge:
    """A classifier's view of held-out rows."""

    def __init__(self, classifier: Path, held_out: Source):
        self.classifier, self.rows = Trained.of(load_run(classifier)), held_out
        self.count = len(held_out)
        self.real = features_of(self.classifier, held_out, self.count)

    def distance(self, samples: np.ndarray) -> float:
        """Frechet distance of as many samples."""
        return frechet(self.real, features_of(self.classifier, samples, self.count))


def digits_of(part: str, name: str) -> Source:
    """MNIST's images, or the sevens among them."""
    whole = load("mnist", part)
    if name != "sevens":
        return whole
    chosen = np.flatnonzero(np.asarray(whole.labels) == SEVEN)
    rows = np.empty((len(chosen), whole.features), dtype=np.float32)
    whole.read(chosen, rows)
    return ArraySource(rows)


def show(record: Record, name: str, runs: Sequence[tuple[Figures, float]]) -> list[str]:
    """A line of the table of what all seeds have found."""
    found, seconds = zip(*runs, strict=True)
    for seed, (each, taken) in enumerate(runs):
        record.add(name=name, seed=seed, training_seconds=taken, **each)
    figures = "; ".join(f"{key} {np.median([each[key] for each in found]):.4g} "
                        f"({', '.join(f'{each[key]:.4g}' for each in found)})" for key in found[0])
    line = [name, figures, f"{np.median(seconds):.0f}"]
    harness.show(" | ".join(line))
    return line


def digits(record: Record, name: str, judge: Judge, part: float, seeds: int) -> list[str]:
    """The line of a set of digits."""
    rows, runs = digits_of("train", name), []
    for seed in range(seeds):
        sample, seconds = trained(rows, DIGITS[name], seed, part)
        runs.append((judged(sample(judge.count), judge, rows), seconds))
    return show(record, name, runs)


def judged(samples: np.ndarray, judge: Judge, rows: Source) -> Figures:
    """What samples are like, and as many training rows."""
    found = quality(samples, judge.rows, rows, judge.classifier)
    return {f"{key}{ending}": found[f"{key}{ending}"] for ending in ("", "_of_rows")
            for key in ("frechet_distance", "density", "coverage")}


def preset(record: Record, name: str, judge: Judge, folder: Path, seeds: int) -> list[str]:
    """The line of a command."""
    rows, runs = digits_of("train", "all digits"), []
    for seed in range(seeds):
        out = folder / f"{name} {seed}"
        before = of_children()
        subprocess.run([sys.executable, "-m", "pyddl", "train", *PRESETS[name].split(), "--data", "mnist", "--threads",
                        "1", "--seed", str(seed), "--quiet", "--out", str(out)], check=True, stdin=subprocess.DEVNULL)
        seconds, run = of_children() - before, Trained.of(load_run(out))
        samples = run.model.sample(run.parameters, run.buffers, judge.count, seed)
        runs.append((judged(samples, judge, rows), seconds))
    return show(record, name, runs)


def of_children() -> float:
    """Processor seconds of the processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(given: Sequence[str] | None = None) -> Record:
    options = harness.arguments(__doc__, given, part={"choices": ("all", "mixtures", "digits", "presets"),
                                                         "default": "all"})
    names, part, seeds = SETTINGS[options.size]
    before = _core.threads()
    _core.set_threads(1)
    try:
        record = Record("adversarial", options.size, options.out, threads=1, recipes={**RECIPES, **DIGITS, **PRESETS})
        lines = []
        if options.part in ("all", "mixtures"):
            lines += [show(record, name, [mixture(name, seed, part) for seed in range(seeds)]) for name in names]
        if options.part != "mixtures" and options.size != "quick":
            if find("mnist") is None:
                raise SystemExit("digits are MNIST's: pyddl fetch mnist, or --part mixtures")
            with tempfile.TemporaryDirectory() as folder:
                classifier = classifier_of("mnist", Path(folder))
                if options.part != "presets":
                    lines += [digits(record, name, Judge(classifier, digits_of("test", name)), part, seeds)
                              for name in DIGITS]
                if options.part != "digits":
                    judge = Judge(classifier, digits_of("test", "all digits"))
                    lines += [preset(record, name, judge, Path(folder), seeds) for name in PRESETS]
        harness.show(harness.table(["distribution", "median (each seed)", "seconds of a seed"], lines))
    finally:
        _core.set_threads(before)
    return record


if __name__ == "__main__":
    main()
