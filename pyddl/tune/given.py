"""From what a space file says to fixed options and parameters, each checked by the table of options."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pyddl import _check
from pyddl.errors import ParameterError
from pyddl.options import Option
from pyddl.tune.parameter import Parameter, shown
from pyddl.tune.use import known, option

__all__ = ["checked", "fixed_options", "parameters"]

OF_SEARCH = "it is said of the search as a whole, on the command line"
NO_RESULT = "it changes no result"
SAME_ROWS = "losses of other rows do not compare"
NEVER_DRAWN = {
    "out": "trials have folders in that of the search", "resume": OF_SEARCH, "overwrite": OF_SEARCH, "quiet": OF_SEARCH,
    "verbose": OF_SEARCH, "config": "what is fixed stands at the top of the space file itself",
    "ranks": "all trials have as many, which --ranks-per-trial says",
    "checkpoint_every": NO_RESULT, "timeout": NO_RESULT, "debug": NO_RESULT, "on_failure": NO_RESULT,
    "data": SAME_ROWS, "labels": SAME_ROWS, "test": SAME_ROWS, "test_labels": SAME_ROWS, "validation": SAME_ROWS,
}
NEVER_FIXED = ("resume", "overwrite", "quiet", "verbose", "config")
LEFT_OUT = ("out", "ranks", "auto", "rows")  # of a run's config.toml: the search has folders and ranks of its own
OF_RANGE, OF_CHOICES = ("low", "high", "log", "step", "when"), ("choices", "when")
LISTS = ("ints", "layers", "floats")  # kinds of options that are several numbers
MOST_STEPS = 1e12  # of a range: beyond, they are no more than the rounding of its numbers
NUMBERS = {"int": "int", "ints": "int", "layers": "int", "float": "float", "floats": "float"}


def fixed_options(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What stands at the top of the file, without what only a run's record says.

    Raises
    ------
    ParameterError
        An option is unknown, has no place in a search, or has a value out of its range. ``where`` begins the message.
    """
    fixed: dict[str, Any] = {}
    names = known()
    for name, value in given.items():
        if name in LEFT_OUT:
            continue
        if name in NEVER_FIXED:
            raise ParameterError(f"{where}{name} has no place in a search: {NEVER_DRAWN[name]}")
        if isinstance(value, dict) and (name not in names or option(name).kind != "values"):
            raise ParameterError(f"{where}there is no table [{name}]; expected [search] and [space]"
                                 f"{_check.nearest(name, ('search', 'space'))}")
        if name not in names:
            raise ParameterError(f"{where}there is no option {name!r}{_check.nearest(name, names)}")
        fixed[name] = checked(name, value, where)
    return fixed


def parameters(space: Mapping[str, Any], where: str, model: Any = None) -> Iterator[Parameter]:
    """What the table ``[space]`` says, a parameter for each option or entry of one; conditions are not checked yet.

    ``model`` is the fixed one, for what is said of unknown options.

    Raises
    ------
    ParameterError
        As of fixed options; or a range is empty, or there are no choices.
    """
    names = known()
    for key, said in space.items():
        name, _, entry = key.partition(".")
        if name in NEVER_DRAWN:
            raise ParameterError(f"{where}{name} has no place in a search: {NEVER_DRAWN[name]}")
        if name not in names:
            near = _check.nearest(name, names)
            if model == "torch" and not near:
                near = f"; an argument of what makes the module is arguments.{name}"
            raise ParameterError(f"{where}there is no option {name!r}{near}")
        entries = option(name).kind == "values"
        if entry and not entries:
            raise ParameterError(f"{where}{key} is an entry of {name}, which has none")
        if entries and not entry and isinstance(said, dict) and not set(said) & {*OF_RANGE, *OF_CHOICES}:
            for entry, what in said.items():
                yield _parameter(f"{name}.{entry}", what, where)
        else:
            yield _parameter(key, said, where)


def checked(name: str, value: Any, where: str) -> Any:
    """The option's value in its type and range; ``where`` begins what is said otherwise."""
    try:
        return option(name).check(value)
    except ParameterError as error:
        raise ParameterError(f"{where}{error}") from None


