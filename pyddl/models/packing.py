"""Packs: rows that a discriminator judges together, and so sees how varied they are.

Source: Lin, Khetan, Fanti, Oh (2018), PacGAN: The power of two samples in generative adversarial networks, NeurIPS.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

__all__ = ["Packs"]


class Packs:
    """The packs of a batch: each so many neighbours, in the batch's order.

    Where they do not divide the rows, the last pack is made of the last rows, of which some are in the pack before it
    as well, and counts for the others only; where there are too few rows for one, it has them again and again. So all
    rows of a batch count alike, and a batch cut between packs, with the rest in the last part, is its parts added up.

    Parameters
    ----------
    rows : int
        Of the batch.
    together : int
        Rows of a pack.

    Attributes
    ----------
    count : int
        Packs.
    weights : ndarray of shape (count,), float32
        For how many rows each counts.
    first : ndarray of shape (count,)
        Places of their first rows.
    """

    def __init__(self, rows: int, together: int):
        self.rows, self.together, self.count = rows, together, -(-rows // together)
        self.weights = np.full(self.count, together, dtype=np.float32)
        self.first = np.arange(0, rows, together)
        if rest := rows % together:
            self.weights[-1] = rest
            self.first[-1] = (rows - together) % rows

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Rows (k n, I) of k such batches over one another -> packs (k count, together I): the same memory where no
        row is in two."""
        shape = (len(rows) // max(self.rows, 1) * self.count, self.together * rows.shape[1])
        if self.rows % self.together == 0:
            return rows.reshape(shape)
        return rows.reshape(-1, self.rows, rows.shape[1])[:, self._places].reshape(shape)

    def back(self, packed: np.ndarray) -> np.ndarray:
        """Slopes with respect to packs (count, together I) -> with respect to their rows (n, I)."""
        features = packed.shape[1] // self.together
        if self.rows % self.together == 0:
            return packed.reshape(self.rows, features)
        out = np.zeros((self.rows, features), dtype=packed.dtype)
        np.add.at(out, self._places, packed.reshape(self.count, self.together, features))
        return out

    def sum(self, values: np.ndarray) -> float:
        """Of a value of each pack, over the rows that it counts for."""
        return float((self.weights * values).sum(dtype=np.float64))

    @cached_property
    def _places(self) -> np.ndarray:
        """Of the rows of each pack."""
        return (self.first[:, None] + np.arange(self.together)) % self.rows
