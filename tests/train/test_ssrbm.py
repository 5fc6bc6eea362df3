"""Spike-and-slab machines on many ranks: one machine under allreduce, every strategy learns, runs go on elsewhere."""

import numpy as np
import pytest
from small_runs import same_everywhere
from support import assert_reproducible, from_here_on_alone

import pyddl.data
from pyddl.data import ArraySource
from pyddl.errors import ParameterError
from pyddl.models import SpikeSlabRBM
from pyddl.models.ssrbm_likelihood import likelihood
from pyddl.train import Trainer
from pyddl.train.crew import Crew

ROWS = np.random.default_rng(5).normal(1, 2, (203, 12)).astype(np.float32)
DIGITS = np.asarray(pyddl.data.load("digits"))
KINDS = {
    "plain": {"pool": 2},
    "persistent": {"chain": "pcd", "slab_precision": "diagonal"},
    "three chains": {"form": "mu", "chain": "pcd", "chains": 3, "gibbs_steps": 2},
    "mu": {"form": "mu", "precision": "scalar", "radius": 40.0},
}
STRATEGIES = {
    "averaging": {"period": 3},
    "elastic": {"tau": 2},
    "gossip": {},
    "sequential": {"replicas": 3},
    "server": {},
    "async": {"strategy": "server", "mode": "async"},
}


def train(kind, rows=ROWS, out=None, hidden=7, **options):
    model = SpikeSlabRBM(rows.shape[1], (hidden,), **KINDS[kind])
    options = {"optimizer": "sgd", "epochs": 4, "batch_size": 50, "seed": 4, "clip_norm": 5.0, **options}
    return Trainer(model, out=None if out is None else str(out), **options).fit(rows, rows[:101])


@pytest.mark.mpi
@pytest.mark.parametrize("kind", KINDS)
def test_all_ranks_together_are_one(world, monkeypatch, kind):
    together = train(kind)
    assert same_everywhere(world, together.parameters)
    from_here_on_alone(monkeypatch)
    one = train(kind, strategy="local")
    np.testing.assert_allclose(together.parameters, one.parameters, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(together.buffers, one.buffers, rtol=1e-3, atol=1e-3)
    for name in ("train_loss", "test_loss", "test_free_energy"):
        found, expected = ([line[name] for line in result.metrics] for result in (together, one))
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-3), name


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize(("name", "kind"), [*((name, "persistent") for name in STRATEGIES), ("averaging", "plain")])
def test_every_strategy_learns(world, name, kind):
    options = {"strategy": name, **STRATEGIES[name]}
    result = train(kind, DIGITS, hidden=20, epochs=6, schedule="linear", **options)
    losses = [line["test_loss"] for line in result.metrics]
    rows = DIGITS[:101]
    assert losses[-1] < 0.95 * ((rows - DIGITS.mean(axis=0)) ** 2).sum(axis=1).mean(), losses
    assert same_everywhere(world, result.parameters)
    views = result.model.layout.views(result.parameters)
    np.testing.assert_allclose(views["mean"], DIGITS.mean(axis=0), rtol=1e-5, err_msg="what is not trained stays")


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("kind", ["plain", "persistent", "three chains"])
def test_a_run_goes_on_on_another_number_of_ranks(world, shared, monkeypatch, kind):
    whole = train(kind)
    train(kind, out=shared / "run", epochs=2)
    world.transport.barrier()
    if world.rank == 0:
        from_here_on_alone(monkeypatch)
        second = train(kind, out=shared / "run", resume=True)
        np.testing.assert_allclose(second.parameters, whole.parameters, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(second.buffers, whole.buffers, rtol=1e-3, atol=1e-3)
    world.transport.barrier()


@pytest.mark.mpi(min_size=2)
def test_it_is_reproducible_bit_for_bit(world, monkeypatch):
    assert_reproducible(world, monkeypatch, lambda: train("persistent", reproducible=True))


@pytest.mark.mpi
def test_a_radius_smaller_than_the_data_is_refused_everywhere(world):
    model = SpikeSlabRBM(12, (3,), radius=0.5)
    with pytest.raises(ParameterError, match=r"radius is 0\.5, but training rows lie up to"):
        Trainer(model, epochs=1).fit(ROWS)


@pytest.mark.mpi
def test_a_likelihood_is_the_same_on_any_number_of_ranks(world):
    result = train("three chains")
    arguments = (result.model, result.parameters, result.buffers, ArraySource(ROWS))
    assert likelihood(*arguments, Crew(world.transport)) == likelihood(*arguments, Crew())
