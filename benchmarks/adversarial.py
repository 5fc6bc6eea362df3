"""How near do samples of adversarial pairs come to known distributions?

N(4, 0.5) (mean and standard deviation of 20,000 samples), 8 Gaussians in a ring of radius 1 and a grid of 25
with spacing 2, all of deviation 0.05: of 2500 samples, modes that at least one lies within 3 deviations of, modes that
20 do, and the share that lies within 3 deviations of any (high quality; new rows of the mixture have 98.9 %). One
process, one thread; seconds are processor time.

    python -m benchmarks.adversarial [--size quick|node|cluster]

How fast a step is: `benchmarks.adversarial_step`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.harness import Record
from pyddl import _core
from pyddl.models import GAN
from pyddl.train import Trainer
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
SETTINGS = {  # what, part of its steps, seeds
    "quick": (("N(4, 0.5)",), 0.05, 1),
    "node": (tuple(RECIPES), 1.0, 5),
    "cluster": (tuple(RECIPES), 2.0, 10),
}


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


def main(given: Sequence[str] | None = None) -> Record:
    options = harness.arguments(__doc__, given)
    names, part, seeds = SETTINGS[options.size]
    before = _core.threads()
    _core.set_threads(1)
    try:
        record = Record("adversarial", options.size, options.out, threads=1, recipes=RECIPES)
        qualities(record, names, part, seeds)
    finally:
        _core.set_threads(before)
    return record


if __name__ == "__main__":
    main()
