"""Does a search leave no core idle: 8 groups of 1 rank on the cores of this machine?

A random search with ``pyddl tune``; trials have unlike lengths. From the moment when every group has a trial to the one
when the last trial begins, processor time of all its processes is held against the cores' time, less what others took
there (and what a hypervisor gave to others). Aim: 95 %.

    python -m benchmarks.tune [--size quick|node|cluster] [--groups 8] [--trials 48]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import harness
from benchmarks.harness import Record
from pyddl.comm import launcher

__all__ = ["AIM", "main"]

AIM = 0.95
TICK = os.sysconf("SC_CLK_TCK")
SPACE = """
model = "autoencoder"
data = "random:{rows}x100"
[search]
sampler = "random"
pruner = "none"
trials = {trials}
[space]
epochs = {{low = 2, high = 6}}
hidden = [[64, 16], [256, 32]]
learning_rate = {{low = 1e-4, high = 1e-2, log = true}}
"""


def below(first: int) -> float:
    """Processor seconds of a process and of all below it, those that have ended too."""
    parents, seconds = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
        seconds[int(stat.parent.name)] = sum(map(int, fields[11:15])) / TICK

    def is_below(process: int) -> bool:
        while process > 1 and process != first:
            process = parents.get(process, 0)
        return process == first

    return sum(each for process, each in seconds.items() if is_below(process))


def of_machine() -> tuple[float, float]:
    """Processor seconds of all processes, and those that a hypervisor gave to other machines."""
    user, nice, system, _, _, irq, soft, steal = map(int, Path("/proc/stat").read_text().split(None, 9)[1:9])
    return (user + nice + system + irq + soft) / TICK, steal / TICK


def measure(folder: Path, groups: int, trials: int, rows: int) -> dict[str, float]:
    """Run a search; what its processes and others took while all groups had work.

    Raises
    ------
    RuntimeError
        The search has failed.
    """
    (folder / "space.toml").write_text(SPACE.format(trials=trials, rows=rows))
    line = [sys.executable, "-m", "pyddl", "tune", "space.toml", "--out", "search", "--ranks", str(groups), "--quiet"]
    running = subprocess.Popen(line, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    at: list[tuple[float, float, float, float]] = []
    for begun in (groups, trials):
        while running.poll() is None and not (folder / f"search/trials/{begun - 1:04d}/metrics.jsonl").exists():
            time.sleep(0.05)
        at.append((time.monotonic(), below(running.pid), *of_machine()))
    said, _ = running.communicate()
    if running.returncode:
        raise RuntimeError(said)
    wall, ours, all_, stolen = (after - before for before, after in zip(*at, strict=True))
    cores = len(os.sched_getaffinity(0))
    others = max(0.0, all_ - ours) + stolen
    return {"wall": wall, "ours": ours, "others": others, "busy": ours / (cores * wall),
            "of_what_was_left": ours / (cores * wall - others)}


def main(given: Sequence[str] | None = None) -> Record:
    options = harness.arguments(__doc__, given, groups={"type": int, "default": 8},
                                trials={"type": int, "default": 48})
    quick = options.size == "quick"
    record = Record("tune", options.size, options.out, groups=options.groups, mpi=launcher.find().family)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.groups, options.groups + 2 if quick else options.trials,
                        2000 if quick else 20000)
    record.add(**found, aim=AIM)
    harness.show(f"{found['busy']:6.1%} of the cores' time for {found['wall']:.1f} s; {found['of_what_was_left']:.1%} "
                 f"of what others left ({found['others']:.1f} s were theirs); aim: {AIM:.0%}")
    return record


if __name__ == "__main__":
    main()
