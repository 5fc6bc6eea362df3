"""pyddl's training step as a peer: worker, strategy, driver and transport are the trainer's own, on one rank or more.

Only the loader is another: it gives consecutive slices of rows in memory, as the other sides have them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.peers.line import clocked, mpi_name, now, serve
from pyddl import _core
from pyddl.comm import world
from pyddl.comm.driver import drive
from pyddl.comm.group import Groups
from pyddl.data.batch import Batch
from pyddl.data.sampler import Sampler
from pyddl.models import Autoencoder
from pyddl.models.stages import stages_of
from pyddl.optim import Adam
from pyddl.strategies import strategy
from pyddl.train.worker import Worker

__all__ = ["Slices", "Training", "Trainings", "main", "memory_bandwidth", "mpi_version"]


class Slices:
    """A loader: this rank's slice of each global batch, round and round, until `allow`ed steps are done."""

    def __init__(self, rows: np.ndarray, batch: int, rank: int = 0, ranks: int = 1):
        whole = len(rows) // (batch * ranks) * ranks
        self._batches = [
            Batch(rows[i * batch : (i + 1) * batch], np.arange(i * batch, (i + 1) * batch))
            for i in range(rank, whole, ranks)
        ]
        self._next, self._left = 0, 0
        self.waited = 0.0

    def allow(self, steps: int) -> None:
        self._left = steps

    @property
    def next_batch(self) -> Batch:
        return self._batches[self._next]

    def next(self) -> Batch | None:
        if self._left == 0:
            return None
        self._left -= 1
        batch = self.next_batch
        self._next = (self._next + 1) % len(self._batches)
        return batch


