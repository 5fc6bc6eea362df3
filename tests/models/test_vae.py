"""The variational autoencoder: formulas in NumPy, finite differences, bounds against exact likelihoods, protocol."""

import copy
import pickle

import numpy as np
import pytest
from layer_oracles import InDouble, assert_derivative
from model_parts import together

import pyddl.data
from pyddl import _core, random
from pyddl.data import ArraySource
from pyddl.data.batch import Batch
from pyddl.errors import ParameterError, ShapeError
from pyddl.models import VAE, Classifier, Model, Trained, create
from pyddl.models.importance import bound, likelihood
from pyddl.optim import OPTIMIZERS
from pyddl.train import Trainer
from pyddl.train.crew import Crew

CONFIGURATIONS = {
    "plain": {"hidden": (9, 3), "activation": "tanh"},
    "weighted": {"hidden": (9, 3), "activation": "softplus", "kl_weight": 2.5},
    "no weight": {"hidden": (9, 3), "activation": "tanh", "kl_weight": 0},
    "three samples": {"hidden": (8, 5, 2), "activation": "sigmoid", "samples": 3},
    "normal outputs": {"hidden": (9, 3), "activation": "tanh", "loss": "mse", "output_variance": 0.3},
    "linear": {"hidden": (4,), "loss": "mse", "samples": 2, "output_variance": 0.5},
    "convolutional": {"hidden": (7, 3), "conv": "conv3,pool2,conv4", "image_shape": (6, 2), "activation": "tanh"},
    "planes": {"hidden": (3,), "conv": "conv3", "image_shape": (2, 2, 3), "activation": "softplus",
               "samples": 2},
    "with batch norm": {"hidden": (3,), "conv": "conv3,pool2", "image_shape": (6, 2), "activation": "softplus",
                        "batch_norm": "synchronised"},
}


def rows_of(count, inputs=12, seed=3):
    return np.random.default_rng(seed).random((count, inputs), dtype=np.float32)


def made(inputs=12, seed=3, **options):
    model = VAE(inputs, **options)
    parameters, buffers = model.layout.zeros(), model.buffers.zeros()
    model.initialise(parameters, buffers, seed)
    parameters += np.random.default_rng(seed).normal(0, 0.1, parameters.shape).astype(np.float32)  # biases too
    return model, parameters, buffers


def in_double(model, parameters, rows, noise, training=True):
    """(reconstruction, divergence): sums over rows of means over samples; noise (rows, samples, code)."""
    encoder, decoder = (InDouble(each, model.layout, training=training) for each in (model.network, model.decoder))
    mean, log_variance = np.split(encoder.outputs(parameters, rows), 2, axis=1)
    divergence = 0.5 * np.sum(mean**2 + np.exp(log_variance) - 1 - log_variance)
    z = mean[:, None] + np.exp(log_variance / 2)[:, None] * noise
    y = decoder.outputs(parameters, z.reshape(-1, model.code)).reshape(*z.shape[:2], -1)
    x = rows.astype(float)[:, None]
    if model.loss == "bce":
        losses = np.logaddexp(0, y) - x * y
    else:
        losses = (y - x) ** 2 / (2 * model.output_variance) + 0.5 * np.log(2 * np.pi * model.output_variance)
    return losses.mean(axis=1).sum(), divergence


def noise_of(model, batch, samples):
    out = np.empty((len(batch), samples * model.code), np.float32)
    _core.normal(out, batch.index, batch.seed, random.NOISE, batch.step, batch.turn)
    return out.reshape(len(batch), samples, model.code)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_gradient_agrees_with_finite_differences(name):
    model, parameters, buffers = made(**CONFIGURATIONS[name])
    batch = Batch(rows_of(7), np.arange(7) * 3 + 5, seed=4, step=9)
    noise, gradients = noise_of(model, batch, model.samples), model.layout.zeros()
    gradients[:] = np.nan
    loss = model.gradient(parameters, gradients, buffers, batch)
    reconstruction, divergence = in_double(model, parameters, batch.rows, noise)
    assert loss == pytest.approx(reconstruction + divergence, rel=1e-5)

    def minimised(p):
        r, d = in_double(model, p, batch.rows, noise)
        return r + model.kl_weight * d

    for s in model.layout:
        assert np.isfinite(gradients[s.begin : s.end]).all(), s.name
    assert_derivative(minimised, parameters, np.nan_to_num(gradients), 1e-3)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_scores_agree_with_the_formula(name):
    model, parameters, buffers = made(**CONFIGURATIONS[name])
    batch = Batch(rows_of(7), np.arange(7) + 40)
    scores = model.evaluate(parameters, buffers, batch)
    reconstruction, divergence = in_double(model, parameters, batch.rows, noise_of(model, batch, 1), training=False)
    assert scores["kl"] == pytest.approx(divergence, rel=1e-5)
    assert scores["reconstruction"] == pytest.approx(reconstruction, rel=1e-5)
    assert scores["loss"] == pytest.approx(reconstruction + divergence, rel=1e-5) and scores["elbo"] == -scores["loss"]
    again = model.reconstruct(parameters, buffers, batch.rows)
    assert scores["squared_error"] == pytest.approx(float(np.sum((again - batch.rows) ** 2)), rel=1e-5)
    assert list(model.evaluate(parameters, buffers, Batch(batch.rows[:0])).values()) == [0.0] * 5


