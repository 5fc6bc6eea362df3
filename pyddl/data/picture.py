"""Picture: what the shape of a row says of height, width and channels, and in which order its values lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pyddl import _check
from pyddl.errors import ShapeError

__all__ = ["Picture"]


class Picture(NamedTuple):
    """Rows that are pictures.

    Attributes
    ----------
    height, width, channels : int
    planes : bool
        A row is one plane after another, as in the files of CIFAR-10; else the channels of a place are next to each
        other.
    """

    height: int
    width: int
    channels: int = 1
    planes: bool = False

    @classmethod
    def of(cls, shape: Sequence[int], name: str = "image_shape") -> Picture:
        """From the shape of one row: (height, width), or three numbers of which the channels are first or last.

        The smaller of the first and the last is taken for the channels: (3, 32, 32) has planes, (32, 32, 3) has not.

        Raises
        ------
        ShapeError
            The shape has another number of axes.
        """
        sizes = _check.integers(name, shape, at_least=1)
        if len(sizes) == 2:
            return cls(*sizes)
        if len(sizes) != 3:
            raise ShapeError(f"{name} is {sizes}; expected (height, width), (height, width, channels) or (channels, "
                             "height, width)")
        if sizes[0] < sizes[2]:
            return cls(sizes[1], sizes[2], sizes[0], planes=sizes[0] > 1)
        return cls(*sizes)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.height, self.width, self.channels

    @property
    def size(self) -> int:
        """Values of a row."""
        return self.height * self.width * self.channels
