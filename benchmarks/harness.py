"""What all benchmarks share: competitors timed in turn, statistics of pairs, and records of what was measured where.

The machine may be busy with other work, so a time means little by itself. Competitors take turns within one run, a
slice of time each, and are compared by the median over the rounds of their quotient within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

__all__ = [
    "MPICH",
    "RESULTS",
    "ROOT",
    "SIZES",
    "TENSORFLOW",
    "TORCH",
    "Peer",
    "Record",
    "Timing",
    "arguments",
    "by_batch",
    "in_turn",
    "mnist_rows",
    "mpi_peer",
    "plot",
    "python_peer",
    "read",
    "show",
    "speed_up",
    "table",
    "verify",
    "verify_losses",
]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SIZES = ("quick", "node", "cluster")
TORCH = Path(f"{sys.prefix}-torch") / "bin" / "python"  # as the Makefile names them
TENSORFLOW = Path(f"{sys.prefix}-tensorflow") / "bin" / "python"
MPICH = Path(f"{sys.prefix}-mpich") / "bin" / "python"

Panels = Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]]

# ---- competitors


class Peer:
    """One competitor: a program of one process or several, which does what the driver says and sleeps otherwise.

    Parameters
    ----------
    name : str
    lines : sequence of list of str
        Commands to start, each with the address of the driver's socket appended. A launcher of ranks is one command.
    processes : int
        How many will call in.
    patience : float, default=60
        Seconds until all must have called in.
    environ : mapping, optional
        Settings besides this process's own.
    """

    def __init__(
        self,
        name: str,
        lines: Sequence[Sequence[str]],
        processes: int = 1,
        *,
        patience: float = 60.0,
        environ: Mapping[str, str] | None = None,
    ):
        self.name, self.processes = name, processes
        self._folder = tempfile.TemporaryDirectory(prefix="pyddl-bench-")
        self._log = open(Path(self._folder.name) / "log", "w+")  # noqa: SIM115  # closed in close()
        address = str(Path(self._folder.name) / "line")
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._lines: list[tuple[socket.socket, Any]] = []
        self._running: list[subprocess.Popen[bytes]] = []
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen(processes)
            listener.settimeout(1.0)
            for line in lines:
                self._running.append(
                    subprocess.Popen(
                        [*line, address],
                        cwd=ROOT,
                        env={**os.environ, **threads, **(environ or {})},
                        stdin=subprocess.DEVNULL,
                        stdout=self._log,
                        stderr=self._log,
                    )
                )
            self._accept(listener, patience)

    def _accept(self, listener: socket.socket, patience: float) -> None:
        called: dict[int, tuple[socket.socket, Any]] = {}
        for _ in range(int(patience) + self.processes):
            try:
                line = listener.accept()[0]
            except TimeoutError:
                if any(process.poll() not in (None, 0) for process in self._running):
                    break
                continue
            stream = line.makefile("rw")
            hello = json.loads(stream.readline())
            called[hello["rank"]] = (line, stream)
            if hello["rank"] == 0:
                self.about: dict[str, Any] = hello["about"]
            if len(called) == self.processes:
                self._lines = [called[rank] for rank in sorted(called)]
                return
        said = self._said()
        self.close()
        raise RuntimeError(
            f"{self.name}: {len(called)} of {self.processes} processes started; they said:\n{said}"
        )

    def call(self, do: str, **keywords: Any) -> list[Any]:
        """Let all processes run a handler at once; their answers by rank."""
        for _, stream in self._lines:
            stream.write(json.dumps({"do": do, **keywords}) + "\n")
            stream.flush()
        answers = []
        for rank, (_, stream) in enumerate(self._lines):
            text = stream.readline()
            if not text:
                raise RuntimeError(f"{self.name}: rank {rank} ended within {do}; it said:\n{self._said()}")
            answer = json.loads(text)
            if "error" in answer:
                raise RuntimeError(f"{self.name}: rank {rank} failed within {do}:\n{answer['error']}")
            answers.append(answer["answer"])
        return answers

    def timer(self, setup: str) -> Callable[[int], float]:
        """Seconds that ``count`` steps of a setup take: those of the slowest rank."""
        return lambda count: max(self.call("time", setup=setup, count=count))

    def close(self) -> None:
        for line, stream in self._lines:
            stream.close()
            line.close()
        for process in self._running:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._log.close()
        self._folder.cleanup()

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def said(self) -> str:
        """All that its processes have written so far."""
        self._log.seek(0)
        return self._log.read()

    def _said(self) -> str:
        return self.said()[-4000:]


def python_peer(
    name: str,
    module: str,
    *,
    python: str | Path = sys.executable,
    processes: int = 1,
    patience: float = 60.0,
    environ: Mapping[str, str] | None = None,
) -> Peer:
    """``module`` of `benchmarks.peers` in processes that know their rank as ``--rank`` of ``--ranks``."""
    lines = [
        [str(python), "-m", f"benchmarks.peers.{module}", "--rank", str(rank), "--ranks", str(processes)]
        for rank in range(processes)
    ]
    return Peer(name, lines, processes, patience=patience, environ=environ)


def mpi_peer(
    name: str,
    module: str,
    ranks: int,
    *,
    python: str | Path = sys.executable,
    patience: float = 60.0,
    environ: Mapping[str, str] | None = None,
) -> Peer:
    """``module`` of `benchmarks.peers` on MPI ranks, by the launcher of the environment that ``python`` belongs to."""
    launch = [str(python), "-m", "pyddl.comm.launcher", "-n", str(ranks), "--threads", "1", "--"]
    line = [*launch, str(python), "-m", f"benchmarks.peers.{module}"]
    return Peer(name, [line], ranks, patience=patience, environ=environ)


# ---- timing


class Timing(NamedTuple):
    """Seconds of one step or operation: one value per round."""

    rounds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    def summary(self) -> dict[str, float]:
        ordered = sorted(self.rounds)
        return {
            "p50": self.median,
            "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
            "min": ordered[0],
            "max": ordered[-1],
        }


def in_turn(
    competitors: Mapping[str, Callable[[int], float]], rounds: int, seconds: float
) -> dict[str, Timing]:
    """Time competitors in turn: each has a slice of about ``seconds`` in each round.

    Parameters
    ----------
    competitors : mapping of str to callable
        Called with a number of steps; gives the seconds they took.
    rounds : int
    seconds : float

    Returns
    -------
    dict
        Seconds per step. A round begins with another competitor each time.
    """
    counts = {name: _count_for(run, seconds) for name, run in competitors.items()}  # warms up, too
    taken: dict[str, list[float]] = {name: [] for name in competitors}
    names = list(competitors)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            taken[name].append(competitors[name](counts[name]) / counts[name])
    return {name: Timing(values) for name, values in taken.items()}


def _count_for(run: Callable[[int], float], seconds: float) -> int:
    run(1)
    count = 1
    while (taken := run(count)) < seconds / 4:
        count = max(2 * count, min(10 * count, int(count * seconds / 2 / max(taken, 1e-9))))
    return max(1, round(count * seconds / taken))


def speed_up(ours: Timing, theirs: Timing) -> float:
    """How many times faster we are: the median of the rounds' quotients."""
    return statistics.median(b / a for a, b in zip(ours.rounds, theirs.rounds, strict=True))


