"""Tickets: the minibatches of an epoch, handed out one by one to whoever is free; and loaders that ask for them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from time import perf_counter

import numpy as np

from pyddl import _check
from pyddl.data.batch import Batch
from pyddl.data.prefetch import Loader, label_buffer
from pyddl.data.sampler import Sampler
from pyddl.data.source import Source

__all__ = ["SliceLoader", "TicketLoader", "Tickets"]


class Tickets:
    """An epoch, from some row on, cut into tickets: each step into so many slices, as `Sampler.part` cuts it.

    Where the epoch is begun within a step, the rest of that step is cut.

    Parameters
    ----------
    sampler : Sampler
    slices : int
        Of each step.
    row : int, default=0
        First position of the epoch that is still to be done.
    steps : int, optional
        Of the epoch, where it ends early; all by default.

    Attributes
    ----------
    count : int

    Examples
    --------
    >>> tickets = Tickets(Sampler(rows=10, batch_size=4), slices=2)
    >>> [tickets.part(ticket) for ticket in range(tickets.count)]
    [(0, 2), (2, 4), (4, 6), (6, 8), (8, 9), (9, 10)]
    >>> rest = Tickets(Sampler(rows=10, batch_size=4), slices=3, row=6)
    >>> [rest.part(ticket) for ticket in range(rest.count)]
    [(6, 6), (6, 7), (7, 8), (8, 8), (8, 9), (9, 10)]
    """

    def __init__(self, sampler: Sampler, slices: int, row: int = 0, steps: int | None = None):
        self.sampler, self.row = sampler, row
        self.slices = _check.integer("slices", slices, at_least=1)
        self._first = row // sampler.batch_size
        steps = sampler.steps_per_epoch if steps is None else steps
        self.rows = sampler.consumed(steps)
        self.count = (steps - self._first) * slices if row < self.rows else 0

    def step(self, ticket: int) -> int:
        """The step of the epoch that a ticket belongs to."""
        return self._first + ticket // self.slices

    def part(self, ticket: int) -> tuple[int, int]:
        """Begin and end of a ticket's positions in the epoch; none at all is legal."""
        begin, end = self.sampler.rows_of(self.step(ticket))
        return self.sampler.cut(max(begin, self.row), end, ticket % self.slices, self.slices)

    def done(self, claimed: int) -> int:
        """The first position that is still to be done when so many tickets were handed out."""
        return self.part(claimed)[0] if claimed < self.count else self.rows


class TicketLoader(AbstractContextManager["TicketLoader"]):
    """Reads the rows of the tickets that one worker gets, with their labels.

    It does not read ahead: whoever claims a ticket must do it, so a slow worker would hold two while the others wait at
    the end of the epoch, and one that dies would take two with it.

    Parameters
    ----------
    source : Source
    sampler : Sampler
    slices : int
    claim : callable
        Gives the next ticket of the epoch that nobody else gets; None when there are no more.

    Attributes
    ----------
    waited : float
        Seconds that `next` has spent reading.
    """

    def __init__(self, source: Source, sampler: Sampler, slices: int, claim: Callable[[], int | None]):
        self.source, self.sampler, self.slices, self._claim = source, sampler, slices, claim
        self.waited = 0.0
        most = sampler.most(slices)
        self._rows = np.empty((most, source.features), dtype=np.float32)
        self._places, self._index = np.arange(most), np.empty(most, dtype=np.int64)
        self._labels = label_buffer(source, most)
        self._batches: dict[int, Batch] = {}  # by their rows: at most two lengths are common
        self._epoch = 0
        self._tickets = Tickets(sampler, slices)

    def begin_epoch(self, epoch: int, row: int = 0, steps: int | None = None) -> None:
        """From now on tickets are of this epoch, of so many steps, from this position on."""
        self._epoch = epoch
        self._tickets = Tickets(self.sampler, self.slices, row, steps)

    def next(self) -> Batch | None:
        """The next ticket's rows, at least one; None when the epoch has no more. Valid until the next call."""
        while (ticket := self._claim()) is not None:
            begin, end = self._tickets.part(ticket)
            if begin < end:
                return self._read(self._tickets.step(ticket), begin, end)
        return None

    def _read(self, step: int, begin: int, end: int) -> Batch:
        start = perf_counter()
        batch = self._batches.get(end - begin) or self._batch(end - begin)
        np.add(self._places[: end - begin], begin, out=batch.index)
        self.sampler.order(self._epoch, batch.index)
        self.source.read(batch.index, batch.rows)
        if batch.labels is not None:
            self.source.read_labels(batch.index, batch.labels)
        batch.step = self._epoch * self.sampler.steps_per_epoch + step
        self.waited += perf_counter() - start
        return batch

    def _batch(self, rows: int) -> Batch:
        labels = None if self._labels is None else self._labels[:rows]
        self._batches[rows] = Batch(self._rows[:rows], self._index[:rows], labels=labels, seed=self.sampler.seed)
        return self._batches[rows]

    def __exit__(self, *error: object) -> None:
        return None


class SliceLoader(AbstractContextManager["SliceLoader"]):
    """Gives one worker its slice of each step of an epoch, as long as it is permitted.

    A permit is one of as many tickets as all workers have slices in the epoch: when no more are given, all workers end
    within two steps of each other.

    Parameters
    ----------
    loader : Loader
        Of this worker's slices, over all epochs.
    claim : callable
        As in `TicketLoader`.

    Attributes
    ----------
    given : int
        Slices of this epoch so far.
    """

    def __init__(self, loader: Loader, claim: Callable[[], int | None]):
        self._loader, self._claim = loader, claim
        self._left = self.given = 0

    def begin_epoch(self, epoch: int, row: int = 0, steps: int | None = None) -> None:
        """The next epoch begins, of so many steps, at a step's first position."""
        sampler = self._loader.sampler
        self._left = (sampler.steps_per_epoch if steps is None else steps) - row // sampler.batch_size
        self.given = 0

    def next(self) -> Batch | None:
        """This worker's rows of the next step; None at the end of the epoch, or where a stop was asked for."""
        if self._left == 0 or self._claim() is None:
            return None
        self._left -= 1
        self.given += 1
        return self._loader.next()

    @property
    def waited(self) -> float:
        return self._loader.waited

    def __exit__(self, *error: object) -> None:
        self._loader.close()
