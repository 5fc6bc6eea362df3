"""Pictures of a search: its trials in their order, what each parameter does, and how trials learned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyddl.train.canvas import own_settings, subplots
from pyddl.tune.parameter import Parameter
from pyddl.tune.search import Search
from pyddl.tune.study import Importances
from pyddl.tune.table import best_first, said

__all__ = ["draw_curves", "draw_importances", "draw_parameters", "draw_trials"]

Rows = Sequence[Mapping[str, Any]]

LOOKS = {"complete": {"marker": "o", "facecolors": "tab:blue", "edgecolors": "none", "s": 18},
         "pruned": {"marker": "o", "facecolors": "none", "edgecolors": "0.55", "linewidths": 0.8, "s": 14},
         "failed": {"marker": "x", "c": "tab:red", "linewidths": 1.0, "s": 18}}
"""Of the trials by their states, as ``scatter`` takes it."""
COLUMNS = 4  # of panels
WIDE = 10.0  # largest value through smallest, from which on an axis is logarithmic
EDGE = 0.03  # share of an axis beyond its values
FAR = 3.0  # times the distance of the quartiles beyond them: values farther away do not stretch an axis


@own_settings
def draw_trials(path: Path, rows: Rows, search: Search, goal: str) -> Path:
    """The value of each trial over its number, its state as its mark, and the best so far as a line.

    Parameters
    ----------
    rows : sequence of mapping
        As of `Study.rows`.
    goal : str
        Name of the values.
    """
    figure, ((axis,),) = subplots(1, 1, (7, 3.6))
    span = _span(_values(rows), search)
    _scatter(axis, rows, {row["number"]: row["number"] for row in rows}, span)
    complete = [row for row in rows if row["state"] == "complete"]
    if complete:
        best = (np.minimum if search.direction == "minimize" else np.maximum).accumulate(
            [row["value"] for row in complete])
        numbers = [row["number"] for row in complete]
        axis.step([*numbers, len(rows) - 1], [*best, best[-1]], where="post", linewidth=1, color="tab:blue",
                  label="best so far")
    _scale(axis, span, goal)
    axis.set_xlabel("trial")
    axis.set_xlim(-0.5 - EDGE * len(rows), len(rows) - 0.5 + EDGE * len(rows))
    axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    if axis.get_legend_handles_labels()[0]:  # where all is under way there is none
        axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=120)
    return path


@own_settings
def draw_parameters(path: Path, rows: Rows, parameters: Sequence[Parameter], importances: Importances | None,
                    search: Search, goal: str) -> Path:
    """A panel for each parameter, with the value of each trial that had it over the parameter's; choices are strips."""
    lines = -(-len(parameters) // COLUMNS)
    columns, span = min(COLUMNS, len(parameters)), _span(_values(rows), search)
    figure, axes = subplots(lines, columns, (2.7 * columns + 0.4, 2.6 * lines), sharey=True)
    for axis in axes.ravel()[len(parameters) :]:
        axis.set_axis_off()
    for axis, parameter in zip(axes.ravel(), parameters, strict=False):
        having = [row for row in rows if parameter.name in row["given"]]
        if parameter.kind == "choice":
            places = {row["number"]: parameter.choices.index(row["given"][parameter.name]) + _beside(row["number"])
                      for row in having}
            axis.set_xticks(range(len(parameter.choices)), [said(choice) for choice in parameter.choices],
                            rotation=30 if max(len(said(choice)) for choice in parameter.choices) > 8 else 0)
            axis.set_xlim(-0.5, len(parameter.choices) - 0.5)
        else:
            places = {row["number"]: row["given"][parameter.name] for row in having}
            if parameter.log:
                _logarithmic(axis, "x", parameter.low, parameter.high)
                edge = (parameter.high / parameter.low) ** EDGE
                axis.set_xlim(parameter.low / edge, parameter.high * edge)
            else:
                edge = (parameter.high - parameter.low) * EDGE
                axis.set_xlim(parameter.low - edge, parameter.high + edge)
        _scatter(axis, having, places, span)
        share = "" if importances is None else f"  {importances.shares.get(parameter.name, 0):.0%}"
        axis.set_title(f"{parameter.name}{share}", fontsize=9)
        axis.tick_params(labelsize=7)
    handles = {text: handle for axis in axes.ravel() for handle, text in zip(*axis.get_legend_handles_labels(),
                                                                             strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), fontsize=8,
                  title=None if importances is None else f"shares: importance, {importances}", title_fontsize=8)
    for line in axes:
        _scale(line[0], span, goal)
    figure.savefig(path, dpi=120)
    return path


@own_settings
def draw_importances(path: Path, importances: Importances) -> Path:
    """The parameters' shares of what tells a good quarter of the trials from all, as bars, the largest on top."""
    names = list(importances.shares)
    figure, ((axis,),) = subplots(1, 1, (5, 0.32 * len(names) + 1))
    axis.barh(range(len(names)), list(importances.shares.values()), height=0.6)
    for place, share in enumerate(importances.shares.values()):
        axis.text(share, place, f" {share:.0%}", va="center", fontsize=8)
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, max(importances.shares.values()) * 1.15)
    axis.set_xlabel(f"importance (PED-ANOVA), {importances}", fontsize=8)
    axis.tick_params(axis="x", labelsize=7)
    figure.savefig(path, dpi=120)
    return path


