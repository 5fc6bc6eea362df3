"""Division of the ranks into workers: each rank is one, or adjacent ranks that hold one replica together are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pyddl.comm.model_group import ModelGroup, model_group
from pyddl.comm.transport import Transport
from pyddl.comm.world import World, part
from pyddl.errors import ParameterError
from pyddl.models.protocol import Model, name_of
from pyddl.strategies import Strategy

__all__ = ["Division"]


class Division:
    """Which worker this rank belongs to, and which part of its model it holds.

    The strategy works among the ranks that hold the same part: its vectors are of that part, and it sees as many
    workers as there are groups. So every strategy goes with a split model.

    Parameters
    ----------
    here : World
    model : Model
        The whole one.
    strategy : Strategy
    options : dict
        Of training.

    Attributes
    ----------
    parts, part : int
        Ranks of a worker, and this rank's number among them.
    count, number : int
        Workers, and this rank's.
    model : Model
        What this rank holds of it.
    lane : World
        The ranks that hold the same part, in the order of their workers. Set by `connected`.
    group : ModelGroup or None
        The ranks of this worker, where there are several. Set by `connected`.

    Raises
    ------
    ParameterError
        The ranks, the model or the strategy cannot be divided like this. Not collective.
    """

    lane: World

    def __init__(self, here: World, model: Model, strategy: Strategy, options: Mapping[str, Any]):
        self._here = here
        self.parts = _parts(here.size, strategy, options)
        self.part = here.rank % self.parts
        self.count, self.number = here.size // self.parts, here.rank // self.parts
        self.group: ModelGroup | None = None
        self.model = model
        if self.parts > 1:
            _check(self.count, self.parts, strategy, options)
            if not hasattr(model, "split"):
                raise ParameterError(f"{type(model).__name__} cannot be split: it has no method split(part, parts); "
                                     "give it one, as pyddl.models.Model describes, or leave out split")
            self.model = model.split(self.part, self.parts)
            if not any(s.of is not None for s in self.model.layout):
                raise ParameterError(f"split is {self.parts}, and no layer of this {name_of(model)} can be cut: "
                                     "only dense layers can, and every rank would compute all others whole; leave out "
                                     "split")

    @contextmanager
    def connected(self, transport: Transport, checked: Callable[[Transport], Transport]) -> Iterator[Transport]:
        """Within the block the ranks of a lane and of a group can speak to each other. Collective over all ranks.

        Yields what carries vectors between workers: ``transport``, that of all ranks, where each rank is a worker.
        Other transports are passed through ``checked``.
        """
        self.lane = self._here
        if self.parts == 1:
            yield transport
            return
        with part(self._here, self.part) as self.lane, part(self._here, self.number) as together:
            self.group = model_group(together, checked(together.transport))
            yield checked(self.lane.transport)


def _parts(ranks: int, strategy: Strategy, options: Mapping[str, Any]) -> int:
    """Ranks of a worker."""
    split: int = options["split"]
    if strategy.one_group:
        strategy.check(ranks, options["batch_size"])
        if split not in (1, ranks):
            raise ParameterError(f"strategy {strategy.name} splits the model over all ranks, which are {ranks}, but "
                                 f"split is {split}: leave it out, or choose strategy allreduce")
        return ranks
    if split > ranks:
        raise ParameterError(f"split is {split}, the ranks that hold one copy of the model together, and there "
                             f"{'is' if ranks == 1 else 'are'} {ranks}: start {split} ranks, or leave out split")
    if ranks % split:
        divisors = ", ".join(str(k) for k in range(1, ranks + 1) if ranks % k == 0)
        raise ParameterError(f"split is {split}, which does not divide the {ranks} ranks into groups: give one of "
                             f"{divisors}, or start {ranks + split - ranks % split} ranks")
    return split


def _check(workers: int, parts: int, strategy: Strategy, options: Mapping[str, Any]) -> None:
    """Raise `ParameterError` where a split model cannot be trained like this."""
    if not strategy.splits or strategy.servers:
        alike = ("allreduce has the results of server in mode sync" if strategy.servers else
                 "averaging with period 1 has the results of sequential")
        raise ParameterError(f"strategy {strategy.name} cannot train a split model: leave out split, or choose another "
                             f"strategy ({alike})")
    if not strategy.one_group and workers < strategy.needs:
        raise ParameterError(f"strategy {strategy.name} needs {strategy.needs} workers, and split {parts} makes "
                             f"{workers} of {workers * parts} ranks: start more ranks, give a smaller split, or choose "
                             "strategy allreduce")
    if options["reproducible"]:
        raise ParameterError("reproducible promises the bits of one process, but the sums over the ranks of a split "
                             "model have another order: leave out reproducible, or split")
