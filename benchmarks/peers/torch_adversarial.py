"""PyTorch's adversarial step as a peer, eager: penalties by double backward, one pass over rows and samples together.

Its fastest idiomatic loop on one thread: rows in memory as float32 tensors, gradients set to None, fused Adam, no loss
read back, the averaged generator moved by one multi-tensor call.
"""

from __future__ import annotations

import argparse
from itertools import cycle, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from benchmarks.peers.line import clocked, serve

__all__ = ["Pair"]


def network(units: list[int], weights: dict[str, np.ndarray], dtype: torch.dtype) -> nn.Sequential:
    """Dense layers with leaky ReLU between them."""
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(pairwise(units)):
        layers += [nn.LeakyReLU(0.01)] * (i > 0)
        linear = nn.Linear(fan_in, fan_out, bias=f"{i}.bias" in weights)
        for name, parameter in linear.named_parameters():
            parameter.data = torch.from_numpy(weights[f"{i}.{name}"].copy())
        layers.append(linear)
    return nn.Sequential(*layers).to(dtype)


class Pair:
    """Both networks, and the losses of both turns: sums over the rows."""

    def __init__(self, generator: list[int], discriminator: list[int], weights: str, objective: str, penalty: float,
                 dtype: torch.dtype = torch.float32):
        with np.load(weights) as given:
            of = {name: {key.split(".", 1)[1]: given[key] for key in given if key.startswith(name)}
                  for name in ("generator", "discriminator")}
        self.generator = network(generator, of["generator"], dtype)
        self.discriminator = network(discriminator, of["discriminator"], dtype)
        self.objective, self.penalty, self.noise = objective, penalty, generator[0]

    def of_discriminator(self, rows: Tensor, noise: Tensor, places: Tensor | None = None) -> Tensor:
        count, kind = len(rows), self.objective
        with torch.no_grad():
            made = self.generator(noise)
        seen = torch.cat([rows, made]).requires_grad_(kind == "r3gan")
        judged = self.discriminator(seen)
        r, f = judged[:count], judged[count:]
        if kind == "non_saturating":
            return softplus(-r).sum() + softplus(f).sum()
        if kind == "r3gan":
            slopes, = torch.autograd.grad(judged.sum(), seen, create_graph=True)
            return softplus(f - r).sum() + self.penalty / 2 * slopes.square().sum()
        places = torch.rand(count, 1) if places is None else places
        middle = torch.lerp(made, rows, places).requires_grad_()
        slopes, = torch.autograd.grad(self.discriminator(middle).sum(), middle, create_graph=True)
        return (f - r).sum() + self.penalty * (slopes.norm(dim=1) - 1).square().sum()

    def of_generator(self, rows: Tensor, noise: Tensor) -> Tensor:
        f = self.discriminator(self.generator(noise))
        if self.objective == "non_saturating":
            return softplus(-f).sum()
        if self.objective == "wgan_gp":
            return -f.sum()
        with torch.no_grad():
            r = self.discriminator(rows)
        return softplus(r - f).sum()


class Training:
    """A pair and its loop."""

    def __init__(self, pair: Pair, rows: Tensor, batch: int):
        batches = cycle(rows.split(batch))
        makers, critics = list(pair.generator.parameters()), list(pair.discriminator.parameters())
        copies = [each.detach().clone() for each in makers]
        rules = [torch.optim.Adam(own, lr=1e-3, betas=(0.0, 0.99), fused=True) for own in (critics, makers)]

        def step() -> None:
            some = next(batches)
            rules[0].zero_grad(set_to_none=True)
            (pair.of_discriminator(some, torch.randn(batch, pair.noise)) / batch).backward()
            rules[0].step()
            for each in critics:
                each.requires_grad_(False)
            rules[1].zero_grad(set_to_none=True)
            (pair.of_generator(some, torch.randn(batch, pair.noise)) / batch).backward()
            rules[1].step()
            for each in critics:
                each.requires_grad_(True)
            torch._foreach_lerp_(copies, makers, 0.001)

        self.step = step


class _Peer:
    def __init__(self) -> None:
        self.trainings: dict[str, Training] = {}

    def gradients(self, pair: dict[str, Any], inputs: str, out: str) -> dict[str, float]:
        """In double precision, into the file ``out``; returns the losses of both turns."""
        made = Pair(**pair, dtype=torch.float64)
        with np.load(inputs) as given:
            rows, noise, places = (torch.from_numpy(given[name].astype(np.float64))
                                   for name in ("rows", "noise", "places"))
        losses, found = {}, {}
        for name, loss in (("discriminator", made.of_discriminator(rows, noise, places)),
                           ("generator", made.of_generator(rows, noise))):
            parameters = dict(getattr(made, name).named_parameters())
            slopes = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            losses[name] = float(loss)
            found |= {f"{name}.{int(key.split('.')[0]) // 2}.{key.split('.')[1]}":
                      (torch.zeros_like(parameters[key]) if slope is None else slope).numpy()
                      for key, slope in zip(parameters, slopes, strict=True)}
        np.savez(out, **found)
        return losses

    def prepare(self, setup: str, pair: dict[str, Any], rows: str, batch: int) -> None:
        self.trainings[setup] = Training(Pair(**pair), torch.from_numpy(np.load(rows)), batch)

    def time(self, setup: str, count: int) -> float:
        return clocked(self.trainings[setup].step, count)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rank", type=int)
    parser.add_argument("--ranks", type=int)
    parser.add_argument("address")
    given = parser.parse_args()
    torch.set_num_threads(1)
    peer = _Peer()
    serve(given.address, given.rank, {"torch": torch.__version__, "threads": 1},
          {name: getattr(peer, name) for name in ("gradients", "prepare", "time")})


if __name__ == "__main__":
    main()
