"""Gossip: golden trajectories against a loop over mixing matrices, as in the papers on decentralised descent."""

import numpy as np
import pytest
from golden import MEMBERS, RATE, SEED, STEPS, assert_follows, assert_same, by_mpi, by_simulation, mean_gradient
from hypothesis import given
from hypothesis import strategies as draw

from pyddl.strategies import strategy
from pyddl.strategies.gossip import partner


def mixing(workers, step):
    """The doubly stochastic matrix of a step's pairs."""
    matrix = np.zeros((workers, workers))
    for i in range(workers):
        j = partner(i, workers, SEED, step)
        matrix[i, i] = 1 if j is None else 0.5
        if j is not None:
            matrix[i, j] = 0.5
    return matrix


def reference(workers, period=1):
    x = np.zeros((workers, len(MEMBERS)))
    trajectories = [[] for _ in range(workers)]
    for t in range(STEPS):
        gradients = np.array([mean_gradient(x[i], t, i) for i in range(workers)])
        mixed = mixing(workers, t) @ x if (t + 1) % period == 0 else x
        x = mixed - RATE * gradients
        for i in range(workers):
            trajectories[i].append(x[i])
    for each in trajectories:
        each.append(x.mean(axis=0))
    return trajectories


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("options", [{}, {"period": 3}], ids=str)
def test_it_follows_the_mixing_matrices_on_every_rank(world, options):
    chosen = strategy("gossip", **options)
    me = by_mpi(world, chosen)
    assert_follows(me, reference(world.size, **options)[world.rank])
    assert_same(me, by_simulation(chosen, world.size)[world.rank])


@pytest.mark.parametrize("workers", [2, 3, 4, 7])
def test_it_follows_the_mixing_matrices_in_the_simulation(workers):
    for me, expected in zip(by_simulation(strategy("gossip"), workers), reference(workers), strict=True):
        assert_follows(me, expected)


@given(draw.integers(1, 40), draw.integers(0, 2**64 - 1), draw.integers(0, 2**40))
def test_pairs_are_mutual_and_leave_out_one_at_the_most(count, seed, step):
    pairs = [partner(i, count, seed, step) for i in range(count)]
    assert pairs.count(None) == count % 2
    assert all(j is None or (j != i and pairs[j] == i) for i, j in enumerate(pairs))


def test_every_pair_comes_equally_often():
    met = np.zeros((6, 6))
    for step in range(3000):
        for i in range(6):
            met[i, partner(i, 6, 3, step)] += 1
    of_others = met[~np.eye(6, dtype=bool)]
    assert np.all(np.abs(of_others / 600 - 1) < 0.15) and not met.diagonal().any()


def test_successive_pairings_do_not_depend_on_each_other():
    steps = 4000
    met = np.array([[partner(4, 8, 3, step) == 5, partner(0, 8, 3, step) == 1] for step in range(steps)])
    both = np.mean(met[:-1, 0] & met[1:, 1])
    assert abs(both - 1 / 49) < 4 * np.sqrt(1 / 49 / steps)  # 0.056 where one step takes the next one's keys