def test_it_has_the_protocol_s_members():
    model, parameters, buffers = made(hidden=(9, 3), kl_warmup=10)
    assert isinstance(model, Model) and create("vae", **model.options()).layout == model.layout
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert again.options() == model.options()
    rows, none = rows_of(6), model.layout.zeros()
    none[:] = np.nan
    assert model.gradient(parameters, none, buffers, Batch(rows[:0])) == 0.0
    assert all((none[s.begin : s.end] == 0).all() for s in model.layout)
    codes = model.encode(parameters, buffers, rows)
    assert codes.shape == (6, 3) and np.array_equal(codes[:2], model.encode(parameters, buffers, rows[:2]))
    assert model.decode(parameters, buffers, codes).shape == (6, 12)
    shown = model.pictures(parameters, buffers, rows)
    assert {name: each.shape for name, each in shown.items()} == {"filters": (9, 12), "samples": (50, 12),
                                                                  "walk": (30, 12)}
    ends = model.reconstruct(parameters, buffers, rows[:2])
    np.testing.assert_allclose(shown["walk"][[0, 9]], ends, atol=1e-6)
    assert model.walk(parameters, buffers, rows[:1]).shape == (10, 12)
    plane, *vectors = made(hidden=(9, 2))
    assert plane.walk(*vectors, rows).shape == (50, 12)


def test_samples_are_decoded_normal_codes():
    model, parameters, buffers = made(hidden=(3,), loss="mse")  # linear: the rows' mean is the bias
    rows = model.sample(parameters, buffers, 5000, 1)
    weight, bias = (model.layout.views(parameters)[f"decoder.0.{name}"].astype(float) for name in ("weight", "bias"))
    np.testing.assert_allclose(rows.mean(axis=0), bias, atol=0.1)
    np.testing.assert_allclose(np.cov(rows.T), weight @ weight.T, atol=0.1)
    assert np.array_equal(rows[:7], model.sample(parameters, buffers, 7, 1))
    assert not np.array_equal(rows[:7], model.sample(parameters, buffers, 7, 2))


def test_the_weight_grows_with_the_step():
    model = VAE(4, (2,), kl_weight=2.0, kl_warmup=10)
    assert [model.weight(step) for step in (0, 5, 10, 1000)] == [0.0, 1.0, 2.0, 2.0]
    _, parameters, buffers = made(hidden=(9, 3), activation="tanh")

    def slope(step, **options):
        gradients = model.layout.zeros()
        model.gradient(parameters, gradients, buffers, Batch(rows_of(7), step=step))
        return gradients

    for weight, step in ((0.0, 0), (0.5, 5)):
        model = VAE(12, (9, 3), activation="tanh", kl_warmup=10)
        growing = slope(step)
        model = VAE(12, (9, 3), activation="tanh", kl_weight=weight)
        assert np.array_equal(growing, slope(step))


# ---- parts of a batch and of the model


@pytest.mark.parametrize("name", [name for name in CONFIGURATIONS if name != "with batch norm"])
def test_parts_of_a_batch_add_up(name):
    model, parameters, buffers = made(**CONFIGURATIONS[name])
    batch = Batch(rows_of(50), np.arange(50) + 7, seed=1, step=3)
    whole, part = model.layout.zeros(), model.layout.zeros()
    told = []
    batch.ready = lambda begin, end: told.append((begin, end))
    loss = model.gradient(parameters, whole, buffers, batch)
    sizes = sum(s.size for s in model.layout)
    assert sum(min(end, s.end) - max(begin, s.begin) for begin, end in told for s in model.layout
               if begin < s.end and end > s.begin) == sizes
    total, losses = model.layout.zeros(), 0.0
    for begin, end in ((0, 17), (17, 17), (17, 50)):
        losses += model.gradient(parameters, part, buffers, batch.part(begin, end))
        total += part
    assert losses == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(total, whole, rtol=1e-4, atol=1e-4 * np.abs(whole).max())