@own_settings
def draw_curves(path: Path, rows: Rows, curves: Mapping[int, Sequence[tuple[int, float]]], search: Search,
                goal: str) -> Path:
    """The value of every trial after each of its epochs, the three best ones in colour.

    Parameters
    ----------
    curves : mapping
        By trial pairs of epoch and value.
    """
    figure, ((axis,),) = subplots(1, 1, (6, 3.6))
    best = [row["number"] for row in best_first(rows, search.direction)][:3]
    place = {number: -rank for rank, number in enumerate(best)}  # later is above
    for number, curve in sorted(curves.items(), key=lambda each: place.get(each[0], -len(best))):
        look: dict[str, Any] = {"color": "0.75", "linewidth": 0.7, "marker": "." if len(curve) == 1 else "",
                                "markersize": 3}
        if number in best:
            look = {"color": f"C{best.index(number)}", "linewidth": 1.5, "marker": ".", "label": f"trial {number}"}
        axis.plot(*zip(*curve, strict=True), **look)
    span = _span([value for curve in curves.values() for _, value in curve], search)
    beyond = sum(any(not span.holds(value) for _, value in curve) for curve in curves.values())
    if beyond:
        axis.plot([], [], linestyle="", label=f"{beyond} leave the picture")
    _scale(axis, span, goal)
    axis.set_xlabel("epoch")
    axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axis.grid(alpha=0.3)
    handles, texts = axis.get_legend_handles_labels()
    if handles:
        axis.legend(handles[::-1], texts[::-1], fontsize=8)
    figure.savefig(path, dpi=120)
    return path


@dataclass(frozen=True)
class _Span:
    """Values from ``low`` to ``high``; how many others are left out ``below`` and ``above``."""

    low: float
    high: float
    below: int = 0
    above: int = 0

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


def _span(values: Sequence[float], search: Search) -> _Span:
    """What an axis shows of these values: not the worst, where a few would squeeze all others."""
    if not values:
        return _Span(-math.inf, math.inf)
    low, high = min(values), max(values)
    quarter, three = np.percentile(values, (25, 75))
    far = FAR * float(three - quarter)
    if far > 0 and search.direction == "minimize" and high - low > 2 * (three + far - low):
        within = [value for value in values if value <= three + far]
        return _Span(low, max(within), above=len(values) - len(within))
    if far > 0 and search.direction == "maximize" and high - low > 2 * (high - quarter + far):
        within = [value for value in values if value >= quarter - far]
        return _Span(min(within), high, below=len(values) - len(within))
    return _Span(low, high)


def _scatter(axis: Any, rows: Rows, places: Mapping[int, Any], span: _Span) -> None:
    """Trials at these places by their values; those that failed at the upper edge, as their values say nothing, and at
    an edge those beyond the axis."""
    edge = axis.get_xaxis_transform()
    for state, look in LOOKS.items():
        here = [row for row in rows if row["state"] == state and (row["value"] is not None or state == "failed")]
        if here:
            across = [places[row["number"]] for row in here]
            if state == "failed":
                axis.scatter(across, [1 - EDGE] * len(here), transform=edge, label=state, **look)
            else:
                axis.scatter(across, [row["value"] for row in here], label=state, **look)
    beyond = [places[row["number"]] for row in rows
              if row["state"] in ("complete", "pruned") and row["value"] is not None and not span.holds(row["value"])]
    if beyond:
        axis.scatter(beyond, [EDGE if span.below else 1 - EDGE] * len(beyond), transform=edge,
                     label=f"{span.below + span.above} beyond", marker="v" if span.below else "^", c="0.55", s=18)
    axis.grid(alpha=0.3)


def _values(rows: Rows) -> list[float]:
    return [row["value"] for row in rows if row["state"] in ("complete", "pruned") and row["value"] is not None]


def _scale(axis: Any, span: _Span, goal: str) -> None:
    """An axis of values, logarithmic where they are far apart."""
    low, high = span.low, span.high
    logarithmic = math.isfinite(low) and low > 0 and high > WIDE * low
    if logarithmic:
        _logarithmic(axis, "y", low, high)
    if span.below or span.above:
        edge = 2 * EDGE
        axis.set_ylim((low / (high / low) ** edge, high * (high / low) ** edge) if logarithmic else
                      (low - (high - low) * edge, high + (high - low) * edge))
    axis.set_ylabel(goal.replace("_", " "), fontsize=9)


def _logarithmic(axis: Any, which: str, low: float, high: float) -> None:
    """A logarithmic axis, for values from low to high, with plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set(**{f"{which}scale": "log"})
    ruler = getattr(axis, f"{which}axis")
    ruler.set_major_locator(LogLocator(subs=(1,) if high > 100 * low else (1, 2, 5)))
    ruler.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ruler.set_minor_formatter(NullFormatter())


def _beside(number: int) -> float:
    """Where a trial stands within its strip: the same in every picture."""
    return float(number * 0.381966 % 1 - 0.5) * 0.5
