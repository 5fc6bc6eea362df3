"""Variational autoencoders on many ranks: one model under allreduce, every strategy learns, runs go on elsewhere."""

import numpy as np
import pytest
from small_runs import same_everywhere
from support import assert_reproducible, from_here_on_alone

import pyddl.data
from pyddl import _core
from pyddl.data import ArraySource
from pyddl.models import VAE
from pyddl.models.importance import likelihood
from pyddl.optim import optimizer
from pyddl.strategies import strategy
from pyddl.train import Trainer
from pyddl.train.crew import Crew
from pyddl.train.simulation import simulate

ROWS = np.random.default_rng(5).random((203, 20), dtype=np.float32)
DIGITS = np.asarray(pyddl.data.load("digits"))
KINDS = {
    "plain": {},
    "three samples": {"samples": 3, "kl_weight": 0.5},
    "normal outputs": {"loss": "mse"},
    "warm": {"kl_warmup": 9},
    "convolutional": {"conv": "conv4,pool2", "image_shape": (10, 2), "batch_norm": "synchronised"},
}
STRATEGIES = {
    "averaging": {"period": 3},
    "elastic": {"tau": 2},
    "gossip": {},
    "sequential": {"replicas": 3},
    "server": {},
    "ssp": {"strategy": "server", "mode": "ssp"},
    "async": {"strategy": "server", "mode": "async"},
}


def train(kind="plain", rows=ROWS, out=None, hidden=(9, 3), dtype="float32", **options):
    model = VAE(rows.shape[1], hidden, dtype=dtype, **KINDS[kind])
    options = {"epochs": 4, "batch_size": 50, "seed": 4, **options}
    return Trainer(model, out=None if out is None else str(out), **options).fit(rows, rows[:101])


@pytest.mark.mpi
@pytest.mark.parametrize("kind", KINDS)
def test_all_ranks_together_are_one(world, monkeypatch, kind):
    together = train(kind)
    assert same_everywhere(world, together.parameters)
    from_here_on_alone(monkeypatch)
    one = train(kind, strategy="local")
    np.testing.assert_allclose(together.parameters, one.parameters, rtol=1e-3, atol=2e-4)
    for name in ("train_loss", "test_loss", "test_kl", "test_reconstruction", "test_squared_error"):
        found, expected = ([line[name] for line in result.metrics] for result in (together, one))
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-4), name


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_learns(world, name):
    options = {"strategy": name, **STRATEGIES[name]}
    result = train("plain", DIGITS, epochs=4, batch_size=100, learning_rate=0.01, **options)
    losses = [line["test_loss"] for line in result.metrics]
    assert losses[-1] < losses[0] - 3, losses
    assert same_everywhere(world, result.parameters)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("kind", ["plain", "three samples"])
def test_a_split_model_is_the_whole(world, kind):
    if world.size == 4:
        pytest.skip("two or three parts are enough")
    split = train(kind, strategy="split", split=world.size).whole()
    whole = train(kind, strategy="allreduce")
    np.testing.assert_allclose(split.parameters, whole.parameters, rtol=1e-3, atol=2e-4)
    assert split.metrics[-1]["test_elbo"] == pytest.approx(whole.metrics[-1]["test_elbo"], rel=1e-4)


@pytest.mark.mpi(min_size=2)
def test_a_run_goes_on_on_another_number_of_ranks(world, shared, monkeypatch):
    whole = train("warm")
    train("warm", out=shared / "run", epochs=2)
    world.transport.barrier()
    if world.rank == 0:
        from_here_on_alone(monkeypatch)
        second = train("warm", out=shared / "run", resume=True)
        np.testing.assert_allclose(second.parameters, whole.parameters, rtol=1e-3, atol=2e-4)
    world.transport.barrier()


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("kind", ["plain", "normal outputs"])
def test_it_is_reproducible_bit_for_bit(world, monkeypatch, kind):
    assert_reproducible(world, monkeypatch, lambda: train(kind, reproducible=True))


@pytest.mark.mpi
def test_bounds_are_the_same_bits_on_any_number_of_ranks(world, monkeypatch):
    result = train("plain")
    given = (result.model, result.parameters, result.buffers, ArraySource(ROWS))
    found = likelihood(*given, Crew(world.transport), counts=(1, 10, 60))
    if world.size == 1:
        assert found["iwae_1"] < found["iwae_10"] < found["iwae_60"]
    assert found == likelihood(*given, Crew(), counts=(1, 10, 60))


@pytest.mark.mpi(min_size=2)
@pytest.mark.skipif(not _core.has_bfloat16(), reason="the processor has no bfloat16")
def test_it_learns_in_bfloat16(world):
    rounded, exact = (train("plain", DIGITS, epochs=5, hidden=(32, 8), dtype=dtype)
                      for dtype in ("bfloat16", "float32"))
    assert rounded.metrics[-1]["test_loss"] == pytest.approx(exact.metrics[-1]["test_loss"], rel=0.02)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("name", ["averaging", "gossip", "allreduce"])
def test_a_simulation_gives_what_as_many_ranks_give(world, name):
    options = STRATEGIES.get(name, {})
    run = simulate(VAE(20, (9, 3)), ArraySource(ROWS), ArraySource(ROWS[:101]), strategy(name, **options), world.size,
                   optimizer("adam"), epochs=4, batch_size=50, seed=4)
    real = train("plain", strategy=name, **options)
    np.testing.assert_allclose(run.parameters, real.parameters, rtol=1e-3, atol=2e-4)
