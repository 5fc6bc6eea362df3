"""The classifier: gradients against finite differences in double, classes, and the encoder of a run in front."""

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
from pyddl.data.labels import Labels
from pyddl.errors import DataError, ParameterError, ShapeError
from pyddl.models import Classifier, Linear, for_data
from pyddl.models.table import Trained
from pyddl.names import ACTIVATIONS


def labels_of(n, classes):
    return (np.arange(n) * 7 + 1) % classes


def log_probabilities(model, parameters, rows):
    logits = code_of(model, parameters, rows, len(model.network.layers))
    logits -= logits.max(axis=1, keepdims=True, initial=-np.inf)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def loss_in_double(model, parameters, rows, labels):
    return -float(log_probabilities(model, parameters, rows)[np.arange(len(rows)), labels].sum())


@pytest.mark.parametrize(("hidden", "with_encoder", "activation"), [
    ((), False, "relu"), ((), True, "relu"), *(((9,), False, each) for each in ACTIVATIONS),
    *(((9, 6), True, each) for each in ACTIVATIONS)])
@pytest.mark.parametrize("n", [0, 1, 67])
def test_the_gradient_is_that_of_finite_differences(n, hidden, with_encoder, activation):
    model = Classifier(12, 4, hidden, activation=activation, encoder=encoder(12) if with_encoder else None)
    parameters, rows, labels = moved(model), rows_of(n, 12), labels_of(n, 4)
    gradients = model.layout.zeros()
    for view in model.layout.views(gradients).values():
        view[...] = np.nan
    loss = model.gradient(parameters, gradients, None, Batch(rows, labels=labels))
    assert loss == pytest.approx(loss_in_double(model, parameters.astype(float), rows, labels), rel=1e-5)
    places = places_of(model)
    expected = differences(lambda at: loss_in_double(model, at, rows, labels), parameters.astype(float), places)
    np.testing.assert_allclose(gradients[places], expected, rtol=1e-3, atol=1e-3)
    found = model.evaluate(parameters, None, Batch(rows, labels=labels))
    proba = model.probabilities(parameters, None, rows)
    assert found["loss"] == pytest.approx(loss, rel=1e-5)
    assert found["accuracy"] == (proba.argmax(axis=1) == labels).sum()
    np.testing.assert_allclose(proba, np.exp(log_probabilities(model, parameters.astype(float), rows)), atol=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1, 1e3, 1e30, 3e37])
def test_probabilities_add_up_to_1_for_any_logits(scale):
    model = Classifier(6, 5)
    parameters = model.layout.zeros()
    model.layout.views(parameters)["head.weight"][:] = np.random.default_rng(0).normal(size=(5, 6))
    parameters *= scale
    proba = model.probabilities(parameters, None, rows_of(50, 6))
    assert np.isfinite(proba).all() and proba.min() >= 0
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)
    assert model.probabilities(parameters, None, rows_of(0, 6)).shape == (0, 5)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64, np.float32, np.float64])
def test_labels_of_any_type_are_classes_where_they_are_whole(dtype):
    source = ArraySource(rows_of(20, 6), labels=labels_of(20, 3).astype(dtype))
    model = for_data("classifier", source)
    model.check_data(source)
    assert model.classes == 3 and model.class_names is None
    loss = model.gradient(moved(model), model.layout.zeros(), None, Batch(rows_of(20, 6), labels=source.labels))
    assert loss == pytest.approx(loss_in_double(model, moved(model).astype(float), rows_of(20, 6), labels_of(20, 3)))


def test_frozen_layers_are_left_alone():
    model = Classifier(12, 4, (9,), encoder=encoder(12), frozen_epochs=1)
    parameters, gradients = moved(model), model.layout.zeros()
    whole, given = model.layout.zeros(), parameters.copy()
    batch = {"labels": labels_of(30, 4)}
    gradients[:] = 3
    told = []
    model.gradient(parameters, gradients, None, Batch(rows_of(30, 12), phase="head", **batch,
                                                      ready=lambda *each: told.append(each)))
    model.gradient(parameters, whole, None, Batch(rows_of(30, 12), **batch))
    assert parameters.tobytes() == given.tobytes()
    for s in model.layout:
        mine = model.layout.views(gradients)[s.name]
        if s.group == "encoder":
            assert (mine == 3).all()
        else:
            np.testing.assert_allclose(mine, model.layout.views(whole)[s.name], rtol=1e-4, atol=1e-5)
    first = min(s.begin for s in model.layout if s.group == "head")
    assert told and all(begin >= first for begin, _ in told)


def test_names_of_slices():
    names = [s.name for s in Classifier(12, 4, (9, 6), encoder=encoder(12)).layout]
    assert names == [f"{layer}.{kind}" for layer in ("encoder.0", "encoder.1", "hidden.0", "hidden.1", "head")
                     for kind in ("weight", "bias")]
    assert [s.name for s in Classifier(12, 4).layout] == ["head.weight", "head.bias"]


def test_it_starts_from_the_encoder_bit_for_bit_and_lends_it_again():
    below = encoder(12)
    model = Classifier(12, 4, (9,), encoder=below)
    parameters = moved(model, by=0)
    for name, theirs in below.model.layout.views(below.parameters).items():
        if name.startswith("encoder"):
            assert model.layout.views(parameters)[name].tobytes() == theirs.tobytes()
    upper = Classifier(12, 2, encoder=Trained(model, parameters, model.buffers.zeros()))
    assert upper.encodes == 3  # two layers of the autoencoder, and what was hidden between these and the classes
    rows = rows_of(40, 12)
    found = upper.encode(moved(upper, by=0), None, rows)
    assert found.tobytes() == model.encode(parameters, None, rows).tobytes()


