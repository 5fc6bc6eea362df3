"""Watchdog: when nothing moves any more, every rank says where it is, and the job ends.

MPI is stuck then, so the ranks talk through small files in the run directory's ``log`` folder, and only in trouble:

    roll-call         made by the first rank that has made no progress for the time limit: all ranks answer
    rank-3.json       an answer: what that rank does, since when; renewed as long as the call stands
    verdict.txt       written by the lowest rank that answers, when all who answer are stuck: what `report` says
    rank-3.txt        that rank's Python and native stacks, written when it sees the verdict

One rank that makes progress (a long evaluation, a large checkpoint) keeps all others from being stuck. A rank that does
not answer is missing: its program has ended, its machine is gone or stopped, or it cannot see the folder.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from pyddl import _core
from pyddl.comm.abort import end_all
from pyddl.comm.activity import Activity
from pyddl.train.run import replace_text

__all__ = ["Watchdog", "clear", "report"]

LOOKS = 10  # per time limit
LONGEST_PERIOD = 5.0  # seconds between two looks
GRACE = 3  # periods that a rank has to answer

log = logging.getLogger("pyddl")


class Watchdog:
    """A thread that ends the job when no rank has made progress for a time. A context manager.

    Parameters
    ----------
    activity : Activity
        What this rank does.
    folder : str or Path
        Seen by all ranks; made where it is missing.
    rank, size : int
    limit : float
        Seconds without any progress.
    end : callable
        Ends all ranks with an exit status; `pyddl.comm.abort.end_all`.
    """

    def __init__(self, activity: Activity, folder: str | Path, rank: int, size: int, limit: float,
                 end: Callable[[int], Any] = end_all):
        self.activity, self.folder, self.rank, self.size, self.limit = activity, Path(folder), rank, size, limit
        self._end = end
        self._period = min(limit / LOOKS, LONGEST_PERIOD)
        self._place = (-1, -1, -1)
        self._idle = 0.0
        self._renewed = 0  # answers so far: a file that does not change is of a rank that has ended
        self._called = False  # this rank has called the roll
        self._since = 0.0  # when this rank first saw the call that stands; 0 without one
        self._heard: dict[int, tuple[float, dict[str, Any]]] = {}
        self._over = threading.Event()
        self._backstop: TextIO | None = None

    def __enter__(self) -> Watchdog:
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            # Where this thread never gets the interpreter lock (an extension holds it), faulthandler's own writes.
            self._backstop = open(self.folder / f".rank-{self.rank}.txt", "w", encoding="utf-8")
            self._arm()
        self._looked = time.monotonic()
        self._thread = threading.Thread(target=self._watch, name="pyddl watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        if self._backstop is not None:
            self._backstop.close()
            with contextlib.suppress(OSError):
                os.unlink(self._backstop.name)
        if kind is not None and self.size > 1:  # the others may wait for this rank
            with contextlib.suppress(OSError):
                self._answer(left=kind.__name__)

    # ---- this rank ------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._over.wait(self._period):
            try:
                self._look()
            except OSError as failed:
                if self._idle >= 2 * self.limit:
                    self._end_alone(failed)

    def _look(self) -> None:
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, 2 * self._period), now  # a suspended job has not waited
        place = (self.activity.number, self.activity.beats, _bytes_moved() if self.activity.moves_bytes else 0)
        self._idle = self._idle + passed if place == self._place else 0.0
        self._place = place
        self._arm()
        call = self.folder / "roll-call"
        if self._idle >= self.limit and not call.exists():
            call.touch()
            self._called = True
        elif self._called and self._idle == 0.0:
            call.unlink(missing_ok=True)
            self._called = False
        if not call.exists():
            self._since = 0.0
            self._heard.clear()
            return
        self._since = self._since or now
        self._answer()
        if (self.folder / "verdict.txt").exists():
            self._write_stacks()
            if now - self._since > 2 * GRACE * self._period + 60:  # whoever wrote the verdict could not end the job
                self._end(1)
        elif self._idle >= self.limit:
            self._judge(now)

    def _arm(self) -> None:
        """Have this rank's Python stacks written, should this thread not get to run for so long."""
        if self._backstop is not None:
            faulthandler.dump_traceback_later(self.limit + 2 * self._period, file=self._backstop)

    def _answer(self, left: str | None = None) -> None:
        self._renewed += 1
        replace_text(self.folder / f"rank-{self.rank}.json", json.dumps({
            "renewed": self._renewed, "doing": self.activity.describe(), "number": self.activity.number,
            "idle": round(self._idle, 3), "left": left}))

    def _write_stacks(self) -> None:
        path = self.folder / f"rank-{self.rank}.txt"
        if path.exists():
            return
        part = path.with_suffix(".part")
        with open(part, "w", encoding="utf-8") as file:
            print(f"rank {self.rank}, process {os.getpid()} on {os.uname().nodename}: in {self.activity.describe()} "
                  f"for {self._idle:.1f} s\n\nPython:\n", file=file, flush=True)
            faulthandler.dump_traceback(file)
            print("\nnative:\n", file=file, flush=True)
            _core.write_native_stacks(file.fileno())
        os.replace(part, path)
        (self.folder / f".rank-{self.rank}.txt").unlink(missing_ok=True)

    def _end_alone(self, failed: OSError) -> None:
        say(f"rank {self.rank}: no progress for {self._idle:.0f} s in {self.activity.describe()}, and no word with the "
            f"other ranks: {failed}. Its stacks:")
        faulthandler.dump_traceback(sys.__stderr__ or 2)
        self._end(1)

    # ---- all ranks ------------------------------------------------------------------------------------------

    def _judge(self, now: float) -> None:
        """If this is the lowest rank that answers, and all that answer are stuck: report, and end the job."""
        grace = GRACE * self._period
        for rank in range(self.size):
            self._hear(rank, now)
            seen, answer = self._heard.get(rank, (0.0, {}))
            if rank < self.rank and seen >= now - grace and answer["left"] is None:
                return  # that one judges
        if now - self._since < 2 * grace:  # all have had time to answer, and to renew
            return
        answers = {rank: answer for rank, (seen, answer) in self._heard.items()
                   if seen >= now - grace or answer["left"]}
        if any(answer["idle"] < 0.9 * self.limit for answer in answers.values() if not answer["left"]):
            return
        text = report(answers, self.size, self.limit, self.folder)
        replace_text(self.folder / "verdict.txt", text + "\n")
        self._write_stacks()
        until = time.monotonic() + grace + 5
        while time.monotonic() < until and not all(
                (self.folder / f"rank-{rank}.txt").exists() for rank, answer in answers.items() if not answer["left"]):
            time.sleep(self._period / 10)
        for rank in set(range(self.size)) - set(answers):  # what its backstop has written
            held = self.folder / f".rank-{rank}.txt"
            if held.exists() and held.stat().st_size:
                os.replace(held, self.folder / f"rank-{rank}.txt")
        say(text)
        self._end(1)

    def _hear(self, rank: int, now: float) -> None:
        with contextlib.suppress(OSError, ValueError):
            answer = json.loads((self.folder / f"rank-{rank}.json").read_text(encoding="utf-8"))
            if rank not in self._heard or self._heard[rank][1]["renewed"] != answer["renewed"]:
                self._heard[rank] = now, answer


