"""Why pretrain? Test accuracy on MNIST with few labels and with many: a classifier that begins as a deep belief net,
which has seen all images and no label, against the same network from a random start.

784-500-250-10 (size cluster: 784-1000-500-10), from both starts by one recipe in as many steps; for few labels these
are more epochs. The stack's machines are classic, not centered, 4 epochs each (cluster: 10): that serves best where
labels are few. The labelled rows are drawn by the seed, each class with its share. Size quick takes scikit-learn's
digits, too few rows for a stack to gain by.

    python -m benchmarks.pretraining [--size quick|node|cluster]
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
from pyddl.data.joined import labelled_part
from pyddl.models import Trained, for_data
from pyddl.train import Trainer
from pyddl.train.evaluation import evaluate

__all__ = ["main"]

STACK: dict[str, Any] = {"batch_size": 100}
MACHINES: dict[str, Any] = {"centering": False, "pretrain_learning_rate": (0.05,)}
RECIPE: dict[str, Any] = {"optimizer": "adamw", "learning_rate": 0.003, "weight_decay": 0.1, "schedule": "cosine"}
SETTINGS = {  # data, hidden units, epochs of a level, labels, seeds of each
    "quick": ("digits", (100, 60), 30, (100, 1000), 1),
    "node": ("mnist", (500, 250), 4, (100, 1000, 10_000, 60_000), 1),
    "cluster": ("mnist", (1000, 500), 10, (100, 1000, 10_000, 60_000), 3),
}
STEPS, EPOCHS, BATCH = 300, 10, 100  # at least so many steps and epochs
PUBLISHED = {100: "81.7, 76.0", 1000: "93.65, 88.7", 10_000: "97.27, 94.7", 60_000: "98.73"}


def accuracy(data: Source, labels: int, seed: int, encoder: Trained | None, hidden: Sequence[int], dtype: str) -> float:
    """Of the test rows, at the end of the training of a classifier."""
    below: dict[str, Any] = {"hidden": hidden, "activation": "tanh"} if encoder is None else {"encoder": encoder}
    model = for_data("classifier", data, dtype=dtype, **below)
    epochs = max(EPOCHS, -(-STEPS * BATCH // labels))
    known = labelled_part(data, labels, seed)  # which brings no test part: it is evaluated once
    found = Trainer(model, epochs=epochs, batch_size=BATCH, seed=seed, **RECIPE).fit(known)
    return 100 * evaluate(model, found.parameters, found.buffers, data.test or data)["accuracy"]


def main(given: Sequence[str] | None = None) -> Record:
    options = harness.arguments(__doc__, given)
    name, hidden, epochs, counts, seeds = SETTINGS[options.size]
    if name == "mnist" and find("mnist") is None:
        raise SystemExit("this needs MNIST: pyddl fetch mnist, or --size quick")
    data, dtype = load(name), "bfloat16" if _core.has_bfloat16() else "float32"
    record = Record("pretraining", options.size, options.out, data=name, hidden=hidden, epochs=epochs, recipe=RECIPE,
                    dtype=dtype, threads=_core.threads())
    found: dict[tuple[int, str], list[float]] = {}
    for seed in range(seeds):
        stack = for_data("dbn", data, hidden=hidden, pretrain_epochs=(epochs,), dtype=dtype, **MACHINES)
        begin = time.perf_counter()
        pretrained = Trainer(stack, epochs=epochs, seed=seed, **STACK).fit(data)
        seconds = time.perf_counter() - begin
        encoder = Trained(stack, pretrained.parameters, pretrained.buffers)
        for labels in counts:
            for start, below in (("pretrained", encoder), ("random", None)):
                value = accuracy(data, labels, seed, below, hidden, dtype)
                found.setdefault((labels, start), []).append(value)
                record.add(name=f"{labels} labels, {start}", seed=seed, labels=labels, start=start, accuracy=value,
                           pretraining_seconds=seconds)
                harness.show(f"{labels} labels, {start} start, seed {seed}: {value:.2f} %")
    rows = [[f"{labels:,}", *(_shown(found[labels, start]) for start in ("pretrained", "random")),
             PUBLISHED.get(labels, "") if name == "mnist" else ""] for labels in counts]
    harness.show(harness.table(["labels", "pretrained, %", "random start, %", "published"], rows))
    return record


def _shown(values: Sequence[float]) -> str:
    spread = f" ({min(values):.2f}, {max(values):.2f})" if len(values) > 1 else ""
    return f"{statistics.median(values):.2f}{spread}"


if __name__ == "__main__":
    main()
