"""The served model and its replicas: how updates are applied, and how the model travels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

from pyddl.callbacks import arrays
from pyddl.callbacks.link import Packed
from pyddl.callbacks.messages import ModelSent
from pyddl.callbacks.units import Unit
from pyddl.errors import ParameterError, ShapeError

__all__ = ["Descent", "Gradient", "Replica", "Report", "Served"]

Gradient = Callable[[Any, Any], Any]
Descent = Callable[[Any, Any], Any]


@dataclass
class Report:
    """What a training did. The same on every rank.

    Attributes
    ----------
    updates : int
        Calls of ``descent``. Empty updates are not among them.
    items : int
        Items whose updates were applied, all epochs together; empty updates count too.
    seconds : float
        From the first work handed out to the last update applied.
    descent_seconds : float
        Time in ``descent``: where it nears ``seconds``, the server is what all wait for.
    by_worker : dict of int to int
        Updates of each worker's rank, empty ones included.
    staleness : dict of int to int
        How many updates were applied to a model that was so many updates newer than the one they were computed from.
    lost : list of int
        Ranks of workers that died on the way.
    """

    updates: int = 0
    items: int = 0
    seconds: float = 0.0
    descent_seconds: float = 0.0
    by_worker: dict[int, int] = field(default_factory=dict)
    staleness: dict[int, int] = field(default_factory=dict)
    lost: list[int] = field(default_factory=list)

    @property
    def items_per_second(self) -> float:
        return self.items / self.seconds if self.seconds else 0.0


class Served:
    """The model that rank 0 serves.

    Attributes
    ----------
    model : object
    version : int
        Updates applied so far.
    report : Report
        Of this training.
    """

    def __init__(self, model: Any, parameters: Callable[[Any], Any] | None, version: int, workers: Iterable[int]):
        self.model, self.version = model, version
        self.parameters = parameters
        self._packed: Packed | None = None  # of this version
        self.report = Report(by_worker=dict.fromkeys(workers, 0))

    def apply(self, descent: Descent, worker: int, unit: Unit, version: int, update: Any) -> None:
        """Call ``descent`` with an update that ``worker`` computed from ``version``."""
        self.report.items += len(unit)
        self.report.by_worker[worker] += 1
        if arrays.is_empty(update):
            return
        begin = perf_counter()
        self._packed = None
        try:
            descent(self.model, update)
        except Exception as error:
            if hasattr(error, "add_note"):  # Python 3.11
                error.add_note(f"in descent, with the update of rank {worker} for {unit}, {arrays.described(update)}")
            raise
        self.report.descent_seconds += perf_counter() - begin
        stale = self.version - version
        self.report.staleness[stale] = self.report.staleness.get(stale, 0) + 1
        self.report.updates += 1
        self.version += 1

    def packed(self) -> Packed:
        """The model as it is now; a copy, so that it may change while it is being sent."""
        if self._packed is None:
            content = self.model
            if self.parameters is not None:
                content = arrays.named_parameters(self.parameters(self.model))
            try:
                self._packed = Packed(ModelSent(self.version, content), copy=True)
            except Exception as error:
                raise ParameterError(f"the model, of type {type(self.model).__name__}, cannot be sent to the workers: "
                                     f"{error}; name the arrays that change by parameters=lambda model: ...") from error
        return self._packed


    def copy(self) -> Any:
        """For a replica in this process: of a model whose arrays alone travel, a copy to move them in; else None."""
        return None if self.parameters is None else Packed(self.model).unpack()


class Replica:
    """A worker's model.

    Attributes
    ----------
    model : object
        What ``gradient`` gets. Replaced at each `move` where no ``parameters`` are named.
    version : int
        -1 before the first.
    """

    def __init__(self, model: Any, parameters: Callable[[Any], Any] | None, rank: int):
        self.model, self.version = model, -1
        self._parameters, self._rank = parameters, rank

    def move(self, sent: ModelSent) -> None:
        """Become the version that the server has sent."""
        self.version = sent.version
        if self._parameters is None:
            self.model = sent.content
            return
        mine = arrays.named_parameters(self._parameters(self.model))
        self._require_same(mine, sent.content)
        for name, array in sent.content.items():
            np.copyto(mine[name], array)

    def _require_same(self, mine: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
        for name in mine.keys() | theirs.keys():
            here, there = (arrays.described(one.get(name)) if name in one else "not there" for one in (mine, theirs))
            if here != there:
                what = arrays.label("parameters(model)", name)
                raise ShapeError(f"{what} is {here} on rank {self._rank}, but {there} on rank 0, the server; make the "
                                 "same model on every rank")

    def update(self, gradient: Gradient, items: Any, unit: Unit) -> Any:
        """What ``gradient`` says about the items, checked."""
        update = gradient(self.model, items)
        whose = f"rank {self._rank}, {unit}: update"
        if update is None:
            raise ParameterError(f"{whose} is None; expected what gradient computed, or {{}} where there is nothing to "
                                 "apply: does gradient end with a return?")
        if self._parameters is not None:
            arrays.require_fit(update, arrays.named_parameters(self._parameters(self.model)), whose)
        arrays.require_finite(update, whose)
        return update
