"""The parts of a split autoencoder, each in a thread of its own, against the whole."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_parts import together

from pyddl import _core
from pyddl.data.batch import Batch
from pyddl.errors import InternalError, ParameterError
from pyddl.models import Autoencoder
from pyddl.models.autoencoder import ACTIVATIONS, LOSSES
from pyddl.models.initialisers import INITIALISERS


def values_of(model, seed=3):
    parameters = model.layout.zeros()
    model.initialise(parameters, model.buffers.zeros(), seed)
    return parameters


@settings(max_examples=25)
@given(st.integers(1, 5), st.lists(st.integers(5, 40), min_size=1, max_size=3), st.integers(5, 50), st.integers(0, 70),
       st.sampled_from(ACTIVATIONS), st.sampled_from(LOSSES))
def test_all_parts_together_have_the_gradient_of_the_whole(parts, hidden, inputs, rows, activation, loss):
    between = {"activation": activation} if len(hidden) > 1 else {}
    whole = Autoencoder(inputs, hidden=hidden, loss=loss, **between)
    parameters, gradients = values_of(whole), whole.layout.zeros()
    batch = np.random.default_rng(rows).random((rows, inputs), dtype=np.float32)
    expected = whole.gradient(parameters, gradients, None, Batch(batch))
    sums = whole.evaluate(parameters, None, Batch(batch))

    def work(part, group):
        model = whole.split(part, parts)
        mine, got = model.layout.cut(whole.layout, parameters), model.layout.zeros()
        got[:] = np.nan
        loss = model.gradient(mine, got, None, Batch(batch, group=group))
        for name, view in model.layout.views(got).items():
            wanted = model.layout.views(model.layout.cut(whole.layout, gradients))[name]
            np.testing.assert_allclose(view, wanted, rtol=1e-3, atol=1e-4 * (1 + rows / 10), err_msg=name)
        return loss, model.evaluate(mine, None, Batch(batch, group=group))

    results = together(parts, work)
    assert sum(loss for loss, _ in results) == pytest.approx(expected, rel=1e-5)
    for name in sums:
        assert sum(each[name] for _, each in results) == pytest.approx(sums[name], rel=1e-4)


@pytest.mark.skipif(not _core.has_bfloat16(), reason="the processor has no bfloat16")
@pytest.mark.parametrize("rows", [0, 12, 13, 64])
@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_parts_in_bfloat16_have_the_gradient_of_the_whole_to_its_rounding(parts, rows):
    whole = Autoencoder(50, hidden=(31, 7), activation="softplus", dtype="bfloat16")
    parameters, gradients = values_of(whole), whole.layout.zeros()
    batch = np.random.default_rng(rows).random((rows, 50), dtype=np.float32)
    expected = whole.gradient(parameters, gradients, None, Batch(batch))

    def work(part, group):
        model = whole.split(part, parts)
        assert model.takes_rounded
        mine, got = model.layout.cut(whole.layout, parameters), model.layout.zeros()
        loss = model.gradient(mine, got, None, Batch(batch, group=group))
        wanted = model.layout.cut(whole.layout, gradients)
        for name, view in model.layout.views(got).items():
            other = model.layout.views(wanted)[name]
            assert np.linalg.norm(view - other) <= 0.02 * np.linalg.norm(other), name
        return loss

    assert sum(together(parts, work)) == pytest.approx(expected, rel=1e-3)


def test_nothing_is_sent_for_data_and_reconstruction():
    whole = Autoencoder(31, hidden=(20, 9))
    rows = np.random.default_rng(0).random((16, 31), dtype=np.float32)

    def work(part, group):
        model = whole.split(part, 3)
        model.gradient(model.layout.zeros(), model.layout.zeros(), None, Batch(rows, group=group))
        return group.values

    hidden = 20 + 9 + 20
    assert sum(together(3, work)) == 16 * hidden + 2 * 16 * hidden  # blocks, sent to 2 others each; columns of others


@pytest.mark.parametrize("initialiser", ["auto", *INITIALISERS])
@pytest.mark.parametrize("parts", [2, 3, 5])
def test_a_part_begins_as_its_slices_of_the_whole(parts, initialiser):
    whole = Autoencoder(37, hidden=(20, 5), initialiser=initialiser)
    parameters = values_of(whole)
    held = 0
    for part in range(parts):
        model = whole.split(part, parts)
        assert np.array_equal(values_of(model), model.layout.cut(whole.layout, parameters))
        assert [s.name for s in model.layout] == [s.name for s in whole.layout]
        assert [s.whole_shape for s in model.layout] == [s.shape for s in whole.layout]
        assert [s.decay for s in model.layout] == [s.decay for s in whole.layout]
        held += model.layout.count
    assert held == whole.layout.count


def test_it_survives_pickling():
    part = Autoencoder(37, hidden=(20, 5), loss="mse").split(1, 3)
    again = pickle.loads(pickle.dumps(part))
    assert again.layout == part.layout and again.options() == part.options() == part.whole.options()


def test_a_layer_must_have_an_output_for_each_rank():
    whole = Autoencoder(37, hidden=(20, 5))
    with pytest.raises(ParameterError, match=r"6, but layer encoder\.1 has 5 outputs, .* give split at most 5"):
        whole.split(0, 6)


def test_a_part_alone_says_what_it_lacks():
    part = Autoencoder(37, hidden=(20, 5)).split(0, 2)
    with pytest.raises(InternalError, match=r"batch\.group is None"):
        part.evaluate(part.layout.zeros(), None, Batch(np.zeros((3, 37), np.float32)))
