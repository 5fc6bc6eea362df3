"""Modules of PyTorch that both sides of `benchmarks.torch_modules` train."""

from __future__ import annotations

from torch import nn

from benchmarks.peers.torch_step import network


def module(name: str) -> nn.Sequential:
    """Dense layers where ``name`` says their units, else a small convolutional autoencoder of 28 x 28 pixels: it takes
    and gives rows of 784 numbers, too."""
    if name != "convolutions":
        return network([int(units) for units in name.split("-")])
    half = {"kernel_size": 3, "stride": 2, "padding": 1}
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        nn.Conv2d(1, 16, **half), nn.ReLU(),
        nn.Conv2d(16, 32, **half), nn.ReLU(),
        nn.ConvTranspose2d(32, 16, **half, output_padding=1), nn.ReLU(),
        nn.ConvTranspose2d(16, 1, **half, output_padding=1),
        nn.Flatten())
