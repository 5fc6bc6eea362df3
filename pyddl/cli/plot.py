"""pyddl plot RUN: draw a run's curves and reconstructions again."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command("plot")
@click.argument("run", type=click.Path())
@click.option("--data", help="Whose rows to reconstruct; by default the run's own test data.")
def command(run: str, data: str | None) -> int:
    """Draw the curves and reconstructions of RUN into RUN/plots."""
    from pyddl.cli.evaluate import rows_for
    from pyddl.train.report import draw
    from pyddl.train.run import load_run

    trained = load_run(run)
    for path in draw(run, trained.model, trained.parameters, trained.buffers, trained.metrics, rows_for(trained, data)):
        click.echo(str(path))
    return 0
