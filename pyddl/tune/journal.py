"""The file of a study: lines of JSON objects, in Optuna's own format, to which one process appends.

Optuna's backend for files takes a lock and waits for the disk at each line, as many processes might write. Here the
folder is claimed, and the lines of one step of the search go to the disk at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyddl.errors import DataError
from pyddl.train.run import written

__all__ = ["Journal"]

ASKED, REPORTED, SAID = 4, 7, 8  # op_code of the lines that begin a trial, give it a value, or an attribute
NUMBER = "line"  # what each line says of itself besides, from 1: one that is taken out would change the trials after it


class Journal:
    """What a journal's file holds; Optuna's ``JournalStorage`` reads and appends by it.

    What a process that was killed has left at the end is cut off: a part of a line, or a trial's value without the line
    that says what was decided by it.

    Parameters
    ----------
    path : Path
        Made if need be.

    Raises
    ------
    DataError
        Another line is damaged, is missing, or has another place.
    """

    def __init__(self, path: Path):
        self._path = path
        self._held: list[bytes] | None = None
        with written(path):
            lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        self._lengths = [len(line) for line in lines]
        self._records = [self._read(number, line) for number, line in enumerate(lines)]
        ops = [record["op_code"] for record in self._records]
        last = max((number for number, op in enumerate(ops) if op == REPORTED), default=len(ops))
        self._cut(len(ops) if SAID in ops[last:] else last)

    def _read(self, number: int, line: bytes) -> dict[str, Any]:
        kept = f"what stands before it can be kept: head -n {number} {self._path}"
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or "op_code" not in record:
            raise DataError(f"{self._path}: line {number + 1} is damaged; expected an object of a journal; {kept}")
        if record.get(NUMBER, number + 1) != number + 1:
            raise DataError(f"{self._path}: line {number + 1} was written as line {record[NUMBER]}: lines were taken "
                            f"out or moved; put the file back as it was, or {kept}")
        return record

    def cut_before(self, trial: int) -> None:
        """Let that trial, and what is after its beginning, never have been there."""
        begins = [number for number, record in enumerate(self._records) if record["op_code"] == ASKED]
        self._cut(begins[trial])

    def _cut(self, lines: int) -> None:
        del self._records[lines:], self._lengths[lines:]
        length = sum(self._lengths)
        with written(self._path):
            if self._path.exists() and length < self._path.stat().st_size:
                os.truncate(self._path, length)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Let the lines that are appended meanwhile go to the disk at once."""
        self._held = []
        try:
            yield
        finally:
            lines, self._held = self._held, None
            self._write(lines)

    # ---- as Optuna calls it
    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The lines from that one on."""
        return iter(self._records[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Put lines at the end."""
        numbered = [{**log, NUMBER: number} for number, log in enumerate(logs, len(self._records) + 1)]
        lines = [json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in numbered]
        self._records += map(json.loads, lines)
        self._lengths += map(len, lines)
        if self._held is None:
            self._write(lines)
        else:
            self._held += lines

    def _write(self, lines: list[bytes]) -> None:
        if lines:
            with written(self._path), open(self._path, "ab") as file:
                file.write(b"".join(lines))
                file.flush()
                os.fsync(file.fileno())
