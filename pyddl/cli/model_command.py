"""A command about a MODEL: one sub-command for each row of `models.TABLE`, with the options that this model takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from pyddl import _check, models
from pyddl.cli.flags import Grouped, flags, write_in_groups
from pyddl.options import Option

__all__ = ["ModelCommand"]


class ModelCommand(click.Group):
    """``pyddl NAME [OPTIONS] MODEL [OPTIONS]``, or without MODEL where a file names it.

    A sub-command is made when it is called for, so a model needs a row in the table and no line here.

    Parameters
    ----------
    name : str
    run : callable
        ``run(model or None, **flags)``, which returns an exit status; a flag not given is None. Its docstring is the
        help.
    sections : sequence of str
        Of the option table.
    own : callable
        Makes the flags of the command itself.
    defaults : callable
        ``defaults(model or None)``: defaults that differ from the option table's, for the help.
    shown : callable
        Which options of the sections its help shows; others are known, to be refused with a reason.
    """

    def __init__(self, name: str, run: Callable[..., int], *, sections: Sequence[str],
                 own: Callable[[], list[click.Parameter]], defaults: Callable[[str | None], Mapping[str, Any]],
                 shown: Callable[[Option], bool] = lambda option: True):
        self._run, self._sections, self._own, self._defaults, self._shown = run, sections, own, defaults, shown
        super().__init__(name, callback=self._without, help=inspect.getdoc(run), params=self._flags(None),
                         invoke_without_command=True, subcommand_metavar="[MODEL [OPTIONS]]")

    def _flags(self, model: str | None) -> list[click.Parameter]:
        return [*self._own(), *flags(*self._sections, model=model, defaults=self._defaults(model), shown=self._shown)]

    def _without(self, **given: Any) -> int | None:
        return self._run(None, **given) if click.get_current_context().invoked_subcommand is None else None

    def list_commands(self, context: click.Context) -> list[str]:
        return list(models.TABLE)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in models.TABLE:
            return None

        def run(**given: Any) -> int:
            before = {} if context.invoked_subcommand is None else context.params  # flags that stood before MODEL
            return self._run(name, **{**before, **{key: value for key, value in given.items() if value is not None}})

        text = f"{models.TABLE[name].help}\n\n{self.help}"
        return Grouped(name, callback=run, params=self._flags(name), help=text)

    def resolve_command(self, context: click.Context, args: list[str]) -> Any:
        _check.one_of("MODEL", args[0], models.TABLE)
        return super().resolve_command(context, args)

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section(f"Models, of which pyddl {self.name} MODEL --help shows the options"):
            formatter.write_dl([(name, entry.help) for name, entry in models.TABLE.items()])
        write_in_groups(self, context, formatter)
