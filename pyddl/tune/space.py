"""What a search draws from: a TOML file of options, each fixed, or with a range or choices and perhaps a condition.

    model = "autoencoder"               # fixed, as in a config.toml of `pyddl train`
    epochs = 5

    [search]                            # how to search: see `pyddl.tune.search`
    trials = 40

    [space]
    learning_rate = {low = 1e-4, high = 1e-1, log = true}
    hidden = [[256, 64], [512, 128, 32]]
    strategy = ["allreduce", "averaging"]
    period = {low = 4, high = 64, log = true, when = {strategy = "averaging"}}
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from pyddl import _check, models, options
from pyddl.errors import ParameterError
from pyddl.optim import OPTIMIZERS
from pyddl.optim.base import argument_names
from pyddl.options import Option

__all__ = ["Parameter", "Space"]

MODEL = Option("model", "str", None, "model", "model to train")
HEADS = ("model", "strategy", "optimizer")
"""Options on which others depend by themselves: each of them takes some, and has no use for the rest."""

SECTIONS = ("data", "model", "training", "machine", "output")
OF_RULES = {"momentum": "momentum", "momentum_schedule": "momentum"}  # option -> argument that few optimizers have
OWN_FOLDERS = "each trial has a folder of its own in that of the search"
OF_SEARCH = "it is said to the search as a whole, on the command line"
SAME_ROWS = "losses of other rows do not compare"
NEVER_DRAWN = {
    "out": OWN_FOLDERS, "resume": OF_SEARCH, "overwrite": OF_SEARCH, "quiet": OF_SEARCH, "verbose": OF_SEARCH,
    "config": "the options that are fixed stand at the top of the space file itself",
    "ranks": "all trials have groups of one number of ranks: --ranks-per-trial",
    "checkpoint_every": "it changes no result", "timeout": "it changes no result", "debug": "it changes no result",
    "on_failure": OF_SEARCH, "data": SAME_ROWS, "labels": SAME_ROWS, "test": SAME_ROWS, "test_labels": SAME_ROWS,
    "validation": SAME_ROWS,
}
NEVER_FIXED = ("resume", "overwrite", "quiet", "verbose", "config")
LEFT_OUT = ("out", "ranks", "auto", "rows")  # of a run's config.toml: another folder, other ranks
OF_RANGE = ("low", "high", "log", "step", "when")
OF_CHOICES = ("choices", "when")
MOST_HEADS = 100_000  # values of what others depend on, together, that are counted one by one


@dataclass(frozen=True)
class Parameter:
    """What is drawn for each trial.

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
        """The choices as numbers, truth values and texts, as a journal can keep them."""
        return tuple(_code(choice) for choice in self.choices)

    def code(self, value: Any) -> Any:
        """A value as a journal keeps it."""
        return _code(value) if self.kind == "choice" else value

    def value(self, code: Any) -> Any:
        """The value that a journal keeps so.

        Raises
        ------
        ParameterError
            It is none of this parameter's.
        """
        if self.kind == "choice":
            for choice, known in zip(self.choices, self.codes, strict=True):
                if known == code and isinstance(known, bool) == isinstance(code, bool):
                    return choice
        elif self.low <= code <= self.high:
            return code
        raise ParameterError(f"{self.name} has no value {code!r}; expected {self.text()}")

    def count(self) -> int | None:
        """How many values it has; None where they are too many to be counted."""
        if self.kind == "choice":
            return len(self.choices)
        if self.kind == "float" and self.step is None:
            return None if self.low < self.high else 1
        return int((Decimal(str(self.high)) - Decimal(str(self.low))) / Decimal(str(self.step or 1))) + 1

    def values(self) -> Iterator[Any]:
        """All of its values, where they can be counted."""
        if self.kind == "choice":
            yield from self.choices
        else:
            yield from (self.low + number * (self.step or 1) for number in range(self.count() or 0))

    def text(self) -> str:
        """Its range or choices, for people."""
        if self.kind == "choice":
            return ", ".join(map(_shown, self.choices))
        step = f", step {self.step:g}" if self.step is not None else ""
        return f"{self.low:g} to {self.high:g}{', logarithmic' if self.log else ''}{step}"

    def condition(self) -> str:
        """When it is drawn, for people; '' where always."""
        return " and ".join(f"{name} is {' or '.join(map(_shown, values))}" for name, values in self.when.items())


