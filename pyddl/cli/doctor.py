"""pyddl doctor: what this machine offers, and what is wrong with it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

from pyddl import __version__
from pyddl.comm import threads
from pyddl.comm.abort import OnAllRanks
from pyddl.errors import CommError, ParameterError

if TYPE_CHECKING:
    from pyddl.comm.probe import RankReport

__all__ = ["Line", "command"]

BROKEN = 1
WIDTH = 15  # of the names, with a space
SMALL_SHARED_MEMORY = 256 << 20  # bytes; containers often get 64 MB
LEVELS = {4: "AVX-512", 3: "AVX2", 2: "SSE4.2"}


@dataclass(frozen=True)
class Line:
    """One finding. ``cure`` is what to do where it is not good; ``broken`` says that pyddl cannot work so."""

    name: str
    value: str
    cure: str = ""
    broken: bool = False

    def __str__(self) -> str:
        mark = "BAD" if self.broken else "!" if self.cure else "ok"
        return f"{mark:<4}{self.name:<{WIDTH}}{self.value}{'. Cure: ' + self.cure if self.cure else ''}"


@click.command("doctor")
@click.option("--ranks", type=click.IntRange(1), help="Start this many MPI ranks and measure on them.")
def command(ranks: int | None) -> int:
    """Say what this machine offers, and what is wrong with it.

    Alone, or under mpirun or srun, where the first rank prints a block for each node. A line begins with
    ok, with ! where something could be better, or with BAD where it cannot work. The exit status is 1 where a
    line is BAD.
    """
    from pyddl.comm.environment import started

    here = started()
    if (here is None or here.may_start) and ranks is not None and ranks > 1:
        return _start(ranks)
    speaks = here is None or not here.rank
    broken = False
    for line in _examine(speaks):
        broken |= isinstance(line, Line) and line.broken
        if speaks:
            click.echo(str(line))
    return OnAllRanks(BROKEN if broken else 0)  # all have taken part to the end


def _start(ranks: int) -> int:
    import subprocess
    import sys

    from pyddl.comm import launcher

    line, environment = launcher.command(ranks, [sys.executable, "-m", "pyddl", "doctor"])
    click.echo(launcher.shown(line, environment), err=True)
    return subprocess.run(line, env=environment, check=False).returncode


def _examine(speaks: bool) -> Iterator[Line | str]:
    """The whole report on the first rank. Others take part in the measurements."""
    yield f"pyddl {__version__}, Python {platform.python_version()}, NumPy {metadata.version('numpy')}"
    try:
        from pyddl.comm.probe import probe_rank
        from pyddl.comm.world import world
        from pyddl.train.agreement import agreement
    except ImportError as error:
        yield Line("modules", str(error), "build pyddl again (make setup)", broken=True)
        return
    if speaks:
        yield from _mpi()
    try:
        here = world()
    except CommError as error:  # the ranks did not find each other: each is alone with this
        yield _bad("ranks", error, broken=True)
        return
    try:
        with agreement(here.transport):
            threads.wanted_threads()
    except ParameterError as error:
        yield Line("threads", str(error), "unset OMP_NUM_THREADS, or set it to the cores of each rank", broken=True)
        return
    reports: list[RankReport] = here.transport.gather_objects(probe_rank(here))
    if here.rank:
        return
    yield Line("ranks", f"{here.size} on {here.nodes} node{'s' * (here.nodes > 1)}")
    yield _sums(reports[0].sums, here.transport.kind, sharing=here.nodes < here.size)
    yield from _data()
    for node in range(here.nodes):
        of_node = [report for report in reports if report.placement.node == node]
        yield ""
        yield (f"node {node}: {of_node[0].placement.host}, "
               f"ranks {threads.ranges(report.placement.rank for report in of_node)}")
        yield from _node(of_node)


def _bad(name: str, error: CommError, broken: bool) -> Line:
    what, _, cure = str(error).partition(". Cure: ")
    return Line(name, what, cure or "check the MPI installation", broken)


def _mpi() -> Iterator[Line]:
    """The library and the launcher. Starts no MPI where no launcher started this process."""
    from pyddl.comm import launcher
    from pyddl.comm.probe import mpi_library

    family = None
    try:
        library = mpi_library()
    except CommError as error:
        yield _bad("MPI", error, broken=find_spec("mpi4py") is not None)  # without one: one rank works
    else:
        family = library.family
        others = f", not that for {' or '.join(library.others)}" if library.others else ""
        yield Line("MPI", f"{library.loaded}, by the module for {library.built_for}{others}")
    try:
        found = launcher.find()
    except CommError as error:
        yield _bad("launcher", error, broken=False)
        return
    value = f"{found.family} {found.version}, {found.path}"
    if family is not None and found.family != family:
        yield Line("launcher", f"{value}, which is of another MPI than the library",
                   f"set PYDDL_MPIRUN to the mpirun of {family}", broken=True)
    else:
        yield Line("launcher", value)


def _sums(sums: Mapping[int, float], kind: str, sharing: bool) -> Line:
    if not sums:
        return Line("sum over ranks", "one rank: nothing to measure (pyddl doctor --ranks 2 does)")
    times = ", ".join(f"{_size(4 * n)} in {_time(seconds)}" for n, seconds in sums.items())
    if not sharing or kind != "MPI":
        return Line("sum over ranks", f"{times}, by {kind}")
    switched_off = os.environ.get("PYDDL_SHARED_MEMORY") == "0"
    return Line("sum over ranks", f"{times}, by MPI, though ranks share a node",
                "unset PYDDL_SHARED_MEMORY" if switched_off else "let ranks share memory: see /dev/shm below")


def _data() -> Iterator[Line]:
    from pyddl.data import find

    cures = {"digits": "pip install scikit-learn", "mnist": "pyddl fetch mnist, or set PYDDL_DATA"}
    for name, cure in cures.items():
        place = find(name)
        yield Line(f"data {name}", str(place or "not on this machine"), "" if place else cure)
    for module, what in (("h5py", "HDF5"), ("pyarrow", "Parquet")):
        if find_spec(module) is None:
            yield Line(what, f"not read here: {module} is not installed (pip install {module})")
        else:
            yield Line(what, f"{module} {metadata.version(module)}")


def _node(reports: Sequence[RankReport]) -> Iterator[Line]:
    yield _cores([report.placement for report in reports])
    yield _threads(reports)
    first = reports[0]
    levels = sorted({report.simd_level for report in reports})
    shown = f"x86-64-v{levels[0]} ({LEVELS[levels[0]]})" if levels[0] else platform.machine()
    if len(levels) > 1:
        yield Line("instructions", f"ranks differ: levels {levels}", "set PYDDL_LEVEL alike on all ranks")
    elif os.environ.get("PYDDL_LEVEL") and levels[0]:
        wanted = os.environ["PYDDL_LEVEL"]
        how = "held there by" if wanted == str(levels[0]) else "for there is no"
        yield Line("instructions", f"{shown}, {how} PYDDL_LEVEL={wanted}", "unset PYDDL_LEVEL, which is for tests")
    else:
        yield Line("instructions", shown)
    yield _onednn()
    for element in ("float32", "bfloat16"):
        peaks = [report.gflops[element] for report in reports]
        if min(peaks) > 0:
            yield Line(f"{element} peak", _together(reports, peaks, "GFLOP/s in matrix products"))
        else:
            yield Line(f"{element} peak", f"this processor has no {element} products: train in float32")
    bandwidths = [report.bandwidth / 1e9 for report in reports]
    yield Line("memory", _together(reports, bandwidths, "GB/s in x += y on vectors of 64 MB"))
    yield _shared_memory(first)


def _shared_memory(report: RankReport) -> Line:
    if report.shared_memory is None:
        return Line("/dev/shm", "cannot be written to", "mount a tmpfs there that all users may write to")
    if report.memory < report.shared_memory:
        value = f"{_size(report.shared_memory)} free, of which memory can give {_size(report.memory)}"
        return Line("/dev/shm", value, "end what fills the memory" if report.memory < SMALL_SHARED_MEMORY else "")
    small = report.shared_memory < SMALL_SHARED_MEMORY
    return Line("/dev/shm", f"{_size(report.shared_memory)} free",
                "mount -o remount,size=1g /dev/shm, or docker run --shm-size=1g" if small else "")


def _cores(placements: Sequence[threads.Placement]) -> Line:
    """Which cores the ranks of a node may use, and whether they are in each other's way."""
    masks = {placement.cores for placement in placements}
    if len(masks) > 1:
        value = "; ".join(f"rank {placement.rank}: {threads.ranges(placement.cores)}" for placement in placements)
    else:
        mask, = masks
        value = f"{len(mask)} ({threads.ranges(mask)}){', shared by all ranks' if len(placements) > 1 else ''}"
    limit = threads.common_quota(placements)
    if limit is not None:
        value += f", with the time of {limit:g}"
    for warning in threads.warnings(placements):
        what, _, cure = warning.partition(": ")[2].partition(". Cure: ")
        return Line("cores", f"{value}: {what}", cure)
    return Line("cores", value)


