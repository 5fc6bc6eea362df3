"""Elastic averaging: golden trajectories against a loop written from equations 5 and 6 and algorithm 2 of the paper."""

import numpy as np
import pytest
from golden import MEMBERS, RATE, STEPS, assert_follows, assert_same, by_mpi, by_simulation, mean_gradient

from pyddl.errors import ParameterError
from pyddl.strategies import strategy

KINDS = {"EASGD": {"tau": 1}, "EASGD every third step": {"tau": 3, "alpha": 0.2}, "never": {"tau": 100},
         "EAMSGD": {"tau": 2, "elastic_momentum": 0.9}}


def reference(workers, tau, alpha=None, elastic_momentum=0.0):
    """Of every worker: the points where gradients are taken, the centre at the end."""
    alpha = 0.9 / workers if alpha is None else alpha
    delta = elastic_momentum
    x = [np.zeros(len(MEMBERS)) for _ in range(workers)]
    v = [np.zeros(len(MEMBERS)) for _ in range(workers)]
    centre = np.zeros(len(MEMBERS))
    trajectories = [[] for _ in range(workers)]
    for t in range(STEPS):
        gradients = [mean_gradient(x[i] + delta * v[i], t, i) for i in range(workers)]
        force = [alpha * (x[i] - centre) if t % tau == 0 else 0 for i in range(workers)]
        centre = centre + sum(force)
        for i in range(workers):
            v[i] = delta * v[i] - RATE * gradients[i]
            x[i] = x[i] + v[i] - force[i]
            trajectories[i].append(x[i] + delta * v[i])
    for each in trajectories:
        each.append(centre)
    return trajectories


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("kind", KINDS)
def test_it_follows_the_paper_on_every_rank(world, kind):
    chosen = strategy("elastic", **KINDS[kind])
    me = by_mpi(world, chosen)
    assert_follows(me, reference(world.size, **KINDS[kind])[world.rank])
    assert_same(me, by_simulation(chosen, world.size)[world.rank])


@pytest.mark.parametrize("workers", [2, 3, 4, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_it_follows_the_paper_in_the_simulation(workers, kind):
    if KINDS[kind].get("alpha", 0) * workers > 1:
        pytest.skip("refused")
    everyone = by_simulation(strategy("elastic", **KINDS[kind]), workers)
    for me, expected in zip(everyone, reference(workers, **KINDS[kind]), strict=True):
        assert_follows(me, expected)


@pytest.mark.parametrize(("options", "message"), [
    ({"tau": 0}, "tau is 0; expected a whole number at least 1"),
    ({"alpha": 0}, "alpha is 0; expected a number above 0"),
    ({"elastic_momentum": 1.0}, "elastic_momentum is 1.0; expected a number at least 0 and below 1"),
    ({"mode": "asinc"}, "mode is 'asinc'; expected one of"),
])
def test_bad_options_are_named(options, message):
    with pytest.raises(ParameterError, match=message):
        strategy("elastic", **options)


def test_an_alpha_that_is_too_large_for_the_ranks_is_refused():
    chosen = strategy("elastic", alpha=0.4)
    chosen.check(2, 100)
    with pytest.raises(ParameterError, match=r"alpha is 0.4 with 4 workers.*expected at most 1 / workers = 0.25"):
        chosen.check(4, 100)
