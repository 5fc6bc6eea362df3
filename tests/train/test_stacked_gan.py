"""Stacked GANs on many ranks: one stack under allreduce, every strategy learns, runs go on within each stage."""

import numpy as np
import pytest
from small_runs import STRATEGIES, options_of, same_everywhere
from support import assert_reproducible, from_here_on_alone

from pyddl.data import ArraySource, find, load
from pyddl.data.batch import Batch
from pyddl.data.statistics import Statistics
from pyddl.models import Classifier, StackedGAN, Trained, for_data
from pyddl.optim import optimizer
from pyddl.strategies import strategy
from pyddl.train import Trainer
from pyddl.train.crew import Crew
from pyddl.train.simulation import simulate

RANDOM = np.random.default_rng(5)
LABELS = np.arange(203) % 3
CENTRES = np.array([(0, 0, 3, 1), (3, 0, -1, 0), (0, 3, 0, -2)])
ROWS = (RANDOM.normal(0, 0.4, (203, 4)) + CENTRES[LABELS]).astype(np.float32)
DATA = ArraySource(ROWS, labels=LABELS)
KINDS = {
    "classes": {},
    "wgan": {"objective": "wgan", "generator_every": 2},
    "points between": {"objective": "wgan_gp", "entropy_weight": 0.1, "generator_rate": 0.01},
}
def classifier(rows, labels, hidden, steps):
    """One that was trained on all rows in each step, alike on all ranks."""
    model = Classifier(rows.shape[1], int(labels.max()) + 1, hidden)
    parameters, gradients, buffers = model.layout.zeros(), model.layout.zeros(), model.buffers.zeros()
    model.initialise(parameters, buffers, 3)
    for _ in range(steps):
        model.gradient(parameters, gradients, buffers, Batch(rows, labels=labels))
        parameters -= gradients / len(rows)
    return Trained(model, parameters, buffers)


ENCODER = classifier(ROWS, LABELS, (8, 5), 100)


def model_of(kind="classes", **options):
    given = {"generator": (7,), "discriminator": (6,), "noise": 2, "average": 0.9, "pretrain_epochs": (1, 2, 1),
             **KINDS[kind], **options}
    return StackedGAN(4, ENCODER, **given)


def train(kind="classes", out=None, model=None, **options):
    options = {"epochs": 2, "batch_size": 50, "seed": 4, "optimizer": "sgd", "learning_rate": 0.005, **options}
    return Trainer(model or model_of(kind), out=None if out is None else str(out), **options).fit(DATA, DATA)


def encoder_stays(result):
    views, run = result.model.layout.views(result.parameters), ENCODER.model.layout.views(ENCODER.parameters)
    return all(np.array_equal(mine, views[f"encoder.{i // 2}.{name.rpartition('.')[2]}"])
               for i, (name, mine) in enumerate(run.items()))


@pytest.mark.mpi
@pytest.mark.parametrize("kind", KINDS)
def test_all_ranks_together_are_one(world, monkeypatch, kind):
    """By SGD: Adam makes whole steps of what rounding leaves of gradients that cancel."""
    together = train(kind)
    assert same_everywhere(world, together.parameters) and same_everywhere(world, together.averaged)
    from_here_on_alone(monkeypatch)
    one = train(kind, strategy="local")
    np.testing.assert_allclose(together.parameters, one.parameters, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(together.averaged, one.averaged, rtol=1e-3, atol=1e-4)
    assert [set(line) for line in together.metrics] == [set(line) for line in one.metrics]
    assert {"train_loss_generator_1", "train_conditional"} <= set(one.metrics[2])
    assert {"train_loss_generators", "train_loss_discriminators", "test_recognised"} <= set(one.metrics[-1])
    for found, expected in zip(together.metrics, one.metrics, strict=True):
        for name in found:
            if name.startswith(("train_", "test_")) and not name.endswith(("_right", "recognised")):
                assert found[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-4), name
    assert encoder_stays(together)


@pytest.mark.mpi(min_size=2)
def test_a_stack_is_reproducible_bit_for_bit(world, monkeypatch):
    assert_reproducible(world, monkeypatch, lambda: train(optimizer="adam", reproducible=True))


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "local"])
def test_every_strategy_learns(world, name):
    """Samples come nearer to the rows, and the encoder does not move by a bit."""
    model = model_of(generator=(12,), discriminator=(12,), penalty=0.5, pretrain_epochs=(4,))
    start, buffers = model.layout.zeros(), model.buffers.zeros()
    model.initialise(start, buffers, 4, Statistics(DATA))
    result = train(model=model, epochs=4, optimizer="adam", learning_rate=0.02, schedule="cosine",
                   **options_of(world, name))
    assert same_everywhere(world, result.parameters) and encoder_stays(result)
    before, after = (model.measures["energy_distance"](vector, buffers, DATA, Crew())["energy_distance"]
                     for vector in (start, result.averaged))
    assert after < 0.6 * before, (before, after)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("passes", [2, 5])
