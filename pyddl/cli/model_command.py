"""A command about a MODEL: one sub-command for each row of `models.TABLE`, with the options that this model takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from pyddl import _check, models, options
from pyddl.cli.flags import flags, write_in_groups
from pyddl.data import Source
from pyddl.errors import ParameterError
from pyddl.options import Option

if TYPE_CHECKING:
    from pyddl.comm.world import World

__all__ = ["PICTURES", "ModelCommand", "for_data", "scaled_as", "source_of"]

PICTURES = ("image_size", "grey")  # options of what becomes of pictures


class _OfModel(click.Command):
    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        write_in_groups(self, context, formatter)


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
        return _OfModel(name, callback=run, params=self._flags(name), help=text)

    def resolve_command(self, context: click.Context, args: list[str]) -> Any:
        _check.one_of("MODEL", args[0], models.TABLE)
        return super().resolve_command(context, args)

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section(f"Models, of which pyddl {self.name} MODEL --help shows the options"):
            formatter.write_dl([(name, entry.help) for name, entry in models.TABLE.items()])
        write_in_groups(self, context, formatter)


def source_of(settings: Mapping[str, Any], data: str = "data", labels: str = "labels", *,
              recorded: bool = False) -> Any:
    """The source that these two options name, or None where the first one names nothing.

    What the settings say of pictures is for pictures only where they are ``recorded``, those of an earlier run, and for
    test data; where they are for training data that are none, they are refused.
    """
    from pyddl.data import load
    from pyddl.data.spec import of_pictures

    given = {} if settings[labels] is None else {"labels": settings[labels]}
    if settings[data] is not None:
        if (data == "data" and not recorded) or of_pictures(settings[data]):
            given |= {name: settings[name] for name in PICTURES if settings.get(name)}
        return load(settings[data], **given)
    if given:
        raise ParameterError(f"--{labels.replace('_', '-')} are those of the rows of --{data}, which is not given: "
                             "give it too, or leave them out")
    return None


def scaled_as(source: Source, settings: Mapping[str, Any], here: World) -> Source:
    """``source`` scaled as the settings say, by the rows to train on; the ranks share the work. Collective."""
    from pyddl.data.joined import ScaledSource, split
    from pyddl.data.scaled import learned
    from pyddl.data.statistics import Statistics
    from pyddl.train.agreement import agreement

    if settings["scale"] is None:
        return source
    validation = settings["validation"]
    with agreement(here.transport):
        learns = source if validation is None else split(source, validation, settings["seed"])[0]
    statistics = Statistics(learns, here.rank, here.size, here.transport.gather_objects)
    _ = statistics.mean  # while all ranks are here
    with agreement(here.transport):
        return ScaledSource(source, learned(settings["scale"], learns, statistics))


def for_data(name: str, source: Source, settings: Mapping[str, Any]) -> tuple[Source, models.Model]:
    """The model for these rows, with its own ones of these options; and the rows as a run that it takes over had
    them."""
    from pyddl.train.run import load_run

    def read(path: str) -> models.Trained:
        nonlocal source
        run = load_run(path)
        source = run.as_trained(source)
        return models.Trained.of(run)

    given = options.with_runs(settings, read)
    return source, models.for_data(name, source, **given)
