"""Classes and functions of one's own, by name: FILE.py:Class."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from pyddl import _check
from pyddl.errors import ParameterError, PyddlError

__all__ = ["FUNCTION", "PATTERN", "anywhere", "class_named", "failed", "from_here", "function_named", "is_named",
           "name_of", "said", "trace"]

PATTERN = "FILE.py:Class"
"""How such a class is named."""

FUNCTION = "FILE.py:make_model"
"""How a function is named that makes something."""

_NAME = re.compile(r"(.+\.py)(?::(\w*))?")


def is_named(name: Any) -> bool:
    """Whether it names a Python file, or a class in one."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def class_named(what: str, name: str, base: type) -> type:
    """The class of that name, which derives from ``base``; its file is run once in a process.

    Parameters
    ----------
    what : str
        What it is to be, for messages: ``strategy``.

    Raises
    ------
    ParameterError
        There is no such file, or no such class in it (the nearest one is offered); or the file raises.
    """
    found = _NAME.fullmatch(name)
    assert found is not None
    path, member = found.groups()
    module = _module(what, name, Path(path))
    offered = [key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, base)
               and value.__module__ == module.__name__]
    has = f"{path} has {', '.join(offered)}" if offered else f"{path} has none"
    if not member:
        raise ParameterError(f"{what} is {name!r}; expected {PATTERN}: {has}")
    value = getattr(module, member, None)
    if isinstance(value, type) and issubclass(value, base):
        return value
    wanted = f"expected a class that derives from {base.__module__.rpartition('.')[0]}.{base.__name__}, of which {has}"
    if value is None:
        raise ParameterError(f"{what} is {name!r}, and {path} has no {member}; {wanted}"
                             f"{_check.nearest(member, offered)}")
    raise ParameterError(f"{what} is {name!r}, and {member} is none; {wanted}")


def function_named(what: str, name: str) -> tuple[Callable[..., Any], ModuleType]:
    """The function, or class, of that name, and its file, which is run once in a process.

    Raises
    ------
    ParameterError
        As in `class_named`.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise ParameterError(f"{what} is {name!r}; expected {FUNCTION}: a Python file, and a function in it")
    path, member = found.groups()
    module = _module(what, name, Path(path))
    offered = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")
               and getattr(value, "__module__", None) == module.__name__]
    has = f"{path} has {', '.join(offered) or 'none'}"
    if not member:
        raise ParameterError(f"{what} is {name!r}; expected {FUNCTION}, with the name of a function: {has}")
    value = getattr(module, member, None)
    if value is None:
        raise ParameterError(f"{what} is {name!r}, and {path} has no {member}; of functions {has}"
                             f"{_check.nearest(member, offered)}")
    if not callable(value):
        raise ParameterError(f"{what} is {name!r}, and {member} is no function; of functions {has}")
    return value, module


def anywhere(name: str) -> str:
    """The same name, so that it can be found from any folder."""
    found = _NAME.fullmatch(name)
    if found is None:
        return name
    path, member = found.groups()
    return os.path.abspath(path) + ("" if member is None else f":{member}")


def from_here(name: str) -> str:
    """The same as it is written in this working directory: what lies below has a relative path."""
    try:
        here = os.path.join(os.getcwd(), "")
    except OSError:  # it is gone
        return name
    return name.removeprefix(here) if len(name) > len(here) else name


def _module(what: str, name: str, path: Path) -> ModuleType:
    """What the file defines."""
    key = str(path.resolve())
    if key in sys.modules:
        return sys.modules[key]
    if not path.is_file():
        near = [each.name for each in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise ParameterError(f"{what} is {name!r}, and there is no file {path}{_check.nearest(path.name, near)}")
    spec = importlib.util.spec_from_file_location(key, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module  # dataclasses look there
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.append(folder)  # for what lies beside it
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[key]
        raise failed(f"{what} is {name!r}, and {path} cannot be run: {said(error, path)}") from error
    return module


def failed(text: str) -> ParameterError:
    """The error to raise from one that code of the user's has raised: its traceback will be shown."""
    raised = ParameterError(text)
    raised.of_users_code = True
    return raised


def said(error: BaseException, path: Path | str | None = None) -> str:
    """An exception in one line, with the line that it comes from: of that file, or by default of the last one that is
    neither pyddl's nor installed."""
    frames = traceback.extract_tb(error.__traceback__)
    here = None if path is None else os.path.abspath(path)
    if here is None:
        here = next((file for frame in reversed(frames) if _is_users(file := os.path.abspath(frame.filename))), "")
    lines = [frame.lineno for frame in frames if os.path.abspath(frame.filename) == here]
    if isinstance(error, SyntaxError) and os.path.abspath(error.filename or "") == here:
        lines.append(error.lineno)
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    first = text.strip().splitlines()[0] if text.strip() else ""
    where = "" if not lines else f", in line {lines[-1]}" + (f" of {from_here(here)}" if path is None else "")
    return f"{type(error).__name__}{first and ': '}{first}{where}"


def _is_users(file: str) -> bool:
    """Whether a file is neither pyddl's nor of what is installed."""
    ours = tuple(os.path.dirname(os.path.abspath(each)) + os.sep for each in (__file__, os.__file__))
    return os.path.isfile(file) and not file.startswith(ours) and not {"site-packages", "dist-packages"} & {
        *Path(file).parts}


def trace(error: BaseException) -> str:
    """The traceback of what code of the user's raised and ``error`` was raised from, from its own lines on; nothing
    where no such code was it."""
    cause: BaseException | None = error
    while isinstance(cause, PyddlError) and not cause.of_users_code:
        cause = cause.__cause__
    if cause is None or cause.__cause__ is None or not isinstance(cause, PyddlError):
        return ""
    theirs = cause.__cause__
    at = theirs.__traceback__
    while at is not None and not _is_users(os.path.abspath(at.tb_frame.f_code.co_filename)):
        at = at.tb_next
    return "".join(traceback.format_exception(type(theirs), theirs, at))


def name_of(cls: type) -> str | None:
    """``FILE.py:Class`` of a class, right in any working directory; None where no file has it, as in a notebook."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if file is None or "." in cls.__qualname__ or not file.endswith(".py"):
        return None
    return f"{os.path.abspath(file)}:{cls.__name__}"
