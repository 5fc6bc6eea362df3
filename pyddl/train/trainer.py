"""Trainer: owns the vectors of a run and joins model, optimizer, strategy, transport and data."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from pyddl import _core, options
from pyddl.comm import threads
from pyddl.comm.group import broadcast_shares, shares
from pyddl.comm.transport import Transport
from pyddl.comm.world import World, world
from pyddl.data import Source, load
from pyddl.data.joined import training_and_test
from pyddl.errors import DataError, ParameterError, ShapeError
from pyddl.layout import Layout
from pyddl.models.protocol import Model, described, options_of
from pyddl.optim import Optimizer
from pyddl.strategies import Auto, Strategy, strategy
from pyddl.strategies.auto import Choice
from pyddl.train.agreement import agreement, require_same, require_same_options
from pyddl.train.auto import choose, recorded
from pyddl.train.checkpoint import Checkpoints
from pyddl.train.progress import Progress
from pyddl.train.session import Session
from pyddl.train.stop import StopRequest

__all__ = ["Result", "Trainer"]

OF_EACH_RANK = ("threads", "quiet")  # options that may differ


@dataclass
class Result:
    """What training left: the same on every rank when the strategy keeps replicas equal.

    Where the model was split, each rank has its part, and with ``shard_optimizer`` its share of the optimizer's state:
    see `whole`.

    Attributes
    ----------
    model : Model
    parameters, buffers : ndarray
    metrics : list of dict
        A line per epoch: ``epoch``, ``train_loss``, ``test_loss``, ``test_squared_error``, ``samples_per_second``,
        ``seconds``.
    summary : dict
        As in ``summary.json``; ``finished`` is None where training was stopped and can be resumed.
    state : list of ndarray
        Vectors of the optimizer; none where they are not known.
    updates : int
        Updates that this rank has done.
    """

    model: Model
    parameters: np.ndarray
    buffers: np.ndarray
    metrics: list[dict[str, Any]]
    summary: dict[str, Any]
    state: list[np.ndarray] = field(default_factory=list)
    updates: int = 0

    def whole(self) -> Result:
        """The same with the whole model and whole vectors, on every rank: those of the first that hold it together.

        Collective over all ranks of the training, where the model was split or the optimizer's state lay in shares.
        Every rank needs the memory.
        """
        parts = self.summary["split"]
        if parts == 1 and all(vector.size == self.parameters.size for vector in self.state):
            return self
        transport = world().transport
        if parts == 1:
            return replace(self, state=[_of_shares(share, self.parameters.size, transport) for share in self.state])
        model = self.model.whole  # type: ignore[attr-defined]
        layouts = [(model.layout, self.model.layout), (model.buffers, self.model.buffers),
                   *[(model.layout, self.model.layout)] * len(self.state)]
        vectors = [self.parameters, self.buffers, *self.state]
        joined = [_joined(whole, part, vector, transport, parts)
                  for (whole, part), vector in zip(layouts, vectors, strict=True)]
        return replace(self, model=model, parameters=joined[0], buffers=joined[1], state=joined[2:])

    def cut(self, layout: Layout, buffers: Layout) -> Result:
        """The same with the vectors that belong to a part of the model, of these layouts."""
        if self.model.layout == layout:
            return self
        mine = self.model
        return replace(self, parameters=layout.cut(mine.layout, self.parameters),
                       buffers=buffers.cut(mine.buffers, self.buffers),
                       state=[layout.cut(mine.layout, vector) for vector in self.state])


def _of_shares(mine: np.ndarray, size: int, transport: Transport) -> np.ndarray:
    """The whole vector, of which each rank has a share. Collective."""
    out = np.empty(size, dtype=np.float32)
    begin, end = shares(size, transport.size)[transport.rank : transport.rank + 2]
    out[begin:end] = mine
    broadcast_shares(transport, out, transport.size)
    return out


def _joined(whole: Layout, part: Layout, vector: np.ndarray, transport: Transport, parts: int) -> np.ndarray:
    """The whole of the vector, of which the first ``parts`` ranks of ``transport`` have a part each. Collective."""
    out = whole.zeros()
    mine, views = part.views(vector), whole.views(out)
    for s in whole:
        firsts = [0] if part[s.name].of is None else transport.gather_objects(part[s.name].first)[:parts]
        for root, (first, end) in enumerate(pairwise([*firsts, s.shape[0]])):
            rows = views[s.name][first:end]
            if transport.rank == root:
                rows[...] = mine[s.name]
            transport.broadcast(rows, root)
    return out


class Trainer:
    """Trains a model, alone or together with the other ranks of the world.

    Parameters
    ----------
    model : Model
        One of `pyddl.models`, or any object with the members of `pyddl.models.Model`.
    strategy : str or Strategy, default="allreduce"
    optimizer : str or Optimizer, default="adam"
        An object brings its own learning rate, schedule, weight decay and clipping.
    out : str, optional
        Run directory, written by rank 0; none by default.
    progress : Progress, optional
        Shows how training goes, on rank 0.
    stop : StopRequest, optional
        Ends training at a step boundary when it is asked to: from a signal, or by ``stop.requested = True``.
    config : dict, optional
        What ``config.toml`` records besides the trainer's own options: the data and the model.
    **given
        The other training options of `pyddl.options.TABLE`: ``epochs``, ``batch_size``, ``learning_rate``, ``seed``,
        ``reproducible``, ...

    Raises
    ------
    ParameterError
        An option is unknown or out of range.

    Examples
    --------
    >>> import pyddl
    >>> digits = pyddl.data.load("digits")
    >>> model = pyddl.models.Autoencoder(digits.features, hidden=(32, 8))
    >>> result = pyddl.train.Trainer(model, epochs=2, batch_size=64).fit(digits)
    >>> result.metrics[1]["train_loss"] < result.metrics[0]["train_loss"]
    True
    """

    def __init__(self, model: Model, *, strategy: str | Strategy = "allreduce", optimizer: str | Optimizer = "adam",
                 out: str | None = None, progress: Progress | None = None, stop: StopRequest | None = None,
                 config: dict[str, Any] | None = None, **given: Any):
        self.model = model
        self.strategy, self.optimizer = strategy, optimizer
        self.out, self.progress, self.config = out, progress or Progress(), config or {}
        self.stop = stop
        own = ("strategy", "optimizer", "out")
        name = strategy if isinstance(strategy, str) else "an object, which brings its own options"
        self.options = options.resolve(given, lambda option: option.trainer and option.name not in own, strategy=name)
        if self.options["resume"] and out is None:
            raise ParameterError("resume goes on with a run directory, and out names none: give out, or leave resume "
                                 "out")
        if self.options["resume"] and self.options["overwrite"]:
            raise ParameterError("resume goes on with the run that overwrite removes: leave one of the two out")

    def fit(self, data: Source | np.ndarray, test: Source | np.ndarray | None = None, *,
            start: Result | None = None) -> Result:
        """Train on the rows of ``data``; evaluate on ``test`` after each epoch.

        Collective: every rank of the world calls it, with the same data and options.

        Parameters
        ----------
        data : Source or ndarray of shape (rows, features)
            The whole data set, the same on every rank; each rank reads only its own rows of it.
        test : Source or ndarray, optional
            By default the validation part, where ``validation`` asks for one, else the source's own test part.
        start : Result, optional
            Go on from there, to ``epochs`` epochs in all, with the model and optimizer that left it.

        Returns
        -------
        Result

        Raises
        ------
        ParameterError, ShapeError, DataError
            On every rank, also when only one found the fault.
        NotFiniteError
            The loss became NaN or infinite.
        """
        here = world()
        masks = here.transport.gather_objects((here.node, threads.cores()))
        with agreement(here.transport):  # nothing collective inside: a rank may leave it at any line
            flops = getattr(self.model, "flops", None)
            _core.set_threads(self.options["threads"] or threads.default_threads(
                [mask for node, mask in masks if node == here.node], here.node_rank,
                work=flops and flops * self._rows_at_once(here.size), quota=threads.quota()))
            if here.size > 1:
                threads.limit_numpy()
            source, tested = training_and_test(load(data), None if test is None else load(test),
                                               self.options["validation"], self.options["seed"])
        self._compare(here.transport, source, tested)

        def prepare(chosen: Strategy, choice: Choice | None = None, start: Result | None = start,
                    here: World = here) -> Session:
            given = self.options
            if choice is not None:  # what was chosen is as if it had been given
                own = options.defaults_of(choice.strategy) | choice.options
                given = {name: value for name, value in given.items() if name not in options.defaults_of("auto")} | own
            return Session(self.model, chosen, self.optimizer, given, here, source, tested, self.out, self.progress,
                           self.stop or StopRequest(), self.config, start, choice)

        with agreement(here.transport):
            chosen, choice = self._strategy(), None
        if isinstance(chosen, Auto):
            choice = recorded(self._record(here.transport, start), here) or choose(chosen, prepare, here)
            chosen = choice.build()
        if start is not None and chosen.joint and start.summary["split"] == 1:
            require_same(here.transport, "checksums of the parameters to go on from", zlib.crc32(start.parameters.data),
                         cure="Every rank needs those of one training: was each trained apart, or with strategy local?")
        with agreement(here.transport):
            session = prepare(chosen, choice)
        with agreement(here.transport):  # only once no rank has found a fault
            session.open()
        with contextlib.nullcontext() if session.directory is None else contextlib.closing(session.directory):
            return self._run(session, prepare, chosen, choice)

    def _run(self, session: Session, prepare: Callable[..., Session], chosen: Strategy,
             choice: Choice | None) -> Result:
        """The session, and those that take its place where ranks die. Collective."""
        while True:
            summary, worker = session.run(), session.worker
            result = Result(session.model, worker.parameters, worker.buffers, session.metrics, summary, session.state,
                            worker.updates)
            if not session.goes_on:
                return result
            with agreement(session.transport):
                following = prepare(chosen, choice, result, session.world)
            following.carry_on(session)
            session = following

    def _rows_at_once(self, ranks: int) -> float:
        """Rows of one gradient: of a rank's slice of the batch, or of a replica's turn."""
        given = self.strategy.replicas if isinstance(self.strategy, Strategy) else self.options.get("replicas")
        return self.options["batch_size"] / (given or ranks)

    def _strategy(self) -> Strategy:
        if isinstance(self.strategy, Strategy):
            return self.strategy
        named = strategy(self.strategy, **options.of_strategy(self.strategy, self.options))
        if isinstance(named, Auto) and self.options["split"] > 1:
            raise ParameterError("strategy auto does not measure split models: name a strategy, or leave out split")
        return named

    def _record(self, transport: Transport, start: Result | None) -> dict[str, Any] | None:
        """What an earlier session of this training says of its choice. Collective."""
        if self.options["resume"] and self.out is not None:
            return Checkpoints(self.out, {}).books(transport).get("auto")
        return None if start is None else start.summary.get("auto")

    def _compare(self, transport: Transport, data: Source, test: Source | None) -> None:
        """Refuse ranks that were given unlike options or data, which would train apart or wait for ever. Collective."""
        cure = "Every rank needs all rows, the same everywhere: check how these ranks read, make or shuffle them"
        sources = {"training": data, "test": test}
        for name, source in sources.items():  # first of all, for models are made for the data's width
            shape = None if source is None else source.shape
            require_same(transport, f"shapes of the {name} data", shape, error=ShapeError, cure=cure)
        named = self.strategy if isinstance(self.strategy, str) else type(self.strategy).__name__
        require_same_options(transport, {
            **{name: value for name, value in self.options.items() if name not in OF_EACH_RANK},
            "strategy": named, "optimizer": self.optimizer, **options_of(self.model), **described(self.model)})
        for name, source in sources.items():
            if source is None or transport.size == 1:
                continue
            with agreement(transport):
                few, whole = source.fingerprint(), source.checksum()
            what = f"checksums of the {name} data"
            require_same(transport, what, few, error=DataError, cure=cure)
            if None not in transport.gather_objects(whole):  # a rank may have them in memory that others have mapped
                require_same(transport, what, whole, error=DataError, cure=cure)
