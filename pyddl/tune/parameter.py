"""What is drawn for each trial: a range or choices, and how a journal keeps a value of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from pyddl.errors import ParameterError

__all__ = ["Parameter", "plain", "shown"]


@dataclass(frozen=True)
class Parameter:
    """One of a space.

    Attributes
    ----------
    name : str
        An option's, or ``option.entry`` for one entry of an option of kind ``values``.
    kind : str
        ``int``, ``float`` or ``choice``.
    low, high : int or float, optional
        Ends of a range, both within it.
    log : bool
        Whether a range is drawn from by its logarithm.
    step : int or float, optional
        Distance of the values of a range.
    choices : tuple
    when : mapping of tuples
        By option: values of which it must have one, so that this parameter is drawn.

    Examples
    --------
    >>> hidden = Parameter("hidden", "choice", choices=((256, 64), (32,)))
    >>> hidden.code((32,)), hidden.value("[32]")
    ('[32]', (32,))
    >>> Parameter("epochs", "int", 2, 8, step=3).count()
    3
    """

    name: str
    kind: str
    low: Any = None
    high: Any = None
    log: bool = False
    step: Any = None
    choices: tuple[Any, ...] = ()
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def option(self) -> str:
        """The option that it is of."""
        return self.name.partition(".")[0]

    @property
    def entry(self) -> str:
        """The entry of that option, or ''."""
        return self.name.partition(".")[2]

    @property
    def codes(self) -> tuple[Any, ...]:
        """The choices as a journal keeps them."""
        return tuple(_code(choice) for choice in self.choices)

    def code(self, value: Any) -> Any:
        """A value as a journal keeps it: a number, a truth value or a text."""
        return _code(value) if self.kind == "choice" else value

    def value(self, code: Any) -> Any:
        """The value that a journal keeps so.

        Raises
        ------
        ParameterError
            It is none of this parameter's.
        """
        if self.kind == "choice":
            if code in self.codes:
                return self.choices[self.codes.index(code)]
        elif self.low <= code <= self.high:
            return code
        raise ParameterError(f"{self.name} is {code!r}; expected {self.text()}")

    def may_be(self, value: Any) -> bool:
        """Whether it has the value."""
        if self.kind == "choice":
            return value in self.choices
        return isinstance(value, int | float) and bool(self.low <= value <= self.high)

    def count(self) -> int | None:
        """How many values it has; None where a range has them without number."""
        if self.kind == "choice":
            return len(self.choices)
        if self.kind == "float" and self.step is None:
            return None
        return int((Decimal(str(self.high)) - Decimal(str(self.low))) / Decimal(str(self.step or 1))) + 1

    def values(self) -> Iterator[Any]:
        """All of its values, where they have a number."""
        if self.kind == "choice":
            yield from self.choices
        else:
            yield from (self.low + number * (self.step or 1) for number in range(self.count() or 0))

    def text(self) -> str:
        """Its range or choices, for people."""
        if self.kind == "choice":
            return ", ".join(map(shown, self.choices))
        step = "" if self.step is None else f", step {self.step:.12g}"
        return f"{self.low:.12g} to {self.high:.12g}{', logarithmic' if self.log else ''}{step}"

    def condition(self) -> str:
        """When it is drawn, for people; '' where always."""
        return " and ".join(f"{name} is {' or '.join(map(shown, values))}" for name, values in self.when.items())


def _code(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else json.dumps(plain(value), sort_keys=True)


def plain(value: Any) -> Any:
    """With lists in the place of tuples, as TOML and JSON have it."""
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value


def shown(value: Any) -> str:
    """A value for people."""
    return value if isinstance(value, str) else json.dumps(plain(value), default=str)
