"""The autoencoder against NumPy, its gradient against finite differences; what its options make of it."""

import pickle

import numpy as np
import pytest
from layer_oracles import InDouble, assert_close, assert_derivative

from pyddl import _core
from pyddl.data import ArraySource
from pyddl.data.batch import Batch
from pyddl.errors import ParameterError, ShapeError
from pyddl.models import Autoencoder, Model
from pyddl.models.layers import BatchNorm, Conv, Pool

CONFIGURATIONS = [
    {"hidden": (5,), "activation": "relu", "loss": "bce"},
    {"hidden": (9, 4), "activation": "tanh", "loss": "bce"},
    {"hidden": (9, 6, 3), "activation": "sigmoid", "loss": "mse", "code_activation": "sigmoid"},
    {"hidden": (8, 4), "activation": "softplus", "loss": "mse", "code_activation": "tanh"},
]

ACTIVATION = {
    "linear": lambda x: x,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "tanh": np.tanh,
    "softplus": lambda x: np.logaddexp(0, x),
}


def made(inputs=12, rows=7, seed=3, **options):
    model = Autoencoder(inputs, **options)
    parameters, gradients = model.layout.zeros(), model.layout.zeros()
    model.initialise(parameters, model.buffers.zeros(), seed)
    rng = np.random.default_rng(seed)
    parameters += rng.normal(0, 0.1, parameters.shape).astype(np.float32)  # biases too
    return model, parameters, gradients, Batch(rng.random((rows, inputs), dtype=np.float32))


def loss_in_double(model, parameters, rows):
    """The formula, in NumPy and double precision: (loss, squared error), sums over rows."""
    x = rows.astype(np.float64)
    views = {s.name: parameters[s.begin : s.end].reshape(s.shape).astype(np.float64) for s in model.layout}
    depth = len(model.hidden)
    h = x
    for i in range(2 * depth):
        name = f"{'encoder' if i < depth else 'decoder'}.{i % depth}"
        h = h @ views[f"{name}.weight"].T + views[f"{name}.bias"]
        if i != 2 * depth - 1:
            h = ACTIVATION[model.code_activation if i == depth - 1 else model.activation](h)
    if model.loss == "mse":
        return float(np.sum((h - x) ** 2)), float(np.sum((h - x) ** 2))
    return float(np.sum(np.logaddexp(0, h) - x * h)), float(np.sum((1 / (1 + np.exp(-h)) - x) ** 2))


@pytest.mark.parametrize("options", CONFIGURATIONS)
def test_gradient_agrees_with_finite_differences(options):
    model, parameters, gradients, batch = made(**options)
    loss = model.gradient(parameters, gradients, model.buffers.zeros(), batch)
    assert loss == pytest.approx(loss_in_double(model, parameters, batch.rows)[0], rel=1e-5)
    rng = np.random.default_rng(0)
    precise = parameters.astype(np.float64)
    for s in model.layout:
        for at in rng.integers(s.begin, s.end, size=6):
            step = np.zeros_like(precise)
            step[at] = 1e-5
            expected = (loss_in_double(model, precise + step, batch.rows)[0]
                        - loss_in_double(model, precise - step, batch.rows)[0]) / 2e-5
            assert gradients[at] == pytest.approx(expected, rel=2e-3, abs=2e-3), s.name


@pytest.mark.parametrize("options", CONFIGURATIONS)
def test_evaluate_encode_and_reconstruct_agree_with_the_formula(options):
    model, parameters, _, batch = made(**options)
    loss, squared_error = loss_in_double(model, parameters, batch.rows)
    scores = model.evaluate(parameters, model.buffers.zeros(), batch)
    assert scores["loss"] == pytest.approx(loss, rel=1e-5)
    assert scores["squared_error"] == pytest.approx(squared_error, rel=1e-5)
    again = model.reconstruct(parameters, model.buffers.zeros(), batch.rows)
    assert float(np.sum((again - batch.rows) ** 2)) == pytest.approx(squared_error, rel=1e-5)
    assert model.encode(parameters, model.buffers.zeros(), batch.rows).shape == (7, model.hidden[-1])


def test_the_gradient_of_no_rows_is_zero():
    model, parameters, gradients, batch = made()
    gradients[:] = 7
    assert model.gradient(parameters, gradients, model.buffers.zeros(), Batch(batch.rows[:0])) == 0
    assert not any(view.any() for view in model.layout.views(gradients).values())


