"""Model group: the ranks that hold one copy of a model together, each some columns of every layer's outputs.

Letters: K ranks of the group, B rows of the batch, N columns of a layer in all; rank k has columns
[cuts[k], cuts[k + 1]).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from pyddl.comm.shared import SharedTransport
from pyddl.errors import CommError

if TYPE_CHECKING:
    from pyddl.comm.transport import Transport
    from pyddl.comm.world import World

__all__ = ["ModelGroup", "model_group"]

NOTHING = np.empty(0, dtype=np.float32)


def model_group(here: World, transport: Transport | None = None) -> ModelGroup:
    """The ranks of ``here`` as a model group: over shared memory on one node, else by messages.

    ``transport`` is what carries the small things: that world's own by default.
    """
    shared = here.transport
    transport = transport or shared
    if here.nodes == 1 and isinstance(shared, SharedTransport):
        return SharedModelGroup(here, transport, shared)
    return ModelGroup(here, transport)


class ModelGroup:
    """What the parts of a split model ask of one another, carried by messages. Collective, all of it.

    Blocks are packed, travel in one MPI call, and are unpacked; waiting in that call counts as communication.

    Attributes
    ----------
    rank, size : int
        Within the group.
    transport : Transport
        Of the group, for whatever else its ranks have to say to each other.
    """

    def __init__(self, here: World, transport: Transport):
        self.rank, self.size = here.rank, here.size
        self._mpi, self.transport = here.mpi, transport
        self._moving_seconds = 0.0
        self._bytes_sent = 0
        self._room = self._packed = self._received = NOTHING

    @property
    def wait_seconds(self) -> float:
        """As in `pyddl.comm.transport.Transport`."""
        return self.transport.wait_seconds

    @property
    def communication_seconds(self) -> float:
        return self._moving_seconds + self.transport.communication_seconds

    @property
    def seconds(self) -> float:
        """Both together."""
        return self.wait_seconds + self.communication_seconds

    @property
    def bytes_sent(self) -> int:
        return self._bytes_sent + self.transport.bytes_sent

    def room(self, rows: int, columns: int) -> np.ndarray:
        """Memory (rows, columns) for what `sum_columns` takes, lost with the next operation. Equal on all ranks."""
        self._room = _at_least(rows * columns, self._room)
        return self._room[: rows * columns].reshape(rows, columns)

    def gather_columns(self, block: np.ndarray, cuts: Sequence[int], out: np.ndarray) -> None:
        """``out`` (B, N) becomes the ``block`` (B, columns of that rank) of each rank, side by side.

        Sent per rank: its block, to K - 1 others.
        """
        self.transport.compare("gather of columns", out)
        self._bytes_sent += (self.size - 1) * block.nbytes
        self._gather(block, cuts, out)

    def sum_columns(self, whole: np.ndarray, cuts: Sequence[int], out: np.ndarray) -> None:
        """``out`` (B, columns of this rank) becomes the sum of these columns of ``whole`` (B, N) of all ranks.

        ``whole`` is from `room`. Ranks are added in their order. Sent per rank: the columns of others.
        """
        self.transport.compare("sum of columns", whole)
        self._bytes_sent += whole.nbytes - out.nbytes
        self._sum(whole, cuts, out)

    def total(self, value: float) -> float:
        """The sum of one number of each rank: the same bits on all."""
        return float(sum(each[0] for each in self.transport.gather(np.array([value]))))

    def any(self, flag: bool) -> bool:
        """Whether any rank says so."""
        return self.transport.sum(NOTHING, int(flag)) > 0

    def _gather(self, block: np.ndarray, cuts: Sequence[int], out: np.ndarray) -> None:
        began = perf_counter()
        self._received = _at_least(out.size, self._received)
        places, counts, starts = _places(cuts, len(out))
        self._call("Allgatherv", [block, _float()], [self._received, counts, starts, _float()])
        for place, (begin, end) in zip(places, pairwise(cuts), strict=True):
            out[:, begin:end] = self._received[place].reshape(len(out), end - begin)
        self._moving_seconds += perf_counter() - began

    def _sum(self, whole: np.ndarray, cuts: Sequence[int], out: np.ndarray) -> None:
        began = perf_counter()
        self._packed = _at_least(whole.size, self._packed)
        self._received = _at_least(self.size * out.size, self._received)
        places, counts, starts = _places(cuts, len(whole))
        for place, (begin, end) in zip(places, pairwise(cuts), strict=True):
            self._packed[place].reshape(len(whole), end - begin)[...] = whole[:, begin:end]
        mine = out.size * np.arange(self.size + 1)
        self._call("Alltoallv", [self._packed, counts, starts, _float()],
                   [self._received, np.diff(mine), mine[:-1], _float()])
        _add([self._received[begin : begin + out.size].reshape(out.shape) for begin in mine[:-1]], out)
        self._moving_seconds += perf_counter() - began

    def _call(self, name: str, *arguments: Any) -> None:
        from mpi4py import MPI

        try:
            getattr(self._mpi, name)(*arguments)
        except MPI.Exception as error:
            raise CommError(f"MPI_{name} failed between the {self.size} ranks of a model group: {error}") from None


class SharedModelGroup(ModelGroup):
    """On one node: each rank writes into memory that the others read; by messages where there is no room for it.

    The memory of each rank has two halves that take turns. An operation is: write into this turn's half, meet, read
    the others' halves. One meeting is enough: whoever writes into a half again has met its readers a turn before.
    """

    def __init__(self, here: World, transport: Transport, shared: SharedTransport):
        super().__init__(here, transport)
        self._shared = shared
        self._vectors: list[np.ndarray] | None = []  # of all ranks; None: refused
        self._half = -1  # elements of one
        self._turn = 0

    def room(self, rows: int, columns: int) -> np.ndarray:
        return self._of(self.rank, rows, columns) if self._reserve(rows * columns) else super().room(rows, columns)

    def _gather(self, block: np.ndarray, cuts: Sequence[int], out: np.ndarray) -> None:
        if not self._reserve(out.size):
            super()._gather(block, cuts, out)
            return
        began = perf_counter()
        self._of(self.rank, *block.shape)[...] = block
        self._moving_seconds += perf_counter() - began
        self.transport.barrier()
        began = perf_counter()
        for rank, (begin, end) in enumerate(pairwise(cuts)):
            out[:, begin:end] = self._of(rank, len(out), end - begin)
        self._turn ^= 1
        self._moving_seconds += perf_counter() - began

    def _sum(self, whole: np.ndarray, cuts: Sequence[int], out: np.ndarray) -> None:
        if not self._reserve(whole.size):
            super()._sum(whole, cuts, out)
            return
        self.transport.barrier()
        began = perf_counter()
        mine = slice(cuts[self.rank], cuts[self.rank + 1])
        _add([self._of(rank, *whole.shape)[:, mine] for rank in range(self.size)], out)
        self._turn ^= 1
        self._moving_seconds += perf_counter() - began

    def _reserve(self, wanted: int) -> bool:
        """Have halves of so many elements, equally many on all ranks; false where shared memory was refused."""
        if self._vectors is not None and wanted > self._half:
            self._vectors = self._shared.allocate_in_sight(max(1, 2 * wanted), "layers of a split model")
            self._half = wanted
        return self._vectors is not None

    def _of(self, rank: int, rows: int, columns: int) -> np.ndarray:
        """What a rank has in this turn's half."""
        assert self._vectors is not None
        begin = self._turn * self._half
        return self._vectors[rank][begin : begin + rows * columns].reshape(rows, columns)


def _add(parts: Sequence[np.ndarray], out: np.ndarray) -> None:
    """``out`` becomes the sum of two or more parts, in their order."""
    np.add(parts[0], parts[1], out=out)
    for part in parts[2:]:
        out += part


def _places(cuts: Sequence[int], rows: int) -> tuple[list[slice], np.ndarray, np.ndarray]:
    """Where the block of each rank lies in a packed vector: as slices, and as counts and starts for MPI."""
    bounds = rows * np.asarray(cuts)
    places = [slice(begin, end) for begin, end in pairwise(bounds)]
    return places, np.diff(bounds), bounds[:-1]


def _at_least(size: int, vector: np.ndarray) -> np.ndarray:
    return vector if vector.size >= size else np.empty(size, dtype=np.float32)


def _float() -> Any:
    from mpi4py import MPI

    return MPI.FLOAT
