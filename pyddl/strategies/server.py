"""Workers that push gradients to servers, which keep the model: synchronous, bounded, or not waiting at all."""

from __future__ import annotations

import math

import numpy as np

from pyddl import _check
from pyddl.comm.operations import (
    Arrived,
    Epoch,
    Left,
    Version,
    compute,
    fetch,
    gather_from_servers,
    next_epoch,
    publish,
    push,
    receive,
    step_done,
)
from pyddl.errors import ParameterError
from pyddl.strategies.base import Me, Served, Steps, Strategy

__all__ = ["Server"]

MODES = ("sync", "ssp", "async")
EPOCH = 1 << 32  # between the progress of two epochs, so that it only grows
END = EPOCH - 1  # more progress than an epoch can have


class Server(Strategy):
    """Workers fetch parameters and push sums of gradients; servers divide them by their samples and update.

    Parameters and optimizer state live on the servers: ranks 0 to ``servers`` - 1, each with one share of the vector.
    A *version* is one update; a fetched share is of one version, and a push carries the version that it was computed
    on. Its *staleness* is the number of updates since. What a worker fetches has all in it that it has pushed before,
    so that one worker alone is never stale where it fetches after each push. When things happen is the mode:

    =========  ====================================================================================================
    ``sync``   A server adds up the pushes of all workers, then updates; workers wait for the update. With
               ``backup`` b it updates with the first workers - b pushes of a step, and drops those that come after
               the update [1]_: dropped rows are not seen in this epoch.
    ``ssp``    A server updates with each push. Stale synchronous parallel [2]_: a worker whose clock (pushes in this
               epoch) is more than ``bound`` ahead of the slowest waits for it; ``bound`` 0 is bulk synchronous.
    ``async``  A server updates with each push; nobody waits. Downpour [3]_: a worker pushes every ``push_every`` and
               fetches every ``fetch_every`` minibatches; between two fetches it moves its own copy, too.
    =========  ====================================================================================================

    A minibatch is a slice of a step, batch_size / workers rows, in all modes. ``sync`` without backup equals
    `allreduce` on as many workers up to rounding. All others are other algorithms than one worker's: rows go to
    whoever is free, and updates are made from old parameters. Then steps (learning rates) are divided by the staleness
    where that is above 1 [4]_, so that W workers which push one after another move as far as one in the same samples.

    Sent per minibatch and worker: n elements to the servers, n from them; divided by ``push_every``, ``fetch_every``.
    All ranks meet at the end of an epoch.

    Parameters
    ----------
    mode : {"sync", "ssp", "async"}, default="sync"
    bound : int, optional
        For ssp; by default 3.
    push_every, fetch_every : int, default=1
        Minibatches between two; for ssp and async.
    server_optimizer : str, optional
        The rule on the servers; by default the same as the workers', which is used between two fetches only.
    servers : int, default=1
    backup : int, default=0
        For sync, with one server.
    solo_steps : int, default=0
        Steps that worker 0 takes alone at first [3]_; for async.
    staleness : {"scaled", "ignored"}, default="scaled"
        Whether steps are divided by it; for ssp and async.

    References
    ----------
    .. [1] Chen, Pan, Monga, Bengio, Jozefowicz (2016), Revisiting distributed synchronous SGD, arXiv:1604.00981.
    .. [2] Ho, Cipar, Cui, Kim, Lee, Gibbons, Gibson, Ganger, Xing (2013), More effective distributed ML via a stale
       synchronous parallel parameter server, NeurIPS.
    .. [3] Dean et al. (2012), Large scale distributed deep networks, NeurIPS.
    .. [4] Zhang, Gupta, Lian, Liu (2015), Staleness-aware async-SGD for distributed deep learning, IJCAI.
    """

    name = "server"
    replicated = True

    def __init__(self, mode: str = "sync", bound: int | None = None, push_every: int = 1, fetch_every: int = 1,
                 server_optimizer: str | None = None, servers: int = 1, backup: int = 0, solo_steps: int = 0,
                 staleness: str = "scaled"):
        self.mode = _check.one_of("mode", mode, MODES)
        self.bound = 3 if bound is None else _check.integer("bound", bound, at_least=0)
        self.push_every = _check.integer("push_every", push_every, at_least=1)
        self.fetch_every = _check.integer("fetch_every", fetch_every, at_least=1)
        self.server_optimizer = server_optimizer
        self.servers = _check.integer("servers", servers, at_least=1)
        self.backup = _check.integer("backup", backup, at_least=0)
        self.solo_steps = _check.integer("solo_steps", solo_steps, at_least=0)
        self.scales = _check.one_of("staleness", staleness, ("scaled", "ignored")) == "scaled"
        self._check_mode(bound is not None)
        self.tickets = mode != "sync" or backup > 0
        self.vectors = ("pending",) if push_every > 1 else ()
        self.optimizes = fetch_every > 1

    def _check_mode(self, bounded: bool) -> None:
        for name, given, modes in (("bound", bounded, ("ssp",)), ("push_every", self.push_every > 1, ("ssp", "async")),
                                   ("fetch_every", self.fetch_every > 1, ("ssp", "async")),
                                   ("backup", self.backup > 0, ("sync",)),
                                   ("solo_steps", self.solo_steps > 0, ("async",))):
            if given and self.mode not in modes:
                raise ParameterError(f"{name} belongs to mode {' and '.join(modes)}; the mode here is {self.mode}: "
                                     f"leave it out, or choose mode {modes[-1]}")
        if self.backup and self.servers > 1:
            raise ParameterError(f"backup is {self.backup} with {self.servers} servers, which would drop pushes each "
                                 "for itself: use one server, or no backup")
        most = self.bound * self.push_every + 1
        if self.mode == "ssp" and self.fetch_every > most:
            raise ParameterError(f"fetch_every is {self.fetch_every}, so that a worker would wait for itself; with "
                                 f"bound {self.bound} and push_every {self.push_every} expected at most {most}")

    def __str__(self) -> str:
        return f"{self.name} in mode {self.mode}"

    def check(self, ranks: int, batch_size: int) -> None:
        if ranks < 2:
            raise ParameterError("strategy server needs 2 ranks, a server and a worker, and there is 1: choose "
                                 "strategy local, or start more ranks (pyddl train --ranks 3)")
        if self.servers >= ranks:
            raise ParameterError(f"servers is {self.servers} on {ranks} ranks, which leaves no worker; expected at "
                                 f"most {ranks - 1}: give fewer servers, or start more ranks")
        if self.backup >= ranks - self.servers:
            raise ParameterError(f"backup is {self.backup} with {ranks - self.servers} workers; expected fewer backup "
                                 "workers than workers: give a smaller one, or start more ranks")

    def slices(self, workers: int) -> int:
        return workers - self.backup

    # ---- worker

    def worker(self, me: Me) -> Steps:
        while (epoch := (yield next_epoch())) is not None:
            if me.number > 0 and epoch.step < self.solo_steps:
                yield fetch(me.parameters, at(epoch, min(self.solo_steps - epoch.step, epoch.steps)))
            yield from self._epoch(me, epoch)

    def _epoch(self, me: Me, epoch: Epoch) -> Steps:
        done = samples = 0
        version: Version = -1
        first = version  # of what is pending
        me.counters["samples"] = 0
        if self.optimizes:
            me.restart()
        while True:
            if done % self.fetch_every == 0:
                version = yield fetch(me.parameters, self._needed(epoch, done, version))
            if not (yield compute()):
                break
            if samples == 0:
                first = version
            samples += me.samples
            me.counters["samples"] += me.samples
            done += 1
            vector = self._pending(me, done)
            if done % self.push_every == 0:
                yield push(vector, samples, first)
                samples = 0
            if done % self.fetch_every and me.samples:
                me.update(scale=1 / me.samples)
            yield step_done()
        if done % self.push_every:
            yield push(me.vectors["pending"], samples, first)

    def _pending(self, me: Me, done: int) -> np.ndarray:
        """The sum of the gradients since the last push."""
        if self.push_every == 1:
            return me.gradients
        pending = me.vectors["pending"]
        if done % self.push_every == 1:
            pending[:] = me.gradients
        else:
            pending += me.gradients
        return pending

    def _needed(self, epoch: Epoch, done: int, version: Version) -> int:
        """The progress that a worker waits for after ``done`` minibatches of this epoch."""
        if self.mode == "sync":
            return 1 + (version if isinstance(version, int) else version[0])
        if self.mode == "ssp":  # its clock at the last minibatch before the next fetch must be within the bound
            clock = (done + self.fetch_every - 1) // self.push_every - self.bound
            return at(epoch, clock) if clock > 0 else 0
        return 0

    # ---- server

    def server(self, me: Served) -> Steps:
        while (epoch := (yield next_epoch())) is not None:
            if self.mode == "sync":
                yield from self._together(me)
            else:
                yield from self._one_by_one(me, epoch)

    def _together(self, me: Served) -> Steps:
        """An epoch of steps: as many pushes as are needed, then the update. Progress is the version."""
        there = set(range(me.workers))
        came: dict[int, Arrived] = {}  # of this step
        while (arrived := (yield receive())) is not None:
            if isinstance(arrived, Left):
                there.discard(arrived.worker)
            elif arrived.version < me.version:
                me.drop(arrived)
            else:
                if came:
                    me.gradients += arrived.vector
                else:
                    me.gradients[:] = arrived.vector
                came[arrived.worker] = arrived
            if came and (len(came) == self.slices(me.workers) or there <= came.keys()):
                if len(came) == self.slices(me.workers) or self.tickets:
                    me.update(me.gradients, scale=1 / sum(each.samples for each in came.values()))
                else:  # a stop has cut this step off; it will be done again
                    for each in came.values():
                        me.drop(each)
                came.clear()
                yield publish(me.version + 1)

    def _one_by_one(self, me: Served, epoch: Epoch) -> Steps:
        """An epoch of pushes, each an update. Progress is the slowest worker's clock in ssp, else steps consumed."""
        clocks: list[float] = [0] * me.workers
        waits = self.mode == "ssp" or epoch.step < self.solo_steps
        while (arrived := (yield receive())) is not None:
            clocks[arrived.worker] += math.inf if isinstance(arrived, Left) else 1
            if isinstance(arrived, Arrived):
                staleness = me.version - arrived.version
                me.update(arrived.vector, scale=1 / arrived.samples, rate=1 / max(1, staleness) if self.scales else 1)
            elif not waits:  # nobody may wait for the worker that has left
                continue
            if self.mode == "ssp":
                progress = min(clocks)
            else:
                progress = END if math.isinf(clocks[0]) else me.steps - epoch.step
            yield publish(at(epoch, progress))

    def settle(self, me: Me) -> Steps:
        yield gather_from_servers(me.parameters)
        yield from me.merge_buffers([me.counters.get("samples", 0)])


def at(epoch: Epoch, progress: float) -> int:
    """Progress within an epoch as a number that grows over all epochs."""
    return epoch.number * EPOCH + int(min(progress, END))
