"""Pictures of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyddl.data import Source
from pyddl.data.picture import Picture
from pyddl.models.protocol import Model
from pyddl.train.canvas import own_settings, subplots
from pyddl.train.simulation import Simulated

__all__ = ["animate_shown", "draw_codes", "draw_curves", "draw_lines", "draw_pictures", "draw_reconstructions",
           "draw_shown", "draw_simulations", "first_rows"]

MOST_PICTURES = 50
MOST_PANELS = 6  # side by side
MOST_FRAMES = 50  # of an animation
MOST_POINTS = 2000  # of a map of codes
MOST_NAMES = 30  # of columns, below their curve
MOST_COLOURS = 20  # labels of more values have a scale in the place of a legend


def first_rows(source: Source, count: int = 10) -> np.ndarray:
    """The first rows of a source, at most ``count``."""
    rows = np.empty((min(count, len(source)), source.features), dtype=np.float32)
    source.read(np.arange(len(rows), dtype=np.int64), rows)
    return rows


@own_settings
def draw_reconstructions(path: Path, model: Model, parameters: np.ndarray, buffers: np.ndarray, source: Source,
                         columns: int = 10) -> Path:
    """Originals over their reconstructions, the first ``columns`` rows of ``source``, as images or as curves.

    Where the model is trained on spoiled rows (it has ``corrupted(rows)``) these stand between the two, and what is
    shown is made of them.
    """
    rows = first_rows(source, columns)
    scaling = source.scaling if source.image_shape else None  # columns of a table stay comparable
    spoiled = model.corrupted(rows) if hasattr(model, "corrupted") else None
    entered = rows if spoiled is None else spoiled
    shown = {"original": rows, **({} if spoiled is None else {"corrupted": spoiled}),
             "reconstruction": model.reconstruct(parameters, buffers, entered)}  # type: ignore[attr-defined]
    errors, count = ((rows - shown["reconstruction"]) ** 2).sum(axis=1), len(rows)
    if scaling is not None:
        shown = {title: scaling.undo(images) for title, images in shown.items()}
        rows = shown["original"]
    low, high = float(rows.min()), float(rows.max()) or 1.0
    limits = (min(low, 0.0), max(high, 1.0)) if source.image_shape else (low, high)
    figure, axes = subplots(len(shown), count, (0.9 * count + 0.5, 0.9 * len(shown) + 0.5))
    for line, (title, images) in zip(axes, shown.items(), strict=True):
        for axis, image in zip(line, images, strict=True):
            _show(axis, image, source.image_shape, limits)
        line[0].set_ylabel(title, fontsize=8)
    if source.columns and source.features <= MOST_NAMES:
        axes[-1][0].set_xticks(range(source.features), source.columns, rotation=90, fontsize=5)
    for axis, error in zip(axes[-1], errors, strict=True):
        axis.set_xlabel(f"{error:.2f}", fontsize=8)
    figure.supxlabel("squared error of each row", fontsize=8)
    figure.savefig(path, dpi=120)
    return path


@own_settings
def draw_lines(path: Path, lines: Mapping[str, np.ndarray], image_shape: tuple[int, ...] | None) -> Path:
    """Rows under one another, a line for each name, as images or as curves, all on one scale."""
    low, high = (float(getattr(np.concatenate(list(lines.values())), each)()) for each in ("min", "max"))
    count = max(map(len, lines.values()))
    figure, axes = subplots(len(lines), count, (0.9 * count + 0.5, 0.9 * len(lines) + 0.3))
    for line, (title, rows) in zip(axes, lines.items(), strict=True):
        for axis, row in zip(line, rows, strict=False):
            _show(axis, row, image_shape, (min(low, 0.0), high if high > low else low + 1))
        line[0].set_ylabel(title, fontsize=8)
    figure.savefig(path, dpi=120)
    return path


@own_settings
def draw_codes(path: Path, model: Model, parameters: np.ndarray, buffers: np.ndarray, source: Source) -> Path:
    """Codes of the first rows of ``source``, at most `MOST_POINTS`, as points, coloured by their labels if it has some.

    Codes of more than two values are shown by their first two principal components (scikit-learn's).
    """
    rows = first_rows(source, MOST_POINTS)
    labels = None if source.labels is None else np.asarray(source.labels)[: len(rows)].reshape(len(rows), -1)[:, 0]
    codes = model.encode(parameters, buffers, rows)  # type: ignore[attr-defined]
    points, axes_are = codes, "code"
    if codes.shape[1] == 1:
        points = np.column_stack([codes[:, 0], np.zeros(len(codes))])
    elif codes.shape[1] > 2:
        from sklearn.decomposition import PCA

        pca = PCA(2, random_state=0).fit(codes)
        points = pca.transform(codes)
        axes_are = f"principal component of {codes.shape[1]} code values"
    figure, ((axis,),) = subplots(1, 1, (5.5, 4.5))
    values = np.unique([] if labels is None else labels)
    if labels is None:
        axis.scatter(points[:, 0], points[:, 1], s=5, linewidths=0)
    elif len(values) <= MOST_COLOURS:
        import matplotlib

        colours = matplotlib.colormaps["tab10" if len(values) <= 10 else "tab20"]
        for number, value in enumerate(values):
            of_it = points[labels == value]
            name = str(value) if source.classes is None else source.classes[int(value)]
            axis.scatter(of_it[:, 0], of_it[:, 1], s=5, color=colours(number), label=name, linewidths=0)
        axis.legend(fontsize=7, markerscale=2, loc="center left", bbox_to_anchor=(1, 0.5))
    else:
        figure.colorbar(axis.scatter(points[:, 0], points[:, 1], s=5, c=labels, linewidths=0), label="label")
    for name, set_label in (("first", axis.set_xlabel), ("second", axis.set_ylabel)):
        set_label(f"{name} {axes_are}", fontsize=8)
    axis.tick_params(labelsize=7)
    figure.savefig(path, dpi=120)
    return path


@own_settings
def draw_pictures(path: Path, title: str, rows: np.ndarray, image_shape: tuple[int, ...] | None,
                  columns: int = 10) -> Path:
    """Rows as they enter a model, as images or as curves, at most `MOST_PICTURES` of them, all on one scale.

    ``rows`` may have the shape of their pictures themselves: (number, height, width) or (number, height, width,
    channels). Where these have other than 1 or 3 channels their mean is shown.
    """
    shown = rows[:MOST_PICTURES]
    if rows.ndim > 2:
        if rows.ndim == 4 and rows.shape[3] not in (1, 3):
            shown = shown.mean(axis=3)
        image_shape = shown.shape[1:]
    elif image_shape is None or int(np.prod(image_shape)) != rows.shape[1]:
        image_shape = None
    most = float(np.abs(shown).max()) or 1.0
    limits = (-most, most) if shown.min() < 0 else (0.0, most)
    lines = -(-len(shown) // columns)
    width = min(columns, len(shown))
    left = f", the first {len(shown)} of {len(rows)}" if len(rows) > len(shown) else ""
    heading = f"{title}{left}, from {limits[0]:.3g} to {limits[1]:.3g}"
    size = (max(0.9 * width + 0.3, 0.07 * len(heading)), 0.9 * lines + 0.5)
    figure, axes = subplots(lines, width, size)
    for axis in axes.ravel()[len(shown) :]:
        axis.set_axis_off()
    for axis, row in zip(axes.ravel(), shown, strict=False):
        _show(axis, row, image_shape, limits)
    figure.suptitle(heading, fontsize=8)
    figure.savefig(path, dpi=120)
    return path


@own_settings
def draw_shown(path: Path, shown: np.ndarray, image_shape: tuple[int, ...] | None, lines: int = 10,
               columns: int = 10) -> Path:
    """What a model showed after some epochs (epochs, number, features), a line for each: its first rows as images or as
    curves; of one feature all rows as a histogram, of two as points."""
    few = shown.shape[2] <= 2
    most = MOST_PANELS if few else lines
    epochs = np.unique(np.linspace(0, len(shown) - 1, min(most, len(shown))).round().astype(int))
    low, high = float(shown[-1].min()), float(shown[-1].max())
    high = high if high > low else low + 1
    if few:
        low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)  # what lies at the edge is seen whole
        figure, axes = subplots(1, len(epochs), (1.8 * len(epochs), 2.1))
        for axis, epoch in zip(axes[0], epochs, strict=True):
            if shown.shape[2] == 1:
                axis.hist(shown[epoch, :, 0], bins=np.linspace(low, high, 31))
            else:
                axis.scatter(*shown[epoch].T, s=2, linewidths=0)
                axis.set(xlim=(low, high), ylim=(low, high), aspect="equal")
            axis.set_title(f"epoch {epoch + 1}", fontsize=8)
            axis.tick_params(labelsize=6)
    else:
        count = min(columns, shown.shape[1])
        figure, axes = subplots(len(epochs), count, (0.9 * count + 0.6, 0.9 * len(epochs) + 0.2))
        for line, epoch in zip(axes, epochs, strict=True):
            for axis, row in zip(line, shown[epoch], strict=False):
                _show(axis, row, image_shape, (min(low, 0.0), high))
            line[0].set_ylabel(f"epoch {epoch + 1}", fontsize=8)
    figure.savefig(path, dpi=120)
    return path


@own_settings
def animate_shown(path: Path, shown: np.ndarray, image_shape: tuple[int, ...] | None, columns: int = 10) -> Path:
    """The same as an animated picture, a frame for each epoch, of at most `MOST_FRAMES` epochs: images side by side, a
    histogram, points, or the first rows as curves."""
    from matplotlib.animation import FuncAnimation, PillowWriter

    epochs = np.unique(np.linspace(0, len(shown) - 1, min(MOST_FRAMES, len(shown))).round().astype(int))
    low, high = float(shown[-1].min()), float(shown[-1].max())
    high = high if high > low else low + 1
    edge = 0.05 * (high - low)
    figure, axes = subplots(1, 1, (4, 4))
    axis = axes[0, 0]

    def draw(epoch: int) -> None:
        axis.clear()
        rows = np.asarray(shown[epoch])
        if image_shape is not None:
            _show(axis, _side_by_side([_image(row, image_shape) for row in rows], columns), None, (min(low, 0.0), high))
        elif rows.shape[1] == 1:
            axis.hist(rows[:, 0], bins=np.linspace(low - edge, high + edge, 31))
        elif rows.shape[1] == 2:
            axis.scatter(*rows.T, s=3, linewidths=0)
            axis.set(xlim=(low - edge, high + edge), ylim=(low - edge, high + edge), aspect="equal")
        else:
            axis.plot(rows[:columns].T, linewidth=0.6)
            axis.set_ylim(low - edge, high + edge)
        axis.set_title(f"epoch {epoch + 1}", fontsize=8)

    FuncAnimation(figure, draw, frames=epochs, init_func=lambda: None).save(path, PillowWriter(fps=5), dpi=90)
    return path


def _side_by_side(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Images of one shape as one, a line of so many under another."""
    height, width = images[0].shape[:2]
    lines = -(-len(images) // columns)
    whole = np.zeros((lines * (height + 1) - 1, columns * (width + 1) - 1, *images[0].shape[2:]), images[0].dtype)
    for number, image in enumerate(images):
        top, left = number // columns * (height + 1), number % columns * (width + 1)
        whole[top : top + height, left : left + width] = image
    return whole


def _show(axis: Any, row: np.ndarray, image_shape: tuple[int, ...] | None, limits: tuple[float, float]) -> None:
    """One row, or an image itself, as an image, dark where it is largest; red above and blue below 0 where there is
    such; or as a curve."""
    low, high = limits
    if image_shape is None and row.ndim == 1:
        axis.plot(row, linewidth=0.6)
        axis.set_ylim(low, high)
    else:
        image = row if image_shape is None else _image(row, image_shape)
        if image.ndim == 3:
            image = ((image - low) / (high - low)).clip(0, 1)
        axis.imshow(image, cmap="gray_r" if low == 0 else "RdBu_r", vmin=low, vmax=high)
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set_visible(False)


def _image(row: np.ndarray, image_shape: tuple[int, ...]) -> np.ndarray:
    """(height, width), or with three colours last."""
    picture = Picture.of(image_shape)
    if picture.planes:
        image = row.reshape(picture.channels, picture.height, picture.width).transpose(1, 2, 0)
    else:
        image = row.reshape(picture.shape)
    return image if picture.channels == 3 else image.mean(axis=2)


@own_settings
def draw_curves(path: Path, metrics: list[dict[str, Any]]) -> Path:
    """Training and test loss over the epochs, a panel for each stage, whose losses may be of different kinds; and one
    for each other score and for the losses of phases."""
    stages = list(dict.fromkeys(line.get("stage", 1) for line in metrics))
    names = dict.fromkeys(name for line in metrics for name in line)
    phases = tuple(name for name in names if name.startswith("train_loss_"))
    others = dict.fromkeys(name.split("_", 1)[1] for name in names
                           if name.startswith(("train_", "test_")) and name not in phases)
    del others["loss"]
    panels = [*(("loss" if len(stages) == 1 else f"loss of stage {stage}", ("train_loss", "test_loss"),
                 [line for line in metrics if line.get("stage", 1) == stage]) for stage in stages),
              ("loss of each phase", phases, metrics),
              *((name.replace("_", " "), (f"train_{name}", f"test_{name}"), metrics) for name in others)]
    panels = [(title, shown, lines) for title, shown, lines in panels
              if any(line.get(name) is not None for name in shown for line in lines)]
    figure, axes = subplots(1, len(panels), (4.5 * len(panels), 3))
    for axis, (title, shown, lines) in zip(axes[0], panels, strict=True):
        for name in shown:
            values = [np.nan if line.get(name) is None else line[name] for line in lines]
            if not np.all(np.isnan(values)):
                axis.plot([line["epoch"] for line in lines], values, marker=".", label=name)
        axis.set_xlabel("epoch")
        axis.set_ylabel(title)
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    return path


@own_settings
def draw_simulations(path: Path, runs: Sequence[Simulated]) -> Path:
    """Test loss against virtual time, a panel for each number of workers and a line for each strategy."""
    counts = list(dict.fromkeys(run.workers for run in runs))
    figure, axes = subplots(1, len(counts), (3.6 * len(counts), 3), sharey=True)
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
    return path