def verify(what: str, expected: ArrayLike, got: ArrayLike, tolerance: float) -> float:
    """Largest relative difference of two sequences.

    Raises
    ------
    RuntimeError
        It is above ``tolerance``: then there is nothing to time.
    """
    a, b = np.asarray(expected, dtype=np.float64), np.asarray(got, dtype=np.float64)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise RuntimeError(f"{what}: not timed, for the results are not comparable: {a[:3]} and {b[:3]}")
    difference = float((np.abs(a - b) / np.maximum(np.abs(a), 1e-30)).max(initial=0.0))
    if difference > tolerance:
        raise RuntimeError(
            f"{what}: not timed, for the results differ by {difference:.1e}, more than {tolerance:.0e}: "
            f"{a[-3:]} and {b[-3:]}"
        )
    return difference


def verify_losses(what: str, expected: ArrayLike, got: ArrayLike, dtype: str, batch: int) -> float:
    """`verify` the losses of successive steps from the same weights.

    In float32 the first may differ by 1e-6; training makes rounding grow (Adam's first steps follow the sign of a
    gradient, however small), so the later ones by 1e-3. Bfloat16's rounding of products shows in a single row's
    loss and averages out over many: 1e-2 (1 + 16 / batch).
    """
    if dtype == "float32":
        verify(f"{what}, first step", np.asarray(expected)[:1], np.asarray(got)[:1], 1e-6)
        return verify(what, expected, got, 1e-3)
    return verify(what, expected, got, 1e-2 * (1 + 16 / batch))


# ---- data


