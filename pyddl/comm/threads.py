"""Threads and cores: how many threads a rank may use, and whether ranks get in each other's way."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from pyddl._check import MOST_THREADS
from pyddl.errors import ParameterError

__all__ = ["BLAS_VARIABLES", "Placement", "common_quota", "cores", "default_threads", "describe", "here", "limit_numpy",
           "numpy_threads", "quota", "ranges", "wanted_threads", "warnings"]

BLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
"""With one of these a user says how many threads NumPy's matrix products have."""

WORK_OF_A_THREAD = 500e6
"""Floating-point operations of a step that a thread beyond the first is worth. Measured with 2 threads: they break even
between 330 and 540 million, whatever the network (docs/benchmarks.md)."""


class Placement(NamedTuple):
    """Where one rank runs."""

    rank: int
    node: int
    host: str
    cores: tuple[int, ...]
    """The cores that it may run on: its affinity mask."""
    threads: int
    quota: float | None = None
    """The cores' worth of time that its control group may take."""


def here(rank: int, node: int, threads: int) -> Placement:
    """The placement of this process."""
    return Placement(rank, node, platform.node(), cores(), threads, quota())


def cores() -> tuple[int, ...]:
    """The cores that this process may run on."""
    return tuple(sorted(os.sched_getaffinity(0)))


def quota(groups: Path = Path("/sys/fs/cgroup"), mine: Path = Path("/proc/self/cgroup")) -> float | None:
    """The cores' worth of time that this process's control group may take, as ``docker run --cpus`` sets it.

    Parameters
    ----------
    groups : Path
        Where control groups are mounted, of version 1, 2, or both.
    mine : Path
        Which of them this process is in.

    Returns
    -------
    float or None
        None where there is no limit, or it cannot be told.
    """
    limits = []
    with contextlib.suppress(OSError, ValueError):
        for line in mine.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            group = Path(path)
            for folder in (group, *group.parents):  # an outer group's limit holds too; a container sees its own as /
                for mount in ("", "unified") if not controllers else ("cpu", controllers):
                    limits += _limit(groups / mount / folder.relative_to("/"))
    return min(limits, default=None)


def _limit(group: Path) -> list[float]:
    with contextlib.suppress(OSError, ValueError):
        granted, period = (group / "cpu.max").read_text().split()
        return [int(granted) / int(period)] if granted != "max" else []
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        granted, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return [int(granted) / int(period)] if int(granted) > 0 else []
    return []


