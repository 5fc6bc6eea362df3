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
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyddl import _check, effects, models
from pyddl.errors import ParameterError
from pyddl.strategies.given import class_of
from pyddl.tune.given import checked, fixed_options, parameters
from pyddl.tune.parameter import Parameter, plain, shown
from pyddl.tune.use import HEADS, RULES_OF, default, known, option, read, usable, why_not

__all__ = ["Space"]

MOST_WAYS = 100_000  # values of what others depend on, together, that are counted one by one


class Space:
    """Fixed options, and parameters to draw.

    Parameters
    ----------
    fixed : mapping
        Options that all trials have, ``model`` among them where it is not drawn.
    space : mapping
        As in the table ``[space]``: by option a list of choices, or a table with a range or ``choices``, and ``when``.
        What is here wins over what is fixed.
    search : mapping, optional
        The table ``[search]``.
    where : str, optional
        Begins each message.

    Attributes
    ----------
    fixed : dict
    parameters : tuple of Parameter
        In the order of the file.
    search : dict
        As it was given: `pyddl.tune.search.Search.of` reads it.
    where : str
    notes : list of str
        What of the file was left out, and why.

    Raises
    ------
    ParameterError
        An option is unknown, or has no place in a search; a value is out of its range; a range is empty; a condition
        can never hold, or goes round in a circle; no trial has a use for an option; or there is nothing to search.

    Examples
    --------
    >>> space = Space({"model": "autoencoder"}, {"batch_size": [32, 64], "learning_rate": {"low": 0.001, "high": 0.1}})
    >>> drawn = space.draw(lambda parameter: parameter.low or parameter.choices[0])
    >>> space.settings(drawn)
    {'model': 'autoencoder', 'batch_size': 32, 'learning_rate': 0.001}
    """

    def __init__(self, fixed: Mapping[str, Any], space: Mapping[str, Any], *, search: Mapping[str, Any] | None = None,
                 where: str = ""):
        self.where, self._in_space = where, f"{where}[space] "
        self.search = dict(search or {})
        self.fixed = fixed_options(fixed, where)
        left = ", ".join(name for name in ("out", "ranks") if name in fixed)
        self.notes = [f"{where}left out, as trials have folders and ranks of the search: {left}"] if left else []
        self._by_name = {parameter.name: parameter
                         for parameter in parameters(space, self._in_space, self.fixed.get("model"))}
        if not any(parameter.count() != 1 for parameter in self._by_name.values()):
            raise ParameterError(f"{where}there is nothing to search; expected a table [space] with a range or choices "
                                 "for an option, such as learning_rate = {low = 1e-4, high = 1e-1, log = true}")
        if "model" not in {*self.fixed, *self._by_name}:
            raise ParameterError(f"{where}which model? expected model = ..., one of {', '.join(models.TABLE)}")
        self._check_conditions()
        self.parameters = tuple(self._by_name.values())
        self._order = self._in_order()
        self._check_use()

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
        tables = {name: whole.pop(name, {}) for name in ("search", "space")}
        for name, table in tables.items():
            if not isinstance(table, dict):
                raise ParameterError(f"{path}: {name} is {table!r}; expected a table [{name}]")
        return cls(whole, tables["space"], search=tables["search"], where=f"{path}: ")

    def check_ranks(self, ranks: int) -> None:
        """Refuse the space where a trial would have a strategy that makes no sense on so many ranks.

        Raises
        ------
        ParameterError
            Also where a strategy of one's own cannot be found.
        """
        for name in dict.fromkeys(self._possible("strategy")):
            needs = class_of(name).needs
            if needs > ranks:
                where = self._in_space if "strategy" in self._by_name else self.where
                raise ParameterError(f"{where}strategy {name} needs {needs} ranks, and a trial has {ranks}: leave it "
                                     f"out, or say --ranks-per-trial {needs}")

    # ---- one trial
    def draw(self, suggest: Callable[[Parameter], Any]) -> dict[str, Any]:
        """The options of one trial that are not fixed: those that its model, strategy and optimizer take, and whose
        conditions hold.

        Parameters
        ----------
        suggest : callable
            ``suggest(parameter) -> value``, called for each parameter after those that it depends on.
        """
        drawn: dict[str, Any] = {}
        later = set(self._by_name)
        for parameter in self._order:
            wanted = self._wanted(parameter, drawn, later)
            later.discard(parameter.name)
            if wanted:
                value = suggest(parameter)
                if parameter.entry:
                    drawn[parameter.option] = {**drawn.get(parameter.option, {}), parameter.entry: value}
                else:
                    drawn[parameter.name] = option(parameter.name).check(value)
        return drawn

    def settings(self, drawn: Mapping[str, Any], *, alone: bool = False) -> dict[str, Any]:
        """All options of a trial that are given: those of the fixed ones that it has a use for, and the drawn ones.

        ``alone``: as one rank can train it, under `local` in the place of a strategy that needs others.
        """
        heads = self._heads(drawn)
        if alone and class_of(heads["strategy"]).needs > 1:
            heads = {**heads, "strategy": "local"}
            drawn = {**drawn, "strategy": "local"}
        settings = {name: value for name, value in self.fixed.items() if usable(name, heads)}
        in_part = {parameter.option for parameter in self.parameters if parameter.entry}
        for name, value in drawn.items():
            if usable(name, heads):
                settings[name] = {**settings.get(name, {}), **value} if name in in_part else value
        return settings

    def epochs(self, drawn: Mapping[str, Any]) -> int:
        """How many epochs a trial has, where it is not ended early."""
        return int(self._value("epochs", drawn, self._heads(drawn)))

    def _heads(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """Model, strategy and optimizer of a trial, and what else decides of options, as far as its model is known."""
        given = {**self.fixed, **drawn}
        model = given.get("model")
        if model is None:
            return {}
        heads = {name: given[name] if name in given else default(name, model) for name in HEADS}
        return heads | {name: given[name] if name in given else default(name, model)
                        for name in read(None, model, heads["strategy"])}

    def _wanted(self, parameter: Parameter, drawn: Mapping[str, Any], later: Container[str]) -> bool:
        """Whether the parameter is drawn; of those of ``later`` nothing is known yet."""
        heads = {name: value for name, value in self._heads(drawn).items() if name in HEADS or name not in later}
        return usable(parameter.option, heads) and all(
            self._value(name, drawn, heads) in values for name, values in parameter.when.items())

    def _value(self, name: str, drawn: Mapping[str, Any], heads: Mapping[str, Any]) -> Any:
        """What an option, or an entry of one, is in a trial; None where it has no use for it."""
        whole, _, entry = name.partition(".")
        if not usable(whole, heads):
            return None
        given = {**self.fixed, **drawn}
        if entry:
            return {**self.fixed.get(whole, {}), **drawn.get(whole, {})}.get(entry)
        return given[name] if name in given else default(name, heads["model"])

    # ---- what it says of itself
    def fingerprint(self) -> dict[str, str]:
        """What a journal's trials are of, by option: the same where they are of this space.

        What changes no result is not among them: another machine may have other threads.
        """
        fixed = {name: shown(value) for name, value in self.fixed.items()
                 if name not in self._by_name and option(name).section in ("data", "model", "training")}
        drawn = {parameter.name: " if ".join(filter(None, (parameter.text(), parameter.condition())))
                 for parameter in self.parameters}
        return dict(sorted({**fixed, **drawn}.items()))

    def table(self) -> str:
        """The parameters in columns, for people."""
        lines = [(parameter.name, parameter.text(), parameter.condition()) for parameter in self.parameters]
        widths = [max(len(line[column]) for line in lines) for column in (0, 1)]
        return "\n".join(f"{name:<{widths[0]}}  {what:<{widths[1]}}  {'if ' if when else ''}{when}".rstrip()
                         for name, what, when in lines)

    def combinations(self) -> int | None:
        """How many different trials there are; None where a range has values without number."""
        counts = {parameter.name: parameter.count() or 0 for parameter in self.parameters}
        if 0 in counts.values():
            return None
        followed = {name for parameter in self.parameters for name in self._before(parameter)}
        heads = [parameter for parameter in self._order if parameter.name in followed]
        if math.prod(counts[parameter.name] for parameter in heads) > MOST_WAYS:
            return None
        found: dict[str, int] = {}  # by what is drawn of the heads
        for values in itertools.product(*(parameter.values() for parameter in heads)):
            chosen = {parameter.name: value for parameter, value in zip(heads, values, strict=True)}
            asked: list[str] = []

            def suggest(parameter: Parameter, chosen: dict[str, Any] = chosen, asked: list[str] = asked) -> Any:
                asked.append(parameter.name)
                return chosen[parameter.name] if parameter.name in chosen else next(parameter.values())

            self.draw(suggest)
            way = json.dumps({name: plain(chosen[name]) for name in asked if name in chosen})
            found[way] = math.prod(counts[name] for name in asked if name not in chosen)
        return sum(found.values())

    # ---- what belongs together
    def _possible(self, name: str) -> list[Any]:
        """The values that an option may have in some trial, of one that is drawn with a range none."""
        drawn = self._by_name.get(name)
        values = [] if drawn is None else list(drawn.choices)
        if drawn is not None and not drawn.when:
            return values
        if name in self.fixed:
            return [*values, self.fixed[name]]
        return [*values, *(default(name, model) for model in self._possible("model"))]

    def _check_conditions(self) -> None:
        for parameter in self._by_name.values():
            if parameter.name == "model" and parameter.when:
                raise ParameterError(f"{self._in_space}model has a condition, and all else depends on the model")
            when = {name: self._condition(parameter, name, values) for name, values in parameter.when.items()}
            self._by_name[parameter.name] = replace(parameter, when=when)

    def _condition(self, parameter: Parameter, name: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """The checked values of one condition, of which at least one is possible."""
        other = self._by_name.get(name)
        if other is None and name not in known():
            names = {*known(), *self._by_name}
            raise ParameterError(f"{self._in_space}{parameter.name}: when names {name!r}, which is no option"
                                 f"{_check.nearest(name, names)}")
        if "." not in name:
            values = tuple(checked(name, value, f"{self._in_space}{parameter.name}: when: ") for value in values)
        possible = self._possible(name) if "." not in name else []
        if not any(value in possible or (other is not None and other.may_be(value)) for value in values):
            is_what = f"{other.text()}" if other is not None else " or ".join(map(shown, possible))
            raise ParameterError(f"{self._in_space}{parameter.name} is never drawn: when asks for {name} "
                                 f"{' or '.join(map(shown, values))}, and it is {is_what}")
        return values

    def _before(self, parameter: Parameter) -> set[str]:
        """The parameters that must be drawn before."""
        names = set(parameter.when)
        if parameter.name != "model":
            names.add("model")
        if option(parameter.option).section == "training" and option(parameter.option).of:
            names.add("strategy")
        if parameter.option in RULES_OF:
            names.add("optimizer")
        names.update(name for name in effects.reads(parameter.option)  # those that follow it say nothing of it
                     if name in self._by_name and parameter.name not in self._by_name[name].when)
        return names & self._by_name.keys()

    def _in_order(self) -> list[Parameter]:
        """By name, each after those that it depends on: lines of the file may change their places."""
        waiting = {parameter.name: self._before(parameter) for parameter in self.parameters}
        order: list[Parameter] = []
        while waiting:
            ready = sorted(name for name, before in waiting.items() if not before & waiting.keys())
            if not ready:
                raise ParameterError(f"{self._in_space}conditions go round in a circle: {', '.join(sorted(waiting))}")
            order.append(self._by_name[ready[0]])
            del waiting[ready[0]]
        return order

    def _check_use(self) -> None:
        """Refuse an option that no trial has a use for."""
        for name, value in self.fixed.items():
            ways = self._ways(name)
            if value != option(name).default and not any(usable(name, way) for way in ways):
                raise ParameterError(f"{self.where}{why_not(name, ways)}")
        for parameter in self.parameters:
            ways = self._ways(parameter.option)
            here = [way for way in ways
                    if all(way[name] in values for name, values in parameter.when.items() if name in way)]
            if not any(usable(parameter.option, way) for way in here):
                raise ParameterError(f"{self._in_space}{why_not(parameter.option, here)}")

    def _ways(self, name: str) -> list[dict[str, Any]]:
        """Values that what decides of an option may have together."""
        found: list[dict[str, Any]] = []
        for heads in itertools.product(*map(self._possible, HEADS)):
            way = dict(zip(HEADS, heads, strict=True))
            others = read(name, way["model"], way["strategy"])
            found += ({**way, **dict(zip(others, values, strict=True))}
                      for values in itertools.product(*(self._ends(other) for other in others)))
        return found

    def _ends(self, name: str) -> Iterator[Any]:
        """The values that an option may have, of a range its ends."""
        drawn = self._by_name.get(name)
        yield from self._possible(name)
        if drawn is not None and drawn.kind != "choice":
            yield from (drawn.low, drawn.high)