def mnist_rows(count: int) -> tuple[np.ndarray, str]:
    """``count`` rows of 784 floats in [0, 1] and where they are from: MNIST where it is found, else sparse noise."""
    from pyddl.data import find, load

    if find("mnist"):
        source = load("mnist")
        rows = np.empty((count, source.features), dtype=np.float32)
        source.read(np.arange(count, dtype=np.int64), rows)
        return rows, "MNIST"
    random = np.random.default_rng(0)
    noise = random.random((count, 784), dtype=np.float32)
    return noise * (random.random((count, 784), dtype=np.float32) < 0.2), "random rows"


# ---- records


class Record:
    """JSON lines of one question: the header's facts and one result in each."""

    def __init__(self, question: str, size: str, folder: Path, **facts: Any):
        self.header = {
            "question": question,
            "size": size,
            "date": date.today().isoformat(),
            "commit": _commit(),
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)),
            "load": round(os.getloadavg()[0], 1),  # of other work, if this is the first to run
            "real_time": os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR),  # before all other work: chrt
            "python": platform.python_version(),
            **facts,
        }
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{question}-{size}.jsonl"
        self.path.write_text("")
        self.lines: list[dict[str, Any]] = []
        print("  ".join(f"{name}={value}" for name, value in self.header.items()), flush=True)

    def add(self, timings: Mapping[str, Timing] | None = None, **facts: Any) -> dict[str, Any]:
        """Write one result."""
        line = dict(facts)
        if timings:
            line["seconds"] = {name: timing.summary() for name, timing in timings.items()}
        self.lines.append(line)
        with self.path.open("a") as file:
            file.write(json.dumps({**self.header, **line}) + "\n")
        return line


def read(question: str, size: str, folder: Path = RESULTS) -> list[dict[str, Any]]:
    """Results of an earlier run; none if there was none."""
    path = folder / f"{question}-{size}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def arguments(
    question: str | None, given: Sequence[str] | None = None, **more: dict[str, Any]
) -> argparse.Namespace:
    """The options that all benchmarks have, and those that only one has."""
    parser = argparse.ArgumentParser(
        description=question, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size", choices=SIZES, default="node", help="quick: seconds; node: minutes (default); cluster"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON lines and plots")
    for name, how in more.items():
        parser.add_argument(f"--{name}", **how)
    return parser.parse_args(given)


def _commit() -> str:
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return said.stdout.strip()


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.machine()


# ---- what people see


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [" | ".join(map(str, row)) for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(f"| {line} |" for line in lines)


def microseconds(seconds: float) -> str:
    """With one digit after the point, or, below 1 us, with two that say something."""
    return f"{1e6 * seconds:.1f} us" if seconds >= 1e-6 else f"{1e6 * seconds:.2g} us"


def show(text: str) -> None:
    """Print a line at once: a benchmark takes minutes."""
    print(text, flush=True)


def by_batch(lines: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, Any], float], float]) -> Panels:
    """Panels for `plot`, one for each network, of ``value(line, median seconds)`` against the batch size."""
    panels: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for line in lines:
        for name, seconds in line["seconds"].items():
            at, values = panels.setdefault(line["network"], {}).setdefault(name, ([], []))
            at.append(line["batch"])
            values.append(value(line, seconds["p50"]))
    return panels


def plot(
    path: Path,
    panels: Panels,
    x: str,
    y: str,
    *,
    log: str = "xy",
    share_y: bool = False,
) -> Path:
    """Curves in panels side by side: {panel: {curve: (x values, y values)}}; ``log`` names the logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

    plain = FuncFormatter(lambda value, _: f"{value:,.10g}")
    figure, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 3.6), squeeze=False, sharey=share_y)
    for axis, (title, curves) in zip(axes[0], panels.items(), strict=True):
        for name, (at, values) in curves.items():
            axis.plot(at, values, marker=".", label=name)
        if "x" in log:
            axis.set_xscale("log")
            measured = sorted({each for at, _ in curves.values() for each in at})
            axis.xaxis.set_major_locator(FixedLocator(measured, nbins=9))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.xaxis.set_major_formatter(plain)
        if "y" in log:
            axis.set_yscale("log")
            low, high = axis.get_ylim()
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 6 * low else range(1, 10), numticks=12))
            axis.yaxis.set_major_formatter(plain)
            axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_title(title, fontsize=9)
        axis.set_xlabel(x)
        axis.grid(alpha=0.3)
        if axis is axes[0][-1] or list(curves) != list(list(panels.values())[-1]):
            axis.legend(fontsize=7)
    axes[0][0].set_ylabel(y)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
