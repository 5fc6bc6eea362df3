"""Signs of a training that goes wrong without an error: said when they begin, and at the end where they still stand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pyddl.layout import Layout

__all__ = ["begun", "standing", "too_large"]

LARGE = 1e10  # of a parameter: its products leave float32 in a few layers
FIGURE = re.compile(r"-?\d[\d.]*(e[+-]?\d+)?")


def too_large(parameters: np.ndarray, layout: Layout) -> list[str]:
    """Whether parameters have run away, though they are finite still."""
    largest = max(parameters.max(), -parameters.min()) if parameters.size else 0
    if largest <= LARGE:
        return []
    where = layout.name_at(int(np.abs(parameters).argmax()))
    return [f"parameters reach {largest:.0e}, in {where}: training has diverged, or the data are too large: lower the "
            "learning rate, or scale the data"]


def begun(line: Mapping[str, Any], before: Sequence[Mapping[str, Any]]) -> list[str]:
    """The warnings of an epoch's line that the line ``before`` does not have, whatever their figures."""
    known = {_kind(text) for text in before[-1].get("warnings", ())} if before else set()
    return [text for text in line.get("warnings", ()) if _kind(text) not in known]


def standing(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The warnings of the last line, each with the epoch since which it has stood."""
    found = []
    for text in lines[-1].get("warnings", ()) if lines else ():
        since = lines[-1]["epoch"]
        for line in reversed(lines):
            if _kind(text) not in map(_kind, line.get("warnings", ())):
                break
            since = line["epoch"]
        found.append(f"since epoch {since}: {text}")
    return found


def _kind(text: str) -> str:
    return FIGURE.sub("", text)
