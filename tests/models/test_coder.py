"""Layers from a text, and decoders that mirror encoders."""

import numpy as np
import pytest

from pyddl.data import ArraySource
from pyddl.data.picture import Picture
from pyddl.errors import ParameterError, ShapeError
from pyddl.models.coder import coder, mirrored, picture_for
from pyddl.models.layers import (
    BatchNorm,
    Conv,
    ConvTranspose,
    Dense,
    Dropout,
    Flatten,
    Gaussian,
    LayerNorm,
    Pool,
    Reshape,
    Resize,
)
from pyddl.models.network import Network
from pyddl.models.text import layers_of

SEED_NETWORK = "conv32,conv32,pool2,conv64,conv64,pool2,conv128,conv128,conv256,conv256"


def test_a_text_names_layers():
    assert layers_of("conv32, conv16k5,conv8k4s2 ,pool2,mean3,dropout0.25") == [
        Conv(32, 3), Conv(16, 5), Conv(8, 4, 2), Pool(2), Pool(3, "mean"), Dropout(0.25)]


@pytest.mark.parametrize(("text", "message"), [
    ("", "at character 1 a layer is missing; expected for example conv32"),
    ("conv32,", "at character 8 a layer is missing"),
    ("conv32,,pool2", "at character 8 a layer is missing"),
    ("conv32, pol2", "at character 9 is 'pol2'; expected one of conv, pool, mean, dropout, .*did you mean 'pool'"),
    ("cnv32", "at character 1 is 'cnv32'.*did you mean 'conv'"),
    ("32", "at character 1 is '32'; expected one of"),
    ("conv", "at character 1 is 'conv'; expected conv32, conv32k5 or conv32k5s2"),
    ("conv32x5", "expected conv32, conv32k5 or conv32k5s2"),
    ("conv32s2k5", "expected conv32, conv32k5 or conv32k5s2"),
    ("conv8,pool2.5", "at character 7 is 'pool2.5'; expected pool2"),
    ("conv8,conv8k4", "at character 7 is 'conv8k4': kernel is 4, which is even.*choose kernel 5"),
    ("conv0", "at character 1 is 'conv0': channels is 0"),
    ("pool16", "size is 16"),
    ("dropout1.5", "p is 1.5"),
])
def test_mistakes_are_named_with_their_places(text, message):
    with pytest.raises(ParameterError, match=message):
        layers_of(text)


def shapes(inputs, layers):
    return list(Network(layers, inputs).shapes)


def test_the_seed_network():
    made = coder(784, (), conv=SEED_NETWORK, image_shape=(28, 28), batch_norm="synchronised", code_activation="relu")
    both = shapes(made.inputs, [*made.encoder, *made.decoder])
    assert both[0] == both[-1] == (28, 28, 1) and both[len(made.encoder)] == (7, 7, 256)
    kinds = [each for each in made.decoder if not isinstance(each, BatchNorm)]
    assert [each.channels if isinstance(each, Conv) else each for each in kinds] == [
        256, 128, 128, 64, Resize(2), 64, 32, Resize(2), 32, 1]
    norms = [each for each in [*made.encoder, *made.decoder] if isinstance(each, BatchNorm)]
    assert len(norms) == 8 + 7 and set(norms) == {BatchNorm("relu", synchronised=True)}
    convolutions = [each for each in [*made.encoder, *made.decoder] if isinstance(each, Conv)]
    assert all(each.kernel == 3 and each.activation == "linear" for each in convolutions)
    assert [each.bias for each in convolutions] == [False] * 15 + [True]


def test_dense_layers_come_after_convolutions():
    made = coder(64, (20, 5), conv="conv4,pool2,conv6s2", image_shape=(8, 8), activation="tanh",
                 code_activation="sigmoid")
    assert made.encoder == (Conv(4, 3, activation="tanh"), Pool(2), Conv(6, 3, 2, activation="tanh"), Flatten(),
                            Dense(20, "tanh"), Dense(5, "sigmoid"))
    assert made.decoder == (Dense(20, "tanh"), Dense(24, "tanh"), Reshape((2, 2, 6)),
                            ConvTranspose(4, 3, 2, activation="tanh"), Resize(2), Conv(1, 3))
    assert made.names[:2] == ["encoder.0", "encoder.1"] and made.names[-1] == "decoder.5"


def test_norms_follow_what_they_normalise_though_it_is_rebuilt_flat():
    made = coder(64, (5,), conv="conv4,pool2,conv6", image_shape=(8, 8), batch_norm="own")
    assert made.decoder == (Dense(96, bias=False), Reshape((4, 4, 6)), BatchNorm("relu"), Conv(4, 3, bias=False),
                            BatchNorm("relu"), Resize(2), Conv(1, 3))
    assert shapes(made.inputs, [*made.encoder, *made.decoder])[-1] == (8, 8, 1)


