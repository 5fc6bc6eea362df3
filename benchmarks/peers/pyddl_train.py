"""pyddl's ranks for `benchmarks.server`: training by the public trainer, from given weights."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from benchmarks.peers.line import CPU, now, serve
from benchmarks.peers.pyddl_step import mpi_version
from pyddl import _core
from pyddl.comm import world
from pyddl.comm.threads import cores
from pyddl.data import ArraySource
from pyddl.data.batch import Batch
from pyddl.models import Autoencoder
from pyddl.train import Trainer

__all__ = ["main"]


class Given(Autoencoder):
    """Begins at weights from a file."""

    weights: str

    def initialise(self, parameters: np.ndarray, buffers: np.ndarray, seed: int, data: Any) -> None:
        given = np.load(self.weights).values()
        for view, values in zip(self.layout.views(parameters).values(), given, strict=True):
            view[:] = values


class _Peer:
    def __init__(self) -> None:
        self.world = world()
        _core.set_threads(1)

    def prepare(
        self, units: list[int], batch: int, rows: str, weights: str, modes: dict[str, dict[str, Any]]
    ) -> dict[str, int]:
        """Modes hold the trainer's options; ``batch`` is of one of the ``workers`` that they also hold."""
        self.model = Given(units[0], units[1 : (len(units) + 1) // 2])
        self.model.weights = weights
        self.rows, self.batch, self.modes = np.load(rows), batch, modes
        self.source = ArraySource(self.rows)
        self.parameters, self.buffers = self.model.layout.zeros(), self.model.buffers.zeros()
        self.model.initialise(self.parameters, self.buffers, 0, None)
        return {"flops": self.model.flops, "parameters": self.model.layout.count}

    def loss(self, setup: str) -> float:
        """Mean over all rows, as training has left the parameters."""
        batch = Batch(self.rows, np.arange(len(self.rows)))
        loss = self.model.gradient(self.parameters, self.model.layout.zeros(), self.buffers, batch)
        return loss / len(self.rows)

    def train(self, setup: str, count: int) -> None:
        """Steps of each worker, in whole passes over the rows."""
        self._train(setup, count)

    def time(self, setup: str, count: int) -> float:
        """Seconds that this rank spends in training, without what comes before and after.

        By the processor's clock: of all ranks and of everything, spread over the cores.
        """
        begin = now()
        summary, passes = self._train(setup, count)
        if CPU:
            seconds = sum(self.world.transport.gather_objects(now() - begin)) / len(cores())
        else:
            seconds = sum(summary["time_per_rank"][self.world.rank].values())
        return seconds * count / (passes * len(self.rows) / self._global_batch(setup))

    def _train(self, setup: str, count: int) -> tuple[dict[str, Any], int]:
        own = {name: value for name, value in self.modes[setup].items() if name != "workers"}
        batch = self._global_batch(setup)
        passes = max(1, round(count * batch / len(self.rows)))
        result = Trainer(
            self.model, **own, optimizer="adam", epochs=passes, batch_size=batch, threads=1
        ).fit(self.source)
        self.parameters, self.buffers = result.parameters, result.buffers
        return result.summary, passes

    def _global_batch(self, setup: str) -> int:
        return self.batch * self.modes[setup]["workers"]


def main(address: str) -> None:
    peer = _Peer()
    about = {
        "simd_level": _core.simd_level(),
        "onednn": _core.onednn_version(),
        "ranks": peer.world.size,
        "mpi": mpi_version(),
    }
    handlers = {name: getattr(peer, name) for name in ("prepare", "loss", "train", "time")}
    serve(address, peer.world.rank, about, handlers)


if __name__ == "__main__":
    main(sys.argv[-1])
