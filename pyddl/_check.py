"""Checks at the edge, each with an error that names the parameter, what was expected and what came."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np

from pyddl.errors import ParameterError, ShapeError
from pyddl.names import ALSO_CALLED

LOOKED_AT = 10_000  # files of a folder, for one that is meant
BEYOND = 2**64  # whole numbers without a range of their own are below
MOST_THREADS = 1024  # of one process, as in csrc/kernels/threads.hpp


def number(name: str, value: Any, *, above: float | None = None, at_least: float | None = None,
           at_most: float | None = None, below: float | None = None) -> float:
    """Return ``value`` as a float in the given range, or raise `ParameterError`."""
    try:
        if isinstance(value, bool | str):
            raise TypeError
        result = float(value)
    except (TypeError, ValueError):
        raise ParameterError(f"{name} is {value!r}; expected a number") from None
    except OverflowError:
        raise ParameterError(f"{name} has more digits than a number of 64 bits can tell; expected a number") from None
    bounds = [
        (above, result > above if above is not None else True, "above"),
        (at_least, result >= at_least if at_least is not None else True, "at least"),
        (at_most, result <= at_most if at_most is not None else True, "at most"),
        (below, result < below if below is not None else True, "below"),
    ]
    if result != result or not all(holds for _, holds, _ in bounds):
        wanted = " and ".join(f"{word} {bound:g}" for bound, _, word in bounds if bound is not None)
        raise ParameterError(f"{name} is {value!r}; expected a number {wanted}")
    return result


def integer(name: str, value: Any, *, at_least: int | None = None, at_most: int | None = None) -> int:
    """Return ``value`` as an int in the given range, or raise `ParameterError`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ParameterError(f"{name} is {value!r}; expected a whole number")
    if at_most is None and not -BEYOND < value < BEYOND:
        many = "has more digits than a number of 64 bits can tell" if abs(value) > BEYOND**2 else f"is {value}"
        raise ParameterError(f"{name} {many}; expected a whole number of 64 bits")
    if (at_least is not None and value < at_least) or (at_most is not None and value > at_most):
        words = [f"at least {at_least}" if at_least is not None else "",
                 f"at most {at_most}" if at_most is not None else ""]
        raise ParameterError(f"{name} is {value}; expected a whole number {' and '.join(w for w in words if w)}")
    return int(value)


def integers(name: str, values: Any, *, at_least: int | None = None) -> tuple[int, ...]:
    """Return ``values`` as a tuple of ints in the given range, or raise `ParameterError`. One number counts as one."""
    if isinstance(values, int | np.integer) and not isinstance(values, bool):
        values = (values,)
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ParameterError(f"{name} is {values!r}; expected whole numbers, for example [256, 64]")
    return tuple(integer(name, value, at_least=at_least) for value in values)


def one_of(name: str, value: Any, names: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``names``; otherwise raise `ParameterError` with the nearest name."""
    names = sorted(names)
    if value not in names:
        raise ParameterError(f"{name} is {value!r}; expected one of {', '.join(names)}{nearest(value, names)}")
    return value


def function(name: str, value: Any, arguments: str) -> Any:
    """Return ``value`` if it can be called, or raise `ParameterError`; ``arguments`` says with what: ``(model)``."""
    if not callable(value):
        raise ParameterError(f"{name} is {value!r}; expected a function of {arguments}")
    return value


def no_class(name: str, value: Any) -> None:
    """Raise `ParameterError` where a class was given in the place of an object."""
    if isinstance(value, type):
        raise ParameterError(f"{name} is the class {value.__name__}: pass {value.__name__}()")


def name_or_object(name: str, value: Any, base: type) -> None:
    """Raise `ParameterError` unless ``value`` is a name, or an object of ``base``."""
    no_class(name, value)
    if not isinstance(value, str | base):
        raise ParameterError(f"{name} is {value!r}; expected a name, or an object of a class that derives from "
                             f"{base.__module__.rpartition('.')[0]}.{base.__name__}")


def nearest(value: Any, names: Iterable[str]) -> str:
    """'; did you mean ...?' when one of ``names`` looks like ``value`` or means the same elsewhere, else ''."""
    return _meant(_closest(str(value), list(names)))


def nearest_path(path: str | os.PathLike[str], names: Iterable[str] = ()) -> str:
    """The same of ``names`` and of what lies where ``path`` would; what follows a colon is left as it is."""
    folder, name = os.path.split(os.fspath(path))
    name, colon, inner = name.partition(":")
    try:
        with os.scandir(folder or ".") as entries:
            beside = [entry.name for entry in islice(entries, LOOKED_AT) if not entry.name.startswith(".")]
    except (OSError, ValueError):
        beside = []
    close = _closest(name, [*beside, *(() if folder else names)])
    return _meant(close and os.path.join(folder, close) + colon + inner)


def _closest(value: str, known: list[str]) -> str | None:
    same = [name for alike in ALSO_CALLED if value in alike for name in alike if name in known]
    lower = {name.lower(): name for name in known}
    return next(iter(same or [lower[name] for name in difflib.get_close_matches(value.lower(), lower, n=1)]), None)


def _meant(name: str | None) -> str:
    return f"; did you mean {name!r}?" if name else ""


def vector(name: str, x: Any, size: int, dtype: type = np.float32) -> np.ndarray:
    """Return ``x`` if it is a contiguous vector of ``size`` elements of ``dtype``, or raise `ShapeError`."""
    if not isinstance(x, np.ndarray) or x.shape != (size,) or x.dtype != dtype or not x.flags.c_contiguous:
        got = f"{x.dtype} array of shape {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
        raise ShapeError(f"{name} is a {got}; expected a contiguous {np.dtype(dtype)} array of shape ({size},)")
    return x


def first_line(error: BaseException) -> str:
    """What an error of another library says, as one line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def shown(name: Any) -> str:
    """A name for a message, cut where it is very long."""
    text = str(name)
    return text if len(text) <= 200 else f"{text[:100]}...{text[-50:]}"
