"""Replicas that take turns under a lock, then become one."""

from __future__ import annotations

from pyddl import _check
from pyddl.comm.operations import BeginStep, Compute, Lock, StepDone, Unlock, Update
from pyddl.errors import ParameterError
from pyddl.strategies.base import Me, Steps, Strategy, average
from pyddl.strategies.figures import Figures

__all__ = ["Sequential"]


class Sequential(Strategy):
    """``replicas`` replicas of the model take one turn each, one at a time, then their parameters are averaged.

    A *round* is k turns, all from the same parameters, on k different minibatches of batch_size / k rows; each turn (a
    gradient and an update for each phase, with an optimizer state of the replica's own) holds a lock that all ranks
    share. Then the replicas are averaged in their order, weighted by samples, and the mean is where the next round
    begins.

    Bit for bit `averaging` with ``period`` 1 on k ranks, on any number of ranks: replica r lives on rank r mod P, and
    ranks beyond k are idle. It computes no faster than one rank: it is there to hold k replicas where there is room,
    and to show what replicas give. Sent per rank and round: each replica's n elements times (P-1)/P, and as much of the
    mean. Waits: for the lock, and for the slowest at the end of the round.

    Parameters
    ----------
    replicas : int, default=2
    """

    name = "sequential"
    locks = True
    splits = False  # ranks of a group would wait for the lock of another's ranks, each for the other
    replicas: int

    def __init__(self, replicas: int = 2):
        self.replicas = _check.integer("replicas", replicas, at_least=1)

    def check(self, ranks: int, batch_size: int) -> None:
        if self.replicas > batch_size:
            raise ParameterError(f"replicas is {self.replicas}, but a batch has {batch_size} rows; each replica needs "
                                 f"at least one: give at most {batch_size}, or a larger batch_size, if the data have "
                                 "more rows")

    def idle(self, workers: int) -> range:
        return range(min(self.replicas, workers), workers)

    def step_seconds(self, figures: Figures) -> float:
        turn = figures.alone(figures.ranks * figures.rows / self.replicas) + figures.link("pass")
        return self.replicas * turn + figures.link("replicas")  # those who wait for the lock sleep

    def worker(self, me: Me) -> Steps:
        while True:
            samples = []
            for replica in me.replicas:
                yield Lock()
                replica.parameters[:] = me.parameters
                replica.buffers[:] = me.buffers
                more = yield BeginStep(replica)
                samples.append(replica.samples if more else 0)
                for _ in replica.turns() if more else ():
                    yield Compute(replica)
                    if replica.samples:
                        yield Update(1 / replica.samples, replica=replica)
                yield Unlock()
            replicas = [replica.parameters for replica in me.replicas]
            if not (yield from average(me, me.parameters, replicas, samples)):
                return
            yield from me.merge_buffers(samples)
            yield StepDone()

    def settle(self, me: Me) -> Steps:
        yield from ()
