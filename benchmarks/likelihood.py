"""How likely does a restricted Boltzmann machine find test images of MNIST, and how long does it train?

784-16 by enumeration, also of flipped images (1 - x), and 784-500 as the interval from reverse to forward annealed
importance sampling (128 chains, 4000 temperatures, 1000 Gibbs steps before the reverse), with the standard deviations
of the log weights. Images are thresholded at 1/2, or drawn anew in each epoch (the test images once); centered PCD-1,
batch 100, 100 chains, SGD whose rate falls to 0: from 0.2 with 16 hidden units, from 0.1 with 500. Size quick takes
scikit-learn's digits.

    python -m benchmarks.likelihood [--size quick|node|cluster] [--only CASE] [--seeds N] [--epochs N]
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.harness import Record
from pyddl import _core
from pyddl.data import ArraySource, find, load
from pyddl.models import RBM
from pyddl.train import Trainer
from pyddl.train.crew import Crew

__all__ = ["CASES", "HEAD", "main", "row_of"]

RATES, BATCH = {16: 0.2, 500: 0.1}, 100
CASES = {  # hidden units, binarisation, flipped
    "784-16, thresholded": (16, "threshold", False),
    "784-16, thresholded, flipped": (16, "threshold", True),
    "784-500, thresholded": (500, "threshold", False),
    "784-500, drawn": (500, "sample", False),
}
PROTOCOLS = {"threshold": "1 where a pixel is at least 1/2, the same in each epoch",
             "sample": "1 with the pixel's probability, training images drawn anew in each step, test images once"}
HEAD = ("hidden units, images", "seed", "nats per test image", "deviations of the log weights, reverse and AIS",
        "seconds of training")
SETTINGS = {  # data, cases, epochs, seeds
    "quick": ("digits", list(CASES)[:2], 5, 1),
    "node": ("mnist", list(CASES), 20, 1),
    "cluster": ("mnist", list(CASES), 20, 3),
}


def row_of(line: Mapping[str, Any]) -> list[object]:
    """A result as a row of the table: exact, or the interval from reverse to forward annealing."""
    exact = line.get("log_likelihood")
    found = f"{exact:.2f}, exact" if exact is not None else (
        f"[{line['log_likelihood_reverse_ais']:.2f}, {line['log_likelihood_ais']:.2f}]")
    spreads = "-" if exact is not None else f"{line['reverse_log_weight_spread']:.2f}, {line['log_weight_spread']:.2f}"
    return [line["name"], line["seed"], found, spreads, f"{line['training_seconds']:.0f}"]


def main(given: Sequence[str] | None = None) -> Record:
    options = harness.arguments(
        __doc__, given, only={"help": "cases whose names begin so"}, epochs={"type": int, "help": "of training"},
        seeds={"type": int, "help": "so many"}, first={"type": int, "default": 0, "help": "seed"},
        rate={"type": float, "help": "learning rate at the start"})
    name, cases, epochs, seeds = SETTINGS[options.size]
    epochs, seeds = options.epochs or epochs, options.seeds or seeds
    cases = [case for case in cases if case.startswith(options.only or "")]
    if name == "mnist" and find("mnist") is None:
        raise SystemExit("this needs MNIST: pyddl fetch mnist, or --size quick")
    source = load(name)
    data, test = (np.asarray(each) for each in (source, source.test or source))
    record = Record("likelihood", options.size, options.out, data=name, epochs=epochs, rates=RATES, batch=BATCH,
                    threads=_core.threads(), protocols=PROTOCOLS)
    lines = []
    for case in cases:
        hidden, binarise, flipped = CASES[case]
        harness.show(f"{case}: {PROTOCOLS[binarise]}")
        seen, tested = (1 - data, 1 - test) if flipped else (data, test)
        for seed in range(options.first, options.first + seeds):
            model = RBM(data.shape[1], (hidden,), binarise=binarise)
            begin = time.perf_counter()
            result = Trainer(model, strategy="local", optimizer="sgd", schedule="linear",
                             learning_rate=options.rate or RATES[hidden], epochs=epochs, batch_size=BATCH,
                             seed=seed).fit(seen)
            seconds, begin = time.perf_counter() - begin, time.perf_counter()
            found = model.measures["likelihood"](result.parameters, result.buffers, ArraySource(tested, name=name),
                                                 Crew())
            nats = found.get("log_likelihood", found.get("log_likelihood_reverse_ais"))
            record.add(name=case, seed=seed, nats=nats, training_seconds=seconds,
                       likelihood_seconds=time.perf_counter() - begin, **found)
            lines.append(row_of(record.lines[-1]))
            harness.show(" | ".join(map(str, lines[-1])))
    harness.show(harness.table(HEAD, lines))
    return record


if __name__ == "__main__":
    main()
