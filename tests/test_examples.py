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


@pytest.mark.mpi
def test_any_number_of_ranks_trains_the_same_layers(world):
    layers = example("layers")
    together = layers.main(epochs=2)
    alone = world.mpi.Split(world.rank, 0) if world.size > 1 else None
    if alone is not None:
        with use(alone):
            expected = layers.main(epochs=2)
        np.testing.assert_allclose(together.metrics[-1]["train_loss"], expected.metrics[-1]["train_loss"], rtol=2e-3)
        np.testing.assert_allclose(together.metrics[-1]["test_loss"], expected.metrics[-1]["test_loss"], rtol=1e-2)
        alone.Free()


@pytest.mark.mpi
def test_the_strategy_of_its_own_learns(world):
    result = example("doubling").main(epochs=6)
    assert result.metrics[-1]["train_loss"] < 0.7 * result.metrics[0]["train_loss"]
    assert result.summary["strategy"] == ("Doubling" if world.size > 1 else "local")


@pytest.mark.mpi
@pytest.mark.parametrize("strategy", ["local", "averaging", "server", "elastic", "gossip", "sequential", "split"])
def test_layers_learn_under_every_strategy(world, strategy):
    if world.size < 2 and strategy != "local":
        pytest.skip("needs two ranks")
    result = example("layers").main(epochs=3, strategy=strategy)
    assert result.metrics[-1]["train_loss"] < 0.8 * result.metrics[0]["train_loss"]


def test_the_model_of_its_own_learns_the_digits():
    assert example("own_model").main().metrics[-1]["test_squared_error"] < 1.8  # the best of its kind: 1.66


def test_the_layers_learn_the_digits():
    assert example("layers").main(epochs=6).metrics[-1]["test_squared_error"] < 4


def test_the_pair_finds_the_distribution():
    made, _ = example("adversarial_pair").main(epochs=100)
    assert abs(made.mean() - 4.0) < 0.2 and abs(made.std() - 0.5) < 0.15


@pytest.mark.mpi
def test_a_torch_module_learns_while_its_ranks_meet_now_and_then(world):
    pytest.importorskip("torch")
    result = example("torch_vae").main(epochs=12)
    assert result.summary["strategy"] == ("averaging" if world.size > 1 else "allreduce")
    first, *_, last = result.metrics
    assert last["test_loss"] < 0.8 * first["test_loss"] and 1 < last["test_kl"] < 6
    made = result.model.sample(result.parameters, result.buffers, 5, 0)
    assert made.shape == (5, 64) and 0 <= made.min() < 0.2 < 0.8 < made.max() <= 1
