"""Stages, phases and turns: what of a model is trained together, by which rules, and for how long.

A *step* is one minibatch. In it every phase of the stage with ``step % every == every - 1`` (steps counted from the
stage's beginning) has a *turn* on the same rows: a gradient and an update of its own slices. Stages follow one another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pyddl import _check
from pyddl.errors import ParameterError
from pyddl.layout import Layout

__all__ = ["ALL", "Begin", "Phase", "Stage", "stages_of"]

ALL = "all"

Begin = Callable[[np.ndarray, np.ndarray, int, Any], None]


@dataclass(frozen=True)
class Phase:
    """Slices that are trained by one rule: each of its turns is a gradient and an update of them.

    Parameters
    ----------
    name : str
        In books, plots and checkpoints: ``generator``.
    groups : sequence of str, default=()
        Groups of the layout (`Slice.group`), neighbours; all of them by default.
    every : int, default=1
        It has a turn in each ``every``-th step, the last of so many.
    optimizer : mapping, default={}
        What differs from the optimizer that training was given: ``optimizer`` (the rule's name), ``learning_rate``,
        ``schedule``, ``weight_decay``, ``clip_norm``, ``bound`` and whatever else the rule takes. ``usual`` is a
        mapping of arguments that count only where the rule has them: ``{"usual": {"beta1": 0}}``.
    average : float, optional
        Keep an averaged copy of the slices, ``copy = keep copy + (1 - keep) parameters`` after update t, with ``keep =
        min(average, t / (t + 9))``, so that a short training forgets where it began: it is what is evaluated and
        generates. In (0, 1).

    Raises
    ------
    ParameterError
    """

    name: str
    groups: Sequence[str] = ()
    every: int = 1
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    average: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise ParameterError(f"a phase is named {self.name!r}; expected a word, for example 'generator'")
        if isinstance(self.groups, str):
            object.__setattr__(self, "groups", (self.groups,))
        if not isinstance(self.optimizer, Mapping):
            raise ParameterError(f"optimizer of phase {self.name} is {self.optimizer!r}; expected a mapping, for "
                                 "example {'optimizer': 'sgd', 'learning_rate': 0.1}")
        _check.integer(f"every of phase {self.name}", self.every, at_least=1)
        if self.average is not None:
            _check.number(f"average of phase {self.name}", self.average, above=0, below=1)


@dataclass(frozen=True)
class Stage:
    """Phases that are trained together, for so long.

    Parameters
    ----------
    phases : sequence of Phase
        In the order of their turns.
    epochs, steps : int, optional
        How long: one of the two, but in the last stage, which lasts for the ``epochs`` that training was given. After
        ``steps`` the epoch under way ends early.
    begin : callable, optional
        ``begin(parameters, buffers, seed, data)`` at its start, as `Model.initialise`: once, also when training is
        resumed within the stage.
    """

    phases: Sequence[Phase]
    epochs: int | None = None
    steps: int | None = None
    begin: Begin | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.phases, Sequence) or not all(isinstance(each, Phase) for each in self.phases):
            raise ParameterError(f"phases of a stage are {self.phases!r}; expected a sequence of pyddl.models.Phase")
        if not self.phases:
            raise ParameterError("a stage has no phases; expected at least one")
        for name in ("epochs", "steps"):
            if getattr(self, name) is not None:
                _check.integer(f"{name} of a stage", getattr(self, name), at_least=1)
        if self.epochs is not None and self.steps is not None:
            raise ParameterError("a stage has epochs and steps; expected one of the two")

    def described(self) -> dict[str, Any]:
        """Plain values, which are equal where stages train alike."""
        phases = [{"name": each.name, "groups": list(each.groups), "every": each.every,
                   "optimizer": {name: repr(value) for name, value in sorted(each.optimizer.items())},
                   "average": each.average} for each in self.phases]
        return {"phases": phases, "epochs": self.epochs, "steps": self.steps}


def stages_of(model: Any) -> tuple[Stage, ...]:
    """The model's stages, checked against its layout; one stage of one phase, all slices, where it names none.

    A name in the place of a stage is short for a stage of that phase, which trains the group of that name.

    Raises
    ------
    ParameterError
        A phase has no slices, or slices that are no neighbours; two share some; a stage that is not the last has no
        end, or the last one has.
    """
    given = getattr(model, "stages", (ALL,))
    if isinstance(given, str) or not isinstance(given, Sequence) or not all(
            isinstance(each, str | Stage) for each in given):
        raise ParameterError(f"stages of {type(model).__name__} are {given!r}; expected a sequence of "
                             "pyddl.models.Stage, or of names of groups")
    stages = tuple(Stage((Phase(each, () if each == ALL else (each,)),)) if isinstance(each, str) else each
                   for each in given)
    if not stages:
        raise ParameterError(f"{type(model).__name__} has no stages; expected at least one")
    for number, stage in enumerate(stages):
        _check_phases(model.layout, stage)
        lasting = stage.epochs is not None or stage.steps is not None
        if lasting == (number == len(stages) - 1):
            raise ParameterError(f"stage {number + 1} of {len(stages)} has {'an' if lasting else 'no'} end: the last "
                                 "stage lasts for the epochs that training was given, each other for its own epochs or "
                                 "steps")
    return stages


def _check_phases(layout: Layout, stage: Stage) -> None:
    seen: dict[str, str] = {}
    names = [phase.name for phase in stage.phases]
    if len(set(names)) != len(names):
        raise ParameterError(f"phases of one stage are named {', '.join(names)}; names must differ")
    for phase in stage.phases:
        for group in phase.groups or layout.groups:
            if group not in layout.groups:
                raise ParameterError(f"phase {phase.name} has no slices of group {group!r}: the layout's groups are "
                                     f"{', '.join(layout.groups) or 'none'}{_check.nearest(group, layout.groups)}")
            if group in seen:
                raise ParameterError(f"phases {seen[group]} and {phase.name} of one stage both train group {group}")
            seen[group] = phase.name
        if layout.size and not any(s.size for s in layout if not phase.groups or s.group in phase.groups):
            raise ParameterError(f"phase {phase.name} has no elements to train")
        layout.range_of(phase.groups)
