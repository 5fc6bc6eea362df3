"""Trainer: owns the vectors of a run and joins model, optimizer, strategy, transport and data."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np

from pyddl import _core, options
from pyddl.comm import threads
from pyddl.comm.driver import drive
from pyddl.comm.world import World, world
from pyddl.data import Source, load
from pyddl.data.prefetch import Loader
from pyddl.data.sampler import Sampler
from pyddl.errors import ParameterError, ShapeError
from pyddl.models.protocol import Model
from pyddl.optim import MomentumSchedule, Optimizer, optimizer, schedule
from pyddl.strategies import Strategy, strategy
from pyddl.train.agreement import agreement
from pyddl.train.evaluation import evaluate, exact_sum
from pyddl.train.progress import Progress
from pyddl.train.run import RunDirectory
from pyddl.train.timing import PARTS, TimeSplit
from pyddl.train.worker import SHARDS, Worker

__all__ = ["Result", "Trainer"]

PEAK_SECONDS = 0.2  # how long the machine's own matrix-product peak is measured at the end


@dataclass
class Result:
    """What training left: the same on every rank when the strategy keeps replicas equal.

    Attributes
    ----------
    model : Model
    parameters, buffers : ndarray
    metrics : list of dict
        A line per epoch: ``epoch``, ``train_loss``, ``test_loss``, ``test_squared_error``, ``samples_per_second``, ``seconds``.
    summary : dict
        As in ``summary.json``.
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
                 out: str | None = None, progress: Progress | None = None, config: dict[str, Any] | None = None,
                 **given: Any):
        self.model = model
        self.strategy, self.optimizer = strategy, optimizer
        self.out, self.progress, self.config = out, progress or Progress(), config or {}
        own = ("strategy", "optimizer", "out")
        self.options = options.resolve(given, lambda option: option.trainer and option.name not in own)

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
            run = _Run(self, here, data, test)
        return run.train()


