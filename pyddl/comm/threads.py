"""How many threads a rank may use."""

from __future__ import annotations

import os

from pyddl.errors import ParameterError

__all__ = ["default_threads"]


def default_threads(node_size: int) -> int:
    """``OMP_NUM_THREADS`` where it is set; else this rank's fair share of the cores it may run on.

    Parameters
    ----------
    node_size : int
        Ranks on this node. A rank bound to cores of its own uses these; ranks that share a mask divide it.
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if wanted:
        if not wanted.isdigit() or int(wanted) < 1:
            raise ParameterError(f"OMP_NUM_THREADS is {wanted!r}; expected a whole number, at least 1")
        return int(wanted)
    mine = len(os.sched_getaffinity(0))
    bound = mine * node_size <= (os.cpu_count() or mine)
    return mine if bound else max(1, mine // node_size)
