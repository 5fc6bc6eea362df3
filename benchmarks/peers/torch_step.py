"""PyTorch's training step as a peer: eager or compiled, float32 or under autocast; several processes are DDP over gloo.

Its fastest idiomatic loop on one thread: rows in memory as float32 tensors, gradients set to None, no loss read back,
and of the fused and the multi-tensor Adam the one that is faster here.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from contextlib import nullcontext
from itertools import cycle, pairwise
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

from benchmarks.peers.line import clocked, serve


def network(units: list[int]) -> nn.Sequential:
    """Dense layers with ReLU between them, but none after the code or the last one."""
    layers: list[nn.Module] = []
    last, code = len(units) - 2, (len(units) - 1) // 2 - 1
    for i, (fan_in, fan_out) in enumerate(pairwise(units)):
        layers.append(nn.Linear(fan_in, fan_out))
        if i not in (code, last):
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def filled(model: nn.Sequential, weights: str) -> nn.Sequential:
    """With parameters from a file, in their order."""
    with torch.no_grad():
        for parameter, given in zip(model.parameters(), np.load(weights).values(), strict=True):
            parameter.copy_(torch.from_numpy(given))
    return model


class Training:
    """One model and its training loop."""

    def __init__(
        self,
        model: nn.Module,
        batch: int,
        rows: torch.Tensor,
        *,
        dtype: str,
        compiled: bool,
        adam: str,
        ddp: dict[str, Any] | None = None,
    ):
        rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        parameters = list(model.parameters())
        if ranks > 1:
            model = nn.parallel.DistributedDataParallel(model, **{"gradient_as_bucket_view": True, **(ddp or {})})
        autocast = torch.autocast("cpu", torch.bfloat16) if dtype == "bfloat16" else nullcontext()

        def loss_of(x: torch.Tensor) -> torch.Tensor:
            with autocast:
                output = model(x)
            return functional.binary_cross_entropy_with_logits(output.float(), x, reduction="sum") / batch

        loss = torch.compile(loss_of, dynamic=False) if compiled else loss_of
        optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=adam == "fused", foreach=adam == "foreach")
        whole = len(rows) // (batch * ranks) * ranks
        batches = cycle([rows[i * batch : (i + 1) * batch] for i in range(rank, whole, ranks)])

        def step() -> torch.Tensor:
            optimizer.zero_grad(set_to_none=True)
            value = loss(next(batches))
            value.backward()
            optimizer.step()
            return value

        self.step: Callable[[], torch.Tensor] = step
        self.batch = batch

    def losses(self, count: int) -> list[float]:
        return [float(self.step().detach()) * self.batch for _ in range(count)]


class Trainings:
    """What the driver may ask for."""

    adams = ("fused", "foreach")  # of which the faster one is chosen for eager modes

    def __init__(self) -> None:
        self.trainings: dict[str, Training] = {}

    def made(
        self, batch: int, rows: torch.Tensor, how: dict[str, Any], *, adam: str, units: list[int], weights: str
    ) -> Training:
        """A training of the network that the driver has named."""
        return Training(filled(network(units), weights), batch, rows, adam=adam, **how)

    def prepare(self, batch: int, rows: str, modes: dict[str, dict[str, Any]], **named: Any) -> dict[str, str]:
        """Make a training for each mode: ``dtype`` and ``compiled``. Returns which Adam was chosen for each."""
        torch._dynamo.reset()  # it gives up compiling after eight shapes
        tensor = torch.from_numpy(np.load(rows))
        self.trainings.clear()
        chosen = {}
        for name, how in modes.items():
            seconds = {}
            for adam in self.adams if not how["compiled"] and len(self.adams) > 1 else ():
                trial = self.made(batch, tensor, how, adam=adam, **named)
                clocked(trial.step, 3)
                seconds[adam] = min(clocked(trial.step, 3) for _ in range(5))
            chosen[name] = self._agreed(min(seconds, key=seconds.__getitem__) if seconds else self.adams[0])
            self.trainings[name] = self.made(batch, tensor, how, adam=chosen[name], **named)
        return chosen

    def losses(self, setup: str, count: int) -> list[float]:
        """Sums of this rank's losses in the next steps."""
        return self.trainings[setup].losses(count)

    def time(self, setup: str, count: int) -> float:
        return clocked(
            self.trainings[setup].step, count, dist.barrier if dist.is_initialized() else lambda: None
        )

    @staticmethod
    def _agreed(adam: str) -> str:
        if not dist.is_initialized():
            return adam
        choice = [adam]
        dist.broadcast_object_list(choice)
        return choice[0]


def main(peer: Trainings) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rank", type=int)
    parser.add_argument("--ranks", type=int)
    parser.add_argument("address")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.ranks > 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group(
            "gloo", init_method=f"file://{given.address}.store", rank=given.rank, world_size=given.ranks
        )
    about = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    serve(
        given.address,
        given.rank,
        about,
        {name: getattr(peer, name) for name in ("prepare", "losses", "time")},
    )
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Trainings())
