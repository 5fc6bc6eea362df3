"""The variational autoencoder of PyTorch's examples as a peer: the same network, loss, optimizer and batches."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.peers.line import serve


class Coder(nn.Module):
    """Rows - hidden - (means, log variances) of a code - hidden - logits of rows, by names of their own."""

    def __init__(self, inputs: int, hidden: int, code: int):
        super().__init__()
        self.layers = nn.ModuleDict({
            "encoder-0": nn.Linear(inputs, hidden), "means": nn.Linear(hidden, code),
            "log_variances": nn.Linear(hidden, code), "decoder-0": nn.Linear(code, hidden),
            "decoder-1": nn.Linear(hidden, inputs)})

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Sum over rows of minus the evidence lower bound."""
        h = torch.relu(self.layers["encoder-0"](rows))
        mean, log_variance = self.layers["means"](h), self.layers["log_variances"](h)
        code = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        logits = self.layers["decoder-1"](torch.relu(self.layers["decoder-0"](code)))
        reconstruction = functional.binary_cross_entropy_with_logits(logits, rows, reduction="sum")
        return reconstruction + 0.5 * torch.sum(mean**2 + log_variance.exp() - 1 - log_variance)


def train(folder: str, hidden: list[int], epochs: int, batch: int, rate: float, seed: int) -> float:
    """Train on ``rows.npy``, write ``weights.npz``; the loss of ``test.npy``, mean over rows."""
    torch.manual_seed(seed)
    rows, test = (torch.from_numpy(np.load(Path(folder) / f"{name}.npy")) for name in ("rows", "test"))
    model = Coder(rows.shape[1], *hidden)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, fused=True)
    for _ in range(epochs):
        for part in torch.randperm(len(rows)).split(batch):
            optimizer.zero_grad(set_to_none=True)
            (model(rows[part]) / len(part)).backward()
            optimizer.step()
    with torch.no_grad():
        loss = sum(float(model(part)) for part in test.split(1000)) / len(test)
    tensors = {f"{name.replace('-', '.')}.{kind}": getattr(layer, kind).detach().numpy()
               for name, layer in model.layers.items() for kind in ("weight", "bias")}
    np.savez(Path(folder) / "weights.npz", **tensors)
    return loss


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rank", type=int)
    parser.add_argument("--ranks", type=int)
    parser.add_argument("address")
    given = parser.parse_args()
    torch.set_num_threads(1)
    serve(given.address, given.rank, {"torch": torch.__version__, "threads": 1}, {"train": train})


if __name__ == "__main__":
    main()
