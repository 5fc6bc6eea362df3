"""Trainer: owns the vectors of a run and joins model, optimizer, strategy, transport and data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pyddl import _core, options
from pyddl.comm import threads
from pyddl.comm.world import world
from pyddl.data import Source, load
from pyddl.models.protocol import Model
from pyddl.optim import Optimizer
from pyddl.strategies import Strategy, strategy
from pyddl.train.agreement import agreement
from pyddl.train.progress import Progress
from pyddl.train.session import Session
from pyddl.train.stop import StopRequest

__all__ = ["Result", "Trainer"]


@dataclass
class Result:
    """What training left: the same on every rank when the strategy keeps replicas equal.

    Attributes
    ----------
    model : Model
    parameters, buffers : ndarray
    metrics : list of dict
        A line per epoch: ``epoch``, ``train_loss``, ``test_loss``, ``test_squared_error``, ``samples_per_second``,
        ``seconds``.
    summary : dict
        As in ``summary.json``; ``finished`` is None where training was stopped and can be resumed.
    """

    model: Model
    parameters: np.ndarray
    buffers: np.ndarray
    metrics: list[dict[str, Any]]
    summary: dict[str, Any]


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

    def fit(self, data: Source | np.ndarray, test: Source | np.ndarray | None = None) -> Result:
        """Train on the rows of ``data``; evaluate on ``test`` after each epoch.

        Collective: every rank of the world calls it, with the same data and options.

        Parameters
        ----------
        data : Source or ndarray of shape (rows, features)
            The whole data set, the same on every rank; each rank reads only its own rows of it.
        test : Source or ndarray, optional
            The source's own test part by default.

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
            _core.set_threads(self.options["threads"] or threads.default_threads(
                [mask for node, mask in masks if node == here.node], here.node_rank))
            source = load(data)
            session = Session(
                self.model, self._strategy(), self.optimizer, self.options, here, source,
                source.test if test is None else load(test), self.out, self.progress, self.stop or StopRequest(),
                self.config)
        summary = session.run()
        return Result(self.model, session.worker.parameters, session.worker.buffers, session.metrics, summary)

    def _strategy(self) -> Strategy:
        if isinstance(self.strategy, Strategy):
            return self.strategy
        return strategy(self.strategy, **options.of_strategy(self.strategy, self.options))
