"""Pictures of a run; needs matplotlib, which is imported only here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyddl.data import Source
from pyddl.models.protocol import Model
from pyddl.train.simulation import Simulated

__all__ = ["draw_curves", "draw_pictures", "draw_reconstructions", "draw_simulations", "first_rows"]

MOST_PICTURES = 50


def first_rows(source: Source, count: int = 10) -> np.ndarray:
    """The first rows of a source, at most ``count``."""
    rows = np.empty((min(count, len(source)), source.features), dtype=np.float32)
    source.read(np.arange(len(rows), dtype=np.int64), rows)
    return rows


def draw_reconstructions(path: Path, model: Model, parameters: np.ndarray, buffers: np.ndarray, source: Source,
                         columns: int = 10) -> Path:
    """Originals over their reconstructions, the first ``columns`` rows of ``source``, as images or as curves."""
    plt = _pyplot()
    rows = first_rows(source, columns)
    shown = (rows, model.reconstruct(parameters, buffers, rows))  # type: ignore[attr-defined]
    errors, count = ((shown[0] - shown[1]) ** 2).sum(axis=1), len(rows)
    limits = (0.0, 1.0) if source.image_shape else (float(rows.min()), float(rows.max()) or 1.0)
    figure, axes = plt.subplots(2, count, figsize=(0.9 * count + 0.5, 2.3), squeeze=False, layout="constrained")
    for line, (title, images) in enumerate(zip(("original", "reconstruction"), shown, strict=True)):
        for column in range(count):
            _show(axes[line][column], images[column], source.image_shape, limits)
        axes[line][0].set_ylabel(title, fontsize=8)
    for column in range(count):
        axes[1][column].set_xlabel(f"{errors[column]:.2f}", fontsize=8)
    figure.supxlabel("squared error of each row", fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def draw_pictures(path: Path, title: str, rows: np.ndarray, image_shape: tuple[int, ...] | None,
                  columns: int = 10) -> Path:
    """Rows as they enter a model, as images or as curves, at most `MOST_PICTURES` of them, all on one scale."""
    plt = _pyplot()
    shown = rows[:MOST_PICTURES]
    if image_shape is None or int(np.prod(image_shape)) != rows.shape[1]:
        image_shape = None
    most = float(np.abs(shown).max()) or 1.0
    limits = (-most, most) if shown.min() < 0 else (0.0, most)
    lines = -(-len(shown) // columns)
    width = min(columns, len(shown))
    left = f", the first {len(shown)} of {len(rows)}" if len(rows) > len(shown) else ""
    heading = f"{title}{left}, from {limits[0]:.3g} to {limits[1]:.3g}"
    size = (max(0.9 * width + 0.3, 0.07 * len(heading)), 0.9 * lines + 0.5)
    figure, axes = plt.subplots(lines, width, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.ravel()[len(shown) :]:
        axis.set_axis_off()
    for axis, row in zip(axes.ravel(), shown, strict=False):
        _show(axis, row, image_shape, limits)
    figure.suptitle(heading, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _show(axis: Any, row: np.ndarray, image_shape: tuple[int, ...] | None, limits: tuple[float, float]) -> None:
    """One row as an image, dark where it is largest; red above and blue below 0 where there is such; or as a curve."""
    low, high = limits
    if image_shape is None:
        axis.plot(row, linewidth=0.6)
        axis.set_ylim(low, high)
    else:
        image = row.reshape(image_shape)
        if image.ndim == 3:  # planes of colour, which imshow wants last
            image = ((image.transpose(1, 2, 0) - low) / (high - low)).clip(0, 1)
        axis.imshow(image, cmap="gray_r" if low == 0 else "RdBu_r", vmin=low, vmax=high)
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set_visible(False)


def draw_curves(path: Path, metrics: list[dict[str, Any]]) -> Path:
    """Training and test loss over the epochs, and a panel for each other score and for the losses of phases."""
    plt = _pyplot()
    epochs = [line["epoch"] for line in metrics]
    names = dict.fromkeys(name for line in metrics for name in line)
    others = [name for name in names if name.startswith("test_") and name != "test_loss"]
    phases = tuple(name for name in names if name.startswith("train_loss_"))
    panels = [("loss", ("train_loss", "test_loss")), ("loss of each phase", phases),
              *((name.removeprefix("test_").replace("_", " "), (name,)) for name in others)]
    panels = [(title, shown) for title, shown in panels
              if any(line.get(name) is not None for name in shown for line in metrics)]
    figure, axes = plt.subplots(1, len(panels), figsize=(4.5 * len(panels), 3), squeeze=False, layout="constrained")
    for axis, (title, shown) in zip(axes[0], panels, strict=True):
        for name in shown:
            values = [np.nan if line.get(name) is None else line[name] for line in metrics]
            if not np.all(np.isnan(values)):
                axis.plot(epochs, values, marker=".", label=name)
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
