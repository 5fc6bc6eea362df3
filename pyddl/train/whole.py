"""Whole: what the vectors of all ranks stand for together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from pyddl.comm.driver import drive
from pyddl.layout import Slice
from pyddl.strategies import Steps
from pyddl.train.connection import Connection
from pyddl.train.fences import Fence, ServedFence
from pyddl.train.plan import Plan
from pyddl.train.replica import Replica

__all__ = ["Whole"]


class Whole:
    """The one model that is trained, whose parts lie on ranks, shares and servers. All methods are collective.

    Parameters
    ----------
    plan : Plan
    connection : Connection
    replica : Replica
        This rank's.
    fence : Fence or ServedFence

    Attributes
    ----------
    in_shares : bool
        Whether each rank has a share of the optimizer's state, too large for one perhaps.
    """

    def __init__(self, plan: Plan, connection: Connection, replica: Replica, fence: Fence | ServedFence):
        self.plan, self.connection, self.replica, self.fence = plan, connection, replica, fence
        self.in_shares = plan.strategy.shards and plan.division.count > 1

    def settle(self) -> None:
        """Let this rank's vectors be what training stands for."""
        strategy, replica = self.plan.strategy, self.replica
        self._drive(strategy.settle(replica))  # type: ignore[arg-type]
        if strategy.joint and not strategy.replicated:
            self._drive(replica.settle_averages())
        if strategy.joint:
            self._drive(replica.gather_chains())

    @contextmanager
    def settled(self, *, evaluates: bool = True) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Within the block the vectors are what training stands for; it gets parameters and buffers to evaluate.

        Where replicas differ their vectors are as before afterwards; elsewhere buffers stay merged.
        """
        strategy, replica = self.plan.strategy, self.replica
        if strategy.replicated or not strategy.joint:
            if strategy.joint and not strategy.servers:  # a fence with servers has settled them
                self.settle()
            yield self.averaged(), replica.buffers_as_one()
            return
        if not evaluates:
            yield replica.whole, replica.buffers
            return
        averages = [each.average for each in replica.phases if each.copies]
        vectors = [replica.whole, replica.buffers, replica.merged, *averages]
        kept, seen = [(vector, vector.copy()) for vector in vectors], replica.seen
        self.settle()
        yield self.averaged(), replica.buffers_as_one()
        for vector, values in kept:
            vector[:] = values
        replica.seen = seen

    def averaged(self) -> np.ndarray:
        """The parameters with averaged copies in their places."""
        if isinstance(self.fence, ServedFence) and self.plan.strategy.replicated:
            return self.fence.averaged()
        averaged = self.replica.averaged()
        if self.in_shares and averaged is not self.replica.whole:
            for each in self.replica.phases:
                if each.copies:
                    self.gather_from_owners(averaged[each.place])
        return averaged

    def state(self) -> Mapping[str, np.ndarray]:
        """The optimizers' state vectors, also where each rank keeps a share, or the servers do."""
        if isinstance(self.fence, ServedFence) and self.plan.strategy.replicated:
            return self.fence.state()
        state = self.replica.whole_state()
        if self.plan.strategy.shards:
            for vector in state.values():
                self.gather_from_owners(vector)
        return state

    def state_here(self) -> Mapping[str, np.ndarray]:
        """The same, but in shares where each rank has its own."""
        if not self.in_shares or self.plan.division.group is not None:
            return self.state()
        return {f"{each.name}.{name}": vector for each in self.replica.phases
                for name, vector in zip(each.names, each.state, strict=True)}

    def slices(self) -> dict[str, Slice] | None:
        """Which parts of the tensors this rank holds; None where it holds them whole, all at once."""
        return self.replica.slices() if self.plan.division.group is not None or self.in_shares else None

    @contextmanager
    def as_saved(self) -> Iterator[None]:
        """Within the block buffers are what a checkpoint holds: merged where one file stands for all workers."""
        replica, strategy = self.replica, self.plan.strategy
        if strategy.replicated and not strategy.servers:
            self._drive(replica.merge_buffers())
        if strategy.joint:
            self._drive(replica.gather_chains())
        kept = replica.buffers.copy()
        if strategy.replicated:
            replica.buffers[:] = replica.buffers_as_one()
        yield
        replica.buffers[:] = kept

    def gather_from_owners(self, vector: np.ndarray) -> None:
        self.connection.groups["world"].gather_from_owners(vector)

    def _drive(self, steps: Steps) -> None:
        connection = self.connection
        drive(steps, self.replica, connection.between, groups=connection.groups, activity=connection.activity,
              end=self.fence.end)
