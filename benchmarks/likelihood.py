"""How likely does a restricted Boltzmann machine find test images of MNIST, and how long does it train?

784-16 by enumeration, also of flipped images (1 - x), and 784-500 as the interval from reverse to forward annealed
importance sampling (128 chains, 4000 temperatures, 1000 Gibbs steps before the reverse), with the standard deviations
of the log weights. Images are thresholded at 1/2, or drawn anew in each epoch (the test images once); centered PCD-1,
batch 100, 100 chains, SGD whose rate falls to 0: from 0.2 with 16 hidden units, from 0.1 with 500. Size quick takes
scikit-learn's digits.

    python -m benchmarks.likelihood [--size quick|node|cluster]
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from benchmarks import harness
from benchmarks.harness import Record
from pyddl import _core
from pyddl.data import ArraySource, find, load
from pyddl.models import RBM
from pyddl.train import Trainer
from pyddl.train.crew import Crew

__all__ = ["main"]

RATES, BATCH = {16: 0.2, 500: 0.1}, 100
CASES = {  # hidden units, binarisation, flipped
    "16, thresholded": (16, "threshold", False),
    "16, thresholded, flipped": (16, "threshold", True),
    "500, thresholded": (500, "threshold", False),
    "500, drawn": (500, "sample", False),
}
SETTINGS = {  # data, cases, epochs, seeds
    "quick": ("digits", list(CASES)[:2], 5, 1),
    "node": ("mnist", list(CASES), 20, 1),
    "cluster": ("mnist", list(CASES), 20, 3),
}


def main(given: Sequence[str] | None = None) -> Record:
    options = harness.arguments(__doc__, given)
    name, cases, epochs, seeds = SETTINGS[options.size]
    if name == "mnist" and find("mnist") is None:
        raise SystemExit("this needs MNIST: pyddl fetch mnist, or --size quick")
    source = load(name)
    data, test = (np.asarray(each) for each in (source, source.test or source))
    record = Record("likelihood", options.size, options.out, data=name, epochs=epochs, rates=RATES, batch=BATCH,
                    threads=_core.threads())
    lines = []
    for case in cases:
        hidden, binarise, flipped = CASES[case]
        seen, tested = (1 - data, 1 - test) if flipped else (data, test)
        for seed in range(seeds):
            model = RBM(data.shape[1], (hidden,), binarise=binarise)
            begin = time.perf_counter()
            result = Trainer(model, strategy="local", optimizer="sgd", schedule="linear", learning_rate=RATES[hidden],
                             epochs=epochs, batch_size=BATCH, seed=seed).fit(seen)
            seconds, begin = time.perf_counter() - begin, time.perf_counter()
            found = model.measures["likelihood"](result.parameters, result.buffers, ArraySource(tested, name=name),
                                                 Crew())
            record.add(name=case, seed=seed, training_seconds=seconds, likelihood_seconds=time.perf_counter() - begin,
                       **found)
            exact = found.get("log_likelihood")
            interval = f"{exact:.2f} (exact)" if exact is not None else (
                f"[{found['log_likelihood_reverse_ais']:.2f}, {found['log_likelihood_ais']:.2f}], spreads "
                f"{found['reverse_log_weight_spread']:.2f}, {found['log_weight_spread']:.2f}")
            lines.append([case, seed, interval, f"{seconds:.0f}"])
            harness.show(" | ".join(map(str, lines[-1])))
    harness.show(harness.table(["hidden units, images", "seed", "nats per test image", "seconds of training"], lines))
    return record


if __name__ == "__main__":
    main()
