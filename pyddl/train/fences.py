"""Fences: where the ranks of a session meet between two epochs, and close the books of one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from pyddl.comm.cut import Cut
from pyddl.comm.operations import Epoch
from pyddl.comm.server import ServerLink, ServerPort, serve
from pyddl.data.prefetch import Loader
from pyddl.data.tickets import SliceLoader, TicketLoader, Tickets
from pyddl.errors import CommError
from pyddl.train.calendar import Span
from pyddl.train.connection import Connection
from pyddl.train.ledger import Ledger
from pyddl.train.phase import AVERAGE, PhaseState
from pyddl.train.plan import Plan
from pyddl.train.server import Server
from pyddl.train.worker import Worker

__all__ = ["Fence", "ServedFence"]


class Fence:
    """Where nobody serves: workers count steps, and the epoch is over after its last.

    Parameters
    ----------
    plan : Plan
    ledger : Ledger
    connection : Connection
    worker : Worker
    close : callable
        ``close(samples)`` closes the books of an epoch, in which this session has trained on so many samples.
        Collective.
    """

    end: ServerPort | ServerLink | None = None

    def __init__(self, plan: Plan, ledger: Ledger, connection: Connection, worker: Worker,
                 close: Callable[[int], None]):
        self.plan, self.ledger, self.connection, self.worker, self._close = plan, ledger, connection, worker, close
        worker.on_step = self._step_done

    def open(self, span: Span) -> AbstractContextManager[Any]:
        """This rank's loader for a stage, or for what is left of it, in the context."""
        self._first = first = self.ledger.step
        end = min(span.end, self.plan.end)
        self.worker.step = first - span.first
        for replica in self.worker.replicas:
            replica.step = self.worker.step
        return self.worker.open(self.plan.data, first, max(0, end - first), stage_began=span.first)

    def _step_done(self) -> None:
        ledger = self.ledger
        epoch = ledger.epoch
        ledger.step += 1
        ledger.progress.step(ledger.step)
        if self.connection.together is not None:
            self.connection.together.meet()
        if ledger.step == self.plan.calendar.end_of(epoch):
            samples = self.plan.sampler.consumed(ledger.step) - self.plan.sampler.consumed(self._first)
            self._first = ledger.step = self.plan.calendar.after(ledger.step)
            self._close(samples)

    def summary(self) -> dict[str, Any] | None:
        """What ``summary.json`` says under ``server``. Collective."""
        return None