@pytest.mark.parametrize("name", ["plain", "three samples", "normal outputs"])
@pytest.mark.parametrize("parts", [2, 3])
def test_all_parts_together_have_the_gradient_of_the_whole(name, parts):
    whole, parameters, _ = made(**{**CONFIGURATIONS[name], "hidden": (9, 3)})
    rows, gradients = rows_of(20), whole.layout.zeros()
    expected = whole.gradient(parameters, gradients, None, Batch(rows))
    sums = whole.evaluate(parameters, None, Batch(rows))

    def work(part, group):
        model = whole.split(part, parts)
        mine, got = model.layout.cut(whole.layout, parameters), model.layout.zeros()
        loss = model.gradient(mine, got, None, Batch(rows, group=group))
        for each, view in model.layout.views(got).items():
            wanted = model.layout.views(model.layout.cut(whole.layout, gradients))[each]
            np.testing.assert_allclose(view, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max() + 1e-5)
        return loss, model.evaluate(mine, None, Batch(rows, group=group))

    results = together(parts, work)
    assert sum(loss for loss, _ in results) == pytest.approx(expected, rel=1e-5)
    for each in sums:
        assert sum(found[each] for _, found in results) == pytest.approx(sums[each], rel=1e-4)


@pytest.mark.skipif(not _core.has_bfloat16(), reason="the processor has no bfloat16")
def test_bfloat16_has_the_gradient_to_its_rounding():
    exact, parameters, buffers = made(hidden=(30, 5))
    rounded = VAE(12, (30, 5), dtype="bfloat16")
    batch, found, expected = Batch(rows_of(60)), exact.layout.zeros(), exact.layout.zeros()
    losses = [model.gradient(parameters, out, buffers, batch) for model, out in ((rounded, found), (exact, expected))]
    assert losses[0] == pytest.approx(losses[1], rel=0.01) and rounded.takes_rounded
    assert np.linalg.norm(found - expected) < 0.03 * np.linalg.norm(expected)


# ---- bounds


def linear_gaussian(exact_posterior):
    """Rows x = W z + b + noise, W with orthogonal columns: a code's distribution given a row is a product of normal
    ones, which the encoder has, or something beside it."""
    rng = np.random.default_rng(5)
    model = VAE(6, (2,), loss="mse", output_variance=0.2)
    parameters, buffers = model.layout.zeros(), model.buffers.zeros()
    views = model.layout.views(parameters)
    basis, _ = np.linalg.qr(rng.normal(size=(6, 2)))
    weight, bias = basis * [1.3, 0.6], rng.normal(size=6)
    precision = (weight**2).sum(axis=0) / 0.2 + 1
    posterior = weight.T / 0.2 / precision[:, None]
    views["decoder.0.weight"][:], views["decoder.0.bias"][:] = weight, bias
    if not exact_posterior:
        posterior, precision = 0.8 * posterior, 0.6 * precision
    views["encoder.0.weight"][:2], views["encoder.0.bias"][:] = posterior, [*(-posterior @ bias), *-np.log(precision)]
    rows = (rng.normal(size=(80, 2)) @ weight.T + bias + np.sqrt(0.2) * rng.normal(size=(80, 6))).astype(np.float32)
    covariance = weight @ weight.T + 0.2 * np.eye(6)
    off = rows - bias
    log_p = -0.5 * (np.einsum("bi,ij,bj->b", off, np.linalg.inv(covariance), off)
                    + np.linalg.slogdet(2 * np.pi * covariance)[1])
    return model, parameters, buffers, rows, log_p


def test_with_the_exact_posterior_every_sample_gives_the_likelihood():
    """Probabilistic PCA (Tipping, Bishop 1999), whose likelihood is known."""
    model, parameters, buffers, rows, log_p = linear_gaussian(True)
    weights = model.log_weights(parameters, buffers, rows, np.arange(80), 3)
    np.testing.assert_allclose(weights, np.repeat(log_p[:, None], 3, axis=1), atol=2e-5)
    drawn = np.mean([model.evaluate(parameters, buffers, Batch(rows, np.arange(80) + 80 * k))["elbo"]
                     for k in range(200)]) / 80
    assert drawn == pytest.approx(log_p.mean(), abs=0.05)  # the divergence in closed form, the rest by sampling
    scores = likelihood(model, parameters, buffers, ArraySource(rows), Crew())
    assert scores["iwae_1"] == pytest.approx(log_p.mean(), abs=1e-4) == scores["iwae_500"]
    assert scores["effective_samples"] == pytest.approx(500, rel=1e-3)