class _Run:
    """One call of `Trainer.fit`: everything that lives as long as it."""

    def __init__(self, trainer: Trainer, here: World, data: Source | np.ndarray, test: Source | np.ndarray | None):
        given = trainer.options
        self.trainer, self.model, self.world, self.transport = trainer, trainer.model, here, here.transport
        self.epochs: int = given["epochs"]
        self.data = load(data)
        self.test = load(test) if test is not None else self.data.test
        self.strategy = strategy(trainer.strategy) if isinstance(trainer.strategy, str) else trainer.strategy
        self._check(given)

        self.sampler = Sampler(len(self.data), given["batch_size"], given["seed"])
        self.steps_per_epoch = self.sampler.steps_per_epoch
        self.optimizer = self._optimizer(given)
        self.loader = Loader(self.data, self.sampler, here.rank, here.size, steps=self.epochs * self.steps_per_epoch)
        self.worker = Worker(
            self.model, self.optimizer, self.sampler, self.loader, number=here.rank, count=here.size, seed=given["seed"],
            reproducible=given["reproducible"], batch_sum=self._sum_over_batch if self.strategy.synchronous else None,
            on_step=self._step_done)
        self.step = 0
        self.metrics: list[dict[str, Any]] = []
        self.directory: RunDirectory | None = None
        if here.rank == 0 and trainer.out is not None:
            self.directory = RunDirectory(trainer.out, overwrite=given["overwrite"])
            self.directory.config(self._config())

    def train(self) -> Result:
        worker, transport, seed = self.worker, self.transport, self.trainer.options["seed"]
        self.model.initialise(worker.parameters, worker.buffers, seed)
        transport.broadcast(worker.parameters)  # ranks on unlike processors may round differently
        transport.broadcast(worker.buffers)
        progress = self.trainer.progress if self.world.rank == 0 else Progress()
        self.progress = progress
        placements = transport.gather_objects(threads.here(self.world.rank, self.world.node, _core.threads()))
        progress.begin(self._title(placements), self.epochs, self.steps_per_epoch)
        self.clock = TimeSplit(worker, transport)
        try:
            with self.loader:
                drive(self.strategy.worker(worker), worker, transport, ordered=self.trainer.options["reproducible"])
        finally:
            progress.end()
        summary = self._summary()
        if self.directory is not None:
            self.directory.model(self.model, worker.parameters, worker.buffers)
            self.directory.summary(summary)
        return Result(self.model, worker.parameters, worker.buffers, self.metrics, summary)

    def _check(self, given: dict[str, Any]) -> None:
        for name, source in (("training", self.data), ("test", self.test)):
            if source is None:
                continue
            wanted = getattr(self.model, "inputs", source.features)
            if source.features != wanted:
                raise ShapeError(f"the {name} data have {source.features} features; the model expects {wanted}")
            low, high = getattr(self.model, "input_range", None) or (-np.inf, np.inf)
            if source.minimum < low or source.maximum > high:
                raise ParameterError(
                    f"the {name} data reach from {source.minimum:g} to {source.maximum:g}; this model's loss needs values in "
                    f"[{low:g}, {high:g}]: scale the data, or use loss mse")
        if given["reproducible"] and SHARDS % self.world.size != 0:
            raise ParameterError(f"reproducible training runs on 1, 2, 4 or 8 ranks; this world has {self.world.size}")

    def _optimizer(self, given: dict[str, Any]) -> Optimizer:
        chosen = self.trainer.optimizer
        if not isinstance(chosen, str):
            return chosen
        own = {name: given[name] for name in ("weight_decay", "clip_norm", "momentum") if given[name] is not None}
        if given["momentum_schedule"] == "sutskever":
            own["momentum"] = MomentumSchedule(**({"maximum": own["momentum"]} if "momentum" in own else {}))
        peak = given["learning_rate"]
        if peak is None:
            peak = optimizer(chosen).learning_rate  # the rule's own default
        rate = schedule(given["schedule"], peak, warmup_steps=given["warmup"], step_every=given["step_every"],
                        step_factor=given["step_factor"], minimum=given["minimum_rate"],
                        total_steps=self.epochs * self.steps_per_epoch)
        return optimizer(chosen, learning_rate=rate, **own)

    def _sum_over_batch(self, vector: np.ndarray) -> np.ndarray:
        self.transport.sum(vector)
        return vector

    def _step_done(self) -> None:
        self.step += 1
        self.progress.step(self.step)
        if self.step % self.steps_per_epoch == 0:
            self._epoch_done()

    def _epoch_done(self) -> None:
        """Close the epoch's books: means over all ranks where replicas are equal, rank 0's own otherwise."""
        worker, clock = self.worker, self.clock
        before = clock.total
        clock.pause()
        seconds = clock.total - before
        shared = self.transport if self.strategy.replicated else None
        rows = len(self.data) if shared else self._rows_of_this_rank()
        line: dict[str, Any] = {"epoch": self.step // self.steps_per_epoch,
                                "train_loss": exact_sum(worker.losses, shared) / rows}
        worker.losses.clear()
        scores: dict[str, float] = {}
        if self.test is not None and (shared or self.world.rank == 0):
            scores = evaluate(self.model, worker.parameters, worker.buffers, self.test, shared)
        line["test_loss"] = scores.get("loss")
        line["test_squared_error"] = scores.get("squared_error")
        line["samples_per_second"] = len(self.data) / seconds
        line["seconds"] = seconds
        self.metrics.append(line)
        if self.directory is not None:
            self.directory.metrics(line)
        self.progress.epoch(line)
        clock.go_on()

    def _rows_of_this_rank(self) -> int:
        parts = (self.sampler.part(step, self.world.rank, self.world.size) for step in range(self.steps_per_epoch))
        return max(1, sum(end - begin for begin, end in parts))

    def _summary(self) -> dict[str, Any]:
        """What ``summary.json`` holds. Collective."""
        last, clock, model = self.metrics[-1], self.clock, self.model
        per_rank = self.transport.gather(np.array([clock.seconds[part] for part in PARTS]))
        seconds = max(float(each.sum()) for each in per_rank)
        samples_per_second = self.epochs * len(self.data) / seconds
        peak = reached = None
        if self.trainer.out is not None and getattr(model, "flops", None):
            self.transport.barrier()  # all ranks at once, as in training
            peak = float(sum(x[0] for x in self.transport.gather(
                np.array([_core.product_peak(getattr(model, "dtype", "float32"), PEAK_SECONDS)]))))
            reached = model.flops * samples_per_second / 1e9  # type: ignore[attr-defined]
        return {
            "model": _name(model), "strategy": self.strategy.name, "ranks": self.world.size, "threads": _core.threads(),
            "parameters": model.layout.count, "epochs": self.epochs,
            "train_loss": last["train_loss"], "test_loss": last["test_loss"],
            "test_squared_error": last["test_squared_error"], "samples_per_second": samples_per_second,
            "time": {part: float(np.mean([each[i] for each in per_rank])) for i, part in enumerate(PARTS)},
            "time_per_rank": [dict(zip(PARTS, each.tolist(), strict=True)) for each in per_rank],
            "gflops": reached, "peak_gflops": peak, "machine": platform.node(),
            "simd_level": _core.simd_level(), "onednn": _core.onednn_version(),
            "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }

    def _config(self) -> dict[str, Any]:
        """What ``config.toml`` holds: with it, the same run can be made again."""
        config: dict[str, Any] = {"model": _name(self.model), **self.trainer.config, "strategy": self.strategy.name,
                                  "ranks": self.world.size, "optimizer": self.optimizer.name, **self.trainer.options}
        config["threads"] = _core.threads()
        return {name: value for name, value in config.items() if name != "overwrite"}

    def _title(self, placements: list[threads.Placement]) -> str:
        ranks = "1 rank" if self.world.size == 1 else f"{self.world.size} ranks"
        return "\n".join([
            f"{_name(self.model)}, {self.model.layout.count:,} parameters, on {self.data.describe()}",
            f"{self.strategy.name} on {ranks}, batches of {self.trainer.options['batch_size']}, {self.optimizer.name}",
            *threads.describe(placements),
            *(f"warning: {text}" for text in threads.warnings(placements))])


def _name(model: Model) -> str:
    return getattr(model, "name", type(model).__name__)


