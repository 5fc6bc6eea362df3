"""From options as a command line or a file gives them to a training: data, model and trainer by their names."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pyddl import _own, models, options
from pyddl.data import Source
from pyddl.errors import ParameterError
from pyddl.train.progress import Progress
from pyddl.train.result import Result
from pyddl.train.stop import StopRequest

if TYPE_CHECKING:
    from pyddl.comm.world import World

__all__ = ["PICTURES", "Trained", "for_data", "scaled_as", "source_of", "train"]

log = logging.getLogger("pyddl")

PICTURES = ("image_size", "grey")  # options of what becomes of pictures


class Trained(NamedTuple):
    """A training that has ended, and what it was on."""

    result: Result
    source: Source
    test: Source | None

    @property
    def stopped(self) -> bool:
        """Whether it was stopped on request, before its end."""
        return self.result.summary["finished"] is None


def train(settings: Mapping[str, Any], *, progress: Progress, stop: StopRequest,
          opened: Callable[..., Any] | None = None) -> Trained:
    """Train ``settings["model"]`` on the ranks of the world. Collective.

    Parameters
    ----------
    settings : mapping
        Every option of sections data, model, training, machine and output, checked, and ``model``.
    opened : callable
        In the place of `source_of`: for who has the rows already.

    Raises
    ------
    PyddlError
        As `Trainer.fit`, on every rank, also where only one lacks a file.
    """
    from pyddl.comm.world import world
    from pyddl.train.agreement import FLOAT32_INSTEAD, agreement, dtype_of_all
    from pyddl.train.trainer import Trainer

    here, opened = world(), opened or source_of
    wanted = settings.get("dtype", "float32")
    dtype = dtype_of_all(here.transport, wanted)
    if dtype != wanted and here.rank == 0:
        log.warning(FLOAT32_INSTEAD)
    settings = {**settings, **({"dtype": dtype} if "dtype" in settings else {})}
    with agreement(here.transport):  # a file that only one rank lacks ends all of them with one message
        source = opened(settings)
        test = opened(settings, "test", "test_labels")
    source = scaled_as(source, settings, here)
    with agreement(here.transport):
        source, model = for_data(settings["model"], source, settings)
    recorded = {name: settings[name] for name in ("model", *(
        option.name for option in options.of_section("data", "model"))) if name in settings}
    trainer = Trainer(model, progress=progress, stop=stop, config=recorded,
                      **{option.name: settings[option.name] for option in options.TABLE
                         if option.trainer and option.name in settings})
    return Trained(trainer.fit(source, test), source, test)


def source_of(settings: Mapping[str, Any], data: str = "data", labels: str = "labels", *,
              recorded: bool = False) -> Any:
    """The source that these two options name, or None where the first one names nothing.

    What the settings say of pictures is for pictures only where they are ``recorded``, those of an earlier run, and for
    test data; where they are for training data that are none, they are refused.
    """
    from pyddl.data import load
    from pyddl.data.spec import of_pictures

    given: dict[str, Any] = {} if settings[labels] is None else {"labels": _own.from_here(settings[labels])}
    if settings[data] is not None:
        if (data == "data" and not recorded) or of_pictures(settings[data]):
            given |= {name: settings[name] for name in PICTURES if settings.get(name)}
        return load(_own.from_here(settings[data]), **given)
    if given:
        raise ParameterError(f"--{labels.replace('_', '-')} are those of the rows of --{data}, which is not given: "
                             "give it too, or leave them out")
    return None


def scaled_as(source: Source, settings: Mapping[str, Any], here: World) -> Source:
    """``source`` scaled as the settings say, by the rows to train on; the ranks share the work. Collective."""
    from pyddl.data.joined import ScaledSource, split
    from pyddl.data.scaled import learned
    from pyddl.data.statistics import Statistics
    from pyddl.train.agreement import agreement

    if settings["scale"] is None:
        return source
    validation = settings["validation"]
    with agreement(here.transport):
        learns = source if validation is None else split(source, validation, settings["seed"])[0]
    statistics = Statistics(learns, here.rank, here.size, here.transport.gather_objects)
    _ = statistics.mean  # while all ranks are here
    with agreement(here.transport):
        return ScaledSource(source, learned(settings["scale"], learns, statistics))


def for_data(name: str, source: Source, settings: Mapping[str, Any]) -> tuple[Source, models.Model]:
    """The model for these rows, with its own ones of these options; and the rows as a run that it takes over had
    them."""
    from pyddl.train.run import load_run

    def read(path: str) -> models.Trained:
        nonlocal source
        run = load_run(path)
        source = run.as_trained(source)
        return models.Trained.of(run)

    given = options.with_runs(settings, read)
    return source, models.for_data(name, source, **given)
