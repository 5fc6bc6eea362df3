"""How a search goes: its own few options, as flags of the command and as the table ``[search]`` of a space file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyddl import effects, options
from pyddl.errors import ParameterError
from pyddl.options import Option

__all__ = ["OPTIONS", "Search"]

UPWARD = ("accuracy", "elbo", "likelihood", "samples_per_second")
"""Ends of the names of what is better where it is larger."""

OPTIONS = (
    Option("trials", "int", 20, "search", "trials of the whole search", at_least=1),
    Option("sampler", "str", "tpe", "search",
           "what chooses a trial's options; tpe: near those of good trials, by their densities; random: anywhere",
           choices=("tpe", "random")),
    Option("pruner", "str", "asha", "search",
           "what ends trials early; asha: after first epochs, and factor times as many, and so on, the best of every "
           "factor trials go on; none: nothing", choices=("asha", "none")),
    Option("goal", "str", "test_loss", "search",
           "column of metrics.jsonl that is to become best; where nothing is tested, train_loss in the place of "
           "test_loss"),
    Option("direction", "str", None, "search",
           "which way is better; by default maximize for accuracies, likelihoods, elbo and samples_per_second, else "
           "minimize", choices=("minimize", "maximize")),
    Option("seed", "int", 0, "search", "seed of what is drawn; trials have that of training", at_least=0),
    Option("minutes", "float", None, "search", "time after which no trial begins, and those under way are stopped",
           "minutes", above=0, at_most=1e9),
    Option("first", "int", 1, "search", "epochs after which asha ends trials first", "epochs", at_least=1),
    Option("factor", "int", 3, "search", "of so many trials asha lets one go on", at_least=2),
)
"""In the order of flags and keys."""


@dataclass(frozen=True)
class Search:
    """The options of a search, checked; `OPTIONS` says what they are."""

    trials: int = 20
    sampler: str = "tpe"
    pruner: str = "asha"
    goal: str = "test_loss"
    direction: str = "minimize"
    seed: int = 0
    minutes: float | None = None
    first: int = 1
    factor: int = 3

    @classmethod
    def of(cls, table: Mapping[str, Any], flags: Mapping[str, Any] | None = None, *, where: str = "") -> Search:
        """From the table ``[search]``, and flags, which win over it; those of None are not given.

        Raises
        ------
        ParameterError
            A key is unknown (the nearest is offered), or a value out of its range or without effect. ``where`` begins
            what is said of the table.

        Examples
        --------
        >>> Search.of({"trials": 40, "goal": "test_accuracy"}, {"trials": 60}).trials
        60
        """
        known = {option.name: option for option in OPTIONS}
        options.check_names(table, known, where=f"{where}[search] ")
        values = {name: option.default for name, option in known.items()}
        for given, begins in ((table, f"{where}[search] "), (flags or {}, "")):
            for name, value in given.items():
                if value is None:
                    continue
                try:
                    values[name] = known[name].check(value)
                except ParameterError as error:
                    raise ParameterError(f"{begins}{error}") from None
        said = None if (flags or {}).get("pruner") is None else flags  # which leaves what a file says without effect
        effects.check(values, lambda name: (known[name].default,), said)
        if values["direction"] is None:
            values["direction"] = "maximize" if values["goal"].endswith(UPWARD) else "minimize"
        return cls(**values)

    def value(self, line: Mapping[str, Any]) -> float:
        """What is sought, in a line of ``metrics.jsonl``; of test_loss, where nothing is tested, the train_loss.

        Raises
        ------
        ParameterError
            The line has no such column.
        """
        column = self.column(line)
        return float(line[column])

    def column(self, line: Mapping[str, Any]) -> str:
        """The name under which `value` finds it."""
        there = {name for name, value in line.items() if isinstance(value, int | float) and name != "epoch"}
        if self.goal in there:
            return self.goal
        if self.goal == "test_loss" and "train_loss" in there:
            return "train_loss"
        from pyddl import _check

        raise ParameterError(f"goal is {self.goal!r}; expected a column of metrics.jsonl, of which these trials have "
                             f"{', '.join(sorted(there))}{_check.nearest(self.goal, there)}")
