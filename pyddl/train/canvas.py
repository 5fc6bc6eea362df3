"""What pictures are drawn on; needs matplotlib, which is imported only here and by what draws."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec

__all__ = ["own_settings", "subplots"]

P = ParamSpec("P")


def own_settings(draw: Callable[P, Path]) -> Callable[P, Path]:
    """Let a function draw as everywhere, whatever a matplotlibrc or a notebook asks for, and change nothing there."""
    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Path:
        matplotlib = _matplotlib()
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            return draw(*args, **kwargs)

    return drawn


def _matplotlib() -> Any:
    """The module. Its import fails where MPLBACKEND names what is not there: that of a notebook, say."""
    wanted = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if wanted is not None:
            os.environ["MPLBACKEND"] = wanted
    return matplotlib


def subplots(lines: int, columns: int, size: tuple[float, float], **more: Any) -> tuple[Any, Any]:
    """A figure of so many inches that is on no display, and its axes (lines, columns)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(lines, columns, squeeze=False, **more)
