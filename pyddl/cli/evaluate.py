"""pyddl evaluate RUN: scores and measures of a trained model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import click

from pyddl.errors import DataError, ParameterError

__all__ = ["command", "for_pictures", "rows_for"]


def for_pictures(command: Callable[..., Any]) -> Callable[..., Any]:
    """The flags that say what becomes of the pictures of ``--data``, from the table of options."""
    from pyddl.options import named

    size, grey = named("image_size"), named("grey")
    command = click.option(grey.flag, is_flag=True, help=f"{grey.help}; by default as the run was trained.")(command)
    return click.option(size.flag, help=f"{size.help}; by default as the run was trained.")(command)



@click.command("evaluate")
@click.argument("run", type=click.Path())
@click.option("--data", help="What to evaluate on; by default the run's own test data.")
@click.option("--labels", help="Labels of the rows of --data, where it brings none of its own.")
@click.option("--measure", "measured", multiple=True, metavar="NAME",
              help="Compute this measure of the model too, which is no mean over rows; may be given several times.")
@click.option("--likelihood", is_flag=True,
              help="Compute the measure likelihood, and the gap between the free energies of test and training rows "
                   "where the run records them.")
@click.option("--quality", is_flag=True,
              help="Compare as many samples as there are rows with them, in the features of a classifier; write "
                   "RUN/plots/nearest.png, samples over the training rows that are nearest.")
@click.option("--classifier", type=click.Path(), metavar="RUN",
              help="Finished run of a classifier of such rows, for --quality.  [beside the data]")
@click.option("--modes", type=click.Path(), metavar="FILE.npy",
              help="Centres of the mixture that the rows are of, (modes, features): count modes among samples.")
@click.option("--deviation", type=float, help="Standard deviation of the rows about a centre of --modes.")
@for_pictures
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(run: str, data: str | None, labels: str | None, measured: tuple[str, ...], likelihood: bool, quality: bool,
            classifier: str | None, modes: str | None, deviation: float | None, as_json: bool, **pictures: Any) -> int:
    """All scores of the model in RUN, loss and reconstruction error among them: means over the rows.

    Under mpirun or srun all ranks share the work, with the same result.
    """
    from pyddl.cli.app import try_to_draw
    from pyddl.cli.quality import Judge
    from pyddl.comm.world import world
    from pyddl.train.agreement import agreement
    from pyddl.train.crew import Crew
    from pyddl.train.evaluation import check_labels, evaluate
    from pyddl.train.run import load_run

    here = world()
    with agreement(here.transport):
        _together("--classifier", classifier, "--quality", quality)
        _together("--deviation", deviation, "--modes", modes)
        trained = load_run(run)
        source = rows_for(trained, data, labels, pictures=pictures)
        check_labels(trained.model, source, "these data")
        measures = [_measure(trained, name) for name in (*measured, *(["likelihood"] if likelihood else []))]
        compares = likelihood and data is None and trained.config.get("data")
        training = _recorded_rows(trained)[0] if compares else None
        judge = None
        if modes is not None and trained.scaling is not None:
            raise ParameterError(f"--modes are centres of rows as they are, and {run} was trained on scaled ones: "
                                 "train without --scale to count modes")
        if quality or modes is not None:
            seen = _recorded_rows(trained)[0] if trained.config.get("data") else None
            judge = Judge(trained, source, seen, data, quality=quality, classifier=classifier, modes=modes,
                          deviation=deviation)
    vectors = (trained.averaged, trained.buffers)
    scores = evaluate(trained.model, *vectors, source, here.transport)
    for measure in measures:
        scores |= measure(*vectors, source, Crew(here.transport))
    if training is not None and "free_energy" in scores:
        seen = evaluate(trained.model, *vectors, training, here.transport)
        scores["free_energy_gap"] = scores["free_energy"] - seen["free_energy"]
    if judge is not None:
        scores |= judge.figures(Crew(here.transport))
    if here.rank > 0:
        return 0
    if judge is not None and quality:
        try_to_draw(judge.draw)
    if as_json:
        click.echo(json.dumps({"rows": len(source), **scores}))
    else:
        click.echo(f"on {source.describe()}")
        for name, value in scores.items():
            click.echo(f"{name:<{max(14, *map(len, scores))}} {value if isinstance(value, str) else f'{value:.4f}'}")
    return 0


def _together(flag: str, value: Any, other: str, there: Any) -> None:
    """Refuse a flag that says more of another one, which is not given."""
    if value is not None and not there:
        raise ParameterError(f"{flag} is for {other}, which is not given: give it too, or leave {flag} out")


def _measure(trained: Any, name: str) -> Any:
    from pyddl import _check
    from pyddl.models.protocol import name_of

    known = getattr(trained.model, "measures", {})
    if name not in known:
        raise ParameterError(f"model {name_of(trained.model)} has no measure {name!r}; it has "
                             f"{', '.join(known) or 'none'}{_check.nearest(name, known)}")
    return known[name]


def _recorded_rows(trained: Any, labels: str | None = None) -> tuple[Any, Any]:
    """The rows that the run was trained on, and the test rows among the same data; the run records its data."""
    from pyddl.data.joined import training_and_test
    from pyddl.train.named import source_of

    recorded = trained.config
    source = trained.as_trained(source_of({**recorded, "labels": labels}, recorded=True))
    return training_and_test(source, None, recorded.get("validation"), recorded["seed"])


def _without_files_of_labels(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a run recorded, but for labels that are no columns of the files of its rows: those are no features."""
    from pyddl.data.spec import columns_of

    without = [labels for rows, labels in (("data", "labels"), ("test", "test_labels"))
               if not columns_of(config.get(labels), config.get(rows))]
    return {**config, **dict.fromkeys(without)}