def _together(reports: Sequence[RankReport], speeds: Sequence[float], unit: str) -> str:
    """The sum over ranks that compute at the same time; the best one where they take turns on the cores."""
    if len(speeds) == 1:
        return f"{speeds[0]:.0f} {unit}"
    cores = {core for report in reports for core in report.placement.cores}
    if sum(report.placement.threads for report in reports) > len(cores):
        return f"{max(speeds):.0f} {unit}, on the best of {len(speeds)} ranks, which take turns"
    return f"{sum(speeds):.0f} {unit}, {min(speeds):.0f} or more on each of {len(speeds)} ranks"


def _threads(reports: Sequence[RankReport]) -> Line:
    counts = sorted({report.placement.threads for report in reports})
    value = f"{counts[0]} per rank" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} per rank"
    if reports[0].threads_wanted:
        value += f", from OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}"
    else:
        value += ", the share of the cores (OMP_NUM_THREADS is not set)"
    of_numpy = reports[0].numpy_threads
    if of_numpy is None:
        return Line("threads", f"{value}; NumPy's own cannot be told",
                    "pip install threadpoolctl, or set OPENBLAS_NUM_THREADS=1" if len(reports) > 1 else "")
    value += f"; NumPy's products: {of_numpy}"
    crowded = len(reports) > 1 and of_numpy > 1
    return Line("threads", value, f"set {'=1 and '.join(threads.BLAS_VARIABLES)}=1, or none of them" if crowded else "")


def _onednn() -> Line:
    from pyddl import _core

    version = _core.onednn_version()
    for variable in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):  # the first one set counts
        held = os.environ.get(variable)
        if held and held.upper() not in ("ALL", "DEFAULT"):
            return Line("oneDNN", f"{version}, held at {held} by {variable}", f"unset {variable}")
    return Line("oneDNN", version)


def _size(size: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} B"


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"
