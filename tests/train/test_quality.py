"""Figures of samples: against closed forms and plain loops, and the same on any number of ranks."""

from types import SimpleNamespace

import numpy as np
import pytest

from pyddl.data import ArraySource
from pyddl.train import quality as measures
from pyddl.train.crew import Crew
from pyddl.train.quality import coverage, frechet, kernel_distance, modes, nearest, quality, recognised

DRAW = np.random.default_rng(0)
REAL, SAMPLES = DRAW.normal(0, 1, (1203, 4)), DRAW.normal(0.3, 1.5, (1100, 4))


def test_the_frechet_distance_of_two_normal_distributions():
    """With covariances that commute: sum of (m - m')^2 + (s - s')^2 over the axes."""
    rows = np.random.default_rng(1).normal(size=(500, 3))
    rows = np.linalg.qr(rows - rows.mean(axis=0))[0] * np.sqrt(499)  # mean 0, covariance 1, exactly
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    a, b = (rows * (1, 2, 3)) @ turn, (rows * (2, 2, 5) + (0, 1, -2)) @ turn
    assert frechet(a, b) == pytest.approx(1 + 4 + 1 + 4, rel=1e-9)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet(rows[:, :1], 3 * rows[:, :1]) == pytest.approx(4)


def test_the_kernel_distance_is_its_mean_over_pairs():
    x, y = REAL[:30], SAMPLES[:20]

    def kernel(a, b):
        return (a @ b / 4 + 1) ** 3

    expected = np.mean([kernel(x[i], x[j]) for i in range(30) for j in range(30) if i != j])
    expected += np.mean([kernel(y[i], y[j]) for i in range(20) for j in range(20) if i != j])
    expected -= 2 * np.mean([kernel(a, b) for a in x for b in y])
    assert kernel_distance(x, y) == pytest.approx(expected)
    assert abs(kernel_distance(REAL[:600], REAL[600:])) < 0.1 < kernel_distance(REAL, SAMPLES)


def test_density_and_coverage_count_balls():
    x, y = REAL[:40], SAMPLES[:25]
    radii = [sorted(np.linalg.norm(x - each, axis=1))[5] for each in x]
    inside = np.array([[np.linalg.norm(a - b) <= radius for b in y] for a, radius in zip(x, radii, strict=True)])
    found = coverage(x, y)
    assert found == pytest.approx({"density": inside.sum() / 5 / 25, "coverage": inside.any(axis=1).mean()})
    alike = coverage(REAL[:600], REAL[600:])
    assert 0.9 < alike["density"] < 1.1 and alike["coverage"] > 0.9
    few = coverage(REAL[:600], np.repeat(REAL[600:601], 600, axis=0))
    assert few["coverage"] < 0.1, "one row many times covers little"


@pytest.mark.mpi
def test_figures_do_not_depend_on_the_ranks(world):
    crew = Crew(world.transport)
    assert kernel_distance(REAL, SAMPLES, crew) == kernel_distance(REAL, SAMPLES)
    assert coverage(REAL, SAMPLES, crew) == coverage(REAL, SAMPLES)


def test_rows_that_have_an_order_are_judged_as_a_whole(monkeypatch):
    """All held-out rows of one class come before those of another; samples do so in no order."""
    monkeypatch.setattr(measures, "MOST", 100)
    model = SimpleNamespace(features=lambda p, b, rows: rows)
    as_they_are = SimpleNamespace(parameters=None, buffers=None, model=model)
    draw = np.random.default_rng(3)
    rows = draw.normal(size=(300, 2)).astype(np.float32)
    rows[150:] += 8
    samples = draw.permutation(rows)
    figures = quality(samples, ArraySource(rows), ArraySource(samples), as_they_are)
    for ending in ("", "_of_rows"):
        assert abs(figures[f"kernel_distance{ending}"]) < 1e4  # of the first hundred alone: 8e4
        assert figures[f"coverage{ending}"] > 0.8


def test_modes_and_good_samples():
    centres = np.array([[0.0, 0], [10, 0], [0, 10]])
    samples = np.concatenate([np.full((30, 2), 0.2), np.array([[10.0, 0.29]]), np.array([[5.0, 5], [0, 10.4]])])
    assert modes(samples, centres, 0.1) == {"modes": 2, "modes_of_20": 1, "high_quality": 31 / 33}


def test_samples_are_recognised_as_what_they_were_made_of():
    class Told:
        """A classifier of the first feature's whole part."""

        def probabilities(self, parameters, buffers, rows):
            return np.eye(3)[rows[:, 0].astype(int)]

    samples = np.array([[0.1], [1.2], [0.3], [0.0], [1.9], [2.5], [2.2]], dtype=np.float32)  # of 0, 1, 2, 0, ...
    assert recognised((Told(), None, None), samples, 3) == pytest.approx(5 / 7)


def test_nearest_rows_are_found_in_a_source_of_many_chunks():
    rows = REAL.astype(np.float32)
    found = nearest(rows[[5, 700, 1202]] + np.float32(1e-3), ArraySource(rows))
    assert np.array_equal(found, rows[[5, 700, 1202]])
