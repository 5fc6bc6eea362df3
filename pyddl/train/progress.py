"""Progress on rank 0: a live bar on a terminal, a plain line per epoch in a batch log."""

from __future__ import annotations

from time import perf_counter
from typing import Any

__all__ = ["LiveProgress", "PlainProgress", "Progress"]


class Progress:
    """Shows nothing: the base, and what every rank but the first uses."""

    def begin(self, title: str, epochs: int, steps_per_epoch: int, step: int = 0) -> None:
        """Training begins, or goes on after ``step`` steps."""

    def step(self, step: int) -> None:
        """``step`` steps are done."""

    def epoch(self, line: dict[str, Any]) -> None:
        """An epoch is done; ``line`` is its line of ``metrics.jsonl``."""

    def note(self, text: str) -> None:
        """Something has happened that people should know."""

    def end(self) -> None:
        """Training is over, or failed."""


def _epoch_text(line: dict[str, Any], epochs: int) -> str:
    parts = [f"epoch {line['epoch']:>{len(str(epochs))}}/{epochs}"]
    parts += [f"{name} {value:.4f}" for name, value in line.items()
              if name.startswith(("train_", "test_")) and value is not None]
    parts.append(f"{line['samples_per_second']:,.0f} samples/s")
    return "  ".join(parts)


class PlainProgress(Progress):
    """A line per epoch, for logs."""

    def begin(self, title: str, epochs: int, steps_per_epoch: int, step: int = 0) -> None:
        self._epochs = epochs
        print(title, flush=True)

    def epoch(self, line: dict[str, Any]) -> None:
        print(_epoch_text(line, self._epochs), flush=True)

    def note(self, text: str) -> None:
        print(text, flush=True)


class LiveProgress(Progress):
    """A bar that moves within an epoch, and a line that stays for each epoch done."""

    INTERVAL = 0.1  # seconds between two redraws: a step must not wait for a terminal

    def begin(self, title: str, epochs: int, steps_per_epoch: int, step: int = 0) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        from pyddl.comm.environment import live_output

        self._epochs, self._steps_per_epoch = epochs, steps_per_epoch
        self._console = Console(force_terminal=True, file=live_output())
        self._bars = Bars(TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
                          TextColumn("left"), TimeRemainingColumn(), console=self._console, auto_refresh=False)
        self._console.print(title, highlight=False)
        self._bars.start()
        self._task = self._bars.add_task(f"epoch {step // steps_per_epoch + 1}/{epochs}",
                                         total=epochs * steps_per_epoch, completed=step)
        self._next = perf_counter() + self.INTERVAL

    def step(self, step: int) -> None:
        now = perf_counter()
        if now < self._next:
            return
        self._next = now + self.INTERVAL
        epoch = min(step // self._steps_per_epoch + 1, self._epochs)
        self._bars.update(self._task, completed=step, description=f"epoch {epoch}/{self._epochs}")
        self._bars.refresh()

    def epoch(self, line: dict[str, Any]) -> None:
        self._bars.update(self._task, completed=line["epoch"] * self._steps_per_epoch)
        self._console.print(_epoch_text(line, self._epochs), highlight=False)

    def note(self, text: str) -> None:
        self._console.print(text, highlight=False)

    def end(self) -> None:
        if hasattr(self, "_bars"):
            self._bars.stop()
