"""Training steps of pyddl's ranks with the model whole on each, or split over groups of them, as a peer."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any

import numpy as np

from benchmarks.peers.line import clocked, serve
from benchmarks.peers.pyddl_step import Slices, mpi_version
from pyddl import _core
from pyddl.comm import world
from pyddl.comm.driver import drive
from pyddl.comm.group import Groups
from pyddl.data.sampler import Sampler
from pyddl.models import Autoencoder
from pyddl.models.stages import stages_of
from pyddl.optim import Adam
from pyddl.strategies import Allreduce
from pyddl.train.division import Division
from pyddl.train.worker import Worker

__all__ = ["Training", "main"]


class Training:
    """A worker, perhaps of several ranks, that can be run for some steps at a time. Collective, all of it."""

    def __init__(self, model: Autoencoder, weights: np.ndarray, rows: np.ndarray, batch: int, split: int):
        here, strategy = world(), Allreduce()
        division = Division(here, model, strategy, {"split": split, "batch_size": batch, "reproducible": False})
        self._open = ExitStack()
        self._between = self._open.enter_context(division.connected(here.transport, lambda transport: transport))
        self._groups = Groups(division.lane, self._between)
        self._division, self._strategy = division, strategy
        self.loader = Slices(rows, batch // division.count, division.number, division.count)
        layout = division.model.layout
        self.worker = Worker(
            division.model, Sampler(batch, batch), number=division.number, count=division.count,
            gradients=self._between.allocate(layout.size, "gradients"), group=division.group)
        self.worker.travels = self._between.travelling
        self.worker.enter(stages_of(division.model)[0], lambda phase: Adam())
        self.worker.take(self.loader, 0)  # type: ignore[arg-type]
        self.worker.parameters[:] = layout.cut(model.layout, weights)

    @property
    def bytes_sent(self) -> int:
        group = self._division.group
        return self._between.bytes_sent + (0 if group is None else group.bytes_sent)

    def run(self, steps: int) -> None:
        self.worker.losses.clear()
        self.loader.allow(steps)
        drive(self._strategy.worker(self.worker), self.worker, self._between, groups=self._groups)

    def close(self) -> None:
        self._groups.close()
        self._open.close()


class _Peer:
    def __init__(self) -> None:
        self.world = world()
        _core.set_threads(1)
        self.trainings: dict[str, Training] = {}

    def prepare(self, units: list[int], batch: int, rows: str, weights: str, modes: dict[str, dict[str, int]]) -> Any:
        """Make a training for each mode (``split``: ranks to a copy of the model), all from the same weights.

        ``batch`` is rows per rank, as in the other peers.
        """
        everything = np.load(rows, mmap_mode="r")[:]
        for training in self.trainings.values():
            training.close()
        model = Autoencoder(units[0], units[1 : (len(units) - 1) // 2 + 1])
        whole = model.layout.zeros()
        for view, given in zip(model.layout.views(whole).values(), np.load(weights).values(), strict=True):
            view[:] = given
        self.trainings = {name: Training(model, whole, everything, batch * self.world.size, how["split"])
                          for name, how in modes.items()}
        return {"flops": model.flops, "parameters": model.layout.count}

    def losses(self, setup: str, count: int) -> list[float]:
        """This rank's share of the losses of the next steps."""
        training = self.trainings[setup]
        training.run(count)
        return list(training.worker.losses["all"])

    def bytes_per_step(self, setup: str, count: int) -> float:
        """What this rank has to send."""
        training = self.trainings[setup]
        before = training.bytes_sent
        training.run(count)
        return (training.bytes_sent - before) / count

    def time(self, setup: str, count: int) -> float:
        training = self.trainings[setup]
        return clocked(lambda: training.run(count), 1, self.world.transport.barrier)


def main(address: str) -> None:
    peer = _Peer()
    about = {"simd_level": _core.simd_level(), "onednn": _core.onednn_version(), "ranks": peer.world.size,
             "nodes": peer.world.nodes, "transport": peer.world.transport.kind, "threads": _core.threads(),
             "mpi": mpi_version()}
    serve(address, peer.world.rank, about,
          {name: getattr(peer, name) for name in ("prepare", "losses", "bytes_per_step", "time")})


if __name__ == "__main__":
    main(sys.argv[-1])
