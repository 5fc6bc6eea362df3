"""pyddl doctor: what this machine offers."""

import click

from pyddl import _core

__all__ = ["command"]


@click.command("doctor")
def command() -> int:
    """Say what this machine offers."""
    click.echo(f"oneDNN {_core.onednn_version()}, x86-64-v{_core.simd_level()}")
    return 0