def wanted_threads() -> int | None:
    """What ``OMP_NUM_THREADS`` says; None where it is not set.

    Raises
    ------
    ParameterError
        It is no whole number from 1 to `MOST_THREADS`.
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if not wanted:
        return None
    if not wanted.isdigit() or not 1 <= int(wanted) <= MOST_THREADS:
        raise ParameterError(f"OMP_NUM_THREADS is {wanted!r}; expected a whole number, at least 1 and at most "
                             f"{MOST_THREADS}")
    return int(wanted)


def default_threads(node_masks: Sequence[Sequence[int]], node_rank: int, work: float | None = None,
                    quota: float | None = None) -> int:
    """``OMP_NUM_THREADS`` where it is set; else this rank's share of the cores it may run on, at least 1.

    A small step takes fewer threads, since they would wait for each other's cache lines longer than they compute.

    Parameters
    ----------
    node_masks : sequence of sequence of int
        Affinity masks of the ranks of this node. Ranks whose masks meet share the cores: each gets its mask's cores
        divided by the ranks that may run there.
    node_rank : int
        This rank among them.
    work : float, optional
        Floating-point operations of a step of this rank; enough for all cores by default.
    quota : float, optional
        Cores' worth of time that the ranks of this node may take together.

    Raises
    ------
    ParameterError
        ``OMP_NUM_THREADS`` is no whole number from 1 to `MOST_THREADS`.
    """
    wanted = wanted_threads()
    if wanted is not None:
        return wanted
    mine = set(node_masks[node_rank])
    sharing = sum(1 for mask in node_masks if mine & set(mask))
    threads = len(mine) // sharing
    if quota is not None:
        threads = min(threads, int(quota / len(node_masks)))
    threads = max(1, threads)
    return threads if work is None else min(threads, 1 + int(work / WORK_OF_A_THREAD))


def limit_numpy() -> None:
    """Let NumPy's matrix products have one thread in this process, whose cores are its kernels' and other ranks'.

    The launcher does so by ``OPENBLAS_NUM_THREADS``; this is for ranks that it did not start. What the user says by one
    of `BLAS_VARIABLES` holds. Without threadpoolctl, which comes with scikit-learn, nothing is changed.
    """
    if any(os.environ.get(name) for name in BLAS_VARIABLES):
        return
    with contextlib.suppress(ImportError):
        from threadpoolctl import threadpool_limits

        threadpool_limits(limits=1, user_api="blas")


def numpy_threads() -> int | None:
    """Threads of NumPy's matrix products, the most of all BLAS libraries loaded; None where it cannot be told."""
    with contextlib.suppress(ImportError):
        from threadpoolctl import threadpool_info

        return max((each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"), default=None)
    return None


def describe(placements: Iterable[Placement]) -> list[str]:
    """One line per node: ranks, threads and cores."""
    lines = []
    for ranks in _by_node(placements):
        threads = sorted({p.threads for p in ranks})
        used = sorted(set().union(*(p.cores for p in ranks)))
        bound = "shared" if len({p.cores for p in ranks}) == 1 < len(ranks) else "bound" if len(ranks) > 1 else ""
        how = f" ({bound})" if bound else ""
        limit = common_quota(ranks)
        if limit is not None:
            how += f", with the time of {limit:g}"
        many = "s" * (threads != [1])
        lines.append(f"node {ranks[0].node} ({ranks[0].host}): {_count(len(ranks), 'rank')}, "
                     f"{'-'.join(map(str, threads))} thread{many} each, "
                     f"on {_count(len(used), 'core')} {ranges(used)}{how}")
    return lines


def warnings(placements: Iterable[Placement]) -> list[str]:
    """What will make ranks wait for each other's cores, with the cure; empty when all is well."""
    found = []
    for ranks in _by_node(placements):
        where = f"node {ranks[0].node} ({ranks[0].host})"
        used = set().union(*(p.cores for p in ranks))
        total = sum(p.threads for p in ranks)
        clashing = [(a.rank, b.rank) for i, a in enumerate(ranks) for b in ranks[i + 1 :]
                    if a.threads + b.threads > len(set(a.cores) | set(b.cores)) and set(a.cores) & set(b.cores)]
        limit = common_quota(ranks)
        room, has = len(used), _count(len(used), "core")
        if limit is not None:
            room, has = max(1, int(limit)), f"the time of {limit:g} of {has}, their control group's quota"
        if len(ranks) > room:
            found.append(f"{where}: {len(ranks)} ranks share {has}; they will take turns. "
                         f"Cure: start at most {_count(room, 'rank')} there")
        elif total > room:
            share = "share" if len(ranks) > 1 else "shares"
            found.append(f"{where}: {_count(len(ranks), 'rank')} with {total} threads in all {share} {has}. "
                         f"Cure: set OMP_NUM_THREADS or --threads to {max(1, room // len(ranks))}")
        elif clashing:
            a, b = clashing[0]
            found.append(f"{where}: ranks {a} and {b} are bound to the same cores while others are free. "
                         "Cure: launch with --bind-to none (Open MPI) or one core set per rank (srun --cpu-bind=cores)")
    return found


def common_quota(ranks: Sequence[Placement]) -> float | None:
    """The least quota of ranks of one node; None where it leaves them all of their cores."""
    least = min((p.quota for p in ranks if p.quota is not None), default=None)
    return None if least is None or least >= len(set().union(*(p.cores for p in ranks))) else least


def _by_node(placements: Iterable[Placement]) -> list[list[Placement]]:
    nodes: dict[int, list[Placement]] = {}
    for placement in placements:
        nodes.setdefault(placement.node, []).append(placement)
    return [nodes[node] for node in sorted(nodes)]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def ranges(numbers: Iterable[int]) -> str:
    """{0, 1, 2, 5} -> '0-2,5'."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{a}-{b}" if a != b else f"{a}" for a, b in runs)