def test_a_run_goes_on_on_another_number_of_ranks(world, shared, monkeypatch, passes):
    """Within the stage of a level, and within that of all."""
    whole = train()
    trainer = Trainer(model_of(), out=str(shared / "run"), epochs=2, batch_size=50, seed=4, optimizer="sgd",
                      learning_rate=0.005)
    trainer.fit(DATA, DATA, passes=passes)
    world.transport.barrier()
    if world.rank == 0:
        from_here_on_alone(monkeypatch)
        second = train(out=shared / "run", resume=True)
        np.testing.assert_allclose(second.parameters, whole.parameters, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(second.averaged, whole.averaged, rtol=1e-3, atol=1e-4)
        assert len(second.metrics) == len(whole.metrics) == 6
    world.transport.barrier()


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("name", ["averaging", "allreduce"])
def test_a_simulation_gives_what_as_many_ranks_give(world, name):
    given, model = dict(STRATEGIES[name]), model_of()
    run = simulate(model, DATA, DATA, strategy(given.pop("strategy"), **given), world.size,
                   optimizer("sgd", learning_rate=0.005), epochs=2, batch_size=50, seed=4)
    real = train(model=model, **STRATEGIES[name])
    np.testing.assert_allclose(run.parameters, real.parameters, rtol=1e-3, atol=1e-4)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.skipif(find("mnist") is None, reason="no MNIST")
def test_a_stack_of_mnist(capsys):
    """Two epochs of each pair; by a classifier that is not the encoder."""
    from benchmarks import stacked

    data = load("mnist")
    figures = stacked.compared(data, stacked.judge_of(data, "node"), 0, "node")
    with capsys.disabled():
        print(f"\n{figures}")
    assert figures["stacked_gan"]["recognised"] > 0.92 and figures["stacked_gan"]["frechet_distance"] < 6


def right(judge, model, result, count):
    """Share of samples, of all classes in turn, that a classifier takes for what they were made of."""
    samples = model.sample(result.averaged, result.buffers, count, 1)
    told = judge.model.probabilities(judge.parameters, judge.buffers, samples).argmax(axis=1)
    return float((told == np.arange(count) % judge.model.classes).mean()), samples


def test_samples_are_of_the_class_asked_for():
    """Digits of 8 by 8, by a classifier that has seen other rows than the encoder; chance is 0.1."""
    digits = load("digits")
    rows, labels = np.asarray(digits), digits.labels
    encoder, judge = (classifier(rows[half], labels[half], (32,), 200) for half in (slice(0, 750), slice(750, 1500)))
    data = ArraySource(rows[:750], labels=labels[:750])
    model = for_data("stacked_gan", data, encoder=encoder, generator=(32,), discriminator=(32,), noise=4,
                     average=0.98, pretrain_epochs=(20,), penalty=0.3)
    result = Trainer(model, strategy="local", epochs=20, batch_size=50, learning_rate=6e-3, schedule="cosine",
                     seed=0).fit(data)
    share, samples = right(judge, model, result, 500)
    assert share > 0.8 and samples.min() >= 0 and samples.max() <= 1
    spread = samples.reshape(50, 10, 64).var(axis=0).mean() / rows.var(axis=0).mean()
    assert spread > 0.1, "and they differ"
