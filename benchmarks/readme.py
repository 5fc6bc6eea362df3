"""The table of results that the README shows, from the same lines as benchmarks/RESULTS.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.step import NETWORKS

__all__ = ["BEGIN", "END", "table_of", "update"]

BEGIN, END = "<!-- make bench writes this table -->", "<!-- to here -->"
BATCHES = (32, 128, 512)
SUM = 1_740_000  # bytes: the gradient of the network of the other rows

Lines = Sequence[Mapping[str, Any]]


def table_of(lines: Mapping[str, Lines]) -> str:
    """The table; what was not asked, or whose competitor was not there, is left out."""
    dates = sorted({line["date"] for given in lines.values() for line in given})
    rows = [*_ranks(lines["ranks"]), *_server(lines["server"]), *_sums(lines["sum"]), *_steps(lines["step"]),
            *_start(lines["start"])]
    return harness.table([f"measured on that machine, {' to '.join(dict.fromkeys([dates[0], dates[-1]]))}",
                          "pyddl against"], rows)


def _ranks(lines: Lines) -> Iterable[list[str]]:
    together = [line for line in lines if line["ranks"] == 2]
    rows = " / ".join(str(line["batch"]) for line in together)
    if ddp := [_times(line["speed_up"]["DDP"]) for line in together if "DDP" in line["speed_up"]]:
        yield [f"2 ranks together, {rows} rows each", f"PyTorch DDP with gloo: {' / '.join(ddp)} its samples/s"]
    names = {"pyddl": "", "pyddl sharded": ", with `--shard-optimizer`"}
    for way in together[0]["scaling"] if together else ():
        shares = " / ".join(f"{100 * line['scaling'][way]:.0f} %" for line in together)
        what = "the same" if ddp else f"2 ranks, {rows} rows each"
        yield [f"{what}{names[way]}, against twice one rank", shares]


def _server(lines: Lines) -> Iterable[list[str]]:
    for peer in dict.fromkeys(name for line in lines for name in line["speed_up"]):
        chosen = [line for line in lines if peer in line["speed_up"]]
        networks = " / ".join(line["network"] for line in chosen)
        faster = " / ".join(_times(line["speed_up"][peer]) for line in chosen)
        yield [f"asynchronous server, {chosen[0]['workers']} workers with {chosen[0]['batch']} rows each, {networks}",
               f"{peer}'s ParameterServerStrategy: {faster} its samples/s"]


def _sums(lines: Lines) -> Iterable[list[str]]:
    chosen = [line for line in lines if line["bytes"] == SUM]
    if chosen:
        ranks = " / ".join(str(line["ranks"]) for line in chosen)
        faster = " / ".join(_times(next(iter(line["speed_up"].values()))) for line in chosen)
        yield [f"sum of 1.7 MB over {ranks} ranks", f"Open MPI's MPI_Allreduce: {faster} as fast"]


def _steps(lines: Lines) -> Iterable[list[str]]:
    of_network = [line for line in lines if line["network"] == NETWORKS[1] and line["batch"] in BATCHES]
    chosen = [line for line in of_network if "torch" in line]
    what = f"one step on one thread, batch {' / '.join(str(line['batch']) for line in chosen)}"
    peers = {"float32": "of PyTorch eager and compiled", "bfloat16": "of PyTorch under bfloat16 autocast"}
    for dtype, best in peers.items():
        if faster := [_times(line["speed_up"][dtype]) for line in chosen if dtype in line["speed_up"]]:
            yield [what, f"the best {best}: {' / '.join(faster)}"]
            what = "the same in bfloat16"


def _start(lines: Lines) -> Iterable[list[str]]:
    for line in lines:
        beyond = max(0.0, line["beyond"]["numpy, pyddl"])
        yield [f"`import pyddl`, then the first step of {line['ranks']} ranks",
               f"{beyond:.1f} s beyond NumPy's import; {line['start']:.2f} s after `mpirun`"]


def _times(value: float) -> str:
    return f"{value:.1f}x" if value < 10 else f"{value:.0f}x"


def update(page: Path, lines: Mapping[str, Lines]) -> None:
    """Write the table between the two marks of ``page``.

    Raises
    ------
    RuntimeError
        It does not have each mark once, in this order.
    """
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise RuntimeError(f"{page}: expected one line {BEGIN!r}, and after it one {END!r}")
    before, rest = text.split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{table_of(lines)}\n{END}{rest.split(END)[1]}", encoding="utf-8")
