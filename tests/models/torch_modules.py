"""What makes PyTorch modules for tests, as a file that the command line names."""

import torch
from torch import nn
from torch.nn import functional as F

import pyddl


class Coder(nn.Module):
    """An autoencoder that can do all that pyddl may ask of it."""

    def __init__(self, inputs, width=3, hidden=8):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.decoder = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, inputs))
        self.width = width

    def forward(self, rows):
        return self.decoder(self.encoder(rows))

    def loss(self, batch):
        return F.mse_loss(self(batch.rows), batch.rows, reduction="sum")

    def encode(self, rows):
        return self.encoder(rows)

    def reconstruct(self, rows):
        return self(rows)

    def sample(self, count):
        return self.decoder(torch.randn(count, self.width))

    def pictures(self, rows):
        return {"weights": self.encoder[0].weight[:4]}


def make_model(inputs, width=3):
    return Coder(inputs, width)


class Pair(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, inputs))
        self.critic = nn.Sequential(nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, 1))


def play(pair, batch):
    made = pair.generator(batch.normal(2))
    if batch.phase == "critic":
        real, false = pair.critic(batch.rows), pair.critic(made.detach())
        right = ((real > 0).sum() + (false < 0).sum()) / 2
        return {"loss": F.softplus(-real).sum() + F.softplus(false).sum(), "right": right}
    return F.softplus(-pair.critic(made)).sum()


def make_pair(inputs):
    Phase = pyddl.models.Phase
    return pyddl.models.Torch(Pair(inputs), play, phases=[
        Phase("critic", ("critic",)), Phase("generator", ("generator",), every=2, average=0.9)])


class Classes(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.stack = nn.Sequential(nn.Linear(inputs, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def loss(module, batch):
    """Of `Classes`, as the loss that lies beside a function."""
    logits = module.stack(batch.rows)
    return {"loss": F.cross_entropy(logits, batch.labels, reduction="sum"),
            "accuracy": (logits.argmax(1) == batch.labels).sum()}


def make_classes(inputs):
    return Classes(inputs)