def clear(folder: str | Path) -> None:
    """Remove what the watchdog of an earlier session left. Before any of this one's begins."""
    for pattern in ("rank-*.json", "rank-*.txt", ".rank-*.txt", "roll-call", "verdict.txt"):
        for path in Path(folder).glob(pattern):
            path.unlink(missing_ok=True)


def report(answers: dict[int, dict[str, Any]], size: int, limit: float, folder: Path) -> str:
    """Who waits where since when, and who is missing.

    Parameters
    ----------
    answers : dict
        By rank: ``doing``, ``number``, ``idle`` (seconds), ``left`` (the exception it left training by, or None).
    """
    lines = [f"stuck: no rank has made progress for {limit:g} s"]
    places: dict[tuple[int, str], list[int]] = {}
    for rank, answer in sorted(answers.items()):
        if not answer["left"]:
            places.setdefault((answer["number"], answer["doing"]), []).append(rank)
    for (number, doing), ranks in sorted(places.items()):  # who is behind comes first
        idle = max(answers[rank]["idle"] for rank in ranks)
        lines.append(f"  {_ranks(ranks)} in {doing} (number {number}) for {idle:.1f} s")
    for rank, answer in sorted(answers.items()):
        if answer["left"]:
            lines.append(f"  rank {rank} has left training by {answer['left']}, in {answer['doing']} "
                         f"(number {answer['number']})")
    if missing := [rank for rank in range(size) if rank not in answers]:
        lines.append(f"  missing: {_ranks(missing)}; no answer: the program has ended, its machine is gone or stopped, "
                     f"or it cannot see {folder}")
    lines.append(f"stacks are in {folder / 'rank-N.txt'}; a longer --timeout allows longer steps")
    return "\n".join(lines)


def _ranks(ranks: list[int]) -> str:
    return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(map(str, ranks))


def say(text: str) -> None:
    os.write(2, f"pyddl: {text}\n".encode(errors="backslashreplace"))


def _bytes_moved() -> int:
    """Bytes this process has read and written so far."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines[:2])
