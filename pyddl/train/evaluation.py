"""Evaluation: sums over a whole data set, shared among the ranks, the same on any number of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from pyddl.comm.transport import Transport
from pyddl.data.batch import Batch, ModelGroup
from pyddl.data.prefetch import label_buffer
from pyddl.data.source import Source
from pyddl.errors import DataError, ParameterError
from pyddl.models.protocol import Model

__all__ = ["CHUNK", "check_labels", "check_rows", "evaluate", "exact_sum", "scores_of"]

CHUNK = 500  # rows: each chunk is computed with its own shape by one rank, so its sum does not depend on the ranks


@np.errstate(under="ignore")  # as in training
def evaluate(model: Model, parameters: np.ndarray, buffers: np.ndarray, source: Source,
             transport: Transport | None = None, beat: Callable[[], None] = lambda: None,
             group: ModelGroup | None = None, worker: tuple[int, int] | None = None) -> dict[str, float]:
    """Means over the rows of ``source`` of the model's scores: ``loss`` and others.

    Chunks go to the ranks of ``transport`` in turn and their sums are added exactly, so that the result is bit-
    identical on any number of ranks. Collective over ``transport``; without one, everything is computed here.
    ``beat`` is called after each chunk. A split model needs its ``group``, and that this rank's chunks are those of
    ``worker`` (number, count); sums are over all parts on ``transport``.

    Returns
    -------
    dict
        Empty when the model has no ``evaluate``.
    """
    if not hasattr(model, "evaluate"):
        return {}
    rank, size = worker or ((transport.rank, transport.size) if transport else (0, 1))
    sums: dict[str, list[float]] = {}
    rows = np.empty((CHUNK, source.features), dtype=np.float32)
    labels = label_buffer(source, CHUNK)
    names = scores_of(model, source, parameters, buffers)
    for begin in range(rank * CHUNK, len(source), size * CHUNK):
        index = np.arange(begin, min(begin + CHUNK, len(source)), dtype=np.int64)
        part = rows[: len(index)]
        source.read(index, part)
        if labels is not None:
            source.read_labels(index, labels[: len(index)])
        batch = Batch(part, index, labels=None if labels is None else labels[: len(index)], group=group)
        for name, value in model.evaluate(parameters, buffers, batch).items():
            sums.setdefault(name, []).append(value)
        beat()
    return {name: exact_sum(sums.get(name, []), transport) / len(source) for name in names}


def check_labels(model: Model, source: Source, name: str) -> None:
    """Refuse data that lack labels which the model needs, or do not fit it in another way.

    Raises
    ------
    DataError, ShapeError, ParameterError
    """
    if getattr(model, "needs_labels", False) and source.label_type is None:
        raise DataError(f"{name} have no labels, which this model needs: give them with --labels (--test-labels for "
                        "--test), or a source that has some")
    check_rows(model, source)


def check_rows(model: Model, source: Source) -> None:
    """Refuse data that do not fit the model in a way that it knows.

    Raises
    ------
    DataError, ShapeError, ParameterError
    """
    check = getattr(model, "check_data", None)
    if check is not None:
        check(source)


def scores_of(model: Model, source: Source, parameters: np.ndarray | None = None,
              buffers: np.ndarray | None = None) -> list[str]:
    """Names of the model's scores, ``loss`` first; none where it has no ``evaluate``."""
    if not hasattr(model, "evaluate"):
        return []
    empty = Batch(np.empty((0, source.features), dtype=np.float32), labels=label_buffer(source, 0))
    parameters = model.layout.zeros() if parameters is None else parameters
    found = model.evaluate(parameters, model.buffers.zeros() if buffers is None else buffers, empty)
    if not isinstance(found, Mapping) or "loss" not in found:
        raise ParameterError(f"evaluate of {type(model).__name__} returned {found!r}; expected a mapping of sums over "
                             "the rows by their names, loss among them")
    return sorted(found, key=lambda name: (name != "loss", name))


def exact_sum(values: list[float], transport: Transport | None = None) -> float:
    """Correctly rounded sum of all ranks' values: the same in any order and on any number of ranks. Collective."""
    if transport is None or transport.size == 1:
        return math.fsum(values)
    return math.fsum(np.concatenate(transport.gather(np.asarray(values, dtype=np.float64))))
