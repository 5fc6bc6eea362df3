"""pyddl bench: the benchmarks that come with pyddl's source."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import click

from pyddl import _check
from pyddl.errors import ParameterError

__all__ = ["command", "questions"]

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
TOOLS = ("__init__", "__main__", "harness", "readme")  # no benchmarks


@click.command("bench", context_settings={"ignore_unknown_options": True, "help_option_names": []},
               add_help_option=False)
@click.argument("question", required=False)
@click.argument("given", metavar="[OPTIONS]", nargs=-1, type=click.UNPROCESSED)
def command(question: str | None, given: tuple[str, ...]) -> int:
    """Answer a QUESTION about pyddl's speed on this machine, or all of them; without one, list them."""
    known = questions()
    if question is None or question in ("-h", "--help"):
        click.echo("Usage: pyddl bench QUESTION [--size quick|node|cluster] [--out FOLDER] ...\n")
        known["all"] = "What make bench asks, then report."
        click.echo("\n".join(f"  {name:<19}{text}" for name, text in known.items()))
        click.echo("\npyddl bench QUESTION --help shows what else can be chosen. quick takes seconds, node minutes.")
        return 0
    _check.one_of("QUESTION", question, (*known, "all"))
    module = "benchmarks" if question == "all" else f"benchmarks.{question}"
    places = [str(FOLDER.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.run([sys.executable, "-m", module, *given], check=False,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(places)}).returncode


def questions() -> dict[str, str]:
    """Name to question: the first line of each file.

    Raises
    ------
    ParameterError
        pyddl was installed without its source.
    """
    if not (FOLDER / "harness.py").is_file():
        raise ParameterError(f"there are no benchmarks in {FOLDER}: they come with pyddl's source. Cure: clone it, and "
                             "run make bench there")
    files = [file for file in sorted(FOLDER.glob("*.py")) if file.stem not in TOOLS]
    texts = {file.stem: ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "" for file in files}
    return {name: text.split("\n\n")[0].replace("\n", " ") for name, text in texts.items()}
