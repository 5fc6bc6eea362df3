"""PyTorch's adversarial step as a peer: penalties by double backward, one pass over rows and samples together.

Its fastest idiomatic loop on one thread: rows in memory as float32 tensors, gradients set to None, fused Adam, no loss
read back, the averaged generator moved by one multi-tensor call. Eager or, where there is no double backward, compiled;
pictures as planes or with channels last, float32 or under autocast.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import cycle
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from benchmarks.peers.line import clocked, serve
from benchmarks.peers.torch_layers import network

__all__ = ["Pair"]


class Pair:
    """Both networks, and the losses of both turns: sums over the rows."""

    def __init__(self, generator: list[dict[str, Any]], discriminator: list[dict[str, Any]], weights: str,
                 objective: str, penalty: float, channels_last: bool = True, dtype: torch.dtype = torch.float32):
        with np.load(weights) as given:
            self.generator, self.discriminator = (
                network(layers, given, channels_last).to(dtype) for layers in (generator, discriminator))
        self.objective, self.penalty, self.noise = objective, penalty, generator[0]["from"][0]
        self.names = {f"{layer['name']}.{name}": parameter
                      for layers, model in ((generator, self.generator), (discriminator, self.discriminator))
                      for layer, module in zip(layers, _of_layers(model), strict=True)
                      for name, parameter in module.named_parameters()}
        self.normalises = any(isinstance(each, nn.BatchNorm2d) for each in self.generator)

    def of_discriminator(self, rows: Tensor, noise: Tensor, places: Tensor | None = None) -> Tensor:
        count, kind = len(rows), self.objective
        with torch.no_grad():
            made = self.generator(noise).to(noise.dtype)
        seen = torch.cat([rows, made]).requires_grad_(kind == "r3gan")
        judged = self.discriminator(seen).to(rows.dtype)
        r, f = judged[:count], judged[count:]
        if kind == "non_saturating":
            return softplus(-r).sum() + softplus(f).sum()
        if kind == "r3gan":
            slopes, = torch.autograd.grad(judged.sum(), seen, create_graph=True)
            return softplus(f - r).sum() + self.penalty / 2 * slopes.square().sum()
        assert places is not None
        middle = torch.lerp(made, rows, places).requires_grad_()
        slopes, = torch.autograd.grad(self.discriminator(middle).sum(), middle, create_graph=True)
        return (f - r).sum() + self.penalty * (slopes.norm(dim=1) - 1).square().sum()

    def of_generator(self, rows: Tensor, noise: Tensor) -> Tensor:
        f = self.discriminator(self.generator(noise).to(noise.dtype)).to(rows.dtype)
        if self.objective == "non_saturating":
            return softplus(-f).sum()
        if self.objective == "wgan_gp":
            return -f.sum()
        with torch.no_grad():
            r = self.discriminator(rows)
        return softplus(r - f).sum()

    def begin(self, turn: str) -> None:
        """Only samples of the generator's own turn count for its normalisation."""
        if self.normalises:
            self.generator.train(turn == "generator")


def _of_layers(model: nn.Sequential) -> list[nn.Module]:
    """The modules without the activations that follow them."""
    return [each for each in model if not isinstance(each, nn.ReLU | nn.LeakyReLU | nn.Sigmoid | nn.Tanh)]


class Training:
    """A pair and its loop."""

    def __init__(self, pair: Pair, rows: Tensor, batch: int, dtype: str, compiled: bool):
        batches = cycle(rows.split(batch))
        makers, critics = list(pair.generator.parameters()), list(pair.discriminator.parameters())
        copies = [each.detach().clone() for each in makers]
        rules = [torch.optim.Adam(own, lr=1e-3, betas=(0.0, 0.99), fused=True) for own in (critics, makers)]

        def loss_of(turn: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def loss(*given: Tensor) -> Tensor:
                with torch.autocast("cpu", torch.bfloat16) if dtype == "bfloat16" else nullcontext():
                    return turn(*given) / batch

            return torch.compile(loss, dynamic=False) if compiled else loss

        of_discriminator, of_generator = loss_of(pair.of_discriminator), loss_of(pair.of_generator)

        def step(drawn: Iterator[Tensor] | None = None) -> tuple[Tensor, Tensor]:
            def noise() -> Tensor:
                return torch.randn(batch, pair.noise) if drawn is None else next(drawn)

            def places() -> Tensor:
                return torch.rand(batch, 1) if drawn is None else next(drawn)

            some = next(batches)
            rules[0].zero_grad(set_to_none=True)
            pair.begin("discriminator")
            first = of_discriminator(some, noise(), *([places()] if pair.objective == "wgan_gp" else []))
            first.backward()
            rules[0].step()
            for each in critics:
                each.requires_grad_(False)
            rules[1].zero_grad(set_to_none=True)
            pair.begin("generator")
            second = of_generator(some, noise())
            second.backward()
            rules[1].step()
            for each in critics:
                each.requires_grad_(True)
            torch._foreach_lerp_(copies, makers, 0.001)
            return first, second

        self.step, self.batch = step, batch

    def losses(self, drawn: list[Tensor], count: int) -> list[list[float]]:
        """Of both turns of the next steps, for which random numbers are given in their order."""
        each = iter(drawn)
        return [[float(loss) * self.batch for loss in self.step(each)] for _ in range(count)]


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
        for turn, loss_of in (("discriminator", lambda: made.of_discriminator(rows, noise, places)),
                              ("generator", lambda: made.of_generator(rows, noise))):
            made.begin(turn)
            loss = loss_of()
            own = {name: parameter for name, parameter in made.names.items() if name.startswith(turn)}
            slopes = torch.autograd.grad(loss, list(own.values()), allow_unused=True)
            losses[turn] = float(loss)
            for (name, parameter), slope in zip(own.items(), slopes, strict=True):
                values = torch.zeros_like(parameter) if slope is None else slope
                found[name] = (values.permute(2, 3, 1, 0) if values.ndim == 4 else values).numpy()
        np.savez(out, **found)
        return losses

    def prepare(self, pair: dict[str, Any], rows: str, batch: int, modes: dict[str, dict[str, Any]]) -> None:
        """Make a training for each mode: ``dtype``, ``compiled`` and ``channels_last``."""
        torch._dynamo.reset()
        self.trainings.clear()
        for name, how in modes.items():
            self.trainings[name] = Training(Pair(**pair, channels_last=how["channels_last"]),
                                            torch.from_numpy(np.load(rows)), batch, how["dtype"], how["compiled"])

    def losses(self, setup: str, drawn: str, count: int) -> list[list[float]]:
        with np.load(drawn) as given:
            return self.trainings[setup].losses([torch.from_numpy(each) for each in given.values()], count)

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
          {name: getattr(peer, name) for name in ("gradients", "prepare", "losses", "time")})


if __name__ == "__main__":
    main()
