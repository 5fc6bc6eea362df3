"""Loader: the batches of one worker, read ahead by a thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from queue import SimpleQueue
from time import perf_counter
from types import TracebackType

import numpy as np

from pyddl import _check
from pyddl.data.batch import Batch
from pyddl.data.sampler import Sampler
from pyddl.data.source import Source
from pyddl.errors import ParameterError

__all__ = ["Loader"]

BLOCKS = 3  # one in use, one ready, one being filled
MOST_STEPS = 256  # per block: bounds the start-up time and the memory of tiny steps
BUFFER_BYTES = 1 << 20  # per block: hand-over costs vanish, and its rows are still in a cache when used
ALIGNMENT = 64


def label_buffer(source: Source, rows: int) -> np.ndarray | None:
    """Room for the labels of so many rows; None where the source has none."""
    if source.label_type is None:
        return None
    shape, dtype = source.label_type
    return np.empty((rows, *shape), dtype=dtype)


@dataclass
class _Block:
    """Buffers of several consecutive steps, and the batches that view them."""

    rows: np.ndarray
    index: np.ndarray
    labels: np.ndarray | None
    batches: list[Batch]
    cuts: tuple[int, ...] = ()  # rows before each batch, for which ``batches`` were made


class Loader:
    """Gives one worker's part of each step, in order: rows, and their labels where the source has any.

    A background thread fills blocks of several consecutive steps, so that a step costs no hand-over. Where it
    lags behind, because all cores compute, `next` fills a block itself rather than wait for a core. Nothing
    is allocated after the start but the views of the short last step of an epoch. Use as a context manager,
    or `close`.

    Parameters
    ----------
    source : Source
    sampler : Sampler
    worker, workers : int, default=0, 1
        Which part of each step, of how many.
    first_step : int, default=0
        Global step to begin with.
    steps : int, optional
        How many; without end by default.
    buffer_bytes : int, default=1 MiB
        Size of a block, of which there are three, or one without a thread. A block holds at least one step.
    background : bool, default=True
        Without a thread the blocks are read inside `next`: for simulations and tests.

    Attributes
    ----------
    waited : float
        Seconds that `next` has spent waiting for data or reading them itself.

    Examples
    --------
    >>> from pyddl.data import RandomSource
    >>> with Loader(RandomSource(10, 3), Sampler(10, 4), steps=3) as loader:
    ...     while (batch := loader.next()) is not None:
    ...         print(batch.step, batch.rows.shape)
    0 (4, 3)
    1 (4, 3)
    2 (2, 3)
    """

    def __init__(self, source: Source, sampler: Sampler, worker: int = 0, workers: int = 1, *,
                 first_step: int = 0, steps: int | None = None, buffer_bytes: int = BUFFER_BYTES,
                 background: bool = True):
        if sampler.rows != len(source):
            raise ParameterError(f"sampler has {sampler.rows} rows but the source has {len(source)}; "
                                 "expected the same number")
        self.source, self.sampler = source, sampler
        self.workers = _check.integer("workers", workers, at_least=1)
        self.worker = _check.integer("worker", worker, at_least=0, at_most=workers - 1)
        self.waited = 0.0
        self._step = _check.integer("first_step", first_step, at_least=0)
        self._last = None if steps is None else self._step + _check.integer("steps", steps, at_least=0)
        most = sampler.most(workers)
        self._steps_per_block = max(1, min(MOST_STEPS, buffer_bytes // (4 * source.features * most)))
        self._batches: Iterator[Batch] = iter(())
        self._block: _Block | None = None  # the one whose batches `next` gives
        self._closed = False
        self._filling = threading.Lock()  # held while the next block is read, by whoever reads it
        self._free: SimpleQueue[_Block | None] = SimpleQueue()
        self._ready: deque[_Block | BaseException | None] = deque()
        for _ in range(BLOCKS if background else 1):
            self._free.put(self._new_block(most * self._steps_per_block))
        self._thread: threading.Thread | None = None
        if background:
            self._thread = threading.Thread(target=self._read_ahead, name="pyddl-loader", daemon=True)
            self._thread.start()

    def next(self) -> Batch | None:
        """The next step's batch, or None after the last.

        Its arrays are views into buffers, valid until the next call.

        Raises
        ------
        Exception
            Whatever the source raised, with its traceback.
        """
        for batch in self._batches:
            return batch
        return self._next_block()

    def close(self) -> None:
        """End the thread; after that `next` gives None. Batches given before are no longer valid."""
        self._closed = True
        self._batches = iter(())
        if self._thread is not None:
            self._free.put(None)
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self.close()

    def _next_block(self) -> Batch | None:
        if self._closed:
            return None
        begin = perf_counter()
        if self._block is not None:
            self._free.put(self._block)
            self._block = None
        if not self._ready:
            with self._filling:  # where the thread is at it, its block is there afterwards
                if not self._ready:
                    block = self._free.get()  # does not wait: the thread has one block at the most
                    assert block is not None
                    self._fill_next(block)
        item = self._ready.popleft()
        self.waited += perf_counter() - begin
        if isinstance(item, _Block):
            self._block = item
            self._batches = iter(item.batches)
            return next(self._batches)
        self.close()
        if item is not None:
            raise item
        return None

    def _read_ahead(self) -> None:
        """The thread: fill free blocks until the end of the data, an error, or `close`, which sends None."""
        while (block := self._free.get()) is not None:
            with self._filling:
                if self._closed or not self._fill_next(block):
                    return

    def _fill_next(self, block: _Block) -> bool:
        """Add to ``_ready`` the block, filled; None at the end of the data; or an error. True for a block."""
        try:
            filled = self._fill(block)
            self._ready.append(block if filled else None)
            return filled
        except BaseException as error:
            self._ready.append(error)
            return False

    def _new_block(self, rows: int) -> _Block:
        raw = np.empty(rows * self.source.features + ALIGNMENT // 4, dtype=np.float32)
        skip = (-raw.ctypes.data // raw.itemsize) % (ALIGNMENT // 4)
        aligned = raw[skip : skip + rows * self.source.features].reshape(rows, self.source.features)
        return _Block(aligned, np.empty(rows, dtype=np.int64), label_buffer(self.source, rows), [])

    def _fill(self, block: _Block) -> bool:
        """Read the next steps into ``block``; false when there are none left."""
        first = self._step
        left = self._steps_per_block if self._last is None else self._last - first
        count = min(self._steps_per_block, left)
        if count <= 0:
            return False
        cuts = self._place(first, count, block.index)
        rows = cuts[-1]
        labels = block.labels
        self.source.read(block.index[:rows], block.rows[:rows])
        if labels is not None:
            self.source.read_labels(block.index[:rows], labels[:rows])
        if cuts != block.cuts:
            block.batches = [Batch(block.rows[begin:end], block.index[begin:end], seed=self.sampler.seed,
                                   labels=None if labels is None else labels[begin:end])
                             for begin, end in pairwise(cuts)]
            block.cuts = cuts
        for step, batch in enumerate(block.batches, first):
            batch.step = step
        self._step = first + count
        return True

    def _place(self, first: int, count: int, index: np.ndarray) -> tuple[int, ...]:
        """Write the samples of ``count`` steps into ``index``; return where each begins, and the end."""
        sampler, step, last, cuts = self.sampler, first, first + count, [0]
        whole = sampler.rows // sampler.batch_size  # steps of an epoch that are not short
        while step < last:
            begin, end = sampler.part(step, self.worker, self.workers)
            rows, at = end - begin, cuts[-1]
            run = min(last - step, max(1, whole - step % sampler.steps_per_epoch))  # steps alike
            positions = index[at : at + run * rows]
            np.add(np.arange(begin, end), sampler.batch_size * np.arange(run)[:, None],
                   out=positions.reshape(run, rows))
            sampler.order(sampler.epoch_of(step), positions)
            cuts.extend(at + rows * i for i in range(1, run + 1))
            step += run
        return tuple(cuts)
