"""How many microseconds of a training step are Python's: strategy, driver, worker, bindings, loader, trainer?

Each line adds one part to the one before, on one rank with the strategy ``allreduce``; models are so small that their
arithmetic does not count. The last lines show what that is beside a real network's step on one sample. Aim: at most 20
microseconds in all.

    python -m benchmarks.overhead [--size quick|node|cluster]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.harness import Record
from benchmarks.peers.line import clocked
from benchmarks.peers.pyddl_step import Slices, Training
from benchmarks.step import VERIFIED_STEPS, first_weights
from pyddl import _core
from pyddl.data import RandomSource
from pyddl.data.batch import Batch
from pyddl.data.prefetch import Loader
from pyddl.data.sampler import Sampler
from pyddl.layout import Layout, Slice
from pyddl.models import Autoencoder
from pyddl.optim import SGD, Adam
from pyddl.train import Trainer

__all__ = ["AIM", "PARTS", "main"]

AIM = 20e-6  # seconds
PARTS = ("strategy, driver and worker", "model and optimizer through the bindings", "loader", "trainer")


class Nothing:
    """A model without arithmetic."""

    layout = Layout([Slice("weight", (1,))])
    buffers = Layout()

    def initialise(self, parameters: np.ndarray, buffers: np.ndarray, seed: int, data: Any) -> None:
        pass

    def gradient(
        self,
        parameters: np.ndarray,
        gradients: np.ndarray,
        buffers: np.ndarray,
        batch: Batch,
    ) -> float:
        return 0.0


class Idle(SGD):
    """An optimizer without arithmetic."""

    def update(self, *vectors: Any, **scalars: Any) -> None:
        pass


class _Loaded:
    """Gives a real loader's batches for as many steps as `allow`ed."""

    def __init__(self, rows: int):
        self._loader = Loader(RandomSource(rows, 1), Sampler(rows, 1))
        self._left = 0
        self.close = self._loader.close

    @property
    def waited(self) -> float:
        return self._loader.waited

    def allow(self, steps: int) -> None:
        self._left = steps

    def next(self) -> Batch | None:
        if self._left == 0:
            return None
        self._left -= 1
        return self._loader.next()


def runner(training: Training) -> Callable[[int], float]:
    """Seconds that some steps of a training take."""
    return lambda count: clocked(lambda: training.run(count), 1)


def trained(model: Autoencoder) -> Callable[[int], float]:
    """Seconds that the trainer books for some steps of one sample each."""

    def run(count: int) -> float:
        trainer = Trainer(model, strategy="allreduce", optimizer=Adam(), epochs=1, batch_size=1, threads=1)
        return count / trainer.fit(RandomSource(count, model.inputs)).summary["samples_per_second"]

    return run


def verify(rows: np.ndarray) -> float:
    """The parts together train as they should: the plain step gives the same losses. Largest relative difference."""
    from benchmarks.peers.plain_step import Training as Plain

    weights = first_weights((784, 64, 784))
    plain = Plain(list(weights.values()), rows, 1)
    training = Training(Autoencoder(784, (64,)), Adam(), Slices(rows, 1), "allreduce")
    views = training.worker.layout.views(training.worker.parameters)
    for view, given in zip(views.values(), weights.values(), strict=True):
        view[:] = given
    training.run(VERIFIED_STEPS)
    return harness.verify_losses(
        "steps of one sample",
        [plain.step() for _ in range(VERIFIED_STEPS)],
        training.worker.losses["all"],
        "float32",
        1,
    )


def main(given: Sequence[str] | None = None) -> Record:
    options = harness.arguments(__doc__, given)
    quick = options.size == "quick"
    rounds, seconds = (3, 0.02) if quick else (15, 0.1)
    _core.set_threads(1)
    rows, origin = harness.mnist_rows(256)
    record = Record(
        "overhead",
        options.size,
        options.out,
        rows=origin,
        simd_level=_core.simd_level(),
        onednn=_core.onednn_version(),
        ranks=1,
        threads=1,
        mpi=None,
    )
    difference = verify(rows)
    one = np.ones((64, 1), np.float32)
    tiny, loaded = Autoencoder(1, (1,)), _Loaded(4096)
    real = Autoencoder(784, (256, 64))
    whole = [
        runner(Training(Nothing(), Idle(), Slices(one, 1), "allreduce")),
        runner(Training(tiny, Adam(), Slices(one, 1), "allreduce")),
        runner(Training(tiny, Adam(), loaded, "allreduce")),
        trained(tiny),
    ]
    try:
        timings = harness.in_turn(
            {
                **dict(zip(PARTS, whole, strict=True)),
                "real network": runner(Training(real, Adam(), Slices(rows, 1), "allreduce")),
            },
            rounds,
            seconds,
        )
    finally:
        loaded.close()
    taken = [np.zeros(rounds), *(np.array(timings[part].rounds) for part in PARTS)]
    shares = {
        part: float(np.median(later - earlier))
        for part, earlier, later in zip(PARTS, taken, taken[1:], strict=False)
    }
    total, step = timings[PARTS[-1]].median, timings["real network"].median
    record.add(timings, difference=difference, shares=shares, total=total, aim=AIM)
    numbers = list(range(1, rounds + 1))
    curves = {f"with {part}": (numbers, [1e6 * value for value in timings[part].rounds]) for part in PARTS}
    panel = {"a step without arithmetic": curves}
    harness.plot(record.path.with_suffix(".png"), panel, "round", "microseconds", log="")
    for part, share in shares.items():
        harness.show(f"{1e6 * share:8.1f} us  {part}")
    harness.show(
        f"{1e6 * total:8.1f} us  in all (aim: {1e6 * AIM:.0f} us)\n"
        f"{1e6 * step:8.1f} us  784-256-64-256-784 on one sample: {total / step:.1%} of it is Python's"
    )
    return record


if __name__ == "__main__":
    main()