class ServedFence:
    """Where some ranks are servers. All methods are collective but the constructor.

    Ranks 0 to k - 1 are servers, the others workers. Between two epochs all meet (`next_epoch`); only there anyone
    evaluates, saves and stops. A stop within an epoch ends it early: no more tickets are given out, and the rows from
    the ledger's ``row`` on are left for later.

    Parameters
    ----------
    replica : Server or Worker
    settle, outlive : callable
        Give the vectors the values that training stands for; leave those behind who have died. Collective.
    **others
        As in `Fence`.

    Attributes
    ----------
    end : ServerPort or ServerLink
    """

    end: ServerPort | ServerLink

    def __init__(self, plan: Plan, ledger: Ledger, connection: Connection, replica: Server | Worker,
                 close: Callable[[int], None], settle: Callable[[], None], outlive: Callable[[], None]):
        self.plan, self.ledger, self.connection, self.replica = plan, ledger, connection, replica
        self._close_epoch, self._settle, self._outlive = close, settle, outlive
        self.slices = plan.strategy.slices(plan.workers)
        self._span: Span
        self._fences = 0
        self._began: Epoch | None = None  # the epoch that is open
        self._version = 0  # of server 0 when it began
        self._dropped = 0  # samples, before it
        replica.on_epoch = self.next_epoch

    def open(self, span: Span) -> AbstractContextManager[Any]:
        """Serve the parameters, which are the same on all ranks; the context closes this rank's loader."""
        plan, replica, transport, ledger = self.plan, self.replica, self.connection.transport, self.ledger
        if hasattr(self, "_span"):
            self.end.close()  # that of the stage before
        self._span, self._began = span, None
        self.end = serve(self.connection.world, transport, servers=plan.strategy.servers, size=replica.layout.size,
                         phases={each.name: (each.begin, each.end) for each in replica.phases})
        if isinstance(replica, Server):
            assert isinstance(self.end, ServerPort)
            replica.serve(self.end, ledger.epoch * plan.sampler.rows + ledger.row, span.first)
            replica.published(self.end.publish(0))
            transport.barrier()
            return nullcontext()
        transport.barrier()  # no fetch before the first version
        assert isinstance(self.end, ServerLink)
        claim = self.end.claim
        loader: TicketLoader | SliceLoader
        if plan.strategy.tickets:
            loader = TicketLoader(plan.data, plan.sampler, self.slices, claim)
        else:
            loader = SliceLoader(Loader(plan.data, plan.sampler, replica.number, replica.count, first_step=ledger.step,
                                        steps=max(0, min(span.end, plan.end) - ledger.step)), claim)
        replica.take(loader, span.first)
        return loader

    def next_epoch(self) -> Epoch | None:
        """The fence: close the books of the epoch that has ended; the one that begins, or None after the last."""
        plan, ledger, connection = self.plan, self.ledger, self.connection
        connection.activity.begin("a fence between epochs")
        self._outlive()
        if self._began is not None:
            self._close(self._began)
        if connection.stop.agreed or ledger.step >= min(self._span.end, plan.end) or connection.smaller:
            return None  # in a smaller world, another session goes on
        epoch = ledger.epoch
        self._fences += 1
        end = plan.calendar.end_of(epoch)
        self._began = Epoch(self._fences, ledger.step - self._span.first, end - ledger.step)
        if isinstance(self.replica, Server):
            assert isinstance(self.end, ServerPort)
            self._version, self._dropped = self.replica.version, self._dropped_samples()
            self.end.begin_epoch(Tickets(plan.sampler, self.slices, ledger.row, self._steps_of(epoch)).count)
        else:
            self.replica.loader.begin_epoch(epoch, ledger.row, self._steps_of(epoch))  # type: ignore[union-attr]
        return self._began

    def _steps_of(self, epoch: int) -> int:
        return self.plan.calendar.end_of(epoch) - epoch * self.plan.sampler.steps_per_epoch

    def _close(self, began: Epoch) -> None:
        """Enter the epoch that has ended, or been stopped, into the books."""
        plan, ledger, stop, sampler = self.plan, self.ledger, self.connection.stop, self.plan.sampler
        epoch = ledger.epoch
        rows = plan.calendar.rows_of(epoch)
        row, dropped = 0, 0
        if isinstance(self.replica, Server):
            self.replica.refresh()
            row, dropped = self._done(began), self._dropped_samples() - self._dropped
        told = self.connection.transport.gather_objects((row, dropped, stop.requested))
        row, dropped, _ = told[0]
        stop.agreed |= any(requested for _, _, requested in told)
        if row < rows and not stop.agreed:
            error = CommError(f"an epoch has ended after row {row} of {rows}: its next step lacks the push of a "
                              "worker, who has come to the end without it")
            error.on_all_ranks = True
            raise error
        if isinstance(self.replica, Worker) and isinstance(self.replica.loader, SliceLoader):
            done = sampler.reached(row) - ledger.row // sampler.batch_size
            if self.replica.loader.given > done:
                self.replica.take_back()  # before buffers are merged: the steps will be done again
        if plan.strategy.replicated:
            self._settle()
        done = sampler.rows * epoch + row
        if isinstance(self.replica, Server):
            self.replica.consumed = done
        trained = row - ledger.row - dropped  # in this session
        ledger.row, ledger.step = row % rows, sampler.reached(done)
        ledger.dropped += dropped
        if row == rows:
            ledger.step = (epoch + 1) * sampler.steps_per_epoch
            self._close_epoch(trained)

    def _done(self, began: Epoch) -> int:
        """The first position of this epoch that is still to be done. Server 0 knows."""
        plan, sampler, epoch = self.plan, self.plan.sampler, self.ledger.epoch
        assert isinstance(self.replica, Server) and isinstance(self.end, ServerPort)
        if plan.strategy.tickets:
            return Tickets(sampler, self.slices, self.ledger.row, self._steps_of(epoch)).done(self.end.claimed)
        updates, steps = self.replica.version - self._version, 0  # a version is a turn
        for step in range(began.step, began.step + began.steps):
            turns = sum(each.is_due(step) for each in self.replica.phases)
            if turns > updates:
                break
            updates, steps = updates - turns, steps + 1
        first = self.ledger.step - epoch * sampler.steps_per_epoch
        return sampler.consumed(first + steps)

    def state(self) -> dict[str, np.ndarray]:
        """The servers' optimizer state, by phase and name, each of the phase's size, on all ranks, who also learn of
        its updates."""
        replica = self.replica
        mine = replica.whole_state() if isinstance(replica, Server) else {}
        keys = [(each, f"{each.name}.{name}") for each in replica.phases for name in self._state_names(each)]
        state = {key: self._of_servers(each, mine.get(key)) for each, key in keys}
        updates = self.connection.transport.gather_objects([each.updates for each in replica.phases])[0]
        for each, done in zip(replica.phases, updates, strict=True):
            each.updates = done
        return state

    def _state_names(self, phase: PhaseState) -> list[str]:
        own = self.plan.rule(self._span, phase.phase, served=True).state_names
        return [*own, AVERAGE] if phase.copies else [*own]

    def _of_servers(self, phase: PhaseState, mine: np.ndarray | None) -> np.ndarray:
        """A vector of the phase, of which each server has its share. Collective."""
        vector = self.replica.layout.zeros()[phase.place] if mine is None else mine
        Cut(phase.size, self.plan.strategy.servers).broadcast(self.connection.transport, vector)
        return vector

    def averaged(self) -> np.ndarray:
        """The parameters, with the servers' averaged copies in the place of those that have one. Collective."""
        replica = self.replica
        if not any(each.copies for each in replica.phases):
            return replica.whole
        out = replica.whole.copy()
        for each in replica.phases:
            if each.copies:
                mine = None
                if isinstance(replica, Server):
                    mine = replica.layout.zeros()[each.place]
                    mine[each.share] = each.average
                out[each.place] = self._of_servers(each, mine)
        return out

    def close(self) -> None:
        """End the service. Where somebody has died nobody waits for them."""
        if not self.connection.smaller:
            self.end.close()

    def summary(self) -> dict[str, Any]:
        """What ``summary.json`` says under ``server``. Collective."""
        replica, transport, count = self.replica, self.connection.transport, self.plan.strategy.servers
        everyone = transport.gather_objects(
            replica.received_so_far.summary(replica.version) if isinstance(replica, Server) else
            (list(replica.last_fetched), dict(replica.spreads)))  # type: ignore[arg-type]
        servers, workers = everyone[:count], everyone[count:]
        if len(servers) == 1:
            return servers[0]
        spreads: dict[int, int] = {}
        for _, each in workers:
            for spread, times in each.items():
                spreads[spread] = spreads.get(spread, 0) + times
        return {**servers[0], "versions": [each["versions"] for each in servers],
                "staleness_per_server": [each["staleness"] for each in servers],
                "last_fetched": [last for last, _ in workers],
                "fetched_spread": {str(spread): spreads[spread] for spread in sorted(spreads)}}

    def _dropped_samples(self) -> int:
        return self.replica.counters.get("dropped_samples", 0)
