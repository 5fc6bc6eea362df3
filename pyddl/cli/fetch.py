"""pyddl fetch NAME: download a data set into the user's cache."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command("fetch")
@click.argument("name")
def command(name: str) -> int:
    """Download the data set NAME (mnist) into the user's cache, its checksums verified."""
    from pyddl.data import fetch

    click.echo(str(fetch(name)))
    return 0
