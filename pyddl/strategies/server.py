"""Workers that push gradients to servers, which keep the model: synchronous, bounded, or not waiting at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pyddl import _check, options
from pyddl.comm.operations import (
    Arrived,
    BeginStep,
    Compute,
    Epoch,
    Fetch,
    GatherFromServers,
    Left,
    NextEpoch,
    Publish,
    Push,
    Receive,
    StepDone,
    Update,
    Version,
)
from pyddl.errors import ParameterError
from pyddl.strategies.base import Me, Served, Steps, Strategy, Turn
from pyddl.strategies.figures import Figures

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
    whoever is free, and updates are made from old parameters. Then learning rates are multiplied by the part of a step
    that a push is: 1 / W for one minibatch of W workers, whose staleness is W - 1 in the mean, and steps are divided by
    the mean staleness [4]_, the update itself counted. So W workers move as far as one does in the same samples, and
    pushes of one clock count alike. Of a push that stands for more than a step the excess goes into the gradient, as
    in [3]_, whose pushes are sums: plain descent follows it in full, and rules that adapt never make a longer step than
    one.

    In a stage of several phases a worker fetches before each turn and pushes after it; a version is an update of one
    phase, and staleness counts those of the push's own phase.

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
        The rule on the servers; by default the same as the workers', which is used between two fetches only. Of the
        workers' options it takes the learning rate, decay and clipping, and their momentum if it is the same rule.
    server_rate, server_momentum : float, optional
        Learning rate and momentum on the servers, where they differ from the workers'.
    servers : int, default=1
    backup : int, default=0
        For sync, with one server.
    solo_steps : int, default=0
        Steps that worker 0 takes alone at first [3]_; for async.
    staleness : {"scaled", "ignored"}, default="scaled"
        Whether learning rates are multiplied by what part of a step a push is; for ssp and async.

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
    needs = 2

    def __init__(self, mode: str = "sync", bound: int | None = None, push_every: int = 1, fetch_every: int = 1,
                 server_optimizer: str | None = None, servers: int = 1, backup: int = 0, solo_steps: int = 0,
                 staleness: str = "scaled", server_rate: float | None = None, server_momentum: float | None = None):
        self.mode = _check.one_of("mode", mode, MODES)
        self.bound = 3 if bound is None else _check.integer("bound", bound, at_least=0)
        self.push_every = _check.integer("push_every", push_every, at_least=1)
        self.fetch_every = _check.integer("fetch_every", fetch_every, at_least=1)
        own = {"optimizer": server_optimizer, "learning_rate": server_rate, "momentum": server_momentum}
        self.server_rule = {name: value for name, value in own.items() if value is not None}
        self.servers = _check.integer("servers", servers, at_least=1)
        self.backup = _check.integer("backup", backup, at_least=0)
        self.solo_steps = _check.integer("solo_steps", solo_steps, at_least=0)
        self.scales = _check.one_of("staleness", staleness, ("scaled", "ignored")) == "scaled"
        options.check_effects({
            "mode": mode, "bound": bound, "push_every": push_every, "fetch_every": fetch_every, "backup": backup,
            "solo_steps": solo_steps, "staleness": staleness})
        self._check_mode()
        self.tickets = mode != "sync" or backup > 0
        self.together = not self.tickets
        self.vectors = ("pending",) if push_every > 1 else ()
        self.optimizes = fetch_every > 1

    def _check_mode(self) -> None:
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

    def check_stages(self, phases: Sequence[int]) -> None:
        if self.backup and max(phases) > 1:
            raise ParameterError("backup drops pushes of a step as a whole, and this model has stages of "
                                 f"{max(phases)} phases, each with pushes of its own: leave backup out")

    def slices(self, workers: int) -> int:
        return workers - self.backup

    def step_seconds(self, figures: Figures) -> float:
        """Workers and servers at the same time: whichever takes longer."""
        f, workers = figures, figures.ranks - self.servers
        update = (f.update + f.link("pass")) / self.servers  # from one buffer into another
        moved = f.link("served") * (1 / self.push_every + 1 / self.fetch_every) / 2
        if self.mode == "sync":
            waiting = f.together - f.apart
            return f.minibatch(workers) + waiting + moved + workers * f.link("pass") / self.servers + update
        turn = f.minibatch(workers) + moved + update / self.push_every
        return max(turn, workers * (update + f.link("pass") / self.servers) / self.push_every)

    # ---- worker

    def worker(self, me: Me) -> Steps:
        while (epoch := (yield NextEpoch())) is not None:
            if me.number > 0 and epoch.step < self.solo_steps:
                yield Fetch(me.parameters, at(epoch, min(self.solo_steps - epoch.step, epoch.steps)))
            yield from self._epoch(me, epoch)

    def _epoch(self, me: Me, epoch: Epoch) -> Steps:
        done = clock = rows = 0  # minibatches, pushes that told of rows, and rows that none has told of yet
        version: Version = -1
        pending: dict[str, Pending] = {}  # by phase
        me.counters["samples"] = 0
        if self.optimizes:
            me.restart()
        while (yield BeginStep()):
            rows += me.samples
            me.counters["samples"] += me.samples
            for turn in me.turns():
                if done % self.fetch_every == 0:
                    version = yield Fetch(me.whole, self._needed(epoch, done, clock, version))
                yield Compute()
                mine = pending.setdefault(turn.phase, Pending())
                vector = self._pending(me, mine, turn, version)
                if (done + 1) % self.push_every == 0:
                    told = rows if turn.last else 0
                    yield Push(vector, mine.samples, mine.version, turn.phase, told, mine.weight)
                    rows, clock = rows - told, clock + (told > 0)
                    del pending[turn.phase]
                if (done + 1) % self.fetch_every and me.samples:
                    yield Update(1 / me.samples)
            done += 1
            if done % self.push_every == 0:
                yield from self._flush(me, pending, rows)
                if pending:
                    rows, clock = 0, clock + (rows > 0)
                    pending.clear()
            yield StepDone()
        yield from self._flush(me, pending, rows)

    def _pending(self, me: Me, mine: Pending, turn: Turn, version: Version) -> np.ndarray:
        """The sum of the phase's gradients since it was last pushed."""
        first = mine.samples == 0 and mine.place is None
        mine.place = turn.place
        if first:
            mine.version = version
        mine.samples += me.samples
        mine.weight += me.samples / me.samples_of_step
        if self.push_every == 1:
            return me.gradients
        vector = me.vectors["pending"][turn.place]
        if first:
            vector[:] = me.gradients
        else:
            vector += me.gradients
        return vector

    def _flush(self, me: Me, pending: dict[str, Pending], rows: int) -> Steps:
        """Push what phases without a turn in this minibatch have left."""
        for left, (phase, mine) in enumerate(pending.items(), 1 - len(pending)):
            yield Push(me.vectors["pending"][mine.place], mine.samples, mine.version, phase, 0 if left else rows,
                       mine.weight)

    def _needed(self, epoch: Epoch, done: int, clock: int, version: Version) -> int:
        """The progress that a worker waits for after ``done`` minibatches of this epoch, when its clock is this."""
        if self.mode == "sync":
            return 1 + (version if isinstance(version, int) else version[0])
        if self.mode == "ssp":  # its clock at the last minibatch before the next fetch must be within the bound
            clock += (done % self.push_every + self.fetch_every - 1) // self.push_every - self.bound
            return at(epoch, clock) if clock > 0 else 0
        return 0

    # ---- server

    def server(self, me: Served) -> Steps:
        while (epoch := (yield NextEpoch())) is not None:
            if self.mode == "sync":
                yield from self._together(me)
            else:
                yield from self._one_by_one(me, epoch)

    def _together(self, me: Served) -> Steps:
        """An epoch of turns: as many pushes as are needed, then the update. Progress is the version."""
        there = set(range(me.workers))
        came: dict[int, Arrived] = {}  # of this turn
        while (arrived := (yield Receive())) is not None:
            if isinstance(arrived, Left):
                there.discard(arrived.worker)
            elif arrived.version < me.version:
                me.drop(arrived)
            else:
                assert arrived.phase is not None
                total = me.sums[arrived.phase]
                if came:
                    total += arrived.vector
                else:
                    total[:] = arrived.vector
                came[arrived.worker] = arrived
            if came and (len(came) == self.slices(me.workers) or there <= came.keys()):
                if len(came) == self.slices(me.workers) or self.tickets:
                    phase = next(each.phase for each in came.values())
                    samples = sum(each.samples for each in came.values())
                    yield Update(1 / samples, vector=me.sums[str(phase)], phase=phase)
                else:  # a stop has cut this step off; it will be done again
                    for each in came.values():
                        me.drop(each)
                came.clear()
                yield Publish(me.version + 1)

    def _one_by_one(self, me: Served, epoch: Epoch) -> Steps:
        """An epoch of pushes, each an update. Progress is the slowest worker's clock in ssp, else steps consumed."""
        clocks: list[float] = [0] * me.workers
        waits = self.mode == "ssp" or epoch.step < self.solo_steps
        while (arrived := (yield Receive())) is not None:
            if isinstance(arrived, Arrived):
                clocks[arrived.worker] += arrived.rows > 0
                weight = arrived.weight if self.scales else 1.0
                yield Update(max(1.0, weight) / arrived.samples, rate=min(1.0, weight), vector=arrived.vector,
                             phase=arrived.phase)
            else:
                clocks[arrived.worker] = math.inf
                if not waits:  # nobody may wait for the worker that has left
                    continue
            if self.mode == "ssp":
                progress = min(clocks)
            else:
                progress = END if math.isinf(clocks[0]) else me.steps - epoch.step
            yield Publish(at(epoch, progress))

    def settle(self, me: Me) -> Steps:
        yield GatherFromServers(me.parameters)
        yield from me.merge_buffers([me.counters.get("samples", 0)])


@dataclass
class Pending:
    """What a worker has summed up of one phase: over so many samples, which are ``weight`` steps of all workers; first
    on this version, at this place."""

    samples: int = 0
    weight: float = 0.0
    version: Version = -1
    place: slice | None = None


def at(epoch: Epoch, progress: float) -> int:
    """Progress within an epoch as a number that grows over all epochs."""
    return epoch.number * EPOCH + int(min(progress, END))
