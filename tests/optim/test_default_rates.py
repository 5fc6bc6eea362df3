"""Every optimizer trains at its default rate: far below the error of the mean image, in a few steps.

The bound is 0.8 times the error of the mean image: there a network stays whose steps are too small to move more than
the biases, and also one whose units too large a step has killed. Steps are as many as the slowest rule needs, with a
third to spare.
"""

from functools import cache

import numpy as np
import pytest

import pyddl.data
from pyddl import options
from pyddl.data import Batch, Loader, Sampler
from pyddl.errors import ParameterError
from pyddl.models import Autoencoder
from pyddl.optim import OPTIMIZERS, SGD
from pyddl.optim.given import optimizer_of

BETTER = 0.8
SMALL, DEEP = (256, 64), (1000, 500, 250, 30)
DEFAULTS = {option.name: option.default for option in options.TABLE}
needs_mnist = pytest.mark.skipif(pyddl.data.find("mnist") is None, reason="needs MNIST: set PYDDL_DATA")


@cache
def data(name):
    """Source, 500 rows to test on, and the squared error of the mean image there."""
    source = pyddl.data.load(name)
    test = np.asarray(source)[-500:] if source.test is None else np.asarray(source.test)[:500]
    mean = np.asarray(source)[:1500].mean(axis=0)
    return source, test, float(((test - mean) ** 2).sum(axis=1).mean())


def errors(name, hidden, rule, steps, *, batch=64, seed=0, curve=1, times=1.0, **model_options):
    """Squared errors of the test rows at ``curve`` evenly spaced steps, the last one included; NaN where a loss is."""
    source, test, _ = data(name)
    model = Autoencoder(source.features, hidden, **model_options)
    parameters, gradients, buffers = model.layout.zeros(), model.layout.zeros(), model.buffers.zeros()
    model.initialise(parameters, buffers, seed)
    chosen = optimizer_of(rule, DEFAULTS, steps, model.rate_scale * times)
    state = [model.layout.zeros() for _ in chosen.state_names]
    ranges, found, every = model.layout.decayed_ranges(), [], -(-steps // curve)
    with Loader(source, Sampler(len(source), batch, seed), steps=steps, background=False) as loader:
        while (rows := loader.next()) is not None:
            loss = model.gradient(parameters, gradients, buffers, rows)
            if not np.isfinite(loss):
                return [*found, float("nan")]
            chosen.update(parameters, gradients, state, ranges, scale=1 / len(rows), step=rows.step)
            if (rows.step + 1) % every == 0 or rows.step + 1 == steps:
                found.append(model.evaluate(parameters, buffers, Batch(test))["squared_error"] / len(test))
    return found


@pytest.mark.parametrize("rule", OPTIMIZERS)
@pytest.mark.parametrize(("name", "hidden", "steps"), [
    pytest.param("digits", (32, 8), 200, id="digits"),  # of 3 seeds the slowest rule is below the bound after 100 steps
    pytest.param("mnist", SMALL, 120, id="mnist", marks=needs_mnist),  # after 90
    pytest.param("mnist", DEEP, 160, id="mnist, deep", marks=needs_mnist),  # after 120
])
def test_a_default_rate_trains(name, hidden, steps, rule):
    error, mean_image = errors(name, hidden, rule, steps)[-1], data(name)[2]
    assert error < BETTER * mean_image, f"{error:.1f}; the mean image has {mean_image:.1f}"


@pytest.mark.parametrize("rule", [name for name, rule in OPTIMIZERS.items() if not rule.scale_free])
@pytest.mark.parametrize("loss", ["bce", "mse"])
def test_twice_the_default_rate_is_still_stable(loss, rule):
    """No default stands next to the edge: where it would, other data or seeds would fall off it."""
    error = errors("digits", (32, 8), rule, 300, times=2, loss=loss)[-1]
    assert error < BETTER * data("digits")[2]


def test_only_default_rates_of_rules_whose_steps_grow_with_gradients_are_scaled():
    for name, rule in OPTIMIZERS.items():
        default = rule().learning_rate
        found = optimizer_of(name, DEFAULTS, 10, 0.25)
        assert found.learning_rate(0) == default * (1 if rule.scale_free else 0.25)
        assert optimizer_of(name, {**DEFAULTS, "learning_rate": 0.5}, 10, 0.25).learning_rate(0) == 0.5
        assert optimizer_of(rule(), DEFAULTS, 10, 0.25).learning_rate == default  # an object is taken as it is
    assert [name for name, rule in OPTIMIZERS.items() if not rule.scale_free] == ["sgd", "momentum", "nesterov"]
    with pytest.raises(ParameterError, match=r"optimizer is 'sdg'; expected one of .*did you mean 'sgd'"):
        optimizer_of("sdg", DEFAULTS, 10)


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_scale_free_says_whether_steps_grow_with_gradients(rule):
    steps = []
    for factor in (1, 1000):
        p, g = np.zeros(4, np.float32), np.array([0.5, -1, 2, 3], np.float32) * factor
        chosen = OPTIMIZERS[rule]()
        state = [np.zeros_like(p) for _ in chosen.state_names]
        for step in range(3):
            chosen.update(p, g, state, [(0, 4, True)], scale=1, step=step)
        steps.append(p)
    np.testing.assert_allclose(steps[1], steps[0] * (1 if chosen.scale_free else 1000), rtol=1e-2)


def test_the_trainer_takes_the_scale_of_the_model():
    from pyddl.train import Trainer

    model, rows = Autoencoder(20, hidden=(8, 3)), np.random.default_rng(0).random((64, 20)).astype(np.float32)
    quick = {"strategy": "local", "epochs": 2, "batch_size": 16}
    default = Trainer(model, optimizer="sgd", **quick).fit(rows)
    named = Trainer(model, optimizer="sgd", learning_rate=SGD().learning_rate * model.rate_scale, **quick).fit(rows)
    np.testing.assert_array_equal(default.parameters, named.parameters)


@needs_mnist
@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("loss", ["bce", "mse"])
@pytest.mark.parametrize("hidden", [SMALL, DEEP], ids=["small", "deep"])
def test_five_epochs_of_mnist_at_default_rates(hidden, loss, seed, capsys):
    """Cross-entropy ends below half of the mean image's error, the deep network (one epoch) below 0.8 of it.

    Squared error is steeper, and natural images are 8 times as long as MNIST's rows, so that its rates must be small:
    the deep network crawls at those of sgd and momentum, but falls.
    """
    mean_image, crawls = data("mnist")[2], loss == "mse" and hidden is DEEP
    with capsys.disabled():
        print(f"\nsquared error, {hidden}, loss {loss}, seed {seed}; the mean image has {mean_image:.1f}")
        for rule in OPTIMIZERS:
            steps, batch = (1175, 256) if hidden is SMALL else (470, 128)
            curve = errors("mnist", hidden, rule, steps, batch=batch, seed=seed, curve=8, loss=loss)
            print(f"{rule:9}" + "".join(f"{error:7.1f}" for error in curve))
            if crawls and not OPTIMIZERS[rule].scale_free:
                assert curve[-1] < mean_image
            else:
                assert curve[-1] < (0.5 if loss == "bce" and hidden is SMALL else BETTER) * mean_image
