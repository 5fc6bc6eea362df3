"""The examples do what they say."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from pyddl.comm import use


def example(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent.parent / f"examples/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.mpi
def test_any_number_of_ranks_trains_the_same_pair(world):
    pair = example("adversarial_pair")
    _, together = pair.main(epochs=5)
    alone = world.mpi.Split(world.rank, 0) if world.size > 1 else None
    if alone is not None:
        with use(alone):
            _, expected = pair.main(epochs=5)
        np.testing.assert_allclose(together.parameters, expected.parameters, rtol=1e-3, atol=2e-5)
        np.testing.assert_allclose(together.averaged, expected.averaged, rtol=1e-3, atol=2e-5)
        alone.Free()
    assert together.updates == {"critic": 40, "generator": 20}
    assert not np.array_equal(together.averaged, together.parameters)


def test_the_pair_finds_the_distribution():
    made, _ = example("adversarial_pair").main(epochs=100)
    assert abs(made.mean() - 4.0) < 0.2 and abs(made.std() - 0.5) < 0.15
