"""Sequential: rounds of turns under a lock are the rounds of averaging, on any number of ranks."""

import os
import time

import numpy as np
import pytest
from golden import (
    MEMBERS,
    RATE,
    STEPS,
    Worker,
    assert_follows,
    assert_same,
    by_mpi,
    by_simulation,
    mean_gradient,
    samples_of,
    weighted_mean,
)

from pyddl.comm.group import Groups
from pyddl.comm.lock import NoLock
from pyddl.comm.operations import BeginStep, Compute, Lock, Unlock, Update
from pyddl.errors import CommError, ParameterError, StrategyError
from pyddl.strategies import strategy


def reference(replicas):
    """Rounds in one loop; the last parameters are the settled ones."""
    x, trajectory = np.zeros(len(MEMBERS)), []
    for t in range(STEPS):
        turns = [x - RATE * mean_gradient(x, t, r) for r in range(replicas)]
        x = weighted_mean(turns, [samples_of(t, r) for r in range(replicas)])
        trajectory.append(x)
    return [*trajectory, x]


@pytest.mark.mpi
@pytest.mark.parametrize("replicas", [1, 2, 3, 5])
def test_on_any_number_of_ranks_it_is_averaging_on_as_many_as_replicas(world, replicas):
    chosen = strategy("sequential", replicas=replicas)
    me = by_mpi(world, chosen)
    expected = by_simulation(strategy("averaging", period=1), replicas)[0]
    assert_same(me, expected)
    assert_follows(me, reference(replicas))
    assert_same(me, by_simulation(chosen, world.size)[world.rank])


@pytest.mark.mpi(min_size=2)
def test_it_has_the_bits_of_averaging_by_mpi(world):
    assert_same(by_mpi(world, strategy("sequential", replicas=world.size)),
                by_mpi(world, strategy("averaging", period=1)))


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("replicas", [1, 3, 4])
def test_in_the_simulation_turns_do_not_overlap(ranks, replicas):
    everyone = by_simulation(strategy("sequential", replicas=replicas), ranks)
    for me in everyone:
        assert_follows(me, reference(replicas))


def test_each_turn_holds_the_lock():
    chosen = strategy("sequential", replicas=2)
    steps = chosen.worker(Worker(0, 1, chosen))
    yielded = [next(steps)]
    for _ in range(9):
        answer = True
        if isinstance(yielded[-1], BeginStep):
            answer = yielded[-1].replica.begin_step()
        yielded.append(steps.send(answer))
    assert [type(operation) for operation in yielded] == [Lock, BeginStep, Compute, Update, Unlock] * 2
    assert [operation.replica.number for operation in yielded if isinstance(operation, Compute)] == [0, 1]


@pytest.mark.mpi(min_size=2)
def test_only_one_rank_at_a_time_holds_the_lock(world, tmp_path):
    folder = world.transport.gather_objects(tmp_path)[0]
    with Groups(world) as groups:
        groups.open_lock(folder)
        for _ in range(20):
            groups.lock.acquire()
            os.close(os.open(folder / "held", os.O_CREAT | os.O_EXCL))  # fails if another is inside
            time.sleep(0.001)
            os.unlink(folder / "held")
            groups.lock.release()
        world.transport.barrier()
        assert not list(folder.iterdir()), "the lock's file is gone since all have it open"
        assert groups.wait_seconds > 0


def test_a_lock_is_held_once_and_given_back_once():
    lock = NoLock()
    with pytest.raises(StrategyError, match=r"does not hold: yield Lock\(\) first"):
        lock.release()
    lock.acquire()
    with pytest.raises(StrategyError, match="asks for the lock that it holds already"):
        lock.acquire()


@pytest.mark.mpi(min_size=2)
def test_a_lock_that_cannot_be_made_is_an_error_on_all_ranks(world, tmp_path):
    with Groups(world) as groups, pytest.raises(CommError, match=r"rank 0 cannot make a lock file in .*nowhere"):
        groups.open_lock(tmp_path / "nowhere")


@pytest.mark.parametrize(("replicas", "message"), [(0, "replicas is 0; expected a whole number at least 1"),
                                                   (65, "replicas is 65, but a batch has 64 rows")])
def test_bad_numbers_of_replicas_are_named(replicas, message):
    with pytest.raises(ParameterError, match=message):
        strategy("sequential", replicas=replicas).check(1, 64)


def test_idle_ranks_are_named():
    assert list(strategy("sequential", replicas=2).idle(4)) == [2, 3]
    assert not strategy("sequential", replicas=5).idle(4)


def test_one_replica_on_one_rank_is_local():
    a = by_simulation(strategy("sequential", replicas=1), 1)[0]
    b = by_simulation(strategy("local"), 1)[0]
    np.testing.assert_array_equal(a.trajectory, b.trajectory)
