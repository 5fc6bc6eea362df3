"""Elastic averaging: golden trajectories against loops written from equations 5 and 6 and algorithms 1 and 2."""

from functools import cache

import golden_servers
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
)

from pyddl.errors import ParameterError
from pyddl.strategies import strategy

KINDS = {"EASGD": {"tau": 1}, "EASGD every third step": {"tau": 3, "elastic_rate": 0.2}, "never": {"tau": 100},
         "EAMSGD": {"tau": 2, "elastic_momentum": 0.9}}


def reference(workers, tau, elastic_rate=None, elastic_momentum=0.0):
    """Of every worker: the points where gradients are taken, the centre at the end."""
    alpha = 0.9 / workers if elastic_rate is None else elastic_rate
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
    if KINDS[kind].get("elastic_rate", 0) * workers > 1:
        pytest.skip("refused")
    everyone = by_simulation(strategy("elastic", **KINDS[kind]), workers)
    for me, expected in zip(everyone, reference(workers, **KINDS[kind]), strict=True):
        assert_follows(me, expected)


def follow_algorithm_1(chosen, server, workers):
    """Who met the centre in which order, and on which version, is the run's; the values are the paper's."""
    alpha = 0.9 / len(workers) if chosen.alpha is None else chosen.alpha
    met, numbers = [], {}
    for worker, version, _ in server.log:
        numbers[worker] = numbers.get(worker, -1) + 1
        met.append((worker, numbers[worker], version))
    versions = {(worker, number): version for worker, number, version in met}

    @cache
    def centre(version):
        return centre(version - 1) + force(*met[version - 1][:2]) if version else np.zeros(len(MEMBERS))

    def force(worker, number):
        return alpha * (clock(worker, chosen.tau * number)[0] - centre(versions[worker, number]))

    @cache
    def clock(worker, t):
        """x and v before a worker's clock is t."""
        if t == 0:
            return np.zeros(len(MEMBERS)), np.zeros(len(MEMBERS))
        x, v = clock(worker, t - 1)
        _, step, part, *_ = workers[worker].log[t - 1]
        v = chosen.momentum * v - RATE * gradient_sum(point(worker, t - 1), step, part) / samples_of(step, part)
        pull = force(worker, (t - 1) // chosen.tau) if (t - 1) % chosen.tau == 0 else 0
        return x - pull + v, v

    def point(worker, t):
        x, v = clock(worker, t)
        return x + chosen.momentum * v

    assert len(server.history) == len(met) + 1
    for version, got in enumerate(server.history):
        golden_servers.assert_follows(got[MEMBERS], centre(version), f"version {version}")
    for worker in workers:
        assert worker.points and numbers[worker.number] == (len(worker.points) - 1) // chosen.tau
        for t, got in enumerate(worker.points):
            golden_servers.assert_follows(got, point(worker.number, t), f"worker {worker.number}, clock {t}")
    for me in (server, *workers):
        golden_servers.assert_follows(me.parameters[MEMBERS], centre(len(met)), "the settled centre")


ASYNC = [{"mode": "async", **KINDS[kind]} for kind in ("EASGD", "EASGD every third step", "EAMSGD")]


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("options", ASYNC)
def test_async_follows_algorithm_1_on_every_rank(world, options):
    chosen = strategy("elastic", **options)
    (server,), workers = golden_servers.by_mpi(world, chosen)
    if all(worker.points for worker in workers):
        follow_algorithm_1(chosen, server, workers)


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
@pytest.mark.parametrize("options", ASYNC)
def test_async_follows_algorithm_1_in_the_simulation(workers, options):
    chosen = strategy("elastic", **options)
    (server,), everyone, _ = golden_servers.by_simulation(chosen, workers)
    follow_algorithm_1(chosen, server, everyone)


@pytest.mark.parametrize(("options", "message"), [
    ({"tau": 0}, "tau is 0; expected a whole number at least 1"),
    ({"elastic_rate": 0}, "elastic_rate is 0; expected a number above 0"),
    ({"elastic_momentum": 1.0}, "elastic_momentum is 1.0; expected a number at least 0 and below 1"),
    ({"mode": "asinc"}, "mode is 'asinc'; expected one of"),
])
def test_bad_options_are_named(options, message):
    with pytest.raises(ParameterError, match=message):
        strategy("elastic", **options)


def test_a_rate_that_is_too_large_for_the_ranks_is_refused():
    chosen = strategy("elastic", elastic_rate=0.4)
    chosen.check(2, 100)
    with pytest.raises(ParameterError, match=r"elastic_rate is 0.4 with 4 workers.*at most 1 / workers = 0.25"):
        chosen.check(4, 100)
