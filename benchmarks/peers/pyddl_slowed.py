"""pyddl's ranks for `benchmarks.straggler`: training whose gradients take as long as they are told to."""

from __future__ import annotations

import sys
import time
from itertools import accumulate
from typing import Any

import numpy as np

from benchmarks.peers.line import serve
from benchmarks.peers.pyddl_step import mpi_version
from pyddl import _core
from pyddl.comm import world
from pyddl.data import load
from pyddl.models import Autoencoder
from pyddl.train import Trainer

__all__ = ["main"]


class Slowed(Autoencoder):
    """Sleeps until a gradient has taken ``seconds``: so many ranks as wanted may share a core."""

    seconds: float

    def gradient(self, *given: Any, **named: Any) -> float:
        end = time.perf_counter() + self.seconds
        loss = super().gradient(*given, **named)
        time.sleep(max(0.0, end - time.perf_counter()))
        return loss


class _Peer:
    def __init__(self) -> None:
        self.world = world()
        _core.set_threads(1)

    def train(self, strategy: dict[str, Any], workers: int, data: str, hidden: list[int], batch: int, epochs: int,
              seconds: float, slower: float) -> dict[str, Any]:
        """Curve of the test error, and samples of each worker where there are servers.

        A gradient takes ``seconds``, and those of the first worker so many times as long.
        """
        source = load(data)
        model = Slowed(source.features, hidden=tuple(hidden))
        first = self.world.rank == self.world.size - workers
        model.seconds = seconds * (slower if first else 1.0)
        result = Trainer(model, **strategy, optimizer="adam", epochs=epochs, batch_size=batch, threads=1).fit(source)
        times = accumulate(line["seconds"] for line in result.metrics)
        curve = [{"seconds": now, "test_squared_error": line["test_squared_error"]}
                 for now, line in zip(times, result.metrics, strict=True)]
        books = result.summary["server"]
        samples = None if books is None else [worker["samples"] for worker in books["workers"]]
        return {"curve": curve, "samples": samples}


def main(address: str) -> None:
    peer = _Peer()
    about = {"mpi": mpi_version(), "numpy": np.__version__}
    serve(address, peer.world.rank, about, {"train": peer.train})


if __name__ == "__main__":
    main(sys.argv[-1])
