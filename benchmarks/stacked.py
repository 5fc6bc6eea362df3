"""Does a stack on a classifier make better samples of a class than a conditional pair in the same time?

MNIST (size quick: scikit-learn's digits). The stack inverts a classifier with one hidden layer; each of its levels is
trained for an epoch, then both together. The pair sees the labels, and has as many epochs as take the same time. Both
have dense networks, R3GAN, batches of 128, one thread. As many samples as there are test rows, of all classes in turn,
are judged by another classifier: their Frechet distance from the test rows in its last hidden layer, and the share that
it takes for the class that was asked for. Seconds are processor time; that of the encoder is the stack's too.

    python -m benchmarks.stacked [--size quick|node|cluster]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

from benchmarks import harness
from benchmarks.harness import Record
from pyddl import _core
from pyddl.data import Source, find, load
from pyddl.models import Trained, for_data
from pyddl.train import Trainer
from pyddl.train.quality import quality, recognised

__all__ = ["main"]

SHARED: dict[str, Any] = {"discriminator": (256, 128), "penalty": 10.0}
SETTINGS = {  # data; epochs of classifiers, of the stack's levels and of all together, and of the pair; seeds
    "quick": ("digits", 30, 6, 18, 1),
    "node": ("mnist", 4, 1, 5, 3),
    "cluster": ("mnist", 4, 5, 25, 5),
}
OF_CLASSIFIER: dict[str, Any] = {"batch_size": 200, "learning_rate": 0.002, "schedule": "cosine"}
RECIPE: dict[str, Any] = {"batch_size": 128, "learning_rate": 0.004, "schedule": "cosine"}
FIGURES = ("frechet_distance", "recognised", "training_seconds")


def trained(name: str, data: Source, seed: int, training: dict[str, Any], **options: Any) -> tuple[Trained, float]:
    """A model, and the processor seconds of its training."""
    begin, model = time.process_time(), for_data(name, data, **options)
    result = Trainer(model, strategy="local", threads=1, seed=seed, **training).fit(data)
    return Trained.of(result), time.process_time() - begin


def judged(run: Trained, judge: Trained, data: Source, seed: int) -> dict[str, float]:
    model: Any = run.model
    samples = model.sample(run.parameters, run.buffers, len(data.test or data), seed)
    return {**quality(samples, data.test or data, data, judge),
            "recognised": recognised(judge, samples, model.classes)}


def compared(data: Source, judge: Trained, seed: int, size: str) -> dict[str, dict[str, float]]:
    """Figures of a stack, and of a pair."""
    _, classifying, each, epochs, _ = SETTINGS[size]
    encoder, taken = trained("classifier", data, seed, {**OF_CLASSIFIER, "epochs": classifying}, hidden=(256,))
    stack, more = trained("stacked_gan", data, seed, {**RECIPE, "epochs": each}, encoder=encoder,
                          pretrain_epochs=(each,), **SHARED)
    pair, alone = trained("gan", data, seed, {**RECIPE, "epochs": epochs}, conditional=True, noise=32, **SHARED)
    return {"stacked_gan": {"training_seconds": taken + more, **judged(stack, judge, data, seed)},
            "gan": {"training_seconds": alone, **judged(pair, judge, data, seed)}}


def judge_of(data: Source, size: str) -> Trained:
    """A classifier that no stack stands on."""
    return trained("classifier", data, 1000, {**OF_CLASSIFIER, "epochs": SETTINGS[size][1]}, hidden=(256, 64))[0]


def main(given: Sequence[str] | None = None) -> Record:
    options = harness.arguments(__doc__, given)
    name, *epochs, seeds = SETTINGS[options.size]
    if name == "mnist" and find("mnist") is None:
        raise SystemExit("this needs MNIST: pyddl fetch mnist, or --size quick")
    data, before = load(name), _core.threads()
    _core.set_threads(1)
    try:
        record = Record("stacked", options.size, options.out, data=name, epochs=epochs, recipe=RECIPE, threads=1,
                        clock="cpu")
        judge = judge_of(data, options.size)
        for seed in range(seeds):
            for kind, figures in compared(data, judge, seed, options.size).items():
                record.add(name=kind, seed=seed, **figures)
                harness.show(f"{kind}, seed {seed}: {', '.join(f'{key} {figures[key]:.4g}' for key in FIGURES)}; of "
                             f"rows {figures['frechet_distance_of_rows']:.3g}")
    finally:
        _core.set_threads(before)
    rows = []
    for kind in ("stacked_gan", "gan"):
        found = [[line[key] for line in record.lines if line["name"] == kind] for key in FIGURES]
        rows.append([f"`{kind}`", *(f"{statistics.median(values):.4g} ({min(values):.4g} to {max(values):.4g})"
                                    for values in found)])
    harness.show(harness.table(["model", "Frechet distance", "of the class asked for", "seconds"], rows))
    return record


if __name__ == "__main__":
    main()
