"""Networks of an adversarial pair as texts of layers: what they become, and where a mistake is."""

import pytest

from pyddl.errors import ParameterError, ShapeError
from pyddl.models import GAN, create
from pyddl.models.layers import BatchNorm, Conv, ConvTranspose, Dense, Dropout, Flatten, Pool, Reshape, Resize
from pyddl.models.network_text import hidden_layers

PICTURES = {"image_shape": (8, 8)}


def test_every_word_is_a_layer():
    text = "16, dense32, reshape4x4x2, norm, up6k4s2, conv5k5s1, resize2, pool2, mean2, dropout0.1, 7"
    layers, shape = hidden_layers(text, "generator", (3,), activation="relu", initialiser="auto", synchronised=True)
    assert layers == [
        Dense(16, "relu"), Dense(32, "relu"), Reshape((4, 4, 2)), BatchNorm("relu", synchronised=True),
        ConvTranspose(6, 4, 2, activation="relu"), Conv(5, 5, activation="relu"), Resize(2, "bilinear"), Pool(2),
        Pool(2, "mean"), Dropout(0.1), Flatten(), Dense(7, "relu")]
    assert shape == (7,)
    normed, _ = hidden_layers("8,norm", "generator", (3,), activation="relu", initialiser="auto")
    assert normed == [Dense(8), BatchNorm("relu")]


@pytest.mark.parametrize(("text", "shapes"), [
    ("9,5", [(9,), (5,), (64,)]),
    ("dense16,reshape4x4,up1", [(16,), (4, 4, 1), (8, 8, 1), (64,)]),
    ("16,reshape2x2x4,up3,resize2", [(16,), (2, 2, 4), (4, 4, 3), (8, 8, 3), (8, 8, 1), (64,)]),
    ("16,reshape2x2x4,up3,up2,norm", [(16,), (2, 2, 4), (4, 4, 3), (8, 8, 2), (8, 8, 2), (8, 8, 1), (64,)]),
])
def test_a_generator_ends_with_rows(text, shapes):
    model = GAN(64, generator=text, output="sigmoid", noise=3, **PICTURES)
    assert list(model.generator.shapes[1:]) == shapes
    assert [each.activation for each in model.generator.layers if hasattr(each, "activation")][-1] == "sigmoid"
    assert create("gan", **model.options()).layout == model.layout and model.options()["generator"] == text


def test_a_discriminator_sees_pictures_where_it_begins_with_their_layers():
    model = GAN(64, discriminator="conv4k4s2,pool2,dropout0.5,6", packing=2, **PICTURES)
    assert list(model.discriminator.shapes) == [(128,), (8, 8, 2), (4, 4, 4), (2, 2, 4), (2, 2, 4), (16,), (6,), (1,)]
    assert not model.discriminator.layers[-1].bias
    assert list(GAN(64, discriminator="dense6,5", **PICTURES).discriminator.shapes) == [
        (64,), (6,), (5,), (1,)]
    planes = GAN(192, generator="48,reshape4x4x3,up3", discriminator="conv4k4s2", image_shape=(3, 8, 8))
    assert planes.discriminator.layers[0].planes and planes.generator.layers[-1].planes


@pytest.mark.parametrize(("given", "error", "message"), [
    ({"generator": "12,dens4"}, ParameterError,
     "generator is '12,dens4'; at character 4 is 'dens4'; expected one of dense, conv.*did you mean 'dense'"),
    ({"generator": "12,up"}, ParameterError, "at character 4 is 'up'; expected up32, up32k4 or up32k4s2"),
    ({"discriminator": "a,,2"}, ParameterError, "discriminator is 'a,,2'; at character 1 is 'a'"),
    ({"generator": "dense4,,2"}, ParameterError, "at character 8 a layer is missing"),
    ({"generator": "dense0"}, ParameterError, "at character 1 is 'dense0': outputs is 0"),
    ({"generator": "10,reshape4x4"}, ShapeError,
     "at character 4 'reshape4x4' does not fit what comes before it, 10 values: .*needs 16"),
    ({"generator": "10,up4"}, ShapeError, "at character 4 'up4' does not fit what comes before it, 10 values"),
    ({"generator": "16,reshape4x4,conv1"}, ShapeError,
     "it ends with pictures of 4 by 4, and rows are pictures of 8 by 8: let reshape, up and resize come to"),
    ({"generator": "64,reshape8x8,conv1", "image_shape": None}, ShapeError, "rows are 64 values: give image_shape"),
    ({"discriminator": "conv4,norm"}, ParameterError, "statistics in which rows and samples would mix"),
    ({"discriminator": "conv4k19"}, ShapeError, "at character 1 'conv4k19' does not fit"),
    ({"generator": "dense4", "image_shape": (4, 4)}, ShapeError, "16 values; rows have 64"),
])
def test_mistakes_are_named_where_they_are(given, error, message):
    with pytest.raises(error, match=message):
        GAN(64, **{**PICTURES, **given})
