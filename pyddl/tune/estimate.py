"""Estimate: how long a search will take, by training the middle of its space for a few seconds."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pyddl.comm import threads
from pyddl.comm.child import Child
from pyddl.errors import PyddlError
from pyddl.train import named
from pyddl.train.progress import Progress
from pyddl.train.stop import StopRequest
from pyddl.tune.groups import said
from pyddl.tune.parameter import Parameter
from pyddl.tune.search import Search
from pyddl.tune.space import Space
from pyddl.tune.trial import settings_of

__all__ = ["Measured", "asha_share", "estimate", "measure", "middle"]

SECONDS = 5.0  # of training


@dataclass(frozen=True)
class Measured:
    """What a few seconds of one trial have shown.

    Attributes
    ----------
    epochs : int
        Of the whole trial.
    per_epoch, beside : float
        Seconds of an epoch; and of what a trial takes beside its epochs.
    seconds : float
        How long it was measured.
    """

    epochs: int
    per_epoch: float
    beside: float
    seconds: float


class _Timing(Progress):
    """Stops training after `SECONDS`; notes when steps and epochs ended."""

    def __init__(self, stop: StopRequest):
        self._stop, self._steps = stop, 0
        self._ended: list[float] = []

    def begin(self, title: str, epochs: int, steps_per_epoch: int, step: int = 0) -> None:
        self.epochs, self._per_epoch = epochs, steps_per_epoch
        self._began = self._last = time.perf_counter()

    def step(self, step: int) -> None:
        self._steps, self._last = step, time.perf_counter()
        if self._last - self._began > SECONDS:
            self._stop.requested = True

    def epoch(self, line: dict[str, Any]) -> None:
        self._ended.append(time.perf_counter())

    def measured(self, whole: float) -> Measured:
        seconds = self._last - self._began
        per_epoch = seconds / max(1, self._steps) * self._per_epoch
        if len(self._ended) > 1:  # with what follows each epoch
            per_epoch = (self._ended[-1] - self._ended[0]) / (len(self._ended) - 1)
        return Measured(self.epochs, per_epoch, whole - seconds, seconds)


def measure(given: Mapping[str, Any], cores: int) -> Measured:
    """Train a trial of these options for a few seconds, on one rank with so many cores.

    Raises
    ------
    PyddlError
        It fails.
    """
    began = time.perf_counter()

    def work(connection: Connection) -> None:
        with tempfile.TemporaryDirectory(prefix="pyddl-") as folder, StopRequest() as stop:
            timing = _Timing(stop)
            try:
                settings = settings_of(given, Path(folder) / "trial", resume=False)
                named.train({**settings, "threads": settings["threads"] or cores}, progress=timing, stop=stop)
                connection.send(timing.measured(time.perf_counter() - began))
            except (PyddlError, MemoryError) as error:
                connection.send(str(error))

    child = Child(work)
    try:
        said = child.connection.recv()
    except EOFError:
        said = f"it ended with {child.wait()}"
    if isinstance(said, str):
        raise PyddlError(f"the middle of the space cannot be trained, so no time can be estimated: {said}")
    child.wait()
    return said  # type: ignore[no-any-return]


def middle(parameter: Parameter) -> Any:
    """The middle of a range, by its logarithm where it is drawn by that; the middle one of choices.

    Examples
    --------
    >>> middle(Parameter("learning_rate", "float", 1e-4, 1e-2, log=True))
    0.001
    """
    if parameter.kind == "choice":
        return parameter.choices[len(parameter.choices) // 2]
    low, high = parameter.low, parameter.high
    value = math.sqrt(low * high) if parameter.log else (low + high) / 2
    if parameter.step:
        value = low + round((value - low) / parameter.step) * parameter.step
    return round(value) if parameter.kind == "int" else float(f"{value:.6g}")


def asha_share(epochs: int, first: int, factor: int) -> float:
    """What part of all trials' epochs is trained where one of ``factor`` goes on after each rung.

    Examples
    --------
    >>> round(asha_share(9, 1, 3), 3)  # all 1, a third 2 more, a ninth the other 6
    0.259
    """
    done = at = 0.0
    rung, going = first, 1.0
    while rung < epochs:
        done += going * (rung - at)
        at, rung, going = rung, rung * factor, going / factor
    return (done + going * (epochs - at)) / epochs


def estimate(space: Space, search: Search, ranks: int, ranks_per_trial: int) -> list[str]:
    """What a search is, and how long it will take on this machine, as lines.

    Raises
    ------
    PyddlError
        The middle of the space cannot be trained.
    """
    ways, groups = space.combinations(), ranks // ranks_per_trial
    count = "" if ways is None else f", of {ways:,} that there are"
    lines = [space.table(), f"{search.trials} trials{count}: drawn by {search.sampler}, ended early by {search.pruner}"]
    if ranks > 1:
        lines.append(said(groups, ranks_per_trial))
    cores = len(threads.cores())
    each = threads.wanted_threads() or max(1, cores // ranks)
    found = measure(space.settings(space.draw(middle), alone=True), each)
    share = asha_share(found.epochs, search.first, search.factor) if search.pruner == "asha" else 1.0
    of_one = found.beside + found.epochs * share * found.per_epoch
    at_once = max(1.0, min(groups, cores / (each * ranks_per_trial)))
    seconds = max(of_one, search.trials * of_one / at_once)
    text = f"about {_time(seconds)}: {search.trials} trials of {found.epochs} epochs"
    if share < 1:
        text += f", of which asha lets about {share:.0%} be trained"
    lines.append(text)
    lines.append(f"measured here for {found.seconds:.1f} s, in the middle of the space, on one rank: "
                 f"{found.per_epoch:.3g} s per epoch, and {found.beside:.2g} s for a trial beside them")
    if ranks_per_trial > 1:
        lines.append(f"{ranks_per_trial} ranks that train together may be faster than that one")
    if search.minutes is not None and seconds > 60 * search.minutes:
        lines.append(f"minutes is {search.minutes:g}: it ends before")
    return lines


def _time(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
