"""Standard error of an MPI launcher, handed on without what it says of ranks that have said so themselves."""

from __future__ import annotations

import os
import re
import threading

from pyddl.comm.abort import ENDING_ALL

__all__ = ["Relay"]

RULE = re.compile(rb"-{40,}\r?\n?$")  # Open MPI frames its own words by such lines
SAID = re.compile(rb"detected that one or more processes exited with\s+non-zero status"
                  rb"|Primary job\s+terminated normally, but\s+\d+ process(?:es)? returned"
                  rb"|MPI_ABORT was invoked on rank|has exited due to process rank \d+ .*calling\s+.abort")
NOISE = re.compile(rb"\[[^\]]+:\d+\] PMIX ERROR: ")  # of a rank that Open MPI could tell nothing more
LONGEST = 14  # lines of a frame; more is something else


class Relay(threading.Thread):
    """Hands on what comes from one file descriptor to another, until its end.

    Frames and lines in which Open MPI says that a rank has ended itself or all are kept back: who knows the launcher's
    status may know that nobody misses them.

    Parameters
    ----------
    source, out : int
        File descriptors.

    Attributes
    ----------
    held : bytes
        These frames.
    explained : bool
        Whether a rank has said why it ends all ranks.
    """

    def __init__(self, source: int, out: int):
        super().__init__(daemon=True)
        self._source, self._out = source, out
        self._left = b""  # of a line that has not ended
        self._within = b""  # the end of what is handed on of such a line
        self._frame: list[bytes] = []
        self.held, self.explained = b"", False

    def run(self) -> None:
        while chunk := os.read(self._source, 1 << 16):
            *lines, self._left = (self._left + chunk).split(b"\n")
            for line in lines:
                self._take(line + b"\n")
            if self._left and not self._frame and not self._left.startswith(b"-"):  # a bar, a question
                self._write(self._left)
                self._within, self._left = (self._within + self._left)[-len(ENDING_ALL) :], b""
        self._write(b"".join(self._frame) + self._left)

    def _take(self, line: bytes) -> None:
        """A line, or the end of one."""
        rule = not self._within and RULE.match(line) is not None
        noise = not self._within and not self._frame and NOISE.match(line) is not None
        whole, self._within = self._within + line, b""
        if noise:
            self.held += line
            return
        if not self._frame and not rule:
            self.explained |= whole.rstrip().endswith(ENDING_ALL.encode())
            self._write(line)
            return
        self._frame.append(line)
        if (rule and len(self._frame) > 1) or len(self._frame) > LONGEST:
            text, self._frame = b"".join(self._frame), []
            if rule and SAID.search(text):
                self.held += text
            else:
                self._write(text)

    def _write(self, text: bytes) -> None:
        while text:
            text = text[os.write(self._out, text) :]
