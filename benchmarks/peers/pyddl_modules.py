"""pyddl's training of the modules that `benchmarks.torch_modules` names; all else as in `pyddl_step`."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.nn import functional

from benchmarks.peers.modules import module
from benchmarks.peers.pyddl_step import Trainings, main
from pyddl.models import Torch


def loss(model: torch.nn.Module, batch: Any) -> torch.Tensor:
    """Cross-entropy of rows from logits, as the other side has it."""
    return functional.binary_cross_entropy_with_logits(model(batch.rows), batch.rows, reduction="sum")


class OfModules(Trainings):
    def model(self, dtype: str, *, name: str) -> Any:  # type: ignore[override]
        return Torch(module(name), loss)

    def parts(self, setup: str, count: int) -> dict[str, float]:
        return self.trainings[setup].parts(count)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[-1], OfModules())
