"""Options of commands: makes click's flags from `pyddl.options`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click

from pyddl.errors import ParameterError
from pyddl.options import Option, of_section, stranger

__all__ = ["Grouped", "flags", "flags_of", "write_in_groups"]

GROUPS = {"data": "Data", "model": "Model", "training": "Training", "own": "Options of single strategies",
          "search": "Search", "machine": "Ranks and machine", "simulation": "Simulated machine", "output": "Output"}
"""Titles of the groups of flags, in their order: the option table's sections, and what strategies have of their own."""


class _Checked(click.ParamType):
    """Text that the option's own check turns into its value."""

    def __init__(self, option: Option):
        self.option = option
        self.name = {"ints": "N,N", "floats": "X,X", "layers": "N,N|text", "str": "text", "run": "RUN",
                     "values": "NAME=VALUE,..."}.get(option.kind, option.kind)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        return "|".join(self.option.choices) if self.option.choices else None

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            if self.option.kind in ("int", "float") and isinstance(value, str):
                value = {"int": int, "float": float}[self.option.kind](value)
        except ValueError:
            self.fail(f"{value!r} is no {'whole ' if self.option.kind == 'int' else ''}number", param, ctx)
        try:
            return self.option.check(value)
        except ParameterError as error:
            self.fail(str(error), param, ctx)


class _Flag(click.Option):
    """The flag of an option. Its help shows the opposite of a switch only where the switch is on by default."""

    def __init__(self, option: Option, *given: Any, **named: Any):
        super().__init__(*given, **named)
        self.group = GROUPS["own" if option.section == "training" and option.of else option.section]
        self._both = option.default is True

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        return record if record is None or self._both else (record[0].split(" / ")[0], record[1])


def write_in_groups(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """Write the help of a command's flags in groups, each under its title."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for param in command.get_params(ctx):
        if isinstance(param, click.Option) and (record := param.get_help_record(ctx)) is not None:
            groups.setdefault(getattr(param, "group", "Options"), []).append(record)
    for title in sorted(groups, key=["Options", *GROUPS.values()].index):
        with formatter.section(title):
            formatter.write_dl(groups[title])


class Grouped(click.Command):
    """A command whose help has flags in groups."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        write_in_groups(self, context, formatter)


def flags(*sections: str, model: str | None = None, defaults: Mapping[str, Any] | None = None,
          shown: Callable[[Option], bool] = lambda option: True) -> list[click.Parameter]:
    """The flags of these sections of the table. A flag not given is None.

    Parameters
    ----------
    model : str, optional
        Whose own options the help shows; by default no model's own. Those of other models are known all the same, so
        that who gives one learns whose it is.
    defaults : mapping, optional
        Those that differ from the table's, for the help.
    shown : callable
        Which options the help may show.
    """
    return flags_of(of_section(*sections), model=model, defaults=defaults, shown=shown)


def flags_of(options: Iterable[Option], *, model: str | None = None, defaults: Mapping[str, Any] | None = None,
             shown: Callable[[Option], bool] = lambda option: True) -> list[click.Parameter]:
    """The flags of these options, as `flags`."""
    made: list[click.Parameter] = []
    for option in options:
        extra: dict[str, Any] = {"is_flag": True} if option.kind == "bool" else {"type": _Checked(option)}
        hidden = not shown(option) or bool(option.section == "model" and option.of
                                           and (model is None or stranger(option.name, model=model)))
        text = _help(option, (defaults or {}).get(option.name, option.default))
        flag = f"{option.flag}/--no-{option.flag[2:]}" if option.kind == "bool" else option.flag
        made.append(_Flag(option, [flag, *option.also, option.name], default=None, help=text, hidden=hidden, **extra))
    return made


def _help(option: Option, default: Any) -> str:
    if isinstance(default, tuple):
        default = ",".join(map(str, default)) or "none"
    shown = (
        ""
        if default is None or isinstance(default, bool)
        else f"  [{default}{' ' + option.unit if option.unit else ''}]"
    )
    of = f"{', '.join(option.of)}: " if option.of and option.section == "training" else ""
    return of + option.help + shown
