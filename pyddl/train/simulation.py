"""Simulated training: real models, rows and arithmetic, on workers that exist only on a virtual clock."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pyddl.comm.simulated import Machine, Simulation, Timeline
from pyddl.data import Source
from pyddl.data.sampler import Sampler
from pyddl.errors import ParameterError
from pyddl.models.protocol import Model
from pyddl.optim import Optimizer
from pyddl.strategies import Strategy
from pyddl.train.evaluation import evaluate
from pyddl.train.worker import Worker

__all__ = ["Simulated", "simulate"]

POINTS = 16  # of a curve
LOADER_BYTES = 1 << 14  # small: there may be hundreds of workers


@dataclass
class Simulated:
    """What a simulated training gave.

    Attributes
    ----------
    strategy : str
    workers, steps : int
    curve : list of dict
        ``step``, virtual ``seconds``, ``samples``; of the settled model ``test_loss`` and perhaps
        ``test_squared_error``.
    timelines : list of Timeline
        Of each worker.
    parameters : ndarray
        As all workers have them at the end.
    """

    strategy: str
    workers: int
    steps: int
    curve: list[dict[str, Any]]
    timelines: list[Timeline]
    parameters: np.ndarray

    @property
    def seconds(self) -> float:
        return max(timeline.now for timeline in self.timelines)

    def share(self, part: str) -> float:
        """Mean share of the workers' time: ``compute``, ``wait`` or ``communication``."""
        return float(np.mean([getattr(timeline, part) for timeline in self.timelines])) / self.seconds

    @property
    def bytes_per_step(self) -> float:
        """Sent by a worker, in the mean."""
        return float(np.mean([timeline.bytes_sent for timeline in self.timelines])) / self.steps


def simulate(model: Model, data: Source, test: Source, strategy: Strategy, workers: int, optimizer: Optimizer, *,
             epochs: int = 1, batch_size: int = 256, seed: int = 0, machine: Machine | None = None) -> Simulated:
    """Train ``model`` with as many workers as wanted in this process.

    Rows, batches, seeds and results are those of so many MPI ranks; times are the machine's.

    Parameters
    ----------
    workers : int
        With 512 of them 512 copies of all vectors are kept: take a small model.
    batch_size : int
        Samples per step of all workers together.

    Raises
    ------
    ParameterError
        The strategy refuses so many workers, or makes one of all; or the model needs sums over the whole batch.
    """
    if strategy.one_group:
        raise ParameterError(f"strategy {strategy.name} makes all ranks one worker; each simulated one has a model")
    strategy.check(workers, batch_size)
    sampler = Sampler(len(data), batch_size, seed)
    steps = epochs * sampler.steps_per_epoch
    snapshots = _Snapshots(model, test, strategy, max(1, steps // POINTS), sampler)
    simulation = Simulation(machine)
    everyone = []
    for number in range(workers):
        worker = Worker(model, optimizer, sampler, number=number, count=workers, seed=seed, batch_sum=_no_sum,
                        vectors=strategy.vectors, sharded=strategy.shards)
        worker.on_step = partial(snapshots.see, worker, simulation)
        model.initialise(worker.parameters, worker.buffers, seed)
        worker.merged[:] = worker.buffers
        if strategy.replicas is not None:
            worker.host(strategy.replicas)
        worker.open(data, 0, steps, buffer_bytes=LOADER_BYTES, background=False)
        everyone.append(worker)
    simulation.run([strategy.worker(worker) for worker in everyone], everyone)
    timelines = simulation.timelines
    _settle(strategy, everyone)
    return Simulated(strategy.name, workers, steps, snapshots.curve, timelines, everyone[0].parameters)


class _Snapshots:
    """Copies of all workers after the same step, each made when that worker was there, and what they are worth."""

    def __init__(self, model: Model, test: Source, strategy: Strategy, every: int, sampler: Sampler):
        self.model, self.test, self.strategy, self.every, self.sampler = model, test, strategy, every, sampler
        self.curve: list[dict[str, Any]] = []
        self._waiting: dict[int, list[tuple[float, Worker]]] = {}

    def see(self, worker: Worker, simulation: Simulation) -> None:
        if worker.step % self.every:
            return
        there = self._waiting.setdefault(worker.step, [])
        there.append((simulation.timelines[worker.number].now, _copy(worker)))
        if len(there) < worker.count:
            return
        workers = sorted((each for _, each in self._waiting.pop(worker.step)), key=lambda each: each.number)
        _settle(self.strategy, workers)
        scores = evaluate(self.model, workers[0].parameters, workers[0].buffers, self.test)
        self.curve.append({"step": worker.step, "seconds": max(when for when, _ in there),
                           "samples": self.sampler.consumed(worker.step),
                           **{f"test_{name}": value for name, value in scores.items()}})


def _copy(worker: Worker) -> Worker:
    twin = copy.copy(worker)
    for name in ("parameters", "buffers", "merged"):
        setattr(twin, name, getattr(worker, name).copy())
    twin.vectors = {name: vector.copy() for name, vector in worker.vectors.items()}
    twin.counters = dict(worker.counters)
    return twin


def _settle(strategy: Strategy, workers: list[Worker]) -> None:
    Simulation().run([strategy.settle(worker) for worker in workers], workers)


def _no_sum(vector: np.ndarray) -> np.ndarray:
    raise ParameterError("this model uses statistics of the whole batch (batch.sum), which simulated workers cannot "
                         "give: each computes its gradient in one piece")
