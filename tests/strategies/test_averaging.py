"""Averaging: golden trajectories of local SGD and its kin against a loop written from the papers."""

import numpy as np
import pytest
from golden import (
    MEMBERS,
    RATE,
    STEPS,
    assert_follows,
    assert_same,
    by_mpi,
    by_simulation,
    gradient_sum,
    mean_gradient,
    samples_of,
    weighted_mean,
)

from pyddl.errors import ParameterError
from pyddl.strategies import strategy

KINDS = {
    "parameter averaging": {"period": 1},
    "local SGD": {"period": 4},
    "post-local SGD": {"period": 3, "sync_steps": 4},
    "SlowMo": {"period": 3, "outer": "momentum", "outer_momentum": 0.7},
    "DiLoCo": {"period": 3, "outer": "nesterov"},
    "all of it": {"period": 4, "sync_steps": 3, "outer": "nesterov", "outer_momentum": 0.5, "outer_rate": 0.9},
    "hierarchical": {"period": 4, "node_period": 2},
}


def reference(workers, period, sync_steps=0, node_period=None, outer="none", outer_momentum=None, outer_rate=None,
              per_node=2):
    """The trajectory of every worker, settled parameters last."""
    n = len(MEMBERS)
    x = [np.zeros(n) for _ in range(workers)]
    used = [0] * workers
    anchor, velocity = np.zeros(n), np.zeros(n)
    momentum, rate = {"none": (0, 1), "momentum": (0.6, 1), "nesterov": (0.9, 0.7)}[outer]
    momentum = momentum if outer_momentum is None else outer_momentum
    rate = rate if outer_rate is None else outer_rate
    trajectories = [[] for _ in range(workers)]
    for t in range(STEPS):
        if t < sync_steps:
            total = sum(samples_of(t, w) for w in range(workers))
            mean = sum(gradient_sum(x[w], t, w) for w in range(workers)) / max(1, total)
            x = [each - RATE * mean for each in x]
            anchor = x[0]
        else:
            x = [x[w] - RATE * mean_gradient(x[w], t, w) for w in range(workers)]
            used = [used[w] + samples_of(t, w) for w in range(workers)]
            k = t + 1 - sync_steps
            if k % period == 0:
                average = weighted_mean(x, used)
                difference = anchor - average
                velocity = momentum * velocity + difference
                if outer == "nesterov":
                    anchor = anchor - rate * (difference + momentum * velocity)
                else:
                    anchor = anchor - rate * velocity
                x = [anchor] * workers
                used = [0] * workers
            elif node_period and k % node_period == 0:
                for first in range(0, workers, per_node):
                    there = range(first, min(first + per_node, workers))
                    if any(used[w] for w in there):
                        average = weighted_mean([x[w] for w in there], [used[w] for w in there])
                        x = [average if w in there else x[w] for w in range(workers)]
        for w in range(workers):
            trajectories[w].append(x[w])
    final = weighted_mean(x, used) if any(used) else None
    for w in range(workers):
        trajectories[w].append(x[w] if final is None else final)
    return trajectories


@pytest.mark.mpi
@pytest.mark.parametrize("kind", KINDS)
def test_it_follows_the_papers_on_every_rank(world, kind):
    chosen = strategy("averaging", **KINDS[kind])
    me = by_mpi(world, chosen, per_node=2)
    assert_follows(me, reference(world.size, **KINDS[kind])[world.rank])
    everywhere = world.transport.gather(me.trajectory[-1].astype(np.float64))
    assert all(np.array_equal(each, everywhere[0]) for each in everywhere)


@pytest.mark.mpi
@pytest.mark.parametrize("kind", KINDS)
def test_the_simulation_has_the_bits_of_mpi(world, kind):
    chosen = strategy("averaging", **KINDS[kind])
    ordered = world.size & (world.size - 1) == 0  # matters to the gradients of sync_steps only; averages always are
    me = by_mpi(world, chosen, per_node=2, ordered=ordered)
    simulated = by_simulation(chosen, world.size, per_node=2)[world.rank]
    if ordered or not chosen.sync_steps:
        assert_same(me, simulated)
    else:
        assert_follows(me, simulated.trajectory)


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_it_follows_the_papers_in_the_simulation(workers, kind):
    everyone = by_simulation(strategy("averaging", **KINDS[kind]), workers, per_node=2)
    for me, expected in zip(everyone, reference(workers, **KINDS[kind]), strict=True):
        assert_follows(me, expected)


@pytest.mark.mpi
def test_a_period_of_1_with_plain_descent_is_allreduce(world):
    averaging, allreduce = by_mpi(world, strategy("averaging", period=1)), by_mpi(world, strategy("allreduce"))
    for a, b in zip(averaging.trajectory, allreduce.trajectory, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("options", "message"), [
    ({"period": 0}, "period is 0; expected a whole number at least 1"),
    ({"node_period": 0}, "node_period is 0"),
    ({"node_period": 4, "period": 4}, "node_period is 4 and period 4: .* give a node_period below the period"),
    ({"node_period": 16}, "node_period is 16 and period 16"),
    ({"sync_steps": -1}, "sync_steps is -1"),
    ({"outer": "nestorov"}, "did you mean 'nesterov'"),
    ({"outer_rate": 0.5}, "outer_rate belongs to outer momentum and nesterov; the outer here is none"),
    ({"outer": "momentum", "outer_momentum": 1}, "outer_momentum is 1; expected a number at least 0 and below 1"),
    ({"perod": 3}, "no option 'perod'; did you mean 'period'"),
])
def test_bad_options_are_named(options, message):
    with pytest.raises(ParameterError, match=message):
        strategy("averaging", **options)
