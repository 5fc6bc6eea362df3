"""Agreement: what fails on one rank fails on all, with one message; what one cannot do, none does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pyddl import _core, errors
from pyddl.comm.transport import Transport
from pyddl.errors import PyddlError

__all__ = ["FLOAT32_INSTEAD", "agreement", "dtype_of_all", "require_same", "require_same_options"]

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
    raise _of_all_ranks(getattr(errors, kind, PyddlError), text) from mine


def require_same(transport: Transport, what: str, value: Any, *, cure: str,
                 error: type[PyddlError] = errors.ParameterError) -> None:
    """Raise ``error`` on every rank, naming the ranks, unless ``value`` is equal on all. Collective."""
    if transport.size > 1 and (unlike := _unlike(transport.gather_objects(value))):
        raise _of_all_ranks(error, f"{what} differ between the ranks: {unlike}. {cure}")


def require_same_options(transport: Transport, options: Mapping[str, Any]) -> None:
    """Raise `ParameterError` on every rank, with the first option that differs, unless all are equal. Collective.

    Compared is how they print; one that a rank does not have is None there.
    """
    if transport.size == 1:
        return
    everywhere = transport.gather_objects({name: repr(value) for name, value in options.items()})
    for name in dict.fromkeys(name for each in everywhere for name in each):
        if unlike := _unlike([each.get(name) for each in everywhere]):
            raise _of_all_ranks(errors.ParameterError, f"options differ between the ranks: {name} is {unlike}. Every "
                                                       "rank needs the same")


def _unlike(values: Sequence[Any]) -> str:
    """Which value is on which ranks; nothing where all are equal."""
    ranks_of: dict[Any, list[int]] = {}
    for rank, each in enumerate(values):
        ranks_of.setdefault(each, []).append(rank)
    if len(ranks_of) == 1:
        return ""
    return "; ".join(f"{each} on rank {', '.join(map(str, ranks))}" for each, ranks in ranks_of.items())


def _of_all_ranks(kind: type[PyddlError], text: str) -> PyddlError:
    """An error that all ranks raise, so that all can end in order, and none needs to abort the others."""
    error = kind(text)
    error.on_all_ranks = True
    return error


def dtype_of_all(transport: Transport, wanted: str) -> str:
    """``wanted`` for matrix products; float32 where a rank's processor has no such products. Collective."""
    able = transport.gather_objects(wanted != "bfloat16" or _core.has_bfloat16())
    return wanted if all(able) else "float32"
