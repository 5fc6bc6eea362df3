"""The obvious training step in NumPy as a peer: what the others are checked against where there is no PyTorch."""

from __future__ import annotations

import sys
from itertools import cycle
from typing import Any

import numpy as np

from benchmarks.peers.line import clocked, serve

__all__ = ["Training", "main"]


class Training:
    """Dense autoencoder with ReLU and a linear code, cross-entropy from logits, Adam: textbook formulas in float32."""

    def __init__(self, weights: list[np.ndarray], rows: np.ndarray, batch: int):
        self.layers = [(weights[i].copy(), weights[i + 1].copy()) for i in range(0, len(weights), 2)]
        self.moments = [(np.zeros_like(p), np.zeros_like(p)) for layer in self.layers for p in layer]
        self.code = len(self.layers) // 2 - 1
        self.batches = cycle([rows[i : i + batch] for i in range(0, len(rows) - batch + 1, batch)])
        self.updates = 0

    def step(self) -> float:
        """One update; the sum of the losses before it."""
        x = next(self.batches)
        outputs = [x]
        for number, (weight, bias) in enumerate(self.layers):
            z = outputs[-1] @ weight.T + bias
            outputs.append(np.maximum(z, 0) if self._rectified(number) else z)
        logits = outputs[-1]
        loss = float(
            (np.maximum(logits, 0) - logits * x + np.log1p(np.exp(-np.abs(logits)))).sum(dtype=np.float64)
        )
        delta = 1 / (1 + np.exp(-logits)) - x
        gradients: list[np.ndarray] = []
        for number in reversed(range(len(self.layers))):
            if self._rectified(number):
                delta = delta * (outputs[number + 1] > 0)
            gradients = [delta.T @ outputs[number] / len(x), delta.sum(axis=0) / len(x), *gradients]
            delta = delta @ self.layers[number][0]
        self._adam(gradients)
        return loss

    def _rectified(self, number: int) -> bool:
        return number not in (self.code, len(self.layers) - 1)

    def _adam(self, gradients: list[np.ndarray]) -> None:
        self.updates += 1
        parameters = [p for layer in self.layers for p in layer]
        for p, g, (m, v) in zip(parameters, gradients, self.moments, strict=True):
            m += 0.1 * (g - m)
            v += 0.001 * (g * g - v)
            p -= 0.001 * (m / (1 - 0.9**self.updates)) / (np.sqrt(v / (1 - 0.999**self.updates)) + 1e-8)


class _Peer:
    def __init__(self) -> None:
        self.trainings: dict[str, Training] = {}

    def prepare(
        self, units: list[int], batch: int, rows: str, weights: str, modes: dict[str, dict[str, Any]]
    ) -> None:
        given, everything = list(np.load(weights).values()), np.load(rows)
        self.trainings = {name: Training(given, everything, batch) for name in modes}

    def losses(self, setup: str, count: int) -> list[float]:
        return [self.trainings[setup].step() for _ in range(count)]

    def time(self, setup: str, count: int) -> float:
        return clocked(self.trainings[setup].step, count)


def main(address: str) -> None:
    peer = _Peer()
    serve(
        address,
        0,
        {"numpy": np.__version__},
        {name: getattr(peer, name) for name in ("prepare", "losses", "time")},
    )


if __name__ == "__main__":
    main(sys.argv[-1])
