"""Map-reduce linear regression: the gradient of P workers is the full batch's, and the normal equations are reached."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from pyddl.data import ArraySource
from pyddl.data.batch import Batch
from pyddl.data.sampler import Sampler
from pyddl.models import Linear
from pyddl.optim import SGD
from pyddl.strategies import strategy
from pyddl.train.simulation import simulate

SPEC = importlib.util.spec_from_file_location(
    "linear_regression", Path(__file__).parent.parent / "examples/linear_regression.py")
example = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(example)

ROWS, LABELS = example.made_up_rows()
MODEL = Linear(ROWS.shape[1])


def gradient(parameters, rows, labels):
    out = MODEL.layout.zeros()
    loss = MODEL.gradient(parameters, out, MODEL.buffers.zeros(), Batch(rows, labels=labels))
    return loss, out


@pytest.mark.parametrize("workers", range(1, 8))
def test_the_gradient_of_all_workers_is_that_of_the_full_batch(workers):
    parameters = MODEL.layout.zeros()
    parameters[:] = np.random.default_rng(1).normal(size=parameters.size)
    sampler = Sampler(len(ROWS), len(ROWS))
    parts = [sampler.index(0, *sampler.part(0, worker, workers)) for worker in range(workers)]
    assert sorted(np.concatenate(parts)) == list(range(len(ROWS)))
    mapped = [gradient(parameters, ROWS[part], LABELS[part]) for part in parts]
    loss, full = gradient(parameters, ROWS, LABELS)
    np.testing.assert_allclose(sum(part for _, part in mapped), full, rtol=1e-4, atol=1e-2)
    assert sum(part for part, _ in mapped) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("workers", range(1, 8))
def test_the_normal_equations_are_reached(workers):
    source = ArraySource(ROWS, labels=LABELS)
    run = simulate(MODEL, source, source, strategy("allreduce"), workers, SGD(0.25), epochs=60, batch_size=len(ROWS))
    weight, bias = MODEL.layout.views(run.parameters).values()
    np.testing.assert_allclose(np.append(weight, bias), example.normal_equations(ROWS, LABELS), rtol=1e-4, atol=1e-5)


@pytest.mark.mpi
def test_the_example_reaches_them_on_ranks(world):
    assert example.main() < 1e-4