def test_gradients_of_parts_add_up_and_inputs_are_left_alone():
    model, parameters, whole, batch = made(rows=11)
    before = parameters.copy(), batch.rows.copy()
    loss = model.gradient(parameters, whole, model.buffers.zeros(), batch)
    total, part, losses = np.zeros_like(whole), model.layout.zeros(), 0.0
    for begin, end in ((0, 4), (4, 4), (4, 11)):
        losses += model.gradient(parameters, part, model.buffers.zeros(), Batch(batch.rows[begin:end]))
        total += part
    np.testing.assert_allclose(total, whole, rtol=1e-4, atol=1e-5)
    assert losses == pytest.approx(loss, rel=1e-6)
    assert np.array_equal(parameters, before[0]) and np.array_equal(batch.rows, before[1])


def test_ready_announces_every_slice_once():
    model, parameters, gradients, batch = made(hidden=(9, 4))
    announced = []
    batch.ready = lambda begin, end: announced.append((begin, end))
    model.gradient(parameters, gradients, model.buffers.zeros(), batch)
    covered = np.zeros(model.layout.size, dtype=int)
    for begin, end in announced:
        covered[begin:end] += 1
    assert covered.max() == 1
    assert all(covered[s.begin : s.end].all() for s in model.layout)


def test_the_decoder_mirrors_the_encoder_and_names_are_plain():
    model = Autoencoder(784, hidden=(256, 64))
    assert isinstance(model, Model)
    assert {s.name: s.shape for s in model.layout} == {
        "encoder.0.weight": (256, 784),
        "encoder.0.bias": (256,),
        "encoder.1.weight": (64, 256),
        "encoder.1.bias": (64,),
        "decoder.0.weight": (256, 64),
        "decoder.0.bias": (256,),
        "decoder.1.weight": (784, 256),
        "decoder.1.bias": (784,),
    }
    assert model.layout.count == 2 * (784 * 256 + 256 * 64) + 256 + 64 + 256 + 784
    assert model.flops == 2 * (3 * 2 * (784 * 256 + 256 * 64) - 784 * 256)
    same = Autoencoder(**model.options())
    assert same.layout == model.layout


def test_initial_parameters_depend_on_the_seed_alone():
    model = Autoencoder(30, hidden=(20, 5))
    drawn = []
    for seed in (1, 1, 2):
        parameters = np.full_like(model.layout.zeros(), 9)
        model.initialise(parameters, model.buffers.zeros(), seed)
        drawn.append({name: view.copy() for name, view in model.layout.views(parameters).items()})
    assert all(np.array_equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    assert not np.array_equal(drawn[0]["encoder.0.weight"], drawn[2]["encoder.0.weight"])
    assert not np.array_equal(drawn[0]["encoder.0.weight"].ravel()[:100], drawn[0]["decoder.1.weight"].ravel()[:100])
    assert not drawn[0]["encoder.0.bias"].any()


@pytest.mark.parametrize(("options", "message"), [
    ({"inputs": 0}, "inputs is 0"),
    ({"inputs": 4, "hidden": ()}, "hidden is empty"),
    ({"inputs": 4, "hidden": (3, -1)}, "hidden is -1"),
    ({"inputs": 4, "loss": "bec"}, "did you mean 'bce'"),
    ({"inputs": 4, "activation": "rleu"}, "did you mean 'relu'"),
    ({"inputs": 4, "corrupt": 1}, "corrupt is 1"),
    ({"inputs": 4, "corrupt": -0.1, "corruption": "gaussian"}, "corrupt is -0.1"),
    ({"inputs": 4, "corrupt": 0.1, "corruption": "mask"}, "did you mean 'masking'"),
    ({"inputs": 4, "sparsity": 0.1}, "sparsity is 0.1, .* code, which is linear: give code_activation sigmoid"),
    ({"inputs": 4, "sparsity": 0.1, "code_activation": "relu"}, "which is relu: give code_activation sigmoid"),
    ({"inputs": 4, "sparsity": 1, "code_activation": "sigmoid"}, "sparsity is 1"),
    ({"inputs": 4, "sparsity": 0.1, "sparsity_cost": 0, "code_activation": "sigmoid"}, "sparsity_cost is 0"),
    ({"inputs": 4, "conv": "conv2", "image_shape": (2, 2), "tied": True}, "weights of dense layers can be tied"),
    ({"inputs": 4, "conv": "conv2,pol2", "image_shape": (2, 2)}, "at character 7 is 'pol2'.*did you mean 'pool'"),
])
def test_bad_options_are_named(options, message):
    with pytest.raises(ParameterError, match=message):
        Autoencoder(**options)


def test_rows_of_the_wrong_width_are_refused():
    model, parameters, _, _ = made()
    with pytest.raises(ShapeError, match=r"expected \(n, 12\)"):
        model.encode(parameters, model.buffers.zeros(), np.zeros((3, 11), dtype=np.float32))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("inputs", "hidden"), [(784, (100, 30)), (3, (256, 64)), (12, (7,))])
