"""Least squares: gradients against finite differences in double, labels, and the encoder of a run in front."""

import numpy as np
import pytest
from layer_oracles import differences
from supervised import (
    assert_is_the_same_again,
    assert_parts_make_the_whole,
    code_of,
    encoder,
    moved,
    places_of,
    rows_of,
)

from pyddl import _core
from pyddl.data import ArraySource
from pyddl.data.batch import Batch
from pyddl.errors import DataError, ParameterError, ShapeError
from pyddl.models import Linear, for_data


def labels_of(n, targets, seed=3):
    return np.random.default_rng(seed).normal(size=(n, targets))


def loss_in_double(model, parameters, rows, labels):
    return float(np.square(code_of(model, parameters, rows, len(model.network.layers)) - labels).sum())


@pytest.mark.parametrize("with_encoder", [False, True])
@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("n", [0, 1, 7, 67])
def test_the_gradient_is_that_of_finite_differences(n, targets, with_encoder):
    model = Linear(12, targets, encoder=encoder(12) if with_encoder else None)
    parameters, rows, labels = moved(model), rows_of(n, 12), labels_of(n, targets)
    gradients = np.full(model.layout.size, np.nan, np.float32)
    for view in model.layout.views(gradients).values():
        view[...] = np.nan
    given = labels[:, 0] if targets == 1 else labels
    loss = model.gradient(parameters, gradients, None, Batch(rows, labels=given))
    assert loss == pytest.approx(loss_in_double(model, parameters.astype(float), rows, labels), rel=1e-5)
    places = places_of(model)
    scale = max(1.0, float(np.abs(gradients[places]).max()))
    expected = differences(lambda at: loss_in_double(model, at, rows, labels), parameters.astype(float), places)
    np.testing.assert_allclose(gradients[places], expected, rtol=0, atol=1e-4 * scale)
    assert model.evaluate(parameters, None, Batch(rows, labels=given)) == pytest.approx(
        {"loss": loss, "squared_error": loss}, rel=1e-5)
    outputs = model.predict(parameters, None, rows)
    np.testing.assert_allclose(outputs, code_of(model, parameters.astype(float), rows, len(model.network.layers)),
                               rtol=1e-4, atol=1e-4)
    assert outputs.shape == (n, targets)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float32, np.float64])
def test_labels_of_any_type_are_taken(dtype):
    model, rows = Linear(4), rows_of(5, 4)
    parameters, gradients = moved(model), model.layout.zeros()
    loss = model.gradient(parameters, gradients, None, Batch(rows, labels=np.arange(5).astype(dtype)))
    expected = loss_in_double(model, parameters.astype(float), rows, np.arange(5.0)[:, None])
    assert loss == pytest.approx(expected, rel=1e-5)


def test_names_of_slices_and_what_decays():
    plain, on_top = Linear(12, 3), Linear(12, 3, encoder=encoder(12))
    assert [(s.name, s.shape, s.group, s.decay) for s in plain.layout] == [
        ("head.weight", (3, 12), "head", True), ("head.bias", (3,), "head", False)]
    assert [s.name for s in on_top.layout] == [f"{layer}.{kind}" for layer in ("encoder.0", "encoder.1", "head")
                                              for kind in ("weight", "bias")]
    assert on_top.layout["head.weight"].shape == (3, 5) and plain.encodes == 0 and on_top.encodes == 2


def test_it_starts_from_the_encoder_bit_for_bit():
    below = encoder(12)
    model = Linear(12, encoder=below, frozen_epochs=1)
    theirs, mine = below.model.layout.views(below.parameters), model.layout.views(moved(model, by=0))
    for name in ("encoder.0.weight", "encoder.0.bias", "encoder.1.weight", "encoder.1.bias"):
        assert mine[name].tobytes() == theirs[name].tobytes()
    rows = rows_of(40, 12)
    codes = model.encode(moved(model, by=0), None, rows)
    assert codes.tobytes() == below.model.encode(below.parameters, None, rows).tobytes()


@pytest.mark.parametrize("options", [{}, {"frozen_epochs": 2}, {"freeze": True}], ids=str)
def test_it_is_the_same_again(options):
    assert_is_the_same_again(Linear(12, 3, encoder=encoder(12), **options))
    assert_is_the_same_again(Linear(12, 3))


@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("phase", ["all", "head"])
def test_parts_make_the_whole(parts, phase):
    model = Linear(12, 3, encoder=encoder(12), frozen_epochs=1)
    assert_parts_make_the_whole(model, parts, phase, labels_of(33, 3))


@pytest.mark.skipif(not _core.has_bfloat16(), reason="the processor has no bfloat16")
def test_bfloat16_is_float32_to_its_rounding():
    exact, rounded = Linear(40, 2), Linear(40, 2, dtype="bfloat16")
    parameters, rows, labels = moved(exact), rows_of(64, 40), labels_of(64, 2)
    gradients = [exact.layout.zeros(), exact.layout.zeros()]
    losses = [model.gradient(parameters, gradients[i], None, Batch(rows, labels=labels))
              for i, model in enumerate((exact, rounded))]
    assert rounded.takes_rounded and losses[1] == pytest.approx(losses[0], rel=0.02)
    assert 0 < np.linalg.norm(gradients[1] - gradients[0]) < 0.02 * np.linalg.norm(gradients[0])
    alone = np.concatenate([rounded.predict(parameters, None, rows[i : i + 1]) for i in range(64)])
    np.testing.assert_array_equal(alone, rounded.predict(parameters, None, rows))


def test_it_is_made_for_the_labels_of_the_data():
    rows = rows_of(9, 4)
    assert for_data("linear", ArraySource(rows, labels=np.arange(9.0))).target_count == 1
    assert for_data("linear", ArraySource(rows, labels=np.ones((9, 2)))).target_count == 2
    with pytest.raises(ShapeError, match="has labels of 2 numbers each; the model expects 1"):
        Linear(4).check_data(ArraySource(rows, labels=np.ones((9, 2))))
    with pytest.raises(DataError, match=r"labels that are classes \(a, b, c\), and least squares needs numbers"):
        Linear(4).check_data(ArraySource(rows, labels=list("abcabcabc")))


def test_pictures_are_the_weights_of_the_first_layer():
    for model, rows in ((Linear(12, 3), 3), (Linear(12, 3, encoder=encoder(12)), 8)):
        assert model.pictures(moved(model), None, rows_of(5, 12))["weights"].shape == (rows, 12)


def test_rows_are_no_codes():
    with pytest.raises(ParameterError, match="model linear has one layer here, and no encoder"):
        Linear(4).encode(moved(Linear(4)), None, rows_of(5, 4))


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"frozen_epochs": 2}, ParameterError, "frozen_epochs is 2, and there is no encoder that could be frozen"),
    ({"freeze": True}, ParameterError, "freeze is True, and there is no encoder that could be frozen"),
    ({"encoder": encoder(12), "freeze": True, "frozen_epochs": 1}, ParameterError,
     "frozen_epochs is 1 and freeze is given, .* leave one of the two out"),
    ({"encoder": encoder(13)}, ShapeError, "was trained on rows of 13 features; these have 12"),
    ({"targets": 0}, ParameterError, "targets is 0; expected a whole number at least 1"),
    ({"dtype": "float16"}, ParameterError, "dtype is 'float16'"),
])
def test_unfit_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        Linear(12, **options)