class Training:
    """A worker that can be run for some steps at a time."""

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        loader: Any,
        how: str = "local",
        rows: int = 1,
        *,
        travels: bool = True,
        threads: int = 1,
        **options: Any,
    ):
        self.world = world()
        self.threads = threads
        alone = how == "local"
        allocate = self.world.transport.allocate
        self.loader, self.strategy = loader, strategy(how, **options)
        self.groups = Groups(self.world)
        self.worker = Worker(
            model,
            Sampler(rows, rows),
            number=0 if alone else self.world.rank,
            count=1 if alone else self.world.size,
            updates_only=self.strategy.updates_only,
            sharded=self.strategy.shards,
            gradients=None if alone else allocate(model.layout.size, "gradients"),
            parameters=allocate(model.layout.size, "parameters") if self.strategy.shards else None,
        )
        if travels and self.strategy.sums_gradients:
            self.worker.travels = self.world.transport.travelling
        self.worker.enter(stages_of(model)[0], lambda phase: optimizer)
        self.worker.take(loader, 0)

    def run(self, steps: int) -> None:
        self.worker.losses.clear()
        _core.set_threads(self.threads)
        self.loader.allow(steps)
        drive(self.strategy.worker(self.worker), self.worker, self.world.transport, groups=self.groups)

    def parts(self, steps: int) -> dict[str, float]:
        """Seconds per step in the model's gradient, in the optimizer's update, and in Python around them."""
        seconds = {"gradient": 0.0, "update": 0.0}
        model, optimizer = self.worker.model, self.worker.phases[0].optimizer

        def timed(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
            def run(*given: Any, **named: Any) -> Any:
                begin = now()
                answer = call(*given, **named)
                seconds[part] += now() - begin
                return answer

            return run

        model.gradient = timed("gradient", model.gradient)  # type: ignore[method-assign]
        optimizer.update = timed("update", optimizer.update)  # type: ignore[method-assign]
        try:
            whole = clocked(lambda: self.run(steps), 1)
        finally:
            del model.gradient, optimizer.update
        seconds["python"] = whole - sum(seconds.values())
        return {part: value / steps for part, value in seconds.items()}


def memory_bandwidth(nbytes: int, seconds: float = 0.1) -> float:
    """Best bytes per second of ``a += b`` over two vectors of ``nbytes`` together: two reads and one write."""
    a, b = np.zeros(max(1, nbytes // 8), np.float32), np.ones(max(1, nbytes // 8), np.float32)
    best, end = float("inf"), perf_counter() + seconds
    while perf_counter() < end:
        best = min(best, clocked(lambda: np.add(a, b, out=a), 3) / 3)
    return 12 * len(a) / best


class Trainings:
    """What the driver may ask for."""

    def __init__(self) -> None:
        self.world = world()
        self.trainings: dict[str, Training] = {}

    def model(self, dtype: str, *, units: list[int]) -> Any:
        """The model that the driver has named."""
        return Autoencoder(units[0], units[1 : (len(units) - 1) // 2 + 1], dtype=dtype)

    def prepare(
        self, batch: int, rows: str, weights: str, modes: dict[str, dict[str, Any]], **named: Any
    ) -> dict[str, Any]:
        """Make a training for each mode, of ``dtype``, ``strategy`` and what `Training` takes: the same weights."""
        everything = np.load(rows)
        self.trainings.clear()
        for name, how in modes.items():
            model = self.model(how["dtype"], **named)
            loader = Slices(everything, batch, self.world.rank, self.world.size)
            options = {name: value for name, value in how.items() if name not in ("dtype", "strategy")}
            training = Training(model, Adam(), loader, how["strategy"], **options)
            views = model.layout.views(training.worker.parameters)
            for view, given in zip(views.values(), np.load(weights).values(), strict=True):
                view[:] = given
            self.trainings[name] = training
        return {"flops": getattr(model, "flops", None), "parameters": model.layout.count}

    def losses(self, setup: str, count: int) -> list[float]:
        """Sums of this rank's losses in the next steps."""
        training = self.trainings[setup]
        training.run(count)
        return list(training.worker.losses["all"])

    def time(self, setup: str, count: int) -> float:
        training = self.trainings[setup]
        return clocked(lambda: training.run(count), 1, self.world.transport.barrier)

    def parts(self, setup: str, count: int) -> dict[str, float]:
        """Where the seconds of a step go; ``loss`` is a share of ``gradient`` that is timed by itself."""
        training = self.trainings[setup]
        parts = training.parts(count)
        rows = training.loader.next_batch.rows
        outputs, deltas, bias = np.zeros_like(rows), np.empty_like(rows), np.empty(rows.shape[1], np.float32)
        parts["loss"] = (
            clocked(lambda: _core.loss_gradient(outputs, rows, "bce", "linear", deltas, bias), count) / count
        )
        return parts

    def peak(self, dtype: str, seconds: float) -> float:
        """The product peak of one thread, in flop per second."""
        _core.set_threads(1)
        return _core.product_peak(dtype, seconds) * 1e9

    def bandwidth(self, nbytes: int) -> float:
        return memory_bandwidth(nbytes)


def main(address: str, peer: Trainings) -> None:
    about = {
        "simd_level": _core.simd_level(),
        "onednn": _core.onednn_version(),
        "dtypes": [dtype for dtype in ("float32", "bfloat16") if _trains_in(dtype)],
        "ranks": peer.world.size,
        "nodes": peer.world.nodes,
        "threads": _core.threads(),
        "mpi": mpi_version() if peer.world.size > 1 else None,
    }
    serve(
        address,
        peer.world.rank,
        about,
        {name: getattr(peer, name) for name in ("prepare", "losses", "time", "parts", "peak", "bandwidth")},
    )


def _trains_in(dtype: str) -> bool:
    try:
        Autoencoder(1, (1,), dtype=dtype)
    except ValueError:
        return False
    return True


def mpi_version() -> str:
    """Name and number of this process's MPI."""
    from mpi4py import MPI

    return mpi_name(MPI.Get_library_version())


if __name__ == "__main__":
    main(sys.argv[-1], Trainings())
