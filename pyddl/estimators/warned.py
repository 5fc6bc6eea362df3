"""Warnings that name the line of the user's which they are about, however many of pyddl's own lie between."""

from __future__ import annotations

import contextlib
import sys
import warnings
from pathlib import Path

import numpy as np

__all__ = ["warn"]

OURS = (f"{Path(__file__).parents[1]}/", f"{Path(np.__file__).parent}/", contextlib.__file__)


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """As `warnings.warn`, at the caller that is neither pyddl's nor of what decorates its methods."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(OURS):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, category, stacklevel=level)
