"""pyddl's ranks for `benchmarks.auto`: what they predict for every strategy, and what a step then takes."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from benchmarks.peers.line import serve
from benchmarks.peers.pyddl_step import mpi_version
from pyddl import _core
from pyddl.comm import world
from pyddl.data import ArraySource
from pyddl.models import Autoencoder
from pyddl.strategies import Local, Split
from pyddl.strategies.auto import candidates
from pyddl.train import Trainer
from pyddl.train.plan import Plan
from pyddl.train.rehearsal import rehearse

__all__ = ["main"]


class _Peer:
    def __init__(self) -> None:
        self.world = world()
        _core.set_threads(1)

    def prepare(self, units: list[int], batch: int, rows: str) -> None:
        self.model, self.batch = Autoencoder(units[0], units[1 : (len(units) + 1) // 2]), batch
        self.source = ArraySource(np.load(rows, mmap_mode="r")[:])
        self.candidates = {str(each): each for each in candidates(self.world.nodes)}

    def predict(self) -> dict[str, float]:
        """Seconds of a step of all ranks, by strategy."""
        options = Trainer(self.model, strategy="auto", batch_size=self.batch, threads=1).options
        plan, split = (Plan(self.model, strategy, "adam", options, self.world, self.source, None)
                       for strategy in (Local(), Split()))
        figures = rehearse(plan, self.world, division=split.division)
        return {name: each.strategy.step_seconds(figures) for name, each in self.candidates.items()}

    def measure(self, strategy: str) -> float:
        """Seconds of a step in an epoch of training."""
        chosen = self.candidates[strategy]
        trainer = Trainer(self.model, strategy=chosen.name, **chosen.options, optimizer="adam", epochs=1,
                          batch_size=self.batch, threads=1)
        summary = trainer.fit(self.source).summary
        return sum(summary["time"].values()) / (len(self.source) / self.batch)


def main(address: str) -> None:
    peer = _Peer()
    about: dict[str, Any] = {"ranks": peer.world.size, "mpi": mpi_version(), "threads": 1,
                             "simd_level": _core.simd_level(), "onednn": _core.onednn_version()}
    serve(address, peer.world.rank, about, {name: getattr(peer, name) for name in ("prepare", "predict", "measure")})


if __name__ == "__main__":
    main(sys.argv[-1])
