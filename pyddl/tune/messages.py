"""What ranks and the desk of a search say to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Outcome", "Over", "Split", "Task"]


@dataclass(frozen=True)
class Task:
    """A trial for a group.

    Attributes
    ----------
    number : int
    given : dict
        Its drawn options.
    resume : bool
        Whether it was under way before, and may have a checkpoint.
    deaths : bool
        Ranks of the group have died since its last trial.
    """

    number: int
    given: dict[str, Any]
    resume: bool = False
    deaths: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a trial on a rank.

    Attributes
    ----------
    state : {"complete", "pruned", "failed", "stopped"}
    line : dict or None
        Its last epoch's, of ``metrics.jsonl``.
    why : str
        Of a failed one.
    lost : bool
        It failed on this rank as another one did.
    learn : bool
        Whether it failed by its options.
    fatal : bool
        What failed would fail every trial.
    asked : bool
        A signal has asked this rank to stop the search.
    """

    state: str
    line: dict[str, Any] | None = None
    why: str = ""
    lost: bool = False
    learn: bool = True
    fatal: bool = False
    asked: bool = False


@dataclass(frozen=True)
class Split:
    """Some ranks of a group have failed, and others do not come back: the group has to end."""

    why: str


@dataclass(frozen=True)
class Over:
    """The search is over, or this session of it.

    Attributes
    ----------
    status : int
        Exit status.
    error : str
        What has ended it; empty where it is as it should be.
    deaths : bool
        Ranks have died.
    """

    status: int
    error: str = ""
    deaths: bool = False
