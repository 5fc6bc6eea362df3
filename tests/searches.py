"""Small searches, as files; and strategies that fail in their trials."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

ODD = """
    import os, pathlib, sys, time
    import pyddl
    from pyddl.strategies.allreduce import Allreduce

    class Killed(Allreduce):
        def worker(self, me):
            os.kill(os.getpid(), 9)
            yield

    class Leaves(Allreduce):
        def worker(self, me):
            sys.exit(3)
            yield

    class OneLeaves(Allreduce):
        def worker(self, me):
            if pyddl.world().rank == pyddl.world().size - 1 > 0:
                sys.exit(0)
            yield from super().worker(me)

    class Vanishes(Allreduce):
        def worker(self, me):
            os._exit(0)
            yield

    class OneKilled(Allreduce):
        def worker(self, me):
            if pyddl.world().rank == pyddl.world().size - 1 > 0:
                os.kill(os.getpid(), 9)
            yield from super().worker(me)

    class OneRaises(Allreduce):
        def worker(self, me):
            if pyddl.world().rank == pyddl.world().size - 1:
                raise ValueError("lost the thread")
            yield from super().worker(me)

    class Slow(Allreduce):
        # as long as there is a file "slow"
        def worker(self, me):
            steps, answer = super().worker(me), None
            while True:
                try:
                    operation = steps.send(answer)
                except StopIteration:
                    return
                if pathlib.Path("slow").exists():
                    time.sleep(0.02)
                answer = yield operation
"""


def write(folder: Path, space: str, *, trials: int = 3, epochs: int = 1, pruner: str = "none",
          **search: object) -> Path:
    """A random search for small autoencoders of the digits; its file."""
    more = "".join(f"{name} = {json.dumps(value)}\n" for name, value in search.items())
    path = folder / "space.toml"
    path.write_text(f'model = "autoencoder"\ndata = "digits"\nepochs = {epochs}\nbatch_size = 128\nhidden = [16, 4]\n'
                    f'[search]\nsampler = "random"\npruner = "{pruner}"\ntrials = {trials}\n{more}[space]\n{space}\n')
    return path


RATES = "learning_rate = {low = 1e-3, high = 1e-1, log = true}"


def odd(folder: Path) -> None:
    """Put the strategies into the folder, as ``odd.py``."""
    (folder / "odd.py").write_text(textwrap.dedent(ODD))


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "trials.csv", newline="") as file:
        return list(csv.DictReader(file))


class Running:
    """``pyddl tune ...`` as a process of its own, in a session that ends with the test."""

    def __init__(self, *arguments: object, cwd: Path, environ: dict[str, str] | None = None,
                 line: list[str] | None = None):
        self.process = subprocess.Popen(
            [*(line or []), sys.executable, "-m", "pyddl", "tune", *map(str, arguments)], cwd=cwd, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **(environ or {})}, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()

    def until(self, found, seconds: float = 60) -> None:
        """Wait for something to happen while it runs."""
        end = time.monotonic() + seconds
        while not found():
            assert self.process.poll() is None and time.monotonic() < end, self.process.communicate()
            time.sleep(0.02)

    def ends(self, seconds: float = 60) -> tuple[int, str, str]:
        """Exit status, and what it said."""
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, out, err
