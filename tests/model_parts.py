"""The parts of a split model, each in a thread of its own."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np


class Table:
    """Where threads lay down what the others read."""

    def __init__(self, parts):
        self.barrier = threading.Barrier(parts, timeout=100)
        self.laid = [None] * parts


class InThreads:
    """A model group whose ranks are threads."""

    def __init__(self, table, part):
        self.table, self.part = table, part
        self.values = 0  # sent

    def room(self, rows, columns):
        return np.full((rows, columns), np.nan, np.float32)

    def gather_columns(self, block, cuts, out):
        self.values += block.size
        out[:] = np.hstack(self._all(block))

    def sum_columns(self, whole, cuts, out):
        self.values += whole.size - out.size
        out[:] = sum(self._all(whole))[:, cuts[self.part] : cuts[self.part + 1]]

    def _all(self, mine):
        self.table.laid[self.part] = mine.copy()
        self.table.barrier.wait()
        everyone = list(self.table.laid)
        self.table.barrier.wait()
        return everyone


def together(parts, work):
    """``work(part, group)`` on all parts at once; their results."""
    table = Table(parts)
    groups = [InThreads(table, part) for part in range(parts)]
    with ThreadPoolExecutor(parts) as pool:
        return list(pool.map(work, range(parts), groups))