@pytest.mark.parametrize(("shape", "planes"), [((3, 8, 8), True), ((8, 8, 3), False)])
def test_colours(shape, planes):
    made = coder(192, (5,), conv="conv4,dropout0.5,pool2", image_shape=shape)
    both = shapes(made.inputs, [*made.encoder, *made.decoder])
    assert both[-1] == ((192,) if planes else (8, 8, 3)) and made.inputs == ((192,) if planes else (8, 8, 3))
    assert isinstance(made.encoder[0], Reshape) == isinstance(made.decoder[-1], Flatten) == planes


def test_layers_of_one_s_own_are_mirrored():
    layers = [Conv(4, 5, padding="valid", activation="tanh"), LayerNorm("relu"), Pool(2, "mean"),
              ConvTranspose(3, 4, 2, activation="softplus")]
    encoder, decoder = mirrored((8, 8, 2), layers)
    assert encoder == layers
    assert decoder == [Conv(4, 4, 2, activation="linear", bias=False), LayerNorm("relu"), Resize(2),
                       ConvTranspose(2, 5, 1, "valid")]
    assert shapes((8, 8, 2), [*encoder, *decoder])[-1] == (8, 8, 2)
    made = coder(128, (3,), conv=layers, image_shape=(8, 8, 2))
    assert made.encoder == (*layers, Flatten(), Dense(3)) and made.conv == tuple(layers)


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"hidden": ()}, ParameterError, "hidden is empty"),
    ({"conv": "conv4"}, ParameterError, "conv needs pictures, and rows have 64 features"),
    ({"conv": "conv4", "image_shape": (7, 8)}, ShapeError, r"image_shape is \(7, 8\), which has 56 values; rows have"),
    ({"conv": "conv4", "image_shape": (64,)}, ShapeError, r"image_shape is \(64,\); expected \(height, width\)"),
    ({"image_shape": (8, 8)}, ParameterError, "image_shape is given, which only convolutions ask for"),
    ({"batch_norm": "own"}, ParameterError, "batch_norm is given, which only convolutions ask for"),
    ({"batch_norm": "on", "conv": "conv4", "image_shape": (8, 8)}, ParameterError, "did you mean 'own'"),
    ({"conv": "conv4,pool3", "image_shape": (8, 8)}, ShapeError,
     r"layer encoder.1 is Pool\(size=3.* gets pictures of 8 x 8, which its mirror in the decoder would make 6 x 6"),
    ({"conv": "pool2,pool2,pool2,conv4s2", "image_shape": (8, 8)}, ShapeError, "encoder.3 .*1 x 1.*would make 2 x 2"),
    ({"conv": "pool2,pool2,pool2,pool2", "image_shape": (8, 8)}, ShapeError,
     r"layer encoder.3: .*inputs of shape \(1, 1, 1\): its windows are larger than the picture"),
    ({"conv": "conv4k19", "image_shape": (8, 8)}, ShapeError,
     "layer encoder.0: .*kernel is larger than the picture can fill, 17"),
    ({"conv": [Conv(4, 11, padding=1)], "image_shape": (8, 8)}, ShapeError,
     "layer encoder.0: .*kernel is larger than the picture with its padding, 10"),
    ({"conv": [Conv(4, 3, 2, 0)], "image_shape": (8, 8)}, ShapeError, "encoder.0 .*8 x 8.*would make 7 x 7"),
    ({"conv": [Gaussian()], "image_shape": (8, 8)}, ShapeError, r"layer encoder.0: .*expected \(2 n,\)"),
    ({"conv": [Resize(2)], "image_shape": (8, 8)}, ParameterError, "layer encoder.0 is Resize.*has no mirror"),
])
def test_what_cannot_be_is_named(options, error, message):
    with pytest.raises(error, match=message):
        coder(64, **{"hidden": (3,), **options})


def test_the_shape_of_pictures_comes_from_the_data():
    rows = np.zeros((5, 6, 4), dtype=np.float32)
    assert picture_for(ArraySource(rows), {"conv": "conv4"})["image_shape"] == (6, 4)
    assert picture_for(ArraySource(rows), {"conv": "conv4", "image_shape": (4, 6)})["image_shape"] == (4, 6)
    assert "image_shape" not in picture_for(ArraySource(rows), {})
    with pytest.raises(ParameterError, match="does not say the shape of one: rows have 24 features; give image_shape"):
        picture_for(ArraySource(rows.reshape(5, 24)), {"conv": "conv4"})


def test_channels_are_the_smaller_end():
    assert Picture.of((28, 20)) == Picture(28, 20, 1) and Picture.of((28, 20)).size == 560
    assert Picture.of((3, 32, 30)) == Picture(32, 30, 3, planes=True)
    assert Picture.of((32, 30, 3)) == Picture(32, 30, 3) and Picture.of((1, 5, 6)) == Picture(5, 6, 1)
    with pytest.raises(ShapeError, match=r"expected \(height, width\)"):
        Picture.of((1, 2, 3, 4))
