"""What the ranks find on their machines: their MPI, their cores, how fast they compute and sum."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pyddl import _core
from pyddl.comm.environment import started
from pyddl.comm.group import Groups
from pyddl.comm.modules import built, first_line, fitting
from pyddl.comm.server import ServerPort, serve
from pyddl.comm.shared import memory_available
from pyddl.comm.threads import (
    Placement,
    cores,
    default_threads,
    here,
    limit_numpy,
    numpy_threads,
    quota,
    wanted_threads,
)
from pyddl.comm.transport import Transport
from pyddl.comm.world import World
from pyddl.comm.world import _load_module as load_module

__all__ = ["SUM_FLOATS", "MPILibrary", "RankReport", "add_bandwidth", "mpi_library",
           "operation_seconds", "probe_rank", "shared_memory_free", "sum_seconds"]

SUM_FLOATS = (1, 250_000, 10_000_000)
"""Lengths whose sums are timed: 4 bytes, 1 MB, 40 MB."""

PATIENCE = 5  # times what a measurement takes, for ranks to begin it together

SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class RankReport:
    """What one rank found. Ranks of a node measure at the same time, so they share its memory and cores.

    Attributes
    ----------
    placement : Placement
        Node, cores and threads of the rank.
    threads_wanted : bool
        Whether ``OMP_NUM_THREADS`` chose the threads, rather than the share of the cores.
    simd_level : int
        x86-64 level of the vectorised kernels.
    gflops : dict
        Element type to the product peak in GFLOP/s; 0 where the processor has no such products.
    bandwidth : float
        Bytes per second that adding a vector in memory to another moves.
    shared_memory : int or None
        Bytes free in /dev/shm.
    memory : int
        Bytes of memory that can be had without swapping: what /dev/shm promises beyond that, it cannot give.
    numpy_threads : int or None
        Threads of NumPy's matrix products; None where they cannot be told.
    sums : dict
        Floats to seconds of a sum over all ranks, the slowest rank's median; empty for one rank.
    """

    placement: Placement
    threads_wanted: bool
    simd_level: int
    gflops: dict[str, float]
    bandwidth: float
    shared_memory: int | None
    memory: int
    numpy_threads: int | None
    sums: dict[int, float] = field(default_factory=dict)


class MPILibrary(NamedTuple):
    """The MPI that mpi4py loads."""

    family: str
    """``Open MPI`` or ``MPICH`` (which stands for all that share its binary interface)."""
    loaded: str
    """Name and version, in its own words."""
    built_for: str
    """Name and version of the MPI of the same family that the module in use was built for."""
    others: list[str]
    """Those that the other modules were built for."""


def mpi_library() -> MPILibrary:
    """Which MPI this process loads. Starts it only where a launcher started this process as a rank.

    Raises
    ------
    CommError
        There is no mpi4py, no MPI, or pyddl was built for another family.
    """
    with contextlib.suppress(ImportError):
        import mpi4py

        mpi4py.rc.initialize = mpi4py.rc.initialize and started() is not None
    mpi = load_module()
    used = fitting(mpi)
    others = [str(each) for each in built() if each != used]
    return MPILibrary(used.family, first_line(mpi.Get_library_version()), str(used), others)


def probe_rank(world: World, *, seconds: float = 0.4) -> RankReport:
    """Measure on this rank, on the threads it trains with; ``seconds`` for each measurement. Collective."""
    masks = world.transport.gather_objects((world.node, cores()))
    threads = default_threads([mask for node, mask in masks if node == world.node], world.node_rank,
                              quota=quota())
    _core.set_threads(threads)
    if world.size > 1:
        limit_numpy()
    world.transport.barrier()
    gflops = {"float32": _core.product_peak("float32", seconds)}
    world.transport.barrier()
    gflops["bfloat16"] = _core.product_peak("bfloat16", seconds) if _core.has_bfloat16() else 0.0
    world.transport.barrier()
    bandwidth = add_bandwidth(seconds=seconds)
    sums = {n: sum_seconds(world.transport, n) for n in SUM_FLOATS} if world.size > 1 else {}
    return RankReport(
        placement=here(world.rank, world.node, threads), threads_wanted=wanted_threads() is not None,
        simd_level=_core.simd_level(), gflops=gflops, bandwidth=bandwidth, shared_memory=shared_memory_free(),
        memory=memory_available(), numpy_threads=numpy_threads(), sums=sums)


def add_bandwidth(floats: int = 16_000_000, seconds: float = 0.2) -> float:
    """Bytes per second of ``x += y`` on vectors far larger than any cache: two read, one written.

    The best of the runs within ``seconds``, at least three, after one that touches the pages.
    """
    x, y = np.zeros(floats, np.float32), np.ones(floats, np.float32)
    _core.add(x, y)
    best, end, runs = np.inf, time.perf_counter() + seconds, 0
    while runs < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        _core.add(x, y)
        best = min(best, time.perf_counter() - start)
        runs += 1
    return 3 * x.nbytes / best


def sum_seconds(transport: Transport, floats: int, repeats: Sequence[tuple[int, int]] = ((1_000, 200),
                (1_000_000, 30), (1 << 62, 5))) -> float:
    """Seconds of one sum of ``floats`` over the ranks: the median of the slowest rank's times. Collective.

    ``repeats`` holds, in rising order, (longest vector, number of runs). Every run begins together.
    """
    runs = next(count for longest, count in repeats if floats <= longest)
    vector = transport.allocate(floats)
    return _slowest(transport, lambda: transport.sum(vector), runs)


def operation_seconds(world: World, floats: int, *, ordered: bool = False, seconds: float = 0.02) -> dict[str, float]:
    """Seconds of each operation that strategies use on all ranks, on vectors of ``floats``. Collective.

    Medians over so many runs as take about ``seconds``, three at least, of the slowest rank's times.

    Parameters
    ----------
    ordered : bool, default=False
        Sums along a fixed tree, as reproducible training has them.

    Returns
    -------
    dict
        ``sum``; ``average``, and ``replicas``, the same of a vector that stays as it is; ``owners``, a sum to owners
        and a gather from them; ``exchange``, of all pairs at once;
        ``pass``, a vector added to another on each rank; ``served``, a push to rank 0 and a fetch of what it then
        publishes, of all others at once (not on one rank); ``node``, an average within each of several nodes.
    """
    transport = world.transport
    shared, sharded = transport.allocate(floats), transport.allocate(floats)
    vector, other = np.zeros(floats, np.float32), np.zeros(floats, np.float32)
    partner = world.rank ^ 1
    with Groups(world) as groups:
        group = groups["world"]

        def owners() -> None:
            group.sum_to_owners(shared)
            group.gather_from_owners(sharded)

        def exchange() -> None:
            if partner < world.size:
                group.exchange(vector, other, partner)

        operations: dict[str, Callable[[], object]] = {
            "sum": lambda: transport.sum(shared, 0, ordered), "average": lambda: group.average(vector, [vector], [1]),
            "replicas": lambda: group.average(vector, [other], [1]), "owners": owners, "exchange": exchange,
            "pass": lambda: _core.add(vector, other)}
        if world.nodes > 1:
            operations["node"] = lambda: groups["node"].average(vector, [vector], [1])
        taken = {}
        for name, operation in operations.items():
            begin = time.perf_counter()
            once = _slowest(transport, operation, 1)
            runs = _runs(transport, seconds, once, (time.perf_counter() - begin) / 4)
            taken[name] = _slowest(transport, operation, runs, warm=0)
    if world.size > 1:
        begin = time.perf_counter()
        once = _served_seconds(world, vector, other, 3)
        runs = _runs(transport, seconds, once, (time.perf_counter() - begin) / 3)
        taken["served"] = _served_seconds(world, vector, other, runs)
    return taken


def _runs(transport: Transport, seconds: float, once: float, whole: float) -> int:
    """How often to measure what takes ``once``, and ``whole`` with the wait for ranks that other work holds up: the
    same number on all ranks. Collective."""
    whole = max(transport.gather_objects(whole))
    return int(max(min(seconds / once, PATIENCE * seconds / whole, 200), 3))


def _served_seconds(world: World, vector: np.ndarray, out: np.ndarray, runs: int) -> float:
    """Seconds of a push to rank 0 and a fetch of what it then publishes: the slowest worker's median. Collective."""
    transport, times = world.transport, np.zeros(runs)
    with serve(world, transport, servers=1, size=vector.size) as end:
        if isinstance(end, ServerPort):
            version = end.publish()
            transport.barrier()
            end.begin_epoch()
            while end.receive() is not None:
                end.free()
                version = end.publish(version + 1)
        else:
            transport.barrier()
            for run in range(runs):
                start = time.perf_counter()
                end.push(vector, 1, 0)
                end.fetch(out)
                times[run] = time.perf_counter() - start
            end.finish()
        return float(np.max([np.median(each) for each in transport.gather(times)]))


def _slowest(transport: Transport, operation: Callable[[], object], runs: int, warm: int = 3) -> float:
    """Seconds of an operation that all ranks begin together: the median of the slowest rank's times. Collective."""
    times = np.empty(runs)
    for _ in range(warm):
        operation()
    for run in range(runs):
        transport.barrier()
        start = time.perf_counter()
        operation()
        times[run] = time.perf_counter() - start
    return float(np.median(np.max(transport.gather(times), axis=0)))


def shared_memory_free() -> int | None:
    """Bytes free in /dev/shm; None where this process cannot write there."""
    if not os.access(SHARED_MEMORY, os.W_OK):
        return None
    space = os.statvfs(SHARED_MEMORY)
    return space.f_bavail * space.f_frsize
