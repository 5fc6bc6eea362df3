"""Models and updates as named arrays, and the check of one against the other.

A *tree* is an array, or a dictionary of trees. Its arrays are named by their path: ``layer.weight``; an array alone has
the empty name. An update may hold, in place of an array, a pair ``(rows, values)``: the rows of it that change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pyddl import _check
from pyddl.errors import NotFiniteError, ParameterError, ShapeError

__all__ = ["is_empty", "named", "named_parameters", "require_finite", "require_fit"]


def named(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Names and leaves of a tree; a leaf is whatever is no mapping."""
    if not isinstance(tree, Mapping):
        yield path, tree
        return
    for key, below in tree.items():
        yield from named(below, f"{path}.{key}" if path else str(key))


def named_parameters(tree: Any) -> dict[str, np.ndarray]:
    """The arrays that ``parameters(model)`` gives, by name.

    Raises
    ------
    ParameterError
        A leaf is no array, or one that cannot be written to; there is none at all.
    """
    arrays = dict(named(tree))
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.hasobject:
            raise ParameterError(f"{label('parameters(model)', name)} is {described(array)}; expected an array of "
                                 "numbers")
        if not array.flags.writeable:
            raise ParameterError(f"{label('parameters(model)', name)} is read-only; expected the model's own array, to "
                                 "be moved in place")
    if not arrays:
        raise ParameterError("parameters(model) is empty; expected an array, or a dictionary of arrays")
    return arrays


def is_pair(leaf: Any) -> bool:
    """Whether a leaf of an update means some rows of an array."""
    return isinstance(leaf, tuple) and len(leaf) == 2


def is_empty(update: Any) -> bool:
    """Whether an update has nothing to apply: no leaf, or none with an element."""
    return all(_is_empty_leaf(leaf) for _, leaf in named(update))


def _is_empty_leaf(leaf: Any) -> bool:
    if is_pair(leaf):
        leaf = leaf[0]
    return leaf.size == 0 if isinstance(leaf, np.ndarray) else isinstance(leaf, list | tuple) and not leaf


def require_finite(update: Any, whose: str) -> None:
    """Raise `NotFiniteError` where an array of ``update`` holds NaN or an infinity."""
    for name, leaf in named(update):
        for array in leaf if is_pair(leaf) else (leaf,):
            if not isinstance(array, np.ndarray) or array.dtype.kind not in "fc":
                continue
            with np.errstate(over="ignore", invalid="ignore"):
                suspicious = not np.isfinite(array.sum())  # needs no memory, unlike what follows
            if suspicious and not np.isfinite(array).all():
                place = np.argwhere(~np.isfinite(array))[0].tolist()
                raise NotFiniteError(f"{label(whose, name)} holds {array[tuple(place)]} at {place}: training diverged; "
                                     "lower the learning rate, or look at gradient")


def require_fit(update: Any, parameters: Mapping[str, np.ndarray], whose: str) -> None:
    """Raise unless every array, or pair of rows and values, of ``update`` fits the parameter of its name.

    Raises
    ------
    ParameterError
        There is no parameter of that name; rows are no integers, or out of range.
    ShapeError
        The shapes differ.
    """
    for name, leaf in named(update):
        if _is_empty_leaf(leaf) and (name in parameters or not name):
            continue
        if name not in parameters:
            known = ", ".join(repr(each) for each in parameters) if "" not in parameters else "an array alone"
            raise ParameterError(f"{label(whose, name)} has no place in the model; parameters(model) has {known}"
                                 f"{_check.nearest(name, parameters)}")
        shape = parameters[name].shape
        if is_pair(leaf):
            _require_rows(leaf[0], leaf[1], shape, label(whose, name), label("parameters(model)", name))
        elif np.shape(leaf) != shape:
            raise ShapeError(f"{label(whose, name)} is {described(leaf)}; expected the shape {shape} of "
                             f"{label('parameters(model)', name)}, or a pair (rows, values)")


def _require_rows(rows: Any, values: Any, shape: tuple[int, ...], what: str, of: str) -> None:
    rows = np.asarray(rows)
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise ParameterError(f"rows of {what} are {described(rows)}; expected one dimension of integers")
    if not shape or np.shape(values) != (rows.size, *shape[1:]):
        wanted = (rows.size, *shape[1:])
        raise ShapeError(f"values of {what} are {described(values)}; expected the shape {wanted}: {rows.size} rows of "
                         f"{of}, whose shape is {shape}")
    if rows.size and not (rows.min() >= 0 and rows.max() < shape[0]):
        bad = rows[(rows < 0) | (rows >= shape[0])][0]
        raise ParameterError(f"rows of {what} name row {bad}; expected 0 to {shape[0] - 1}, as {of} has the shape "
                             f"{shape}")


def label(whole: str, name: str) -> str:
    """``whole['name']``, or ``whole`` for an array alone."""
    return f"{whole}[{name!r}]" if name else whole


def described(value: Any) -> str:
    """An array by type and shape, a dictionary by its keys, else the type: for messages."""
    if isinstance(value, np.ndarray):
        return f"a {value.dtype} array of shape {value.shape}"
    if isinstance(value, Mapping):
        contents = ", ".join(f"{key!r}: {described(below)}" for key, below in value.items())
        return f"a dictionary of {contents or 'nothing'}"
    if is_pair(value):
        return f"a pair of {described(value[0])} and {described(value[1])}"
    return f"of type {type(value).__name__}"
