"""What tests share: verdicts of all ranks, and ranks started as a subprocess."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyddl.comm import World, launcher
from pyddl.comm.transport import Alone
from pyddl.errors import CommError

PATIENCE = float(os.environ.get("PYDDL_TEST_PATIENCE", "1"))
"""By what time limits of subprocesses are multiplied: where they run under sanitizers, they are slower."""


def assert_on_all_ranks(world: World, ok: bool, message: object = "") -> None:
    """Fail on every rank where ``ok`` is false on any, naming those ranks. Collective."""
    verdicts = world.transport.gather_objects((bool(ok), "" if ok else str(message)))
    failed = [f"rank {rank}: {why}" for rank, (held, why) in enumerate(verdicts) if not held]
    assert not failed, "\n".join(["failed on", *failed])


@dataclass
class Finished:
    """How a subprocess ended."""

    code: int | None
    """Exit status; None where the time limit ended it."""
    out: str
    err: str
    seconds: float


def run_ranks(ranks: int, argv: list[str], *, timeout: float = 100, environ: Mapping[str, str] | None = None,
              threads: int = 1, outlive: bool = False) -> Finished:
    """Run ``argv`` on ``ranks`` ranks; nothing of it is left when this returns."""
    line, settings = launcher.command(ranks, argv, threads=threads, environ={**os.environ, **(environ or {})},
                                      outlive=outlive)
    return run(line, settings, timeout)


def run(line: list[str], environ: Mapping[str, str], timeout: float = 100) -> Finished:
    """Run a command in a session of its own, which ends with it."""
    start = time.monotonic()
    process = subprocess.Popen(line, env=dict(environ), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True)
    code: int | None
    try:
        out, err = process.communicate(timeout=PATIENCE * timeout)
        code = process.returncode
    except subprocess.TimeoutExpired:
        for left in _of_session(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)
        out, err = process.communicate()
        code = None
    return Finished(code, out, err, time.monotonic() - start)


def _of_session(session: int) -> Iterator[int]:
    """The processes of one session. mpirun gives its ranks process groups, but not sessions, of their own."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rsplit(")", 1)[1].split()
            if int(fields[3]) == session:
                yield int(stat.parent.name)


def python(script: Path, *arguments: str) -> list[str]:
    return [sys.executable, str(script), *arguments]


def outliving() -> None:
    """Skip a test whose ranks go on when one dies, where the MPI cannot do that."""
    try:
        launcher.command(1, ["x"], environ={}, outlive=True)
    except CommError as refused:
        pytest.skip(str(refused))


def pyddl(*arguments: object, cwd: Path, check: int = 0) -> tuple[str, str]:
    """Run ``pyddl ...``, which must end with status ``check``; (stdout, stderr)."""
    done = subprocess.run([sys.executable, "-m", "pyddl", *map(str, arguments)], cwd=cwd, capture_output=True,
                          text=True, timeout=100, env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
                          check=False)
    assert done.returncode == check, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr


def said_by_pyddl(*arguments: object, cwd: Path, check: int = 0) -> str:
    """The same; what it printed on both."""
    return "".join(pyddl(*arguments, cwd=cwd, check=check))


def from_here_on_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """This rank trains by itself for the rest of the test."""
    here = World(rank=0, size=1, node=0, nodes=1, node_rank=0, node_size=1, mpi=None, transport=Alone())
    monkeypatch.setattr("pyddl.train.trainer.world", lambda: here)


def assert_reproducible(world: World, monkeypatch: pytest.MonkeyPatch, train: Callable[[], Any]) -> tuple[Any, Any]:
    """All ranks together give the bits of one process, as which the test goes on; both results, the ranks' first."""
    if world.size == 3:
        pytest.skip("reproducible needs a divisor of 8")
    together = train()
    from_here_on_alone(monkeypatch)
    one = train()
    assert np.array_equal(one.parameters, together.parameters)
    return together, one


def descendants(process: int) -> list[int]:
    """Process numbers of all processes below one."""
    found = [int(child) for task in Path(f"/proc/{process}/task").iterdir()
             for child in (task / "children").read_text().split()]
    return found + [below for child in found for below in descendants(child)]


def ended(process: int) -> bool:
    """Whether a process is gone, or dead and perhaps waited for by nobody."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True
