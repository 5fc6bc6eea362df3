"""What brings columns to one scale, and back: numbers that a run keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Scaling"]


@dataclass(frozen=True, eq=False)
class Scaling:
    """What makes scaled rows of plain ones: ``(row - offset) * factor``.

    Parameters
    ----------
    kind : {"minmax", "standard", "pixels"}
    offset, factor : ndarray of shape (features,) or (1,)
        One of all columns where these are the pixels of pictures.
    """

    kind: str
    offset: np.ndarray
    factor: np.ndarray

    @classmethod
    def recorded(cls, record: Mapping[str, Any]) -> Scaling:
        """What `record` gave."""
        return cls(record["kind"], np.asarray(record["offset"], np.float64), np.asarray(record["factor"], np.float64))

    def record(self) -> dict[str, Any]:
        """As plain values, for files."""
        return {"kind": self.kind, "offset": self.offset.tolist(), "factor": self.factor.tolist()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scaling) and self.record() == other.record()

    def reordered(self, order: np.ndarray) -> Scaling:
        """For columns in another order."""
        return self if self.offset.size == 1 else Scaling(self.kind, self.offset[order], self.factor[order])

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """Scale float32 rows in place; minmax and pixels keep to [0, 1] where others than the training rows do not."""
        rows -= self.offset.astype(np.float32)
        rows *= self.factor.astype(np.float32)
        if self.kind != "standard":
            np.clip(rows, 0, 1, out=rows)
        return rows

    def undo(self, rows: np.ndarray) -> np.ndarray:
        """Rows in the data's own units, float32."""
        return (rows / self.factor + self.offset).astype(np.float32)
