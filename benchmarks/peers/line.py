"""A peer's end of the line to the benchmark that drives it. Standard library only: it runs in any environment.

The driver calls handlers by name, one JSON object per line over a local socket. A peer that waits for the next call
sleeps in the kernel, so that it takes nothing from the one that is being timed; an idle MPI call would spin.
"""

from __future__ import annotations

import json
import os
import re
import socket
import traceback
from collections.abc import Callable
from time import perf_counter, process_time
from typing import Any

__all__ = ["CLOCK", "CPU", "clocked", "mpi_name", "now", "serve"]

CLOCK = "PYDDL_BENCH_CLOCK"
"""Setting of the environment: ``cpu`` counts the processor time of this process, for one thread on a machine that is
busy with other work; else the wall's clock counts."""

CPU = os.environ.get(CLOCK) == "cpu"
now = process_time if CPU else perf_counter


def serve(address: str, rank: int, about: dict[str, Any], handlers: dict[str, Callable[..., Any]]) -> None:
    """Obey the driver until it hangs up.

    Parameters
    ----------
    address : str
        Path of the driver's socket.
    rank : int
        Among the processes of this peer.
    about : dict
        Facts for the header of the results: versions, threads.
    handlers : dict
        Names to functions of keyword arguments; what they return is the answer.
    """
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(address)
        with line.makefile("rw") as stream:
            _say(stream, {"rank": rank, "about": about})
            for text in stream:
                call = json.loads(text)
                try:
                    answer = {"answer": handlers[call.pop("do")](**call)}
                except Exception:
                    answer = {"error": traceback.format_exc()}
                _say(stream, answer)


def clocked(step: Callable[[], Any], count: int, barrier: Callable[[], Any] = lambda: None) -> float:
    """Seconds that ``count`` calls of ``step`` take, from a barrier on."""
    barrier()
    begin = now()
    for _ in range(count):
        step()
    return now() - begin


def mpi_name(version: str) -> str:
    """Name and number of an MPI, from what MPI_Get_library_version says."""
    found = re.search(r"(Open MPI|MPICH|Intel\S* MPI)\D*([\d.]+)", version)
    return f"{found[1]} {found[2]}" if found else version[:40]


def _say(stream: Any, message: dict[str, Any]) -> None:
    stream.write(json.dumps(message) + "\n")
    stream.flush()