def rows_for(trained: Any, data: str | None, labels: str | None = None, *, labelled: bool = True,
             says: bool = True, pictures: Mapping[str, Any] | None = None) -> Any:
    """The source that ``--data`` names, or the test data that the run recorded; of the model's width and classes.

    Without test data it is the training rows, which a line on standard error ``says``, as another does that values lie
    beyond the range of the model's loss. Without ``labelled`` files of labels that the run recorded are left alone,
    unless they are columns beside the features. What is to become of ``pictures`` is as the run recorded it, where it
    is not given.
    """
    from pyddl.cli.app import say
    from pyddl.data.joined import reach, reaches_beyond, rounded_into, with_classes
    from pyddl.train.named import source_of

    recorded = trained.config if labelled else _without_files_of_labels(trained.config)
    asked = {name: value for name, value in (pictures or {}).items() if value}
    for name in asked:
        _together(f"--{name.replace('_', '-')}", True, "the pictures of --data", data)
    source = source_of({**trained.config, **asked, "data": data, "labels": labels}, recorded=not asked)
    if source is None and recorded.get("test"):
        source = source_of({**recorded, "data": recorded["test"], "labels": recorded.get("test_labels")}, recorded=True)
    if source is None and recorded.get("data"):
        training, tested = _recorded_rows(trained, recorded.get("labels"))
        source = training if tested is None else tested
        if tested is None and says:
            say(f"{trained.path} has no test part: taken are the rows that it was trained on (--data names others)")
    if source is None:
        raise DataError(f"{trained.path} does not record its data; name some with --data")
    rows, wanted = source, getattr(trained.model, "inputs", source.features)
    source = trained.as_trained(rows)  # which names the columns that are too many
    if rows.features != wanted:
        raise DataError(f"{rows.describe()} has {rows.features} features; the model in {trained.path} expects {wanted}")
    if limits := getattr(trained.model, "input_range", None):
        source = rounded_into(source, *limits)
        if says and reaches_beyond(source, *limits):
            say(f"{source.name} reaches from {reach(source)}, and the model in {trained.path} is for values in "
                f"[{limits[0]:g}, {limits[1]:g}]: what it gives means little. Scale the data as the training rows were")
    names = getattr(trained.model, "class_names", None)
    return with_classes(source, names) if names is not None and labelled else source
