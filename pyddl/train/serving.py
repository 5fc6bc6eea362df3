"""Serving: what a session does where some ranks are servers - roles, fences between epochs, books."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from pyddl.comm.group import broadcast_shares
from pyddl.comm.operations import Epoch
from pyddl.comm.server import ServerLink, ServerPort, serve
from pyddl.data.prefetch import Loader
from pyddl.data.tickets import SliceLoader, TicketLoader, Tickets
from pyddl.errors import CommError, ParameterError
from pyddl.optim import Optimizer
from pyddl.train.server import Server
from pyddl.train.worker import Worker

if TYPE_CHECKING:
    from pyddl.train.session import Session

__all__ = ["Serving"]


class Serving:
    """The servers' part of a `Session`, which calls it; all methods are collective but the constructor.

    Ranks 0 to k - 1 are servers, the others workers. Between two epochs all meet (`next_epoch`); only there the session
    evaluates, saves and stops. A stop within an epoch ends it early: no more tickets are given out, and the rows from
    ``row`` on are left for later.

    Parameters
    ----------
    session : Session
    optimizer : Optimizer
        Of the servers.

    Attributes
    ----------
    replica : Server or Worker
    end : ServerPort or ServerLink
    row : int
        First position of the session's epoch that is still to be done.
    """

    end: ServerPort | ServerLink

    def __init__(self, session: Session, optimizer: Optimizer):
        self.session, self.optimizer = session, optimizer
        self.servers = session.strategy.servers
        if self.servers > 1 and optimizer.clip_norm is not None:
            raise ParameterError(f"clip_norm is by the norm of the whole gradient, of which each of {self.servers} "
                                 "servers has a share only: use one server, or leave out clip_norm")
        self.workers = session.world.size - self.servers
        self.slices = session.strategy.slices(self.workers)
        self.row = 0
        self._began: Epoch | None = None  # the epoch that is open
        self._version = 0  # of server 0 when it began
        self._dropped = 0  # samples, before it
        self.replica = self._make()

    def _make(self) -> Server | Worker:
        session, strategy, rank = self.session, self.session.strategy, self.session.world.rank
        replica: Server | Worker
        if rank < self.servers:
            replica = Server(session.model, self.optimizer, session.sampler, number=rank, count=self.servers,
                             workers=self.workers, seed=session.options["seed"], kept=strategy.replicated,
                             on_publish=self._show)
        else:
            replica = Worker(session.model, session.optimizer, session.sampler, number=rank - self.servers,
                             count=self.workers, rank=rank, seed=session.options["seed"],
                             kept=not strategy.replicated, vectors=strategy.vectors)
        replica.on_epoch = self.next_epoch
        return replica

    def open(self) -> AbstractContextManager[Any]:
        """Serve the parameters, which are the same on all ranks; the context closes this rank's loader."""
        session, replica = self.session, self.replica
        self.end = serve(session.world, session.transport, servers=self.servers, size=replica.layout.size)
        if isinstance(replica, Server):
            assert isinstance(self.end, ServerPort)
            epoch = session.step // session.steps_per_epoch
            replica.serve(self.end, epoch * session.sampler.rows + self.row)
            replica.published(self.end.publish(0))
            session.transport.barrier()
            return nullcontext()
        session.transport.barrier()  # no fetch before the first version
        assert isinstance(self.end, ServerLink)
        claim = self.end.claim
        if session.strategy.tickets:
            replica.loader = TicketLoader(session.data, session.sampler, self.slices, claim)
        else:
            replica.loader = SliceLoader(Loader(session.data, session.sampler, replica.number, replica.count,
                                                first_step=session.step, steps=max(0, session.steps - session.step)),
                                         claim)
        return replica.loader

    def next_epoch(self) -> Epoch | None:
        """The fence: close the books of the epoch that has ended; the one that begins, or None after the last."""
        session = self.session
        session.activity.begin("a fence between epochs")
        session.outlive()
        if self._began is not None:
            self._close(self._began)
        if session.stop.agreed or session.step >= session.steps or session.smaller:
            return None  # in a smaller world, another session goes on
        number, per_epoch = 1 + (self._began.number if self._began else 0), session.steps_per_epoch
        epoch = session.step // per_epoch
        self._began = Epoch(number, session.step, (epoch + 1) * per_epoch - session.step)
        if isinstance(self.replica, Server):
            assert isinstance(self.end, ServerPort)
            self._version, self._dropped = self.replica.version, self._dropped_samples()
            self.end.begin_epoch(Tickets(session.sampler, self.slices, self.row).count)
        else:
            self.replica.loader.begin_epoch(epoch, self.row)  # type: ignore[union-attr]
        return self._began

    def _close(self, epoch: Epoch) -> None:
        """Enter the epoch that has ended, or been stopped, into the session's books."""
        session = self.session
        row, dropped = 0, 0
        if isinstance(self.replica, Server):
            self.replica.refresh()
            row, dropped = self._done(epoch), self._dropped_samples() - self._dropped
        told = session.transport.gather_objects((row, dropped, session.stop.requested))
        row, dropped, _ = told[0]
        session.stop.agreed |= any(requested for _, _, requested in told)
        if row < session.sampler.rows and not session.stop.agreed:
            error = CommError(f"an epoch has ended after row {row} of {session.sampler.rows}: its next step lacks the "
                              "push of a worker, who has come to the end without it")
            error.on_all_ranks = True
            raise error
        if session.strategy.replicated:
            session.settle()
        if isinstance(self.replica, Worker) and isinstance(self.replica.loader, SliceLoader):
            beyond = self.replica.loader.given - (session.sampler.reached(row) - self.row // session.sampler.batch_size)
            del self.replica.losses[len(self.replica.losses) - beyond :]
        done = session.sampler.rows * (epoch.step // session.steps_per_epoch) + row
        if isinstance(self.replica, Server):
            self.replica.consumed = done
        trained = row - self.row - dropped
        self.row = row % session.sampler.rows
        session.step = session.sampler.reached(done)
        if row == session.sampler.rows:
            session.epoch_done(trained)

    def _done(self, epoch: Epoch) -> int:
        """The first position of this epoch that is still to be done. Server 0 knows."""
        session = self.session
        assert isinstance(self.replica, Server) and isinstance(self.end, ServerPort)
        if session.strategy.tickets:
            return Tickets(session.sampler, self.slices, self.row).done(self.end.claimed)
        steps = epoch.step + self.replica.version - self._version  # a version is a step
        return session.sampler.consumed(steps) - session.sampler.consumed(epoch.step - epoch.step %
                                                                          session.steps_per_epoch)

    def state(self) -> list[np.ndarray]:
        """The servers' optimizer state, of the layout's size, on all ranks, who also learn of its updates."""
        if isinstance(self.replica, Server):
            state = self.replica.whole_state()
        else:
            state = [self.replica.layout.zeros() for _ in self.optimizer.state_names]
        for vector in state:
            broadcast_shares(self.session.transport, vector, self.servers)
        self.replica.updates = self.session.transport.gather_objects(self.replica.updates)[0]
        return state

    def trained(self) -> int:
        """Samples of the whole run that went into the model. Collective."""
        session = self.session
        epoch = session.step // session.steps_per_epoch
        return (epoch * session.sampler.rows + self.row
                - sum(session.transport.gather_objects(self._dropped_samples())))

    def close(self) -> None:
        """End the service. Where somebody has died nobody waits for them."""
        if not self.session.smaller:
            self.end.close()

    def summary(self) -> dict[str, Any]:
        """What ``summary.json`` says under ``server``."""
        replica = self.replica
        mine = (replica.books.summary(replica.version) if isinstance(replica, Server) else
                (list(replica.last_fetched), dict(replica.spreads)))  # type: ignore[arg-type]
        told = self.session.transport.gather_objects(mine)
        servers, workers = told[: self.servers], told[self.servers :]
        if self.servers == 1:
            return servers[0]
        spreads: dict[int, int] = {}
        for _, each in workers:
            for spread, times in each.items():
                spreads[spread] = spreads.get(spread, 0) + times
        return {**servers[0], "versions": [each["versions"] for each in servers],
                "staleness_per_server": [each["staleness"] for each in servers],
                "last_fetched": [last for last, _ in workers],
                "fetched_spread": {str(spread): spreads[spread] for spread in sorted(spreads)}}

    def title(self) -> str:
        """Who does what, for people."""
        def ranks(first: int, count: int) -> str:
            return f"rank {first}" if count == 1 else f"ranks {first} to {first + count - 1}"

        return (f"{ranks(0, self.servers)} {'serves' if self.servers == 1 else 'serve'}, "
                f"{ranks(self.servers, self.workers)} {'computes' if self.workers == 1 else 'compute'}")

    def _dropped_samples(self) -> int:
        return self.replica.counters.get("dropped_samples", 0)

    def _show(self) -> None:
        assert isinstance(self.replica, Server)
        self.session.progress.step(self.replica.steps)
