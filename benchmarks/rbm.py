"""How fast is one step of a restricted Boltzmann machine on one thread, against scikit-learn's BernoulliRBM?

784 visible units with 256, 500 and 1000 hidden ones, persistent chains as many as rows, plain SGD: the same algorithm
on both sides, each with one thread, in turn. Before anything is timed, both must give the same hidden probabilities and
free energies from the same parameters, and the same mean step of the biases while the parameters rest. Beside each time
is the products' share of the processor's peak.

    python -m benchmarks.rbm [--size quick|node|cluster] [--clock wall|cpu]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.harness import Record
from pyddl import _core
from pyddl.data.batch import Batch
from pyddl.models import RBM
from pyddl.optim import SGD

__all__ = ["Ours", "Theirs", "main"]

VISIBLE, RATE, DRAWS = 784, 0.01, 300
SETTINGS = {  # hidden units, batch sizes, rounds, seconds of each
    "quick": ((16,), (10,), 3, 0.02),
    "node": ((256, 500, 1000), (10, 100), 20, 0.3),
    "cluster": ((256, 500, 1000), (10, 100, 500), 40, 0.5),
}


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
CLOCK = {"choices": tuple(CLOCKS), "default": "wall", "help": "cpu: processor time, where other work fills the machine"}


class Theirs:
    """scikit-learn's machine, one minibatch at a time."""

    clock = staticmethod(time.perf_counter)

    def __init__(self, rows: np.ndarray, weights: np.ndarray, rate: float):
        from sklearn.neural_network import BernoulliRBM

        self.rows, self.random = rows, np.random.RandomState(0)
        self.machine = BernoulliRBM(len(weights[0]), learning_rate=rate, batch_size=len(rows), n_iter=1, random_state=0)
        self.machine.fit(rows)
        self.machine.components_ = np.ascontiguousarray(weights.T)
        self.machine.intercept_hidden_[:] = self.machine.intercept_visible_[:] = 0
        self.machine.h_samples_ = np.zeros((len(rows), len(weights[0])), np.float32)

    def steps(self, count: int) -> float:
        begin = self.clock()
        for _ in range(count):
            self.machine._fit(self.rows, self.random)
        return self.clock() - begin

    def bias(self) -> np.ndarray:
        return np.concatenate([self.machine.intercept_visible_, self.machine.intercept_hidden_])


class Ours:
    """pyddl's, gradient and update as the trainer calls them."""

    clock = staticmethod(time.perf_counter)

    def __init__(self, rows: np.ndarray, weights: np.ndarray, rate: float, **options: Any):
        self.model = RBM(VISIBLE, (len(weights[0]),), chains=len(rows), **options)
        self.rows, self.step, self.optimizer = rows, 0, SGD(rate)
        self.parameters, self.gradients = self.model.layout.zeros(), self.model.layout.zeros()
        self.buffers, self.ranges = self.model.buffers.zeros(), self.model.layout.decayed_ranges()
        self.rounded = np.zeros(self.model.layout.size, np.uint16) if self.model.takes_rounded else None
        self.model.layout.views(self.parameters)["weights"][:] = weights
        self.optimizer.update(self.parameters, self.gradients, [], self.ranges, scale=1, step=0, rounded=self.rounded)

    def steps(self, count: int) -> float:
        begin = self.clock()
        for _ in range(count):
            self.model.gradient(self.parameters, self.gradients, self.buffers,
                                Batch(self.rows, step=self.step, rounded=self.rounded))
            self.optimizer.update(self.parameters, self.gradients, [], self.ranges, scale=1 / len(self.rows),
                                  step=self.step, rounded=self.rounded)
            self.step += 1
        return self.clock() - begin

    def bias(self) -> np.ndarray:
        views = self.model.layout.views(self.parameters)
        return np.concatenate([views["visible_bias"], views["hidden_bias"]])


def verify(rows: np.ndarray, weights: np.ndarray) -> float:
    """The largest relative difference of hidden probabilities and free energies; raises where statistics differ."""
    theirs, ours = Theirs(rows, weights, 1e-9), Ours(rows, weights, 1e-9, centering=False)
    what = f"{VISIBLE}-{weights.shape[1]}"
    found = harness.verify(f"{what}, hidden probabilities", theirs.machine.transform(rows),
                           ours.model.encode(ours.parameters, ours.buffers, rows), 1e-4)
    found = max(found, harness.verify(f"{what}, free energies", theirs.machine._free_energy(rows),
                                      ours.model.free_energy(ours.parameters, rows), 1e-4))
    moves: list[np.ndarray] = []
    each: Callable[[], np.ndarray]
    for side in (theirs, ours):
        side.steps(20)
        before, each = side.bias().astype(np.float64), side.bias
        side.steps(DRAWS)
        moves.append((each() - before) / (1e-9 * DRAWS))
    noise = np.sqrt(1 / (2 * DRAWS * len(rows)))  # at the most, of a mean of so many units of 0 and 1
    off = float(np.abs(moves[0] - moves[1]).max())
    if off > 6 * noise:
        raise RuntimeError(f"{what}: not timed, for the mean steps differ by {off:.3g}; expected below {6 * noise:.3g}")
    return found


def main(given: Sequence[str] | None = None) -> Record:
    from threadpoolctl import threadpool_limits

    options = harness.arguments(__doc__, given, clock=CLOCK)
    hidden, batches, rounds, seconds = SETTINGS[options.size]
    rows, origin = harness.mnist_rows(max(batches))
    rows = (rows >= 0.5).astype(np.float32)
    dtypes = ("float32", "bfloat16") if _core.has_bfloat16() else ("float32",)
    before = _core.threads()
    _core.set_threads(1)
    try:
        with threadpool_limits(1):
            peaks = {dtype: _core.product_peak(dtype, 1.0) for dtype in dtypes}
            record = Record("rbm", options.size, options.out, rows=origin, visible=VISIBLE, threads=1, peaks=peaks,
                            clock=options.clock)
            lines = []
            for units in hidden:
                weights = np.random.default_rng(0).normal(0, 0.01, (VISIBLE, units)).astype(np.float32)
                for batch in batches:
                    some = rows[:batch]
                    difference = verify(some, weights)
                    sides: dict[str, Any] = {"scikit-learn": Theirs(some, weights, RATE)}
                    sides |= {f"classic {dtype}": Ours(some, weights, RATE, centering=False, dtype=dtype)
                              for dtype in dtypes}
                    sides["centered float32"] = Ours(some, weights, RATE)
                    for side in sides.values():
                        side.clock = CLOCKS[options.clock]
                    taken = harness.in_turn({name: side.steps for name, side in sides.items()}, rounds, seconds)
                    faster = {name: harness.speed_up(taken[name], taken["scikit-learn"]) for name in list(sides)[1:]}
                    share = {name: side.model.flops * batch / taken[name].median / 1e9 / peaks[side.model.dtype]
                             for name, side in list(sides.items())[1:]}
                    record.add(taken, hidden=units, batch=batch, difference=difference, speed_up=faster, share=share)
                    lines.append([units, batch, f"{1e3 * taken['scikit-learn'].median:.3f}",
                                  *(f"{1e3 * taken[name].median:.3f} ({faster[name]:.2f}x, {100 * share[name]:.0f} %)"
                                    for name in faster)])
                    harness.show(" | ".join(map(str, lines[-1])))
    finally:
        _core.set_threads(before)
    harness.show(harness.table(["hidden", "batch", "scikit-learn, ms",
                                *(f"{name}, ms (times faster, share of peak)" for name in faster)], lines))
    return record


if __name__ == "__main__":
    main()
