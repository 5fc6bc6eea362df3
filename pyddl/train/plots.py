"""Pictures of a run; needs matplotlib, which is imported only here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyddl.data import Source
from pyddl.models.protocol import Model
from pyddl.train.simulation import Simulated

__all__ = ["draw_curves", "draw_reconstructions", "draw_simulations"]


def draw_reconstructions(path: Path, model: Model, parameters: np.ndarray, buffers: np.ndarray, source: Source,
                         columns: int = 10) -> Path:
    """Originals over their reconstructions, the first ``columns`` rows of ``source``, as images or as curves."""
    plt = _pyplot()
    count = min(columns, len(source))
    rows = np.empty((count, source.features), dtype=np.float32)
    source.read(np.arange(count, dtype=np.int64), rows)
    shown = (rows, model.reconstruct(parameters, buffers, rows))  # type: ignore[attr-defined]
    errors = ((shown[0] - shown[1]) ** 2).sum(axis=1)
    figure, axes = plt.subplots(2, count, figsize=(0.9 * count + 0.5, 2.3), squeeze=False, layout="constrained")
    for line, (title, images) in enumerate(zip(("original", "reconstruction"), shown, strict=True)):
        for column in range(count):
            axis = axes[line][column]
            if source.image_shape is None:
                axis.plot(images[column], linewidth=0.6)
                axis.set_ylim(float(rows.min()), float(rows.max()) or 1.0)
            else:
                image = images[column].reshape(source.image_shape)
                if image.ndim == 3:  # planes of colour, which imshow wants last
                    image = image.transpose(1, 2, 0).clip(0, 1)
                axis.imshow(image, cmap="gray_r", vmin=0, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
            for side in axis.spines.values():
                side.set_visible(False)
        axes[line][0].set_ylabel(title, fontsize=8)
    for column in range(count):
        axes[1][column].set_xlabel(f"{errors[column]:.2f}", fontsize=8)
    figure.supxlabel("squared error of each row", fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def draw_curves(path: Path, metrics: list[dict[str, Any]]) -> Path:
    """Training and test loss over the epochs, and the test squared error where there is one."""
    plt = _pyplot()
    epochs = [line["epoch"] for line in metrics]
    panels = [("loss", ("train_loss", "test_loss")), ("squared error", ("test_squared_error",))]
    panels = [(title, names) for title, names in panels if any(metrics[0].get(name) is not None for name in names)]
    figure, axes = plt.subplots(1, len(panels), figsize=(4.5 * len(panels), 3), squeeze=False, layout="constrained")
    for axis, (title, names) in zip(axes[0], panels, strict=True):
        for name in names:
            if metrics[0].get(name) is not None:
                axis.plot(epochs, [line[name] for line in metrics], marker=".", label=name)
        axis.set_xlabel("epoch")
        axis.set_ylabel(title)
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def draw_simulations(path: Path, runs: Sequence[Simulated]) -> Path:
    """Test loss against virtual time, a panel for each number of workers and a line for each strategy."""
    plt = _pyplot()
    counts = list(dict.fromkeys(run.workers for run in runs))
    figure, axes = plt.subplots(1, len(counts), figsize=(3.6 * len(counts), 3), sharey=True, squeeze=False,
                                layout="constrained")
    for axis, count in zip(axes[0], counts, strict=True):
        for run in runs:
            points = [point for point in run.curve if point.get("test_loss") is not None]
            if run.workers == count:
                axis.plot([p["seconds"] for p in points], [p["test_loss"] for p in points], marker=".",
                          label=run.strategy)
        axis.set_title(f"{count} workers", fontsize=9)
        axis.set_xlabel("virtual seconds")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("test loss")
    axes[0][0].legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")  # no display on a compute node
    import matplotlib.pyplot as plt

    return plt
