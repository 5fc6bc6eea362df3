"""The parameter server: golden trajectories against the papers, bounds, stragglers, staleness."""

import math
import re
import sys

import numpy as np
import pytest
import support
from golden import MEMBERS, RATE, gradient_sum, samples_of
from golden_servers import EPOCHS, STEPS, Reference, assert_follows, by_mpi, by_simulation

from pyddl.comm.machine import Machine
from pyddl.strategies import strategy

KINDS = {
    "sync": {"mode": "sync"},
    "sync on two servers": {"mode": "sync", "servers": 2},
    "backup": {"mode": "sync", "backup": 1},
    "bulk synchronous": {"mode": "ssp", "bound": 0},
    "ssp": {"mode": "ssp", "bound": 2},
    "ssp, seldom": {"mode": "ssp", "bound": 2, "push_every": 2, "fetch_every": 3},
    "async": {"mode": "async"},
    "async, stale steps whole": {"mode": "async", "staleness": "ignored"},
    "async on two servers": {"mode": "async", "servers": 2},
    "Downpour": {"mode": "async", "push_every": 3, "fetch_every": 2, "solo_steps": 4},
    "Downpour on two servers": {"mode": "async", "push_every": 2, "fetch_every": 4, "servers": 2},
}


def follow(chosen, servers, workers):
    """Compare every version of every server, and every point of every worker, with the reference."""
    applied = [in_steps(chosen, server, len(workers)) if chosen.mode == "sync" else one_by_one(chosen, server)
               for server in servers]
    reference = Reference(workers, servers, chosen, applied)
    for s, server in enumerate(servers):
        assert len(server.history) == len(applied[s]) + 1
        for version, got in enumerate(server.history):
            members = MEMBERS[reference.shares[s]] - server.share.start
            assert_follows(got[members], reference.value(s, version), f"server {s}, version {version}")
    for worker in workers:
        for i, got in enumerate(worker.points):
            assert_follows(got, reference.point(worker.number, i), f"worker {worker.number}, gradient {i}")
    for me in (*servers, *workers):
        final = reference.fetched([len(each.history) - 1 for each in servers])
        assert_follows(me.parameters[MEMBERS], final, "the settled model")
    check_rows(chosen, servers, workers)
    check_fetches(chosen, workers)


def one_by_one(chosen, server):
    """Every push is an update, its rate multiplied by what part of a step it is."""
    applied, numbers = [], {}
    for (worker, *_), weight in zip(server.log, server.weights, strict=True):
        number = numbers[worker] = numbers.get(worker, -1) + 1
        applied.append([(worker, number, weight if chosen.scales else 1.0)])
    return applied


def in_steps(chosen, server, workers):
    """The first workers - backup pushes of a version are an update, later ones of it are dropped.

    At the end of an epoch fewer may be left.
    """
    applied, numbers, step, dropped, need = [], {}, [], [], workers - chosen.backup
    for i, (worker, version, samples) in enumerate(server.log):
        number = numbers[worker] = numbers.get(worker, -1) + 1
        if version < len(applied):
            dropped.append((worker, version, samples))
            continue
        step.append((worker, number, 1.0))
        later = [theirs for _, theirs, _ in server.log[i + 1 :]]
        if len(step) == need or version not in later or (version + 1 in later[: 1]):
            applied.append(step)
            step = []
    assert dropped == server.dropped
    return applied


def check_rows(chosen, servers, workers):
    """Every slice with rows was taken once, and arrived once at every server."""
    taken = sorted((step, part) for worker in workers for _, step, part, *_ in worker.log)
    slices = chosen.slices(len(workers))
    assert taken == [(step, part) for step in range(EPOCHS * STEPS) for part in range(slices)
                     if samples_of(step, part) or not chosen.tickets]
    for server in servers:
        assert sum(samples for *_, samples in server.log) == sum(samples_of(*slice) for slice in taken)


def check_fetches(chosen, workers):
    for worker in workers:
        for epoch in range(1, EPOCHS + 1):
            fresh = [entry[4] for entry in worker.log if entry[0] == epoch]
            assert fresh == [i % chosen.fetch_every == 0 for i in range(len(fresh))]
        assert worker.restarts == (EPOCHS if chosen.fetch_every > 1 else 0)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("kind", KINDS)
def test_it_follows_the_papers_on_every_rank(world, kind):
    chosen = strategy("server", **KINDS[kind])
    if world.size - chosen.servers - chosen.backup < 1:
        pytest.skip("needs more ranks")
    follow(chosen, *by_mpi(world, chosen))


@pytest.mark.parametrize("per_node", ["1", "2"])
def test_it_follows_the_papers_by_messages(per_node):
    done = support.run_ranks(3, [sys.executable, "-m", "pytest", "-q", "--only-mpi", "-x", __file__],
                             environ={"PYDDL_RANKS_PER_NODE": per_node}, timeout=100)
    assert done.code == 0, done.out + done.err
    assert re.search(r"1\d passed", done.out), done.out


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_it_follows_the_papers_in_the_simulation(workers, kind):
    chosen = strategy("server", **KINDS[kind])
    if workers <= chosen.backup:
        pytest.skip("needs more workers")
    for machine in (Machine(jitter=0.5, uneven=0.5), Machine(seed=3, straggler=5, jitter=1.0, latency=1e-3),
                    Machine(workers_per_node=4, update_bandwidth=1e5)):
        follow(chosen, *by_simulation(chosen, workers, machine)[:2])


