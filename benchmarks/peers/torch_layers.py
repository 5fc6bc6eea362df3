"""PyTorch's networks of layers as pyddl has them, and its training step of a convolutional autoencoder as a peer; all
else as in `torch_step`.

Eager or compiled, pictures as planes or with channels last, float32 or under autocast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.peers.torch_step import Training, Trainings, main

ACTIVATIONS: dict[str, Callable[[], nn.Module] | None] = {
    "linear": None, "relu": nn.ReLU, "leaky_relu": lambda: nn.LeakyReLU(0.01), "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


class Flat(nn.Module):
    """A picture's values as features, in the order in which they lie."""

    def __init__(self, channels_last: bool):
        super().__init__()
        self.channels_last = channels_last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.permute(0, 2, 3, 1) if self.channels_last else x).flatten(1)


class Picture(nn.Module):
    """The way back."""

    def __init__(self, shape: list[int], channels_last: bool):
        super().__init__()
        self.shape, self.channels_last = shape, channels_last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width, channels = self.shape
        if self.channels_last:
            return x.view(-1, height, width, channels).permute(0, 3, 1, 2)
        return x.view(-1, channels, height, width)


def convolution(layer: dict[str, Any], channels: int) -> nn.Module:
    """Of so many channels."""
    kernel, stride, padding = layer["kernel"], layer["stride"], layer["padding"]
    if padding == "same":
        padding = (kernel - 1) // 2 if kernel % 2 else (kernel - stride) // 2
    made = nn.ConvTranspose2d if layer["layer"] == "conv_transpose" else nn.Conv2d
    return made(channels, layer["channels"], kernel, stride, 0 if padding == "valid" else padding, bias=layer["bias"])


def network(layers: list[dict[str, Any]], tensors: Mapping[str, np.ndarray], channels_last: bool) -> nn.Sequential:
    """The layers, each with its ``name`` and the shape ``from``; weights as pyddl has them."""
    made = list[nn.Module]()
    flat: list[int] | None = None  # the picture whose values the features are
    module: nn.Module
    for i, layer in enumerate(layers):
        kind, shape, name = layer["layer"], layer["from"], layer["name"]

        def tensor(which: str, name: str = name) -> torch.Tensor:
            return torch.from_numpy(tensors[f"{name}.{which}"].copy())

        if kind in ("conv", "conv_transpose"):
            module = convolution(layer, shape[2])
            given = {"weight": tensor("weight").permute(3, 2, 0, 1).contiguous()}
            given |= {"bias": tensor("bias")} if layer["bias"] else {}
            module.load_state_dict(given)
        elif kind == "batch_norm":
            module = nn.BatchNorm2d(shape[2], layer["epsilon"], 1 - layer["decay"])
        elif kind == "pool":
            module = nn.MaxPool2d(layer["size"])
        elif kind == "resize":
            module = nn.Upsample(scale_factor=layer["factor"])
        elif kind == "flatten":
            module, flat = Flat(channels_last), shape
        elif kind == "reshape":
            module = Picture(layer["shape"], channels_last)
        else:
            module = nn.Linear(shape[0], layer["outputs"], bias=layer["bias"])
            given = {"weight": tensor("weight")} | ({"bias": tensor("bias")} if layer["bias"] else {})
            if flat is not None and not channels_last:  # planes lie one after another
                given["weight"] = given["weight"][:, order(flat)]
            flat = None
            if layers[i + 1 : i + 2] and layers[i + 1]["layer"] == "reshape" and not channels_last:
                places = order(layers[i + 1]["shape"])
                given = {key: value[places] for key, value in given.items()}
            module.load_state_dict(given)
        made.append(module)
        activation = ACTIVATIONS[layer.get("activation", "linear")]
        if activation is not None:
            made.append(activation())
    model = nn.Sequential(*made)
    return model.to(memory_format=torch.channels_last) if channels_last else model


def order(shape: list[int]) -> torch.Tensor:
    """Places of a picture's values with the channels last, in the order of planes."""
    return torch.arange(int(np.prod(shape))).view(*shape).permute(2, 0, 1).flatten()


class OfLayers(Trainings):
    adams = ("fused",)

    def made(self, batch: int, rows: torch.Tensor, how: dict[str, Any], *, adam: str, layers: Any = None,
             weights: str = "", **_: Any) -> Training:
        how = dict(how)
        last = how.pop("channels_last")
        height, width, channels = layers[0]["from"]
        pictures = rows.view(-1, height, width, channels).permute(0, 3, 1, 2)
        pictures = pictures.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        return Training(network(layers, np.load(weights), last), batch, pictures, adam=adam, **how)


if __name__ == "__main__":
    main(OfLayers())
