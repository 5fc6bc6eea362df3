"""How long until training begins: the import beyond NumPy's own, and the first step of 4 ranks?

Whole processes, in turn. The first step of 4 ranks is that of ``pyddl train`` on MNIST where it is found: launcher,
interpreter, MPI, data, model and one step. Aims: 0.15 s for the import, 1.5 s for the first step.

    python -m benchmarks.start [--size quick|node|cluster]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from statistics import median

from benchmarks import harness
from benchmarks.harness import Record
from pyddl.comm import launcher
from pyddl.data import find

__all__ = ["IMPORT_AIM", "RANKS", "START_AIM", "main"]

IMPORT_AIM, START_AIM = 0.15, 1.5  # seconds
RANKS = 4
FIRST_STEP = """
import sys, time
from pyddl import cli
from pyddl.train.worker import Worker

def first_step(self, step_done=Worker.step_done):
    step_done(self)
    if self.number == 0:
        print("first step at", repr(time.time()), "on", self.count, flush=True)
    Worker.step_done = step_done

Worker.step_done = first_step
cli.main()
"""


def importing(what: str) -> Callable[[int], float]:
    """Seconds of processes that import ``what`` and end."""

    def run(count: int) -> float:
        begin = time.perf_counter()
        for _ in range(count):
            subprocess.run([sys.executable, "-c", what], check=True)
        return time.perf_counter() - begin

    return run


def first_step(data: str) -> float:
    """Seconds from the start of the launcher to the end of the first step of `RANKS` ranks.

    Raises
    ------
    RuntimeError
        Not as many ranks took it.
    """
    with tempfile.TemporaryDirectory() as folder:
        train = ["train", "autoencoder", "--data", data, "--epochs", "1", "--quiet", "--out", f"{folder}/run"]
        line, environ = launcher.command(RANKS, [sys.executable, "-c", FIRST_STEP, *train])
        begin = time.time()
        done = subprocess.run(line, env=environ, capture_output=True, text=True, check=False)
    said = done.stdout.split()
    if said[:3] != ["first", "step", "at"] or said[5:6] != [str(RANKS)]:
        raise RuntimeError(f"expected the first step of {RANKS} ranks; got {' '.join(said)!r}")
    return float(said[3]) - begin


def main(given: Sequence[str] | None = None) -> Record:
    options = harness.arguments(__doc__, given)
    rounds = 2 if options.size == "quick" else 9
    data = "digits" if options.size == "quick" or find("mnist") is None else "mnist"
    record = Record("start", options.size, options.out, data=data, ranks=RANKS, mpi=launcher.find().family)
    first_step(data)  # warms the file system's cache
    imports = {name: [] for name in ("numpy", "numpy, pyddl", "numpy, pyddl.train.trainer")}
    starts = []
    for _ in range(rounds):
        for name, taken in imports.items():
            taken.append(importing(f"import {name}")(1))
        starts.append(first_step(data))
    beyond = {
        name: median([after - before for after, before in zip(taken, imports["numpy"], strict=True)])
        for name, taken in imports.items()
        if name != "numpy"
    }
    start = median(starts)
    record.add(imports=imports, starts=starts, beyond=beyond, start=start, import_aim=IMPORT_AIM, start_aim=START_AIM)
    for name, seconds in beyond.items():
        harness.show(f"{seconds:8.3f} s  import {name}, beyond NumPy (aim: {IMPORT_AIM} s)")
    curves = {f"import {name}": taken for name, taken in imports.items()} | {f"first step of {RANKS} ranks": starts}
    numbers = list(range(1, rounds + 1))
    panel = {"whole processes": {name: (numbers, taken) for name, taken in curves.items()}}
    harness.plot(record.path.with_suffix(".png"), panel, "round", "seconds", log="")
    harness.show(f"{start:8.3f} s  first step of {RANKS} ranks on {data} (aim: {START_AIM} s)")
    return record


if __name__ == "__main__":
    main()
