"""Stops before the end: on request by a signal, or because nothing gets better."""

from __future__ import annotations

import atexit
import math
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

__all__ = ["EarlyStopping", "NotBegun", "StopRequest", "StopTogether"]

SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)


class NotBegun(BaseException):
    """A signal asks to stop, and training has not begun: there is nothing to keep, and no step to wait for."""


class StopRequest:
    """A request to stop at the next step boundary that all ranks agree on.

    As a context manager in the main thread it takes SIGUSR1, SIGTERM and Ctrl-C; a second Ctrl-C interrupts at once.
    SLURM sends SIGUSR1 before the time limit with ``#SBATCH --signal=USR1@60``.

    Parameters
    ----------
    at_once : bool, default=False
        Whether a signal ends what comes before training, such as reading the data, by `NotBegun`.

    Attributes
    ----------
    requested : bool
        This rank was asked to stop. Set it to ask.
    agreed : bool
        All ranks know, and stop after the same step.

    Examples
    --------
    >>> with StopRequest() as stop:                                          # doctest: +SKIP
    ...     result = Trainer(model, out="runs/ae", stop=stop).fit(data)
    """

    def __init__(self, at_once: bool = False) -> None:
        self._at_once = at_once
        self.requested = False
        self.agreed = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def for_good(self) -> None:
        """Take the signals for the rest of the process, to whose end Python would give them back, and they kill."""
        self.__enter__()
        atexit.register(self._ignore)

    def _ignore(self) -> None:
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)

    def begin(self) -> None:
        """From now on signals wait for a step boundary."""
        self._at_once = False

    def _request(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.requested:
            raise KeyboardInterrupt
        self.requested = True
        if self._at_once:
            self._at_once = False
            raise NotBegun


class StopTogether:
    """A request to stop, as ranks see it who have to stop after the same step, but speak to different others.

    ``requested`` is what they found when they last met, so it is equal on all of them; ``agreed`` is the request's own.
    """

    def __init__(self, request: StopRequest, meet: Callable[[bool], bool]):
        self.request, self._meet = request, meet
        self.requested = False

    @property
    def agreed(self) -> bool:
        return self.request.agreed

    @agreed.setter
    def agreed(self, value: bool) -> None:
        self.request.agreed = value

    def meet(self) -> None:
        """Find out whether any of them was asked. Collective over them."""
        self.requested = self._meet(self.request.requested)


class EarlyStopping:
    """Whether the test loss (the training loss where there is no test) has stopped falling.

    Attributes
    ----------
    over : bool
        It has not fallen for ``patience`` epochs.
    """

    def __init__(self, patience: int | None):
        self.patience = math.inf if patience is None else patience
        self.lowest = math.inf
        self.waited = 0
        self.over = False

    def see(self, line: dict[str, Any]) -> bool:
        """Look at an epoch's metrics; true when it is the best so far."""
        loss = line["train_loss"] if line["test_loss"] is None else line["test_loss"]
        best = loss < self.lowest
        self.lowest = min(self.lowest, loss)
        self.waited = 0 if best else self.waited + 1
        self.over = self.waited >= self.patience
        return best

    def restore(self, metrics: list[dict[str, Any]]) -> None:
        """See the epochs of a resumed run again."""
        for line in metrics:
            self.see(line)
        self.over = False
