"""Groups: which ranks train a trial together."""

from __future__ import annotations

from collections.abc import Sequence

from pyddl.errors import ParameterError

__all__ = ["groups_of", "said"]


def groups_of(nodes: Sequence[int], size: int) -> tuple[list[list[int]], list[int]]:
    """Groups of ``size`` ranks, and the ranks that are left over.

    A group is within one node, but those that the nodes' last ranks make up.

    Parameters
    ----------
    nodes : sequence of int
        The node of each rank.
    size : int

    Raises
    ------
    ParameterError
        There are fewer ranks than one group has.

    Examples
    --------
    >>> groups_of([0, 0, 0, 1, 1, 1, 1], 2)
    ([[0, 1], [3, 4], [5, 6]], [2])
    """
    if size > len(nodes):
        count = len(nodes)
        raise ParameterError(f"--ranks-per-trial is {size}, and there {'is' if count == 1 else 'are'} {count} "
                             f"rank{'s' * (count != 1)}: give at most {count}, or start more (--ranks {size})")
    groups, left = [], []
    for node in sorted(set(nodes)):
        here = [rank for rank, where in enumerate(nodes) if where == node]
        whole = len(here) // size * size
        groups += [here[first : first + size] for first in range(0, whole, size)]
        left += here[whole:]
    whole = len(left) // size * size
    groups += [left[first : first + size] for first in range(0, whole, size)]
    return sorted(groups), left[whole:]


def said(count: int, size: int) -> str:
    """So many groups of that size, in words."""
    return f"{count} group{'s' * (count != 1)} of {size} rank{'s' * (size != 1)}"