def test_a_row_s_code_does_not_depend_on_how_many_rows_come_with_it(inputs, hidden, dtype):
    if dtype == "bfloat16" and not _core.has_bfloat16():
        pytest.skip("the processor has no bfloat16")
    model = Autoencoder(inputs, hidden, dtype=dtype)
    parameters, rows = model.layout.zeros(), np.random.default_rng(3).random((100, inputs), dtype=np.float32)
    model.initialise(parameters, model.buffers.zeros(), 5)
    whole = model.encode(parameters, model.buffers.zeros(), rows), model.reconstruct(parameters, None, rows)
    exactly = _core.simd_level() == 4  # else oneDNN's own products add in an order that depends on their number
    for count in (0, 1, 2, 12, 13, 32, 33, 64):
        some = rows[:count]
        parts = model.encode(parameters, model.buffers.zeros(), some), model.reconstruct(parameters, None, some)
        for part, all_rows in zip(parts, whole, strict=True):
            np.testing.assert_allclose(part, all_rows[:count], rtol=0, atol=0 if exactly else 1e-5)


@pytest.mark.skipif(not _core.has_bfloat16(), reason="the processor has no bfloat16")
def test_bfloat16_products_give_nearly_the_same_gradient():
    exact, parameters, gradients, batch = made(inputs=96, rows=40, hidden=(64, 32))
    rounded = Autoencoder(96, hidden=(64, 32), dtype="bfloat16")
    approximate = rounded.layout.zeros()
    losses = [model.gradient(parameters, out, model.buffers.zeros(), batch)
              for model, out in ((exact, gradients), (rounded, approximate))]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2) and losses[1] != losses[0]
    assert np.linalg.norm(approximate - gradients) < 2e-2 * np.linalg.norm(gradients)


def test_bfloat16_is_refused_where_the_processor_lacks_it(monkeypatch):
    monkeypatch.setattr(_core, "has_bfloat16", lambda: False)
    with pytest.raises(ParameterError, match="no instructions for"):
        Autoencoder(4, dtype="bfloat16")


# ---- options

