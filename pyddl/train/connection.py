"""Connection: the ranks of a session, as they speak to each other; fewer after deaths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pyddl.comm.activity import Activity
from pyddl.comm.checked import Checked
from pyddl.comm.group import Groups
from pyddl.comm.transport import Transport
from pyddl.errors import PeerLost
from pyddl.train.division import Division
from pyddl.train.plan import Plan
from pyddl.train.stop import StopRequest, StopTogether

__all__ = ["Connection"]


class Connection:
    """Transports and groups of a session, and the request to stop that all of its ranks see.

    Parameters
    ----------
    plan : Plan
    activity : Activity
    asked : StopRequest

    Attributes
    ----------
    world, division : World, Division
        At first the plan's.
    transport : Transport
        Between all ranks.
    between : Transport
        Between the ranks that hold the same part of the model. Set by `opened`.
    groups : Groups
        The same. Set by `opened`.
    stop : StopRequest or StopTogether
    together : StopTogether or None
        Where ranks of one worker have to find out whether any of them was asked.
    smaller : bool
        Some ranks have died.
    """

    between: Transport
    groups: Groups

    def __init__(self, plan: Plan, activity: Activity, asked: StopRequest):
        self.plan, self.activity = plan, activity
        self.world, self.division = plan.world, plan.division
        self.transport = self._checked(plan.world.transport)
        self.stop: StopRequest | StopTogether = asked
        self.together: StopTogether | None = None
        self.smaller = False

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Within the block there are ``between`` and ``groups``. Collective."""
        with self.division.connected(self.transport, self._checked) as self.between:
            if self.division.group is not None:
                self.stop = self.together = StopTogether(self.stop, self.division.group.any)  # type: ignore[arg-type]
            with Groups(self.division.lane, self.between) as self.groups:
                if self.plan.strategy.locks:
                    self.groups.open_lock(None if self.plan.out is None else Path(self.plan.out))
                yield

    def _checked(self, transport: Transport) -> Transport:
        return Checked(transport, self._place) if self.plan.options["debug"] else transport

    def _place(self) -> int:
        """What debug mode compares besides the operation itself: only synchronous workers keep step."""
        return self.activity.number if self.plan.strategy.synchronous else 0

    def outlive(self, note: Callable[[list[int]], None]) -> None:
        """Leave those behind who have died, and tell ``note`` who they are. Collective over all who live.

        Raises
        ------
        PeerLost
            A server has died, or all workers have.
        """
        before, left = self.world, self.world.shrink()
        if left is before:
            return
        dead, servers = before.missing(left), self.plan.strategy.servers
        if dead[0] < servers or left.size <= servers:
            lost = "a server" if dead[0] < servers else "no worker is left"
            raise PeerLost(f"{who_died(dead)}: {lost}, without which nothing goes on; start again with resume")
        self.world, self.smaller = left, True
        self.transport = self.between = self._checked(left.transport)
        self.division = Division(left, self.plan.whole_model, self.plan.strategy, self.plan.options)
        self.division.lane = left
        self.groups = Groups(left, self.between)
        note(dead)


def who_died(ranks: list[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))} died"
