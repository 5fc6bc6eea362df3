"""Standard output that may fail: a full disk, or a reader who has left, ends nothing that is worth more."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, TextIO

__all__ = ["GoingOn", "any_characters", "give_up"]


class GoingOn:
    """A stream that is given up, with a line on standard error, where it can no longer be written to.

    Parameters
    ----------
    stream : text file
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return self._or_give_up(lambda: self._stream.write(text), len(text))

    def flush(self) -> None:
        self._or_give_up(self._stream.flush, None)

    def _or_give_up(self, do: Any, otherwise: Any) -> Any:
        try:
            return do()
        except OSError as error:
            give_up(self._stream)
            with contextlib.suppress(OSError, ValueError, AttributeError):
                sys.stderr.write(f"pyddl: standard output cannot be written ({error.strerror}); going on without it\n")
            return otherwise


def give_up(stream: TextIO) -> None:
    """Let what a stream still holds, and what comes, go nowhere: Python would fail at its end."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def any_characters() -> None:
    """Let names of files and classes be printed wherever this runs, if need be as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) == "strict":
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