def _code(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else json.dumps(_plain(value), sort_keys=True)


def _plain(value: Any) -> Any:
    """With lists in the place of tuples, as TOML and JSON have it."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, str) else json.dumps(_plain(value))


class Space:
    """Fixed options, and parameters to draw.

    Parameters
    ----------
    fixed : mapping
        Options that all trials have, ``model`` among them where it is not drawn.
    space : mapping
        As in the table ``[space]``: by option a list of choices, or a table with a range or ``choices``, and ``when``.
    where : str, optional
        Begins each message.

    Attributes
    ----------
    fixed : dict
    parameters : tuple of Parameter
        In the order of the file.
    search : dict
        The table ``[search]``, as it is: `pyddl.tune.search.Search.of` reads it.
    notes : list of str
        What of the file was left out, and why.

    Raises
    ------
    ParameterError
        An option is unknown or has no sense in a search, a value is out of its range, a range is empty, a condition can
        never hold or goes round in a circle, or there is nothing to search.

    Examples
    --------
    >>> space = Space({"model": "autoencoder"}, {"batch_size": [32, 64], "learning_rate": {"low": 0.001, "high": 0.1}})
    >>> drawn = space.draw(lambda parameter: parameter.low or parameter.choices[0])
    >>> space.settings(drawn)
    {'model': 'autoencoder', 'batch_size': 32, 'learning_rate': 0.001}
    """

    def __init__(self, fixed: Mapping[str, Any], space: Mapping[str, Any], *, where: str = "",
                 search: Mapping[str, Any] | None = None):
        self._where = where
        self.search = dict(search or {})
        self.notes: list[str] = []
        self.fixed = self._fixed(fixed)
        self.parameters = tuple(self._parameters(space))
        self._by_name = {parameter.name: parameter for parameter in self.parameters}
        self._check_heads()
        self._check_conditions()
        self._order = self._in_order()
        self._check_use()
        if not any(parameter.count() != 1 for parameter in self.parameters):
            raise ParameterError(f"{where}there is nothing to search: expected a table [space] with an option that has "
                                 "a range or choices, for example learning_rate = {low = 1e-4, high = 1e-1, log = true}")

    @classmethod
    def read(cls, path: str | Path) -> Space:
        """The space of a TOML file.

        Raises
        ------
        DataError
            There is no such file, or it is no TOML.
        ParameterError
            As from the class.
        """
        from pyddl.train.run import read_config

        whole = read_config(str(path))
        search, space = (whole.pop(name, {}) for name in ("search", "space"))
        for name, table in (("search", search), ("space", space)):
            if not isinstance(table, dict):
                raise ParameterError(f"{path}: {name} is {table!r}; expected a table [{name}]")
        return cls(whole, space, where=f"{path}: ", search=search)

    # ---- what is drawn
    def draw(self, suggest: Callable[[Parameter], Any]) -> dict[str, Any]:
        """The options of one trial that are not fixed: those that its model, strategy and optimizer take, and whose
        conditions hold.

        Parameters
        ----------
        suggest : callable
            ``suggest(parameter) -> value``, called for each parameter after those that it depends on.
        """
        drawn: dict[str, Any] = {}
        for parameter in self._order:
            if self._wanted(parameter, drawn):
                value = suggest(parameter)
                if parameter.entry:
                    drawn[parameter.option] = {**drawn.get(parameter.option, {}), parameter.entry: value}
                else:
                    drawn[parameter.name] = _option(parameter.name).check(value)
        return drawn

    def settings(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """All options of a trial that are given: those of the fixed ones that it has a use for, and the drawn ones."""
        heads = self._heads(drawn)
        settings = {name: value for name, value in self.fixed.items() if _taken(name, heads)}
        for name, value in drawn.items():
            entries = isinstance(value, Mapping) and name in settings
            settings[name] = {**settings[name], **value} if entries else value
        return settings

    def _heads(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """Model, strategy and optimizer of a trial."""
        given = {**self.fixed, **drawn}
        return {name: given[name] if name in given else _default(name, given["model"]) for name in HEADS}

    def _wanted(self, parameter: Parameter, drawn: Mapping[str, Any]) -> bool:
        heads = self._heads(drawn) if parameter.name != "model" else {}
        if not _taken(parameter.option, heads):
            return False
        return all(self._value(name, drawn, heads) in values for name, values in parameter.when.items())

    def _value(self, name: str, drawn: Mapping[str, Any], heads: Mapping[str, Any]) -> Any:
        """What an option, or an entry of one, has in a trial, as far as it is drawn."""
        option, _, entry = name.partition(".")
        if not _taken(option, heads):
            return None
        given = {**self.fixed, **drawn}
        if entry:
            return (given.get(option) or {}).get(entry)
        return given[name] if name in given else _default(name, heads["model"])

    # ---- what it says of itself
    def fingerprint(self) -> dict[str, Any]:
        """Plain values that are the same where a journal's trials are of this space; names of options are the keys.

        What changes no result is not among them: another machine may have other threads.
        """
        fixed = {name: _plain(value) for name, value in sorted(self.fixed.items())
                 if _option(name).section in ("data", "model", "training")}
        drawn = {parameter.name: " when ".join(filter(None, (parameter.text(), parameter.condition())))
                 for parameter in sorted(self.parameters, key=lambda parameter: parameter.name)}
        return {**{name: _shown(value) for name, value in fixed.items() if name not in drawn}, **drawn}

    def table(self) -> str:
        """The parameters in columns, for people."""
        lines = [(parameter.name, parameter.text(), parameter.condition()) for parameter in self.parameters]
        widths = [max(len(line[column]) for line in lines) for column in (0, 1)]
        return "\n".join(f"{name:<{widths[0]}}  {what:<{widths[1]}}  {'if ' if when else ''}{when}".rstrip()
                         for name, what, when in lines)

    def combinations(self) -> int | None:
        """How many different trials there are; None where a range has values without number."""
        counts = {parameter.name: parameter.count() for parameter in self.parameters}
        if None in counts.values():
            return None
        others = {name for parameter in self.parameters for name in self._depends(parameter)}
        heads = [parameter for parameter in self._order if parameter.name in others]
        if math.prod(counts[parameter.name] or 1 for parameter in heads) > MOST_HEADS:
            return None
        found: dict[str, int] = {}
        for values in itertools.product(*(parameter.values() for parameter in heads)):
            chosen = {parameter.name: value for parameter, value in zip(heads, values, strict=True)}
            asked: list[Parameter] = []

            def suggest(parameter: Parameter, chosen: dict[str, Any] = chosen, asked: list[Parameter] = asked) -> Any:
                asked.append(parameter)
                return chosen[parameter.name] if parameter.name in chosen else next(parameter.values())

            self.draw(suggest)
            way = json.dumps({each.name: each.code(chosen[each.name]) for each in asked if each.name in chosen})
            found[way] = math.prod(counts[each.name] or 1 for each in asked if each.name not in chosen)
        return sum(found.values())

    # ---- reading
    def _error(self, text: str, table: str = "[space] ") -> ParameterError:
        return ParameterError(f"{self._where}{table}{text}")

    def _fixed(self, given: Mapping[str, Any]) -> dict[str, Any]:
        fixed: dict[str, Any] = {}
        left = [name for name in given if name in LEFT_OUT]
        if shown := [name for name in left if name in ("out", "ranks")]:
            self.notes.append(f"{self._where}{' and '.join(shown)} left out: trials have folders and ranks of the search")
        known = _known()
        for name, value in given.items():
            if name in left:
                continue
            if name in NEVER_FIXED:
                raise self._error(f"{name} has no place in a search: {NEVER_DRAWN[name]}", "")
            if isinstance(value, dict) and (name not in known or _option(name).kind != "values"):
                raise self._error(f"there is no table [{name}]; expected [search] and [space]"
                                  f"{_check.nearest(name, ('search', 'space'))}", "")
            if name not in known:
                raise self._error(f"there is no option {name!r}{_check.nearest(name, (*known, 'search', 'space'))}", "")
            fixed[name] = self._checked(name, value, "")
        return fixed

    def _checked(self, name: str, value: Any, table: str = "[space] ") -> Any:
        try:
            return _option(name).check(value)
        except ParameterError as error:
            raise self._error(str(error), table) from None

    def _parameters(self, space: Mapping[str, Any]) -> Iterator[Parameter]:
        known = _known()
        for key, said in space.items():
            name, _, entry = key.partition(".")
            if name in NEVER_DRAWN:
                raise self._error(f"{name} has no place in a search: {NEVER_DRAWN[name]}")
            if name not in known:
                raise self._error(f"there is no option {name!r}{_check.nearest(name, known)}")
            entries = _option(name).kind == "values"
            if entry and not entries:
                raise self._error(f"{key} is an entry of {name}, which has none")
            if entries and not entry and isinstance(said, dict) and not set(said) & {*OF_RANGE, *OF_CHOICES}:
                for entry, what in said.items():
                    yield self._parameter(f"{name}.{entry}", what)
            else:
                yield self._parameter(key, said)

    def _parameter(self, name: str, said: Any) -> Parameter:
        if isinstance(said, list):
            said = {"choices": said}
        if not isinstance(said, dict):
            raise self._error(f"{name} is {said!r}; expected choices, [...], or a range, {{low = ..., high = ...}}; what "
                              "is fixed stands at the top of the file")
        names = OF_CHOICES if "choices" in said else OF_RANGE
        for key in said:
            if key not in names:
                raise self._error(f"{name} has no {key!r}; expected {', '.join(names)}{_check.nearest(key, names)}")
        when = said.get("when", {})
        if not isinstance(when, dict):
            raise self._error(f"{name}: when is {when!r}; expected a table of options, for example "
                              '{strategy = "averaging"}')
        parameter = self._choices(name, said["choices"]) if "choices" in said else self._range(name, said)
        return replace(parameter, when={other: tuple(value) if isinstance(value, list) else (value,)
                                        for other, value in when.items()})

    def _choices(self, name: str, given: Any) -> Parameter:
        if not isinstance(given, list) or not given:
            raise self._error(f"{name} has no choices; expected a list of at least one, such as [32, 64]")
        option, _, entry = name.partition(".")
        values: list[Any] = given if entry else [self._checked(name, value) for value in given]
        for number, value in enumerate(values):
            if value in values[:number]:
                raise self._error(f"{name} has the choice {_shown(value)} twice")
        return Parameter(name, "choice", choices=tuple(values))

    def _range(self, name: str, said: Mapping[str, Any]) -> Parameter:
        if not {"low", "high"} <= said.keys():
            raise self._error(f"{name} lacks {'low' if 'low' not in said else 'high'}; expected a range, {{low = ..., "
                              "high = ...}, or choices")
        low, high, log, step = said["low"], said["high"], said.get("log", False), said.get("step")
        option, _, entry = name.partition(".")
        kind = _option(option).kind
        if entry:
            whole = all(isinstance(each, int) for each in (low, high, 0 if step is None else step))
            check = Option(name, "int" if whole else "float", 0, "training", "").check
        elif kind in ("int", "ints", "layers", "float", "floats"):
            one = replace(_option(name), kind="float" if kind in ("float", "floats") else "int", default=0)
            check = replace(one, at_least=1).check if kind in ("ints", "layers") else one.check
        else:
            raise self._error(f"{name} has a range, and is no number: expected choices, such as [...]")
        try:
            low, high = check(low), check(high)
            if step is not None:
                step = replace(Option("step", "float", 0, "training", ""), kind=type(low).__name__, above=0,
                               at_least=1 if isinstance(low, int) else None).check(step)
        except ParameterError as error:
            raise self._error(str(error) if str(error).startswith(name) else f"{name}: {error}") from None
        if not isinstance(log, bool):
            raise self._error(f"{name}: log is {log!r}; expected true or false")
        if not low < high or not math.isfinite(high - low):
            raise self._error(f"{name} has an empty range, {low!r} to {high!r}: low must be below high, and both finite")
        if log and low <= 0:
            raise self._error(f"{name} is logarithmic from {low!r}: low must be above 0")
        if log and step is not None:
            raise self._error(f"{name} has log and step: expected one of them")
        if step is not None and step > high - low:
            raise self._error(f"{name} has a step of {step:g}, longer than its range from {low:g} to {high:g}")
        return Parameter(name, "int" if isinstance(low, int) else "float", low, high, log, step)

    # ---- what belongs together
    def _possible(self, name: str) -> list[Any]:
        """The values that a head may have; for each model its own default."""
        if name in self._by_name:
            drawn = list(self._by_name[name].choices)
            if not self._by_name[name].when:
                return drawn
        else:
            drawn = []
        if name in self.fixed:
            return [*drawn, self.fixed[name]]
        return list(dict.fromkeys([*drawn, *(_default(name, model) for model in self._possible("model"))]))

    def _check_heads(self) -> None:
        if "model" not in self.fixed and "model" not in self._by_name:
            raise self._error(f"which model? expected model = ..., one of {', '.join(models.TABLE)}", "")
        if "model" in self._by_name and self._by_name["model"].when:
            raise self._error("model has a condition: all else depends on the model")

    def _check_conditions(self) -> None:
        for parameter in self.parameters:
            when = {}
            for name, values in parameter.when.items():
                option, _, entry = name.partition(".")
                if option not in _known() or (bool(entry) and name not in self._by_name):
                    known = (*_known(), *self._by_name)
                    raise self._error(f"{parameter.name}: when names {name!r}, which is no option"
                                      f"{_check.nearest(name, known)}")
                if not entry:
                    values = tuple(self._checked(name, value) for value in values)
                other = self._by_name.get(name)
                if other is not None:
                    may = [value for value in values if _may_be(other, value)]
                    held = (f"it is one of {other.text()}" if other.kind == "choice" else f"it is {other.text()}")
                else:
                    may = [value for value in values if name not in self.fixed or value == self.fixed[name]]
                    held = f"it is fixed to {_shown(self.fixed.get(name))}"
                if not may:
                    raise self._error(f"{parameter.name} is never drawn: when wants {name} to be "
                                      f"{' or '.join(map(_shown, values))}, and {held}")
                when[name] = values
            self._by_name[parameter.name] = replace(parameter, when=when)
        self.parameters = tuple(self._by_name[parameter.name] for parameter in self.parameters)

    def _depends(self, parameter: Parameter) -> set[str]:
        """The parameters that must be drawn before."""
        names = set(parameter.when)
        if parameter.name != "model":
            names.add("model")
        if _option(parameter.option).section == "training" and _option(parameter.option).of:
            names.add("strategy")
        if parameter.option in OF_RULES:
            names.add("optimizer")
        return names & self._by_name.keys()

    def _in_order(self) -> list[Parameter]:
        """By name, each after those that it depends on: lines of the file may change their places."""
        waiting = {parameter.name: self._depends(parameter) for parameter in self.parameters}
        order: list[Parameter] = []
        while waiting:
            ready = sorted(name for name, before in waiting.items() if not before & waiting.keys())
            if not ready:
                raise self._error(f"conditions go round in a circle: {', '.join(sorted(waiting))} depend on one another")
            order.append(self._by_name[ready[0]])
            del waiting[ready[0]]
        return order

    def _check_use(self) -> None:
        """Refuse an option that no trial can have a use for."""
        ways = [dict(zip(HEADS, way, strict=True))
                for way in itertools.product(*(self._possible(name) for name in HEADS))]
        for name, value in self.fixed.items():
            if value != _option(name).default and not any(_taken(name, way) for way in ways):
                raise self._error(_why(name, ways), "")
        for parameter in self.parameters:
            here = [way for way in ways if all(way[name] in values for name, values in parameter.when.items()
                                               if name in HEADS)]
            if not any(_taken(parameter.option, way) for way in here):
                raise self._error(_why(parameter.option, here or ways))


def _known() -> list[str]:
    """Names of the options that a space may have."""
    return ["model", *(option.name for option in options.of_section(*SECTIONS))]


def _option(name: str) -> Option:
    """The option of that name; ``model`` is one too, here."""
    return replace(MODEL, choices=tuple(models.TABLE)) if name == "model" else options.named(name)


def _default(name: str, model: str) -> Any:
    return models.TABLE[model].defaults.get(name, _option(name).default)


def _taken(name: str, heads: Mapping[str, Any]) -> bool:
    """Whether model, strategy and optimizer have a use for the option."""
    if options.stranger(name, model=heads.get("model"), strategy=heads.get("strategy")):
        return False
    return name not in OF_RULES or OF_RULES[name] in argument_names(OPTIMIZERS[heads["optimizer"]])


def _why(name: str, ways: list[dict[str, Any]]) -> str:
    """Why no trial has a use for the option."""
    for way in ways:
        if why := options.stranger(name, model=way["model"], strategy=way["strategy"]):
            return why
    rules = [rule for rule, algorithm in OPTIMIZERS.items() if OF_RULES[name] in argument_names(algorithm)]
    return (f"{name} is an option of optimizer {' and '.join(rules)}; the optimizer here is "
            f"{' or '.join(dict.fromkeys(way['optimizer'] for way in ways))}: leave it out, or choose another one")


def _may_be(parameter: Parameter, value: Any) -> bool:
    if parameter.kind == "choice":
        return value in parameter.choices
    return isinstance(value, int | float) and bool(parameter.low <= value <= parameter.high)
