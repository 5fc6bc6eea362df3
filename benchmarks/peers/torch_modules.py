"""PyTorch's own training of the modules that `benchmarks.torch_modules` names; all else as in `torch_step`."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.peers.modules import module
from benchmarks.peers.torch_step import Training, Trainings, filled, main


class OfModules(Trainings):
    def made(self, batch: int, rows: torch.Tensor, how: dict[str, Any], *, adam: str, name: str = "",
             weights: str = "", **_: Any) -> Training:
        return Training(filled(module(name), weights), batch, rows, adam=adam, **how)


if __name__ == "__main__":
    main(OfModules())
