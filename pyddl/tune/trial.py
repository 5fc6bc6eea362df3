"""One trial: an ordinary training by named options, whose epochs are reported as they end."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any

from pyddl import _check, models, options
from pyddl.comm.child import Child
from pyddl.errors import CheckpointError, CommError, DataError, NotFiniteError, PeerLost, PyddlError
from pyddl.train import named
from pyddl.train.progress import Progress
from pyddl.train.stop import StopRequest
from pyddl.tune.messages import Outcome

__all__ = ["OUTPUT", "Asked", "Reporting", "in_child", "settings_of", "train"]

OUTPUT = "output.txt"  # in the folder of a trial of one rank: what it printed
FIRST_TO_GO = "500"  # of 1000: how readily the kernel ends a process where memory is short

Tell = Callable[[dict[str, Any]], str]
"""``tell(line)`` of an epoch: ``on``, ``prune`` or ``stop``."""


class Asked(StopRequest):
    """A request to stop the search, of which the trial under way is told at once.

    Attributes
    ----------
    late : bool
        The time of the search is over.
    """

    def __init__(self) -> None:
        super().__init__()
        self.late = False
        self._tell: Callable[[], None] | None = None

    def __enter__(self) -> Asked:
        super().__enter__()
        self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._over)
        return self

    def _request(self, number: int, frame: FrameType | None) -> None:
        super()._request(number, frame)
        self._pass_on()

    def _over(self, number: int, frame: FrameType | None) -> None:
        self.late = True
        self._pass_on()

    def _pass_on(self) -> None:
        if self._tell is not None:
            self._tell()

    @property
    def stops(self) -> bool:
        return self.requested or self.late

    @contextmanager
    def telling(self, tell: Callable[[], None]) -> Iterator[None]:
        """Within the block ``tell`` is called when the request comes, and now where it has."""
        self._tell = tell
        if self.stops:
            tell()
        try:
            yield
        finally:
            self._tell = None


class Reporting(Progress):
    """Tells the search of each epoch, and stops the trial where it says so.

    Of a model that is trained in stages the last one counts, in which the goal has its meaning: its epochs are told by
    their numbers from 1 on, those before it as 0 and less.

    Parameters
    ----------
    tell : callable
    stop : StopRequest
        Of the trial.
    shown : Progress
        Shows it besides.

    Attributes
    ----------
    pruned : bool
    last : int
        Epochs of the last stage.
    """

    def __init__(self, tell: Tell, stop: StopRequest, shown: Progress):
        self._tell, self._stop, self._shown = tell, stop, shown
        self.pruned, self.last = False, 0

    def begin(self, title: str, epochs: int, steps_per_epoch: int, step: int = 0) -> None:
        self._epochs = epochs
        self._shown.begin(title, epochs, steps_per_epoch, step)

    def step(self, step: int) -> None:
        self._shown.step(step)

    def note(self, text: str) -> None:
        self._shown.note(text)

    def end(self) -> None:
        self._shown.end()

    def epoch(self, line: dict[str, Any]) -> None:
        self._shown.epoch(line)
        answer = self._tell({**line, "epoch": line["epoch"] - (self._epochs - self.last)} if "stage" in line else line)
        if answer != "on" and line["epoch"] < self._epochs:  # after the last one it is complete, whatever was said
            self.pruned = answer == "prune"
            self._stop.requested = True


def settings_of(given: Mapping[str, Any], out: Path, *, resume: bool) -> dict[str, Any]:
    """Every option of a trial of which these are given.

    Raises
    ------
    ParameterError
        They do not go together.
    """
    name = given["model"]
    values = {key: value for key, value in given.items() if key != "model"}
    settings = options.resolve(values, lambda option: option.section in options.OF_TRAIN, model=name,
                               defaults=models.TABLE[name].defaults)
    return {"model": name, **settings, "out": str(out), "resume": resume, "overwrite": not resume, "quiet": True}


def train(given: Mapping[str, Any], out: Path, *, resume: bool, tell: Tell, stop: StopRequest,
          opened: Callable[..., Any] | None = None,
          among: Callable[[], AbstractContextManager[Any]] = nullcontext, shown: Progress | None = None) -> Outcome:
    """Train a trial on the ranks of the world; what became of it, on this rank. Collective.

    Nothing but Ctrl-C and the like is raised.

    Parameters
    ----------
    among : callable
        Gives a context in which the world is that of the trial.
    shown : Progress, optional
        Shows it besides.
    """
    reporting = Reporting(tell, stop, shown or Progress())

    def run(resume: bool) -> named.Trained:
        settings = settings_of(given, out, resume=resume)
        reporting.last = settings["epochs"]
        with among():
            return named.train(settings, progress=reporting, stop=stop, opened=opened)

    try:
        done = None
        if resume:
            with suppress(DataError, CheckpointError):  # as of another number of ranks: from the beginning
                done = run(True)
        if done is None:
            done = run(False)
    except CommError as error:
        return Outcome("failed", why=str(error), lost=True, learn=False)
    except CheckpointError as error:
        return Outcome("failed", why=str(error), learn=False, fatal=True)
    except NotFiniteError as error:
        return Outcome("failed", why=f"diverged: {error}")
    except MemoryError as error:
        return Outcome("failed", why=f"out of memory: {_check.first_line(error)}")
    except PyddlError as error:
        return Outcome("failed", why=str(error))
    except SystemExit as leaving:  # of a user's own model or strategy
        return Outcome("failed", why=f"sys.exit({leaving.code!r})")
    except Exception as error:
        traceback.print_exc()
        return Outcome("failed", why=f"{type(error).__name__}: {_check.first_line(error)}")
    metrics = done.result.metrics
    state = "complete" if not done.stopped else "pruned" if reporting.pruned else "stopped"
    return Outcome(state, metrics[-1] if metrics else None)


def in_child(given: Mapping[str, Any], out: Path, *, resume: bool, tell: Tell, asked: Asked,
             opened: Callable[..., Any] | None = None, watched: Connection | None = None,
             closed: tuple[Connection, ...] = ()) -> Outcome:
    """Train a trial of one rank in a process of its own, so that what kills it costs this trial only.

    Parameters
    ----------
    watched : Connection, optional
        One on which nothing comes as long as the child runs.

    Raises
    ------
    PeerLost
        The end of ``watched`` was seen; the child is ended.
    """
    def work(connection: Connection) -> None:
        with suppress(OSError):  # it, rather than the rank
            Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO)
        with StopRequest() as stop:
            stop.requested = asked.stops  # a signal that came before

            def ask(line: dict[str, Any]) -> str:
                connection.send(line)
                return str(connection.recv())

            with _printing_to(out / OUTPUT):
                outcome = train(given, out, resume=resume, tell=ask, stop=stop, opened=opened)
            connection.send(outcome)

    child = Child(work, closed=closed)
    outcome: Outcome | None = None
    with asked.telling(lambda: child.ask(signal.SIGUSR1)):
        while outcome is None:
            if watched is not None and watched in wait([child.connection, watched]):
                child.ask(signal.SIGKILL)
                child.wait()
                raise PeerLost("the process that keeps the search's journal has ended; go on with --resume")
            try:
                said = child.connection.recv()
                if isinstance(said, Outcome):
                    outcome = said
                else:
                    child.connection.send(tell(said))
            except (EOFError, ConnectionError):
                break
    status = child.wait()
    return outcome or Outcome("failed", why=_of_end(status))


def _of_end(status: int) -> str:
    if status == -signal.SIGKILL:
        return f"killed by signal {-status} (out of memory?)"
    return f"killed by signal {-status} ({signal.Signals(-status).name})" if status < 0 else f"left with {status}"


@contextmanager
def _printing_to(path: Path) -> Iterator[None]:
    """What this process and libraries print goes to a file, which is there where there is something in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
            os.dup2(file.fileno(), descriptor)
    yield
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    if path.exists() and not path.stat().st_size:
        path.unlink()
