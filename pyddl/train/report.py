"""What a person sees at the end of a run: a short table, and pictures in the run directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pyddl.data import Source
from pyddl.models.protocol import Model
from pyddl.train.run import SHOWN, written
from pyddl.train.timing import PARTS

__all__ = ["draw", "table"]

NOTES = {"test_squared_error": "  (sum over features, mean over rows)"}


def draw(out: str | Path, model: Model, parameters: np.ndarray, buffers: np.ndarray, metrics: list[dict[str, Any]],
         source: Source | None) -> list[Path]:
    """Draw the run's pictures into its ``plots`` folder; return their paths. Without rows these are its curves.

    Raises
    ------
    CheckpointError
        They cannot be written.
    """
    from pyddl.train.plots import (
        animate_shown,
        draw_codes,
        draw_curves,
        draw_pictures,
        draw_reconstructions,
        draw_shown,
        first_rows,
    )

    folder = Path(out) / "plots"
    with written(folder):
        folder.mkdir(parents=True, exist_ok=True)
        drawn = [draw_curves(folder / "curves.png", metrics)]
        if source is None:
            return drawn
        if hasattr(model, "reconstruct"):
            drawn.append(draw_reconstructions(folder / "reconstructions.png", model, parameters, buffers, source))
        if getattr(model, "encodes", hasattr(model, "encode")) and (
                source.label_type is not None or _few_codes(model, parameters, buffers, source)):
            drawn.append(draw_codes(folder / "codes.png", model, parameters, buffers, source))
        if hasattr(model, "pictures"):
            pictures = model.pictures(parameters, buffers, first_rows(source))
            drawn += [draw_pictures(folder / f"{name}.png", name, rows, source.image_shape)
                      for name, rows in pictures.items()]
        if (path := Path(out) / SHOWN).exists():
            shown = np.load(path, mmap_mode="r")
            drawn += [draw_shown(folder / "shown.png", shown, source.image_shape),
                      animate_shown(folder / "shown.gif", shown, source.image_shape)]
    return drawn


def _few_codes(model: Any, parameters: np.ndarray, buffers: np.ndarray, source: Source) -> bool:
    """Whether codes are points of a plane."""
    from pyddl.train.plots import first_rows

    return bool(model.encode(parameters, buffers, first_rows(source, 1)).shape[1] <= 2)


def table(summary: dict[str, Any]) -> str:
    """The lines that end a training run."""
    figures = {name: value for name, value in summary.items()
               if name.startswith(("train_", "test_")) and value is not None}
    lines = [(name.replace("_", " "), f"{value:.4f}{NOTES.get(name, '')}") for name, value in figures.items()]
    lines.append(("samples/s", f"{summary['samples_per_second']:,.0f}"))
    if summary["bytes_per_step"]:
        lines.append(("sent per step", f"{summary['bytes_per_step'] / 1e6:.3g} MB per rank"))
    if summary["server"] is not None:
        lines += _served(summary["server"])
    if summary["gflops"] is not None and summary["peak_gflops"]:
        share = summary["gflops"] / summary["peak_gflops"]
        lines.append(
            (
                "share of product peak",
                f"{share:.0%}  ({summary['gflops']:.0f} of {summary['peak_gflops']:.0f} GFLOP/s)",
            )
        )
    auto = summary["auto"] or {}
    if "measured" in auto:
        ratio = auto["measured"] / auto["predicted"]
        lines.append(("ms per step", f"{1e3 * auto['measured']:.3f}, {ratio:.2f} times the "
                                     f"{1e3 * auto['predicted']:.3f} that auto predicted"))
    seconds = sum(summary["time"].values())
    split = ", ".join(f"{part} {summary['time'][part] / seconds:.1%}" for part in PARTS)
    lines.append(("training time", f"{seconds:.1f} s: {split}"))
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)


def _served(books: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What came to the servers, in this session; nothing is dropped in silence."""
    ages = {int(age): times for age, times in books["staleness"].items()}
    lines = []
    if ages:
        mean = sum(age * times for age, times in ages.items()) / books["pushes"]
        lines.append(("pushes", f"{books['pushes']:,}, {mean:.2f} updates old in the mean, {max(ages)} at most"))
    if books["dropped"]:
        lines.append(("dropped", f"{books['dropped']:,} pushes of {books['dropped_samples']:,} rows, which came after "
                                 "the update of their step"))
    return lines
