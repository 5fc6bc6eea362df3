"""Agreement: what fails on one rank fails on all, with one message; what one cannot do, none does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyddl import _core, errors
from pyddl.comm.transport import Transport
from pyddl.errors import PyddlError

__all__ = ["FLOAT32_INSTEAD", "agreement", "dtype_of_all", "require_same"]

FLOAT32_INSTEAD = "bfloat16 needs a processor with AVX512-BF16 or AMX on every node: computing in float32"
"""What to say where `dtype_of_all` gives another type than was wanted."""


@contextmanager
def agreement(transport: Transport) -> Iterator[None]:
    """Run the block on every rank; if it raises a `PyddlError` anywhere, raise it everywhere. Collective at its end.

    The message names the ranks, unless all failed alike. Other exceptions are bugs and are not agreed upon: they end
    the job through the abort hook.
    """
    mine: PyddlError | None = None
    try:
        yield
    except PyddlError as failure:
        mine = failure
    if transport.size == 1:
        if mine is not None:
            raise mine
        return
    found = transport.gather_objects(None if mine is None else (type(mine).__name__, str(mine)))
    failed = [rank for rank, report in enumerate(found) if report is not None]
    if not failed:
        return
    kind, text = found[failed[0]]
    if len(failed) < transport.size or len({report for report in found}) > 1:
        text = f"rank {', '.join(map(str, failed))} of {transport.size}: {text}"
    error: PyddlError = getattr(errors, kind, PyddlError)(text)
    error.on_all_ranks = True  # so that all can end in order, and none needs to abort the others
    raise error from mine


def require_same(transport: Transport, what: str, value: Any, *, cure: str,
                 error: type[PyddlError] = errors.ParameterError) -> None:
    """Raise ``error`` on every rank, naming the ranks, unless ``value`` is equal on all. Collective."""
    if transport.size == 1:
        return
    ranks_of: dict[Any, list[int]] = {}
    for rank, each in enumerate(transport.gather_objects(value)):
        ranks_of.setdefault(each, []).append(rank)
    if len(ranks_of) == 1:
        return
    groups = (f"{each} on rank {', '.join(map(str, ranks))}" for each, ranks in ranks_of.items())
    failure = error(f"{what} differ between the ranks: {'; '.join(groups)}. {cure}")
    failure.on_all_ranks = True
    raise failure


def dtype_of_all(transport: Transport, wanted: str) -> str:
    """``wanted`` for matrix products; float32 where a rank's processor has no such products. Collective."""
    able = transport.gather_objects(wanted != "bfloat16" or _core.has_bfloat16())
    return wanted if all(able) else "float32"
