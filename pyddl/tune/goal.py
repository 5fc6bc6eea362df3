"""What may be sought: the columns that trials will have, as far as that is known before the first one is trained."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from pyddl import _check, models
from pyddl.comm.child import Child
from pyddl.data.joined import training_and_test
from pyddl.errors import ParameterError, PyddlError
from pyddl.models.stages import stages_of
from pyddl.train.evaluation import scores_of
from pyddl.train.named import for_data
from pyddl.tune.estimate import middle
from pyddl.tune.parameter import Parameter
from pyddl.tune.rows import Rows
from pyddl.tune.search import Search
from pyddl.tune.space import Space
from pyddl.tune.trial import settings_of

__all__ = ["check_goal"]

ALWAYS = ("train_loss", "samples_per_second", "seconds")
SHAPES = ("model", "finetune", "conditional")  # options that decide which columns there are


def check_goal(space: Space, search: Search, rows: Rows) -> None:
    """Refuse a goal that no trial will have; none where only training tells, as of a module of PyTorch.

    Models are made in a process of its own, which leaves this one without threads.

    Raises
    ------
    ParameterError
    """
    if search.goal in (*ALWAYS, "test_loss"):  # in the place of which train_loss may stand
        return

    def work(connection: Connection) -> None:
        try:
            connection.send(_columns(space, rows))
        except (PyddlError, MemoryError):  # which the trial itself will say
            connection.send(None)

    child, found = Child(work), None
    with suppress(EOFError):
        found = child.connection.recv()
    child.wait()
    if found is not None and search.goal not in found:
        raise ParameterError(f"goal is {search.goal!r}; expected a column of metrics.jsonl, of which these trials have "
                             f"{', '.join(sorted(found))}{_check.nearest(search.goal, found)}")


def _columns(space: Space, rows: Rows) -> set[str] | None:
    """Of all trials together; None where that is not known."""
    found = {*ALWAYS}
    for given in _ways(space):
        settings = settings_of(given, Path(), resume=False)
        module = models.TABLE[settings["model"]].module
        if module == "pyddl.models.torch" or not module.startswith("pyddl.models."):
            return None
        source, model = for_data(settings["model"], rows(settings), settings)
        if any(len(stage.phases) > 1 for stage in stages_of(model)):  # each with losses of its own
            return None
        tested = training_and_test(source, rows(settings, "test", "test_labels"), settings["validation"],
                                   settings["seed"])[1]
        if tested is not None:
            trained = np.ones(model.layout.size, dtype=np.float32)  # no zeros, as of stages that have not begun
            found.update(f"test_{name}" for name in scores_of(model, source, trained))
    return found


def _ways(space: Space) -> Iterator[Mapping[str, Any]]:
    """Options of trials in the middle of the space, one for each kind of model."""
    drawn = [parameter for parameter in space.parameters if parameter.name in SHAPES]
    for values in itertools.product(*(parameter.values() for parameter in drawn)):
        chosen = dict(zip((parameter.name for parameter in drawn), values, strict=True))

        def suggest(parameter: Parameter, chosen: Mapping[str, Any] = chosen) -> Any:
            return chosen[parameter.name] if parameter.name in chosen else middle(parameter)

        yield space.settings(space.draw(suggest), alone=True)