def _parameter(name: str, said: Any, where: str) -> Parameter:
    if isinstance(said, list):
        said = {"choices": said}
    if not isinstance(said, dict):
        raise ParameterError(f"{where}{name} is {said!r}; expected choices, [...], or a range, {{low = ..., high = "
                             "...}; what is fixed stands at the top of the file")
    names = OF_CHOICES if "choices" in said else OF_RANGE
    for key in said:
        if key not in names:
            raise ParameterError(f"{where}{name} has no {key!r}; expected {', '.join(names)}"
                                 f"{_check.nearest(key, names)}")
    when = said.get("when", {})
    if not isinstance(when, dict):
        raise ParameterError(f"{where}{name}: when is {when!r}; expected a table of options, for example "
                             '{strategy = "averaging"}')
    made = _choices(name, said["choices"], where) if "choices" in said else _range(name, said, where)
    return replace(made, when={other: _values_of(f"{where}{name}: when", other, value)
                               for other, value in when.items()})


def _values_of(begins: str, name: str, said: Any) -> tuple[Any, ...]:
    """The values of which a condition asks for one; of an option that is a list itself ``[64, 16]`` is one value."""
    if not isinstance(said, list):
        return (said,)
    if not said:
        raise ParameterError(f"{begins} asks for {name} to be one of no values; expected at least one")
    whole = name in known() and option(name).kind in LISTS and not any(isinstance(each, list | str) for each in said)
    return (said,) if whole else tuple(said)


def _choices(name: str, given: Any, where: str) -> Parameter:
    if not isinstance(given, list) or not given:
        raise ParameterError(f"{where}{name} has no choices; expected a list of at least one, such as [32, 64]")
    values = given if "." in name else [checked(name, value, where) for value in given]
    for number, value in enumerate(values):
        if value in values[:number]:
            raise ParameterError(f"{where}{name} has the choice {shown(value)} twice")
    return Parameter(name, "choice", choices=tuple(values))


def _range(name: str, said: Mapping[str, Any], where: str) -> Parameter:
    for end in ("low", "high"):
        if end not in said:
            raise ParameterError(f"{where}{name} lacks {end}; expected a range, {{low = ..., high = ...}}, or choices")
    low, high, log, step = said["low"], said["high"], said.get("log", False), said.get("step")
    number = _number_of(name, said, where)
    try:
        low, high = number.check(low), number.check(high)
        if step is not None:
            step = (_check.integer(f"{name}: step", step, at_least=1) if number.kind == "int" else
                    _check.number(f"{name}: step", step, above=0))
    except ParameterError as error:
        raise ParameterError(f"{where}{error}") from None
    if not isinstance(log, bool):
        raise ParameterError(f"{where}{name}: log is {log!r}; expected true or false")
    if not low < high or not math.isfinite(high - low):
        raise ParameterError(f"{where}{name} has an empty range, from {low!r} to {high!r}: expected a low below high, "
                             "both finite")
    if log and low <= 0:
        raise ParameterError(f"{where}{name} is logarithmic from {low!r} on; expected a low above 0")
    if log and step is not None:
        raise ParameterError(f"{where}{name} has log and step; expected one of them at most")
    if step is not None and step > high - low:
        raise ParameterError(f"{where}{name} has a step of {step:g}, longer than its range from {low:g} to {high:g}")
    if step is not None and (high - low) / step > MOST_STEPS:
        raise ParameterError(f"{where}{name} has a step of {step:g}, too short for its range from {low:g} to {high:g}: "
                             "leave step out")
    return Parameter(name, number.kind, low, high, log, step)


def _number_of(name: str, said: Mapping[str, Any], where: str) -> Option:
    """An option that checks one number of a range: of several, as layers have them, each."""
    if "." in name:
        ends = [said[key] for key in ("low", "high", "step") if key in said]
        return Option(name, "int" if all(isinstance(each, int) for each in ends) else "float", 0, "training", "")
    whole = option(name)
    if whole.kind not in NUMBERS:
        raise ParameterError(f"{where}{name} has a range, and is no number; expected choices, [...]")
    at_least = 1 if whole.kind in ("ints", "layers") else whole.at_least
    return replace(whole, kind=NUMBERS[whole.kind], default=0, at_least=at_least)