VARIANTS = {
    "denoising": {"corrupt": 0.4},
    "gaussian noise": {"corrupt": 0.4, "corruption": "gaussian", "loss": "mse"},
    "sparse": {"sparsity": 0.1, "sparsity_cost": 0.5, "code_activation": "sigmoid"},
    "tied": {"tied": True, "activation": "tanh"},
    "all of these": {"corrupt": 0.3, "sparsity": 0.2, "code_activation": "sigmoid", "tied": True, "hidden": (9, 6, 4)},
    "convolutional": {"conv": "conv4,pool2,conv6k5", "image_shape": (6, 4), "activation": "softplus"},
    "strided": {"conv": "conv4s2,dropout0.2", "image_shape": (6, 4), "hidden": ()},
    "with batch norm": {"conv": "conv4,pool2,conv6", "image_shape": (6, 4), "batch_norm": "synchronised",
                        "corrupt": 0.2},
    "planes": {"conv": "conv5,pool2", "image_shape": (2, 2, 6), "hidden": (5,)},
    "own layers": {"conv": [Conv(4, 3, bias=False), BatchNorm("tanh"), Pool(2, "mean")], "image_shape": (4, 2, 3)},
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_every_variant_has_the_gradient_of_its_loss(options):
    model, parameters, gradients, batch = made(24, rows=7, **{"hidden": (8, 4), **options})
    batch.seed, batch.step, batch.turn = 3, 5, 1
    oracle = InDouble(model.network, model.layout, batch=batch)
    x = batch.rows.astype(float)

    def loss(p):
        z = oracle.outputs(p, batch.rows)
        reconstruction = ((z - x) ** 2).sum() if model.loss == "mse" else (np.logaddexp(0, z) - x * z).sum()
        if not model.sparsity:
            return reconstruction
        m, t = codes_of(model, p, batch).mean(axis=0), model.sparsity
        divergence = (t * np.log(t / m) + (1 - t) * np.log((1 - t) / (1 - m))).sum()
        return reconstruction + model.sparsity_cost * len(x) * divergence

    value = model.gradient(parameters, gradients, model.buffers.zeros(), batch)
    assert value == pytest.approx(loss(parameters.astype(float)), rel=1e-5)
    assert_derivative(loss, parameters, gradients, 1e-3)


def codes_of(model, parameters, batch):
    """As training has them, in double."""
    class Encoder:
        shapes, names = model.network.shapes, model.network.names
        layers, output = model.network.layers[: model.encodes], model.network.shapes[model.encodes]

    Encoder.names = Encoder.names[: model.encodes]
    return InDouble(Encoder, model.layout, batch=batch).outputs(parameters, batch.rows)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_every_variant_serves_without_noise_or_penalty_and_is_made_again_from_its_options(options):
    model, parameters, _, batch = made(24, rows=7, **{"hidden": (8, 4), **options})
    buffers = model.buffers.zeros()
    oracle = InDouble(model.network, model.layout, training=False)
    z = oracle.outputs(parameters.astype(float), batch.rows)
    expected = z if model.loss == "mse" else 1 / (1 + np.exp(-z))
    assert_close(model.reconstruct(parameters, buffers, batch.rows), expected, 1e-5)
    codes = model.encode(parameters, buffers, batch.rows)
    assert codes.shape == (7, np.prod(model.code))
    assert_close(model.decode(parameters, buffers, codes), expected, 1e-5)
    scores = model.evaluate(parameters, buffers, batch)
    assert sorted(scores) == ["loss", "squared_error"]
    assert scores["squared_error"] == pytest.approx(((expected - batch.rows) ** 2).sum(), rel=1e-5)
    assert model.filters(parameters).shape[0] in (8, 9, 4, 5)
    for same in (Autoencoder(**model.options()), pickle.loads(pickle.dumps(model))):
        assert (same.layout, same.buffers, same.options()) == (model.layout, model.buffers, model.options())
        np.testing.assert_array_equal(same.encode(parameters, buffers, batch.rows), codes)


def test_what_training_shows_is_there_to_look_at():
    rows = np.random.default_rng(1).random((50, 24), dtype=np.float32) + 0.5
    spoiled = Autoencoder(24, (4,), corrupt=0.3).corrupted(rows)
    assert ((spoiled == 0) | (spoiled == rows)).all() and 0.2 < (spoiled == 0).mean() < 0.4
    noisy = Autoencoder(24, (4,), corrupt=0.3, corruption="gaussian").corrupted(rows, seed=2)
    assert (noisy - rows).std() == pytest.approx(0.3, rel=0.1)
    assert Autoencoder(24, (4,)).corrupted(rows) is None


def test_tied_weights_are_one_tensor():
    model = Autoencoder(12, (8, 4), tied=True)
    assert [s.name for s in model.layout] == ["encoder.0.weight", "encoder.0.bias", "encoder.1.weight",
                                              "encoder.1.bias", "decoder.0.bias", "decoder.1.bias"]
    assert model.layout.count == 12 * 8 + 8 + 8 * 4 + 4 + 8 + 12
    with pytest.raises(ParameterError, match="leave out split, or tied"):
        model.split(0, 2)


def test_pictures_come_from_the_data_and_others_are_refused():
    rows = np.random.default_rng(0).random((5, 6, 4), dtype=np.float32)
    model = Autoencoder.for_data(ArraySource(rows), conv="conv4,pool2", hidden=(3,))
    assert model.image_shape == (6, 4) and model.options()["image_shape"] == [6, 4]
    model.check_data(ArraySource(rows))
    model.check_data(ArraySource(rows.reshape(5, 24)))  # says nothing
    with pytest.raises(ShapeError, match=r"pictures of shape \(4, 6\); the convolutions .* made for \(6, 4\)"):
        model.check_data(ArraySource(rows.reshape(5, 4, 6)))
    assert Autoencoder.for_data(ArraySource(rows), hidden=(3,)).image_shape is None
