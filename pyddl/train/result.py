"""Result: what a training left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from pyddl.comm.cut import Cut
from pyddl.comm.transport import Transport
from pyddl.comm.world import world
from pyddl.layout import Layout
from pyddl.models.protocol import Model, name_of
from pyddl.models.stages import Phase, stages_of

__all__ = ["Result"]

LINES = 3  # of epochs that print, at the beginning and at the end


@dataclass(repr=False)
class Result:
    """What training left: the same on every rank when the strategy keeps replicas equal.

    Where the model was split, each rank has its part, and with ``shard_optimizer`` its share of the optimizer's state:
    see `whole`.

    Attributes
    ----------
    model : Model
    parameters, buffers : ndarray
    metrics : list of dict
        A line per epoch: ``epoch``, ``train_loss``, ``test_loss`` and other scores, ``samples_per_second``,
        ``seconds``.
    summary : dict
        As in ``summary.json``; ``finished`` is None where training was stopped and can be resumed.
    state : dict of ndarray
        Vectors of the optimizers in the last stage, by phase and name: ``all.momentum``. Empty where they are not
        known.
    updates : dict of int
        By phase: updates that this rank has done in the last stage.
    averaged : ndarray, optional
        The parameters with averaged copies in the place of those that have one: what evaluation uses. The parameters
        themselves by default.
    """

    model: Model
    parameters: np.ndarray
    buffers: np.ndarray
    metrics: list[dict[str, Any]]
    summary: dict[str, Any]
    state: Mapping[str, np.ndarray] = field(default_factory=dict)
    updates: Mapping[str, int] = field(default_factory=dict)
    averaged: np.ndarray = field(default=None)  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        if self.averaged is None:
            self.averaged = self.parameters

    def __repr__(self) -> str:
        """A line about the training, and a line for each of its first and last epochs."""
        said = self.summary
        by = f": {said['strategy']} on {said['ranks']} rank{'s' * (said['ranks'] > 1)}" if "strategy" in said else ""
        lines = [f"{name_of(self.model)} of {self.model.layout.count:,} parameters{by}, {len(self.metrics)} "
                 f"epoch{'s' * (len(self.metrics) != 1)}"]
        names = [name for name in (self.metrics[-1] if self.metrics else {}) if name.startswith(("train_", "test_"))]
        names = ["epoch", *names, "samples_per_second"]
        widths = [max(len(name), 8) for name in names]
        for number, line in enumerate([dict(zip(names, names, strict=True)), *self.metrics]):
            if LINES < number <= len(self.metrics) - LINES:
                lines += [f"{'...':>{widths[0]}}"] * (number == LINES + 1)
                continue
            cells = (_cell(line.get(name)) for name in names)
            lines.append("  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip())
        return "\n".join(lines if self.metrics else lines[:1])

    def whole(self) -> Result:
        """The same with the whole model and whole vectors, on every rank: those of the first that hold it together.

        Collective over all ranks of the training, where the model was split or the optimizer's state lay in shares.
        Every rank needs the memory.
        """
        parts = self.summary["split"]
        layout = self.model.layout
        phases = self._phases()
        places = {name: layout.range_of(phases[name.split(".")[0]].groups) for name in self.state}
        if parts == 1 and all(vector.size == end - begin for vector, (begin, end)
                              in zip(self.state.values(), places.values(), strict=True)):
            return self
        transport = world().transport
        if parts == 1:
            return replace(self, state={name: _of_shares(share, *places[name], transport)
                                        for name, share in self.state.items()})
        model = self.model.whole  # type: ignore[attr-defined]

        def of_all(vector: np.ndarray) -> np.ndarray:
            return _joined(model.layout, layout, vector, transport, parts)

        state = {}
        for name, vector in self.state.items():
            begin, end = places[name]
            padded = layout.zeros()
            padded[begin:end] = vector
            begin, end = model.layout.range_of(phases[name.split(".")[0]].groups)
            state[name] = of_all(padded)[begin:end]
        parameters = of_all(self.parameters)
        averaged = parameters if self.averaged is self.parameters else of_all(self.averaged)
        buffers = _joined(model.buffers, self.model.buffers, self.buffers, transport, parts)
        return replace(self, model=model, parameters=parameters, averaged=averaged, buffers=buffers, state=state)

    def cut(self, layout: Layout, buffers: Layout) -> Result:
        """The same with the vectors that belong to a part of the model, of these layouts."""
        mine = self.model
        if mine.layout == layout:
            return self
        state, phases = {}, self._phases()
        for name, vector in self.state.items():
            groups = phases[name.split(".")[0]].groups
            padded = mine.layout.zeros()
            padded[slice(*mine.layout.range_of(groups))] = vector
            state[name] = layout.cut(mine.layout, padded)[slice(*layout.range_of(groups))]
        return replace(self, parameters=layout.cut(mine.layout, self.parameters),
                       averaged=layout.cut(mine.layout, self.averaged),
                       buffers=buffers.cut(mine.buffers, self.buffers), state=state)

    def _phases(self) -> dict[str, Phase]:
        """The phases of the last stage that was trained, by name."""
        return {phase.name: phase for phase in stages_of(self.model)[self.summary.get("stage", -1)].phases}


def _cell(value: Any) -> str:
    """A figure of a line of metrics, for people."""
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else str(value)


def _of_shares(mine: np.ndarray, begin: int, end: int, transport: Transport) -> np.ndarray:
    """The whole vector of [begin, end), of which each rank has a share. Collective."""
    out = np.empty(end - begin, dtype=np.float32)
    cut = Cut(end - begin, transport.size)
    cut.scatter(transport.rank, mine, out)
    cut.broadcast(transport, out)
    return out


def _joined(whole: Layout, part: Layout, vector: np.ndarray, transport: Transport, parts: int) -> np.ndarray:
    """The whole of the vector, of which the first ``parts`` ranks of ``transport`` have a part each. Collective."""
    out = whole.zeros()
    for s in whole:
        width = s.size // max(1, s.shape[0]) if s.shape else 1  # of a part the first axis comes first
        firsts = [0] if part[s.name].of is None else transport.gather_objects(part[s.name].first)[:parts]
        for root, (first, end) in enumerate(pairwise([*firsts, s.shape[0] if s.shape else 1])):
            rows = out[s.begin + first * width : s.begin + end * width]
            if transport.rank == root:
                rows[:] = vector[part[s.name].begin : part[s.name].end]
            transport.broadcast(rows, root)
    return out