@pytest.mark.mpi(min_size=2)
def test_one_worker_alone_is_plain_descent(world):
    """Whatever the mode: it is never stale. On more ranks, all of them are servers but one."""
    for mode in ("sync", "ssp", "async"):
        _, (worker,) = by_mpi(world, strategy("server", mode=mode, servers=world.size - 1))
        x = np.zeros(len(MEMBERS))
        for got, (_, step, part, *_) in zip(worker.points, worker.log, strict=True):
            assert_follows(got, x, f"{mode}, step {step}")
            x -= RATE * gradient_sum(x, step, part) / max(1, samples_of(step, part))


@pytest.mark.parametrize("bound", [0, 1, 4])
@pytest.mark.parametrize("straggler", [1.0, 20.0])
def test_no_worker_begins_more_than_the_bound_ahead_of_the_slowest(bound, straggler):
    """The definition of Ho et al., by the order of begun and finished minibatches on the virtual clock."""
    chosen = strategy("server", mode="ssp", bound=bound)
    furthest = 0
    for seed in range(5):
        machine = Machine(seed=seed, straggler=straggler, jitter=0.8, uneven=0.5)
        (server,), workers, _ = by_simulation(chosen, 4, machine)
        clocks = [[0] * 4]  # of each worker in this epoch, by version
        for worker, *_ in server.log[: epoch_ends(server, workers)[0]]:
            clocks.append([clock + (w == worker) for w, clock in enumerate(clocks[-1])])
        for worker in workers:
            mine = [entry for entry in worker.log if entry[0] == 1]
            for clock, (*_, (version,), _) in enumerate(mine):
                left = [w for w in range(4) if clocks[version][w] == clocks[-1][w] and w != worker.number]
                slowest = min([c for w, c in enumerate(clocks[version]) if w not in left], default=clock)
                assert clock - slowest <= bound
                furthest = max(furthest, clock - slowest)
    assert furthest == bound or straggler == 1.0  # somebody makes use of it


def epoch_ends(server, workers):
    pushes = [sum(entry[0] == epoch for worker in workers for entry in worker.log) for epoch in (1, 2)]
    return [pushes[0], sum(pushes)]


def test_a_straggler_slows_down_who_must_wait_for_it():
    """One of 4 workers is 5 times slower: the time of the run as a multiple of the one without, by mode."""
    def slowdown(**options):
        def seconds(straggler):
            machine = Machine(sample_seconds=1e-3, jitter=0, straggler=straggler)
            timelines = by_simulation(strategy("server", **options), 4, machine)[2]
            return max(timeline.now for timeline in timelines)
        return seconds(5.0) / seconds(1.0)

    sync, backup, ssp, free = (slowdown(mode="sync"), slowdown(mode="sync", backup=1),
                               slowdown(mode="ssp", bound=2), slowdown(mode="async"))
    assert sync > 3 and free < ssp < sync and backup < sync / 1.5 and free < sync / 1.5


def test_staleness_is_that_of_the_others_and_slow_workers_are_the_stalest():
    chosen = strategy("server", mode="async")
    machine = Machine(jitter=0, step_seconds=1e-3, sample_seconds=0)
    (server,), _, _ = by_simulation(chosen, 4, machine)
    staleness = [i - version for i, (_, version, _) in enumerate(server.log)]
    assert max(staleness) == 3 and np.mean(staleness[4 : epoch_ends(server, [])[0] or None]) <= 3
    (server,), _, _ = by_simulation(chosen, 4, Machine(jitter=0, step_seconds=1e-3, sample_seconds=0, straggler=4))
    slow = [i - version for i, (worker, version, _) in enumerate(server.log) if worker == 0]
    fast = [i - version for i, (worker, version, _) in enumerate(server.log) if worker != 0]
    assert np.mean(slow) > 2 * np.mean(fast)
    assert math.isclose(sum(server.rates), EPOCHS * STEPS, rel_tol=1e-6)


def test_equal_seeds_replay_an_asynchronous_run():
    def run(seed):
        servers, workers, timelines = by_simulation(strategy("server", mode="async", servers=2), 5,
                                                    Machine(seed=seed, jitter=0.7))
        return [server.log for server in servers], [worker.log for worker in workers], [t.now for t in timelines]

    assert run(1) == run(1) != run(2)


def test_a_worker_that_gets_no_rows_holds_up_nobody():
    """Twelve workers and few tickets: some push nothing in an epoch."""
    for options in ({"mode": "ssp", "bound": 0}, {"mode": "async", "push_every": 7}, {"mode": "sync", "backup": 11}):
        chosen = strategy("server", **options)
        (server,), workers, _ = by_simulation(chosen, 12, Machine(straggler=1000))
        assert len({worker for worker, *_ in server.log}) < 12 or options["mode"] != "sync"
        assert sum(len(worker.log) for worker in workers) > 0


def test_warm_start_is_one_worker_alone():
    chosen = strategy("server", mode="async", solo_steps=8)  # of 6 in the first epoch: two more in the second
    (server,), workers, _ = by_simulation(chosen, 3)
    alone = [(epoch, step) for worker in workers[1:] for epoch, step, *_ in worker.log]
    assert min(alone) >= (2, 8)
    assert all(worker == 0 for worker, *_ in server.log[: sum(e[1] < 8 for e in workers[0].log)])
    assert math.isclose(sum(server.rates), EPOCHS * STEPS, rel_tol=1e-6)
