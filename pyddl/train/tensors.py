"""Safetensors files of what lies in parts on several ranks: they hold whole tensors, but no rank ever holds all.

The format: the header's length in bytes, as a little-endian 64-bit number; the header, a JSON object that gives each
tensor's type, shape and place; the values, in row-major order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyddl.comm.model_group import ModelGroup
from pyddl.errors import DataError
from pyddl.layout import Slice

if TYPE_CHECKING:
    from pyddl.train.replica import Replica

__all__ = ["Gathered", "Parts", "write_parts"]

BLOCK = 1 << 20  # values that travel at once


def write_parts(path: Path, tensors: Mapping[str, np.ndarray], slices: Mapping[str, Slice],
                group: ModelGroup | None, metadata: Mapping[str, str]) -> None:
    """Write whole tensors, of which each rank of ``group`` has its ``slices``; the first rank writes. Collective.

    What is in no rank's part alone (`Slice.of` is None) is taken from the first rank. With no group this rank has all.

    Parameters
    ----------
    path : Path
        Only of concern to the first rank.
    tensors : mapping of ndarray, float32
        Equal names, in equal order, on all ranks. Each is asked for once, in this order.
    """
    own, ranks = (0, 1) if group is None else (group.rank, group.size)
    writes = own == 0
    header, at = {"__metadata__": dict(metadata)}, 0
    for name, s in slices.items():
        size = 4 * int(np.prod(s.whole_shape))
        header[name] = {"dtype": "F32", "shape": s.whole_shape, "data_offsets": (at, at + size)}  # type: ignore[dict-item]
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    size_of = [int(np.prod(s.shape)) for s in slices.values()]
    sizes = [size_of] if group is None else group.transport.gather_objects(size_of)
    buffer = np.empty(BLOCK, dtype=np.float32)
    with open(path if writes else "/dev/null", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for number, (name, view) in enumerate(tensors.items()):
            for rank in range(ranks if slices[name].of is not None else 1):
                for begin in range(0, sizes[rank][number], BLOCK):
                    block = buffer[: min(BLOCK, sizes[rank][number] - begin)]
                    if rank == own:
                        block[:] = view.reshape(-1)[begin : begin + len(block)]
                    if rank > 0 and group is not None:
                        group.transport.broadcast(block, rank)
                    file.write(block)  # type: ignore[arg-type]


class Gathered(Mapping[str, np.ndarray]):
    """The tensors of a replica whose optimizer state lies in shares on all ranks, one vector at a time.

    A vector is gathered when its first tensor is asked for, in the memory of the gradients, which are used up between
    two steps; so each tensor is good until one of the next vector is asked for. Collective: all ranks must ask for
    all of them in their order.

    Parameters
    ----------
    replica : Replica
    gather : callable
        Completes a vector that has this rank's share.
    """

    def __init__(self, replica: Replica, gather: Callable[[np.ndarray], None]):
        self._replica, self._gather = replica, gather
        spare = replica.whole_gradients
        self._views = replica.tensors({f"{phase.name}.{name}": spare[phase.place] for phase in replica.phases
                                       for name in phase.names})
        self._waiting = {f"phase.{phase.name}.{name}": (vector, spare[phase.place], phase.share)
                         for phase in replica.phases for name, vector in zip(phase.names, phase.state, strict=True)}

    def __getitem__(self, name: str) -> np.ndarray:
        waiting = self._waiting.pop(".".join(name.split(".")[:3]), None)
        if waiting is not None:
            mine, whole, share = waiting
            whole[share] = mine
            self._gather(whole)
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)


class Parts(Mapping[str, np.ndarray]):
    """This rank's parts of the tensors in a file, each read when it is asked for.

    Raises
    ------
    DataError
        When a tensor has another shape than the one that the slice is a part of.
    """

    def __init__(self, path: Path, slices: Mapping[str, Slice]):
        from safetensors import safe_open

        self._file, self._slices = safe_open(path, framework="numpy"), slices
        self._names = set(self._file.keys())

    def __getitem__(self, name: str) -> np.ndarray:
        s = self._slices[name]
        if name not in self._names:
            raise KeyError(name)
        if not s.shape:
            return self._file.get_tensor(name)
        tensor = self._file.get_slice(name)
        if tuple(tensor.get_shape()) != s.whole_shape:
            raise DataError(f"the checkpoint is of another model: {name} should have shape {s.whole_shape}; found "
                            f"shape {tuple(tensor.get_shape())}")
        return tensor[s.first : s.first + s.shape[0]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
