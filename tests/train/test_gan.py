"""Adversarial pairs on many ranks: one pair under allreduce, every strategy learns, runs go on elsewhere."""

import json
import os
from itertools import pairwise

import numpy as np
import pytest
import support
from small_runs import same_everywhere
from support import assert_reproducible, from_here_on_alone

from pyddl.data import ArraySource
from pyddl.data.labels import Labels
from pyddl.models import GAN
from pyddl.optim import optimizer
from pyddl.strategies import strategy
from pyddl.train import Trainer
from pyddl.train.progress import Progress
from pyddl.train.simulation import simulate

ROWS = np.random.default_rng(5).normal((4, -2, 1), (0.5, 1, 2), (203, 3)).astype(np.float32)
KINDS = {
    "r3gan": {},
    "falling": {"penalty": 1.0, "penalty_end": 0.1, "penalty_steps": 10, "pretrain_steps": 3},
    "conditional": {"conditional": True, "classes": 3},
    "non_saturating": {"objective": "non_saturating", "label_smoothing": 0.1, "generator_optimizer": "sgd",
                       "generator_rate": 0.05},
    "wgan": {"objective": "wgan", "generator_every": 3},
    "wgan_gp": {"objective": "wgan_gp", "generator_every": 2},
    "packs": {"packing": 3},
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


PICTURES = {"channels": (3,), "image_shape": (2, 2), "upsample": "resize", "batch_norm": "synchronised"}


def train(kind, rows=ROWS, out=None, model=None, **options):
    model = model or GAN(3, (7,), (8, 5), noise=2, **{"average": 0.9, **KINDS[kind]})
    source = ArraySource(rows, labels=Labels(np.arange(len(rows)) % 3, None))
    options = {"epochs": 4, "batch_size": 50, "seed": 4, **options}
    return Trainer(model, out=None if out is None else str(out), **options).fit(source, source)


NORMAL = """
import json, sys
import numpy as np, pyddl
for seed in range(5):
    rows = np.random.default_rng(seed).normal(4, 0.5, (10_000, 1)).astype(np.float32)
    model = pyddl.models.GAN(1, (32, 32), (32, 32), noise=1, average=0.99)
    result = pyddl.train.Trainer(model, strategy=sys.argv[1], batch_size=128, epochs=25, seed=seed,
                                 schedule="cosine").fit(rows)
    samples = model.sample(result.averaged, result.buffers, 20_000, seed)
    if pyddl.world().rank == 0:
        taken = sum(line["seconds"] for line in result.metrics)
        print(json.dumps([float(samples.mean()), float(samples.std()), taken]), flush=True)
"""


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("name", "ranks"), [("local", 1), ("allreduce", 2), ("averaging", 2)])
def test_a_normal_distribution_is_learned_from_scratch(tmp_path, capsys, name, ranks):
    """N(4, 1/2) from N(0, 1): mean and standard deviation within 0.1, 5 seeds of 5."""
    (tmp_path / "normal.py").write_text(NORMAL)
    line = support.python(tmp_path / "normal.py", name)
    done = support.run(line, os.environ, 1000) if ranks == 1 else support.run_ranks(ranks, line, timeout=1000)
    assert done.code == 0, done
    found = [json.loads(line) for line in done.out.splitlines() if line.startswith("[")]
    with capsys.disabled():
        print(f"\n{name}: mean, deviation, seconds of each seed: {found}")
    assert len(found) == 5
    for mean, deviation, _ in found:
        assert abs(mean - 4) < 0.1 and abs(deviation - 0.5) < 0.1


