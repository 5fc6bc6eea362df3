"""pyddl plot RUN: draw a run's curves and reconstructions again."""

from __future__ import annotations

import click

from pyddl.errors import DataError

__all__ = ["command"]


@click.command("plot")
@click.argument("run", type=click.Path())
@click.option("--data", help="Rows to draw; by default the run's own test data.")
@click.option("--labels", help="Labels of the rows of --data, where it brings none of its own.")
def command(run: str, data: str | None, labels: str | None) -> int:
    """Draw the curves and reconstructions of RUN into RUN/plots."""
    from pyddl.cli.app import say
    from pyddl.cli.evaluate import rows_for
    from pyddl.train.report import draw
    from pyddl.train.run import load_run

    trained = load_run(run)
    source = None
    try:
        source = rows_for(trained, data, labels)
    except DataError as error:
        if data is not None:
            raise
        say(f"curves alone are drawn: {error}")
    for path in draw(run, trained.model, trained.averaged, trained.buffers, trained.metrics, source):
        click.echo(str(path))
    return 0
