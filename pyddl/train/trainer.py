"""Trainer: owns the vectors of a run and joins model, optimizer, strategy, transport and data."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from pyddl import _check, _core, models, options
from pyddl.comm import threads
from pyddl.comm.transport import Transport
from pyddl.comm.world import World, world
from pyddl.data import Source, load
from pyddl.data.joined import labelled_part, rounded_into, training_and_test
from pyddl.errors import DataError, ParameterError, ShapeError
from pyddl.models.protocol import Model, check_model, described, finish, name_of, options_of
from pyddl.models.stages import stages_of
from pyddl.optim import Optimizer
from pyddl.optim.given import SAID
from pyddl.strategies import Auto, Strategy
from pyddl.strategies.auto import Choice
from pyddl.strategies.given import described as strategy_described
from pyddl.strategies.given import strategy_of
from pyddl.train.agreement import agreement, require_same, require_same_options
from pyddl.train.auto import choose, recorded
from pyddl.train.checkpoint import Checkpoints
from pyddl.train.plan import Plan
from pyddl.train.progress import PlainProgress, Progress
from pyddl.train.result import Result
from pyddl.train.run import as_recorded, recorded_config
from pyddl.train.session import Session
from pyddl.train.stop import StopRequest

__all__ = ["Trainer"]

OF_EACH_RANK = ("threads",)  # options that may differ
OF_FILES = ("overwrite", "checkpoint_every")  # options of a run directory


class Trainer:
    """Trains a model, alone or together with the other ranks of the world.

    Parameters
    ----------
    model : Model
        One of `pyddl.models`, or any object with the members of `pyddl.models.Model`.
    strategy : str or Strategy, default="allreduce"
        One of `pyddl.strategies.NAMES`; ``FILE.py:Class`` or an object for one of your own (docs/own_strategies.md). An
        object brings its own options.
    optimizer : str or Optimizer, default="adam"
        An object brings its own learning rate, schedule, weight decay and clipping.
    out : str, optional
        Run directory, written by rank 0; none by default.
    verbose : bool, default=False
        Whether rank 0 prints how training begins, and a line per epoch.
    progress : Progress, optional
        Shows how training goes, on rank 0, in the place of ``verbose``.
    stop : StopRequest, optional
        Ends training at a step boundary when it is asked to: from a signal, or by ``stop.requested = True``.
    config : dict, optional
        What ``config.toml`` records besides the trainer's own options: the data and the model. By default the data that
        `fit` gets, where `pyddl.data.load` opened them by a name.
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
                 out: str | None = None, verbose: bool = False, progress: Progress | None = None,
                 stop: StopRequest | None = None, config: dict[str, Any] | None = None, **given: Any):
        check_model(model)
        _check.name_or_object("strategy", strategy, Strategy)
        _check.name_or_object("optimizer", optimizer, Optimizer)
        _check.no_class("progress", progress)
        _check.no_class("stop", stop)
        self.model = model
        self.strategy, self.optimizer = strategy, optimizer
        self.out, self.config = out, config or {}
        self.progress = progress or (PlainProgress() if verbose else Progress())
        self.stop = stop
        own = ("strategy", "optimizer", "out")
        name = strategy if isinstance(strategy, str) else "an object, which brings its own options"
        self.options = options.resolve(given, lambda option: option.trainer and option.name not in own, strategy=name,
                                       usual=models.usual(name_of(model)))
        self._check_given()
        if self.options["resume"] and out is None:
            raise ParameterError("resume goes on with a run directory, and out names none: give out, or leave resume "
                                 "out")
        if self.options["resume"] and self.options["overwrite"]:
            raise ParameterError("resume goes on with the run that overwrite removes: leave one of the two out")

    def _check_given(self) -> None:
        """Refuse options that have no effect beside the trainer's own arguments."""
        unused: list[tuple[Iterable[str], str]] = []
        if isinstance(self.optimizer, Optimizer):
            unused.append((SAID, "optimizer is an object, which brings its own: make that with it, or name a rule"))
        if self.out is None:
            unused.append((OF_FILES, "out names no run directory: give out, too, or leave it out"))
        for names, why in unused:
            for name in names:
                if self.options[name] != options.named(name).default:
                    raise ParameterError(f"{name} is {self.options[name]!r}, and {why}")

    @np.errstate(under="ignore")  # what is nearly nothing is nothing, whatever np.seterr says
    def fit(self, data: Source | np.ndarray, test: Source | np.ndarray | None = None, *,
            start: Result | None = None, passes: int | None = None) -> Result:
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
        passes : int, optional
            Stop after so many epochs of all stages together, those of ``start`` included.

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
        source, tested, named = self._sources(here, data, test)
        config = {**named, **self.config}

        def planned(chosen: Strategy, choice: Choice | None = None, here: World = here) -> Plan:
            given = self.options
            if choice is not None:  # what was chosen is as if it had been given
                own = options.defaults_of(choice.strategy) | choice.options
                given = {name: value for name, value in given.items() if name not in options.defaults_of("auto")} | own
            return Plan(self.model, chosen, self.optimizer, given, here, source, tested, config, self.out, passes,
                        choice)

        with agreement(here.transport):
            chosen, choice = self._strategy(), None
        if isinstance(chosen, Auto):
            choice = recorded(self._record(here.transport, start), here) or choose(chosen, planned, here)
            chosen = choice.build()
        if start is not None and chosen.joint and start.summary["split"] == 1:
            require_same(here.transport, "checksums of the parameters to go on from", zlib.crc32(start.parameters.data),
                         cure="Every rank needs those of one training: was each trained apart, or with strategy local?")
        with agreement(here.transport):
            session = Session(planned(chosen, choice), self.progress, self.stop or StopRequest(), start)
        with agreement(here.transport):  # only once no rank has found a fault
            session.open()
        directory = session.ledger.directory
        with contextlib.nullcontext() if directory is None else contextlib.closing(directory):
            result = self._run(session, lambda smaller: planned(chosen, choice, smaller))
        finish(result.model, result.averaged, result.buffers)
        return result

    def _sources(self, here: World, data: Source | np.ndarray, test: Source | np.ndarray | None
                 ) -> tuple[Source, Source | None, dict[str, Any]]:
        """What to train and test on, the same on all ranks, and by which names; this rank's threads are set.
        Collective."""
        masks = here.transport.gather_objects((here.node, threads.cores()))
        with agreement(here.transport):  # nothing collective inside: a rank may leave it at any line
            flops = getattr(self.model, "flops", None)
            _core.set_threads(self.options["threads"] or threads.default_threads(
                [mask for node, mask in masks if node == here.node], here.node_rank,
                work=flops and flops * self._rows_at_once(here.size), quota=threads.quota()))
            if here.size > 1:
                threads.limit_numpy()
            given, given_test = self._as_before(load(data)), None if test is None else load(test)
            source, tested = training_and_test(given, given_test, self.options["validation"], self.options["seed"])
            if self.options["labelled"] is not None:
                source = self._labelled(source)
            if limits := getattr(self.model, "input_range", None):
                source, tested = rounded_into(source, *limits), tested and rounded_into(tested, *limits)
        self._compare(here.transport, source, tested)
        named = {**given.spec, **_of_test(given_test)}
        if given.spec and given.scaling is not None:
            named["scale"] = given.scaling.kind
        return source, tested, named

    def _as_before(self, source: Source) -> Source:
        """The rows as they were in the run that this one goes on with."""
        if not self.options["resume"] or self.out is None:
            return source
        return as_recorded(recorded_config(self.out), source, f"the training data of {self.out}")

    def _labelled(self, source: Source) -> Source:
        """The rows whose labels are known, where these are few."""
        if not getattr(self.model, "needs_labels", False):
            raise ParameterError(f"labelled is {self.options['labelled']}, and model {name_of(self.model)} as "
                                 "given needs no labels: leave it out")
        return labelled_part(source, self.options["labelled"], self.options["seed"])

    def _run(self, session: Session, planned: Callable[[World], Plan]) -> Result:
        """The session, and those that take its place where ranks die. Collective."""
        while True:
            result = session.run()
            if not session.goes_on:
                return result
            world = session.connection.world
            with agreement(session.connection.transport):
                following = Session(planned(world), self.progress, self.stop or StopRequest(), result, session)
            session = following

    def _rows_at_once(self, ranks: int) -> float:
        """Rows of one gradient: of a rank's slice of the batch, or of a replica's turn."""
        given = self.strategy.replicas if isinstance(self.strategy, Strategy) else self.options.get("replicas")
        return self.options["batch_size"] / (given or ranks)

    def _strategy(self) -> Strategy:
        named = strategy_of(self.strategy, self.options)
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
        named = self.strategy if isinstance(self.strategy, str) else (
            strategy_described(self.strategy) or f"{self.strategy.name} {self.strategy.options()}")
        with agreement(transport):
            stages = [stage.described() for stage in stages_of(self.model)]
        require_same_options(transport, {
            **{name: value for name, value in self.options.items() if name not in OF_EACH_RANK},
            "strategy": named, "optimizer": self.optimizer, **options_of(self.model), **described(self.model),
            "groups": [s.group for s in self.model.layout],
            "order": [s.order for s in self.model.layout], "merge": [s.merge for s in self.model.buffers],
            "stages": stages})
        for name, source in sources.items():
            if source is None or transport.size == 1:
                continue
            with agreement(transport):
                few, whole = source.fingerprint(), source.checksum()
            what = f"checksums of the {name} data"
            require_same(transport, what, few, error=DataError, cure=cure)
            if None not in transport.gather_objects(whole):  # a rank may have them in memory that others have mapped
                require_same(transport, what, whole, error=DataError, cure=cure)


def _of_test(test: Source | None) -> dict[str, Any]:
    """How test data are named, as options; what was asked of pictures is that of the training data."""
    names = {"data": "test", "labels": "test_labels"}
    return {} if test is None else {names[key]: spec for key, spec in test.spec.items() if key in names}