def test_bounds_rise_with_samples_and_stay_below_the_likelihood():
    model, parameters, buffers, rows, log_p = linear_gaussian(False)
    scores = likelihood(model, parameters, buffers, ArraySource(rows), Crew())
    bounds = [scores[f"iwae_{count}"] for count in (1, 5, 50, 500)]
    assert bounds == sorted(bounds) and bounds[1] > bounds[0] + 0.05
    of_rows = bound(model.log_weights(parameters, buffers, rows, np.arange(80), 500, step=77), 500)
    error = 5 * np.std(of_rows - log_p) / np.sqrt(80)
    assert bounds[-1] <= log_p.mean() + error and bounds[-1] == pytest.approx(log_p.mean(), abs=0.02)
    assert 1 < scores["effective_samples"] < 500


def test_the_bound_of_a_group_is_the_log_of_its_mean():
    weights = np.random.default_rng(0).normal(-700, 3, (4, 6))  # whose exponentials are far below any float
    np.testing.assert_allclose(bound(weights, 1), weights.mean(axis=1))
    of_two = np.logaddexp(weights[:, ::2], weights[:, 1::2]) - np.log(2)
    np.testing.assert_allclose(bound(weights, 2), of_two.mean(axis=1))


# ---- training, as an encoder, and what is refused


@pytest.mark.parametrize("rule", OPTIMIZERS)
@pytest.mark.parametrize("options", [{}, {"loss": "mse"}], ids=["bce", "mse"])
def test_every_optimizer_trains_at_its_default_rate(rule, options):
    """Better than outputs that do not look at codes: the mean image has an error of 1 here."""
    rows = np.asarray(pyddl.data.load("digits"))
    model = VAE(64, (32, 8), **options)
    result = Trainer(model, strategy="local", optimizer=rule, epochs=20, batch_size=64, seed=0).fit(rows, rows[:500])
    mean_image = float(((rows - rows.mean(axis=0)) ** 2).sum(axis=1).mean())
    assert result.metrics[-1]["test_squared_error"] < 0.85 * mean_image


def test_its_means_are_codes_of_another_model():
    model, parameters, buffers = made(hidden=(9, 3))
    head = Classifier(12, 4, encoder=Trained(model, parameters, buffers), freeze=True)
    mine = head.layout.zeros()
    head.initialise(mine, head.buffers.zeros(), 0)
    rows = rows_of(40)
    np.testing.assert_allclose(head.encode(mine, head.buffers.zeros(), rows),
                               model.encode(parameters, buffers, rows), atol=1e-6)
    again = create("classifier", **head.options())
    assert again.layout == head.layout


@pytest.mark.parametrize(("options", "message"), [
    ({"hidden": ()}, "hidden is empty; expected at least one layer, the code"),
    ({"hidden": (4, 0)}, "hidden"),
    ({"loss": "softmax"}, "loss is 'softmax'"),
    ({"kl_weight": -1}, "kl_weight is -1"),
    ({"kl_warmup": -1}, "kl_warmup is -1"),
    ({"samples": 0}, "samples is 0"),
    ({"output_variance": 0}, "output_variance is 0"),
    ({"activation": "gelu"}, "activation is 'gelu'"),
])
def test_bad_options_are_named(options, message):
    with pytest.raises(ParameterError, match=message):
        VAE(8, **options)


def test_pictures_come_from_the_data_and_others_are_refused():
    rows = np.random.default_rng(0).random((5, 6, 4), dtype=np.float32)
    model = VAE.for_data(ArraySource(rows), conv="conv4,pool2", hidden=(3,))
    assert model.image_shape == (6, 4) and create("vae", **model.options()).layout == model.layout
    parameters, buffers = model.layout.zeros(), model.buffers.zeros()
    assert model.pictures(parameters, buffers, rows.reshape(5, 24))["filters"].shape == (4, 3, 3, 1)
    with pytest.raises(ShapeError, match=r"pictures of shape \(4, 6\); the convolutions .* made for \(6, 4\)"):
        model.check_data(ArraySource(rows.reshape(5, 4, 6)))
    with pytest.raises(ParameterError, match="hidden is empty; expected at least one layer, the code"):
        VAE.for_data(ArraySource(rows), conv="conv4,pool2", hidden=())


def test_rows_and_codes_of_another_width_are_refused():
    model, parameters, buffers = made(hidden=(9, 3))
    with pytest.raises(ShapeError, match=r"rows have shape \(2, 11\); expected \(n, 12\)"):
        model.encode(parameters, buffers, np.zeros((2, 11)))
    with pytest.raises(ShapeError, match=r"rows have shape \(2, 4\); expected \(n, 3\)"):
        model.decode(parameters, buffers, np.zeros((2, 4)))