@pytest.mark.parametrize("options", [{}, {"frozen_epochs": 2}, {"freeze": True}, {"classes": ("b", "a", "c")},
                                     {"hidden": (7,), "activation": "tanh", "initialiser": "glorot_normal"}], ids=str)
def test_it_is_the_same_again(options):
    assert_is_the_same_again(Classifier(12, **{"classes": 3, **options}, encoder=encoder(12)))
    if not {"frozen_epochs", "freeze"} & set(options):
        assert_is_the_same_again(Classifier(12, **{"classes": 3, **options}))


@pytest.mark.parametrize("parts", [2, 3, 4])
@pytest.mark.parametrize("phase", ["all", "head"])
def test_parts_make_the_whole(parts, phase):
    model = Classifier(12, 4, (9,), encoder=encoder(12), frozen_epochs=1)
    assert_parts_make_the_whole(model, parts, phase, labels_of(33, 4))


@pytest.mark.skipif(not _core.has_bfloat16(), reason="the processor has no bfloat16")
def test_bfloat16_is_float32_to_its_rounding():
    exact, rounded = (Classifier(40, 4, (32,), encoder=encoder(40), dtype=dtype) for dtype in ("float32", "bfloat16"))
    parameters, rows, batch = moved(exact), rows_of(64, 40), {"labels": labels_of(64, 4)}
    gradients = [exact.layout.zeros(), exact.layout.zeros()]
    losses = [model.gradient(parameters, gradients[i], None, Batch(rows, **batch))
              for i, model in enumerate((exact, rounded))]
    assert rounded.takes_rounded and losses[1] == pytest.approx(losses[0], rel=0.02)
    assert 0 < np.linalg.norm(gradients[1] - gradients[0]) < 0.03 * np.linalg.norm(gradients[0])
    for function in (rounded.probabilities, rounded.encode):
        alone = np.concatenate([function(parameters, None, rows[i : i + 1]) for i in range(64)])
        np.testing.assert_array_equal(alone, function(parameters, None, rows))


def test_classes_are_those_of_the_data():
    rows = rows_of(9, 4)
    assert for_data("classifier", ArraySource(rows, labels=labels_of(9, 3))).classes == 3
    words = for_data("classifier", ArraySource(rows, labels=list("bacbacbac")))
    assert words.class_names == ("a", "b", "c") and words.options()["classes"] == ["a", "b", "c"]
    more = for_data("classifier", ArraySource(rows, labels=Labels(np.zeros(9, np.int64), ("a", "b", "c", "d"))))
    assert more.classes == 4, "also those that do not occur"


@pytest.mark.parametrize(("labels", "error", "message"), [
    (None, DataError, r"array has no labels, which this model needs: give them with labels \(--labels SPEC\)"),
    (np.ones((9, 2)), DataError, "labels of 2 numbers each; a classifier needs one, the row's class"),
    (np.linspace(0, 1, 9), DataError, "has the label 0.125 in row 1; .* for quantities choose model linear"),
    (np.arange(9) - 1, DataError, "has the label -1 in row 0"),
    (np.full(9, 3), ParameterError, "all 9 labels of array are 3: one class only"),
    (["a"] * 9, ParameterError, "all 9 labels of array are a: one class only"),
    (np.array([0, 10**6] * 4 + [0]), ParameterError, "2 different values up to 1000000: number the classes from 0 on"),
])
def test_unfit_labels_are_refused(labels, error, message):
    with pytest.raises(error, match=message):
        for_data("classifier", ArraySource(rows_of(9, 4), labels=labels))


@pytest.mark.parametrize(("classes", "labels", "message"), [
    (3, labels_of(9, 4), "has the label 3; the model knows 3 classes, numbered from 0 to 2"),
    (3, list("abcabcabc"), "has labels of the classes a, b, c; those of the model are numbers from 0 to 2"),
    ("abc", list("bcbcbcbcb"), "has labels of the classes b, c; those of the model are a, b, c"),
])
def test_labels_of_other_classes_are_refused(classes, labels, message):
    with pytest.raises(DataError, match=message):
        Classifier(4, classes).check_data(ArraySource(rows_of(9, 4), labels=labels))


def test_pictures_are_the_weights_of_the_first_layer():
    on_top = Classifier(12, 3, encoder=encoder(12))
    for model, rows in ((Classifier(12, 3), 3), (Classifier(12, 3, (6,)), 6), (on_top, 8)):
        assert model.pictures(moved(model), None, rows_of(5, 12))["weights"].shape == (rows, 12)


def run_of(model):
    return Trained(model, moved(model), model.buffers.zeros())


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"frozen_epochs": 2}, ParameterError, "frozen_epochs is 2, and there is no encoder that could be frozen"),
    ({"encoder": encoder(13)}, ShapeError, "was trained on rows of 13 features; these have 12"),
    ({"encoder": run_of(Linear(12))}, ParameterError, "holds a model 'linear', which has no encoder of layers: name a"),
    ({"encoder": run_of(Classifier(12, 3))}, ParameterError, "holds a model 'classifier', which has no encoder"),
    ({"classes": 1}, ParameterError, "classes is 1; expected a whole number at least 2"),
    ({"classes": ["a"]}, ParameterError, "classes is 1; expected"),
    ({"classes": ["a", "b", "a"]}, ParameterError, "classes names 'a' twice"),
    ({"hidden": (0,)}, ParameterError, "hidden"),
    ({"activation": "reluu"}, ParameterError, "did you mean 'relu'"),
])
def test_unfit_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        Classifier(12, **{"classes": 3, **options})