@pytest.mark.mpi
@pytest.mark.parametrize("kind", KINDS)
def test_all_ranks_together_are_one(world, monkeypatch, kind):
    """By SGD: Adam makes whole steps of what rounding leaves of gradients that cancel."""
    rule = {"optimizer": "sgd", "learning_rate": 0.05}
    together = train(kind, **rule)
    assert same_everywhere(world, together.parameters) and same_everywhere(world, together.averaged)
    from_here_on_alone(monkeypatch)
    one = train(kind, strategy="local", **rule)
    np.testing.assert_allclose(together.parameters, one.parameters, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(together.averaged, one.averaged, rtol=1e-3, atol=1e-4)
    names = [name for name in one.metrics[-1] if name.startswith(("train_", "test_"))]
    assert "train_loss_generator" in names and any(name.endswith("_right") for name in names)
    for name in names:
        found, expected = ([line.get(name, 0.0) for line in result.metrics] for result in (together, one))
        if not name.endswith("_right"):  # of which one may turn over
            assert found == pytest.approx(expected, rel=1e-3, abs=1e-4), name


@pytest.mark.mpi
def test_a_normalised_generator_of_pictures_is_one_on_all_ranks(world, monkeypatch):
    rows, rule = np.concatenate([ROWS, ROWS[:, :1]], axis=1), {"optimizer": "sgd", "learning_rate": 0.05}
    model = GAN(4, noise=2, average=0.9, **PICTURES)
    together = train(None, rows, model=model, **rule)
    from_here_on_alone(monkeypatch)
    one = train(None, rows, model=model, strategy="local", **rule)
    np.testing.assert_allclose(together.parameters, one.parameters, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(together.buffers, one.buffers, rtol=1e-3, atol=1e-4)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("kind", ["wgan_gp", "packs"])
def test_a_pair_is_reproducible_bit_for_bit(world, monkeypatch, kind):
    together, one = assert_reproducible(world, monkeypatch, lambda: train(kind, reproducible=True))
    assert [line["train_pairs_right"] for line in one.metrics] == [
        line["train_pairs_right"] for line in together.metrics]


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_learns(world, name):
    options = {"strategy": name, **STRATEGIES[name]}
    model = GAN(3, (16,), (16,), penalty=0.5, average=0.9)
    result = train(None, model=model, epochs=30, learning_rate=0.02, schedule="cosine", batch_size=40, **options)
    samples = model.sample(result.averaged, result.buffers, 500, 0)
    np.testing.assert_allclose(samples.mean(axis=0), (4, -2, 1), atol=0.6)
    assert same_everywhere(world, result.parameters) and 0.2 < result.metrics[-1]["train_pairs_right"] < 0.9


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("kind", ["falling", "wgan"])
def test_a_run_goes_on_on_another_number_of_ranks(world, shared, monkeypatch, kind):
    rule = {"optimizer": "momentum", "learning_rate": 0.01}
    whole = train(kind, **rule)
    train(kind, out=shared / "run", epochs=2, **rule)
    world.transport.barrier()
    if world.rank == 0:
        from_here_on_alone(monkeypatch)
        second = train(kind, out=shared / "run", resume=True, **rule)
        np.testing.assert_allclose(second.parameters, whole.parameters, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(second.averaged, whole.averaged, rtol=1e-3, atol=1e-4)
        shown = np.load(shared / "run/shown.npy")
        assert shown.shape == (len(whole.metrics), 50, 3)
        last = second.model.shown(second.averaged, second.buffers)
        np.testing.assert_allclose(shown[-1], last, rtol=1e-6)
    world.transport.barrier()


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("name", ["averaging", "allreduce"])
def test_a_simulation_gives_what_as_many_ranks_give(world, name):
    options = STRATEGIES.get(name, {})
    model = GAN(3, (7,), (8, 5), noise=2, objective="wgan", average=0.9)
    run = simulate(model, ArraySource(ROWS), ArraySource(ROWS), strategy(name, **options), world.size,
                   optimizer("adam", learning_rate=0.01), epochs=4, batch_size=50, seed=4)
    real = train("r3gan", model=model, strategy=name, learning_rate=0.01, **options)
    np.testing.assert_allclose(run.parameters, real.parameters, rtol=1e-3, atol=1e-4)


def test_weights_are_clipped_after_the_average():
    """Of replicas in turn, whose mean is taken after each has moved."""
    result = train("wgan", strategy="sequential", replicas=3)
    weights = result.parameters[slice(*result.model.layout.range("discriminator"))]
    assert np.abs(weights).max() <= 0.01 and np.abs(weights).max() > 0.009


@pytest.mark.parametrize(("rate", "message"), [
    (1e-6, "all samples are alike"), (0.02, "the discriminator gets all rows and samples right")])
def test_a_pair_that_collapses_is_named(tmp_path, rate, message):
    class Collapsed(GAN):
        def initialise(self, parameters, buffers, seed, data):
            super().initialise(parameters, buffers, seed, data)
            parameters[slice(*self.layout.range("generator"))] *= 0.01

    class Told(Progress):
        def note(self, text):
            seen.append(text)

    seen = []
    model = Collapsed(3, (7,), (30,), noise=2, average=0, penalty=1e-6, generator_rate=1e-9,
                      generator_optimizer="sgd")
    rows = ROWS + np.float32(100) * (np.arange(203) % 2)[:, None].astype(np.float32)  # two modes, both far from 0
    Trainer(model, out=str(tmp_path / "run"), batch_size=50, progress=Told(), strategy="local", learning_rate=rate,
            epochs=30).fit(rows)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert any(message in text for text in lines[-1]["warnings"]) and any(message in text for text in seen), lines[-1]
    assert "raise penalty" in seen[-1]
    lasting = [any(message in text for text in line.get("warnings", ())) for line in lines]
    starts = sum(now and not before for before, now in pairwise([False, *lasting]))
    assert sum(message in text for text in seen) == starts < sum(lasting), "said when it begins"
    stands, = (text for text in json.loads((tmp_path / "run/summary.json").read_text())["warnings"] if message in text)
    assert stands.startswith(f"since epoch {30 - lasting[::-1].index(False) + 1 if False in lasting else 1}: ")
