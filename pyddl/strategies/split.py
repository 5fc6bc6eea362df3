"""Model parallelism: all ranks hold one replica together."""

from __future__ import annotations

from pyddl.strategies.allreduce import Allreduce
from pyddl.strategies.figures import Figures

__all__ = ["Split"]


class Split(Allreduce):
    """One worker, whose model is split over all ranks: short for `Allreduce` with option ``split`` = ranks.

    Every rank sees all rows of the batch, and holds some outputs of every layer. P ranks follow one, up to rounding.
    Sent per step and rank, with B rows and layers of O outputs: (P-1)/P B O elements forward and as many back, for each
    layer but the last; nothing for gradients. Two synchronisations for each of these layers. Nothing is ever stale.
    """

    name = "split"
    needs = 2
    one_group = True

    def __init__(self) -> None:
        super().__init__()

    def step_seconds(self, figures: Figures) -> float:
        return figures.split
