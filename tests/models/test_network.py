"""Networks of declared layers: against NumPy in double, and that against finite differences."""

import copy
import pickle

import numpy as np
import pytest
from layer_oracles import ACTIVATE, LEAK, assert_close, differences, rows_of
from model_parts import together

from pyddl import _core
from pyddl.data.batch import Batch
from pyddl.errors import InternalError, ParameterError, ShapeError
from pyddl.layout import Layout
from pyddl.models.layers import ACTIVATIONS, Dense, Layer
from pyddl.models.network import Network

SLOPE = {
    "linear": lambda y: np.ones_like(y),
    "sigmoid": lambda y: y * (1 - y),
    "relu": lambda y: (y > 0) * 1.0,
    "leaky_relu": lambda y: np.where(y > 0, 1, LEAK),
    "tanh": lambda y: 1 - y * y,
    "softplus": lambda y: -np.expm1(-y),
}


class InDouble:
    """The same chain in NumPy, on parameters of the same layout."""

    def __init__(self, network, layout):
        self.network, self.layout = network, layout

    def tensors(self, vector):
        views = {s.name: vector[s.begin : s.end].reshape(s.shape) for s in self.layout}
        return [(layer.activation, views[f"{name}.weight"], views.get(f"{name}.bias", 0.0))
                for name, layer in zip(self.network.names, self.network.layers, strict=True)]

    def outputs(self, parameters, rows):
        """What enters each layer, and what leaves the last."""
        values = [rows.astype(float)]
        for activation, weight, bias in self.tensors(parameters):
            values.append(ACTIVATE[activation](values[-1] @ weight.T + bias))
        return values

    def backward(self, parameters, rows, deltas):
        """Gradients of the parameters, and of the rows."""
        values, gradients = self.outputs(parameters, rows), np.zeros(self.layout.size)
        of, into = self.tensors(parameters), self.tensors(gradients)
        for i in range(len(of) - 1, -1, -1):
            deltas = deltas * SLOPE[of[i][0]](values[i + 1])
            into[i][1][...] = deltas.T @ values[i]
            if isinstance(into[i][2], np.ndarray):
                into[i][2][...] = deltas.sum(axis=0)
            deltas = deltas @ of[i][1]
        return gradients, deltas


def softmax(z, labels):
    """Loss and its gradient with respect to the logits."""
    z = z - z.max(axis=1, keepdims=True)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    one = np.eye(z.shape[1])[labels]
    return -float(np.log(p[one > 0]).sum()), p - one


def made(layers, inputs, seed=1, **options):
    network = Network(layers, inputs, **options)
    layout = Layout(network.slices)
    network.compile(layout)
    parameters = layout.zeros()
    network.initialise(parameters, seed)
    parameters += np.random.default_rng(seed).normal(0, 0.1, layout.size).astype(np.float32)  # biases too
    return network, layout, parameters


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("n", [0, 1, 7, 67])
def test_a_kept_pass_goes_backward_from_any_deltas(activation, n):
    layers = [Dense(13, activation), Dense(7, activation, bias=False), Dense(5, activation)]
    network, layout, parameters = made(layers, 11)
    rows, deltas, oracle = rows_of(n, 11), rows_of(n, 5, 1), InDouble(network, layout)
    out, below = np.empty((n, 5), np.float32), np.full((n, 11), np.nan, np.float32)
    network.forward(parameters, None, None, rows, out, slot=3)
    assert_close(out, oracle.outputs(parameters.astype(float), rows)[-1])
    expected, expected_below = oracle.backward(parameters.astype(float), rows, deltas)
    places = np.random.default_rng(2).choice(layout.size, 12, replace=False)
    by_differences = differences(lambda p: float((oracle.outputs(p, rows)[-1] * deltas).sum()),
                                 parameters.astype(float), places)
    np.testing.assert_allclose(expected[places], by_differences, rtol=1e-5, atol=1e-6)
    gradients = layout.zeros()
    for view in layout.views(gradients).values():
        view[...] = np.nan
    given = deltas.copy()
    network.backward(parameters, gradients, None, None, deltas, slot=3, below=below)
    assert_close(gradients, expected)
    assert_close(below, expected_below)
    np.testing.assert_array_equal(deltas, given)
    below[...] = np.nan
    network.backward(parameters, None, None, None, deltas, slot=3, below=below)  # no gradients are wanted
    assert_close(below, expected_below)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("n", [0, 1, 5, 40])
def test_two_kept_passes_each_go_backward_and_add_up(n, dtype):
    if dtype == "bfloat16" and not _core.has_bfloat16():
        pytest.skip("the processor has no bfloat16")
    network, layout, parameters = made([Dense(9, "leaky_relu"), Dense(1, "sigmoid")], 6, dtype=dtype)
    real, fake = rows_of(n, 6), rows_of(17, 6, 1)
    out, deltas = [np.empty((n, 1), np.float32), np.empty((17, 1), np.float32)], [rows_of(n, 1, 2), rows_of(17, 1, 3)]
    alone = [layout.zeros(), layout.zeros()]
    for slot, rows in enumerate((real, fake)):
        network.forward(parameters, None, None, rows, out[slot], slot=slot)
        network.backward(parameters, alone[slot], None, None, deltas[slot], slot=slot)
    network.forward(parameters, None, None, real, out[0], slot=0)
    network.forward(parameters, None, None, fake, out[1], slot=1)
    network.evaluate(parameters, None, None, rows_of(50, 6, 4), np.zeros((50, 1), np.float32), "mse")  # disturbs none
    told, added = [], layout.zeros()
    batch = Batch(real, ready=lambda *each: told.append(each))
    network.backward(parameters, added, None, batch, deltas[0], slot=0, final=False)
    assert not told
    network.backward(parameters, added, None, batch, deltas[1], slot=1, add=True)
    assert_close(added, alone[0] + alone[1])
    assert [begin for begin, _ in told] == [layout["1.weight"].begin, layout["0.weight"].begin]


@pytest.mark.parametrize("loss", ["mse", "bce", "softmax"])
@pytest.mark.parametrize("n", [0, 1, 7, 67])
def test_gradient_add_is_the_sum(loss, n):
    network, layout, parameters = made([Dense(9, "tanh"), Dense(5)], 6)
    rows = rows_of(n, 6)
    targets = np.arange(n) % 5 if loss == "softmax" else np.random.default_rng(1).random((n, 5), dtype=np.float32)
    one, gradients = layout.zeros(), layout.zeros()
    value = network.gradient(parameters, one, None, None, rows, targets, loss)
    gradients[:] = 3
    assert network.gradient(parameters, gradients, None, None, rows, targets, loss, add=True) == value
    for name, view in layout.views(gradients).items():
        assert_close(view, layout.views(one)[name] + 3)


@pytest.mark.parametrize("n", [0, 1, 7, 67])
def test_softmax_gradient_and_scores(n):
    network, layout, parameters = made([Dense(9, "softplus"), Dense(5)], 6)
    rows, labels, oracle = rows_of(n, 6), np.random.default_rng(1).integers(0, 5, n), InDouble(network, layout)
    logits = oracle.outputs(parameters.astype(float), rows)[-1]
    loss, deltas = softmax(logits, labels)
    expected, _ = oracle.backward(parameters.astype(float), rows, deltas)
    places = np.random.default_rng(2).choice(layout.size, 12, replace=False)
    by_differences = differences(lambda p: softmax(oracle.outputs(p, rows)[-1], labels)[0],
                                 parameters.astype(float), places)
    np.testing.assert_allclose(expected[places], by_differences, rtol=1e-5, atol=1e-6)
    gradients = layout.zeros()
    assert network.gradient(parameters, gradients, None, None, rows, labels, "softmax") == pytest.approx(loss, rel=1e-5)
    assert_close(gradients, expected)
    scores = network.evaluate(parameters, None, None, rows, labels, "softmax")
    assert scores == {"loss": pytest.approx(loss, rel=1e-5), "accuracy": (logits.argmax(axis=1) == labels).sum()}


@pytest.mark.skipif(not _core.has_bfloat16(), reason="the processor has no bfloat16")
def test_softmax_and_tangents_in_bfloat16_are_those_of_float32_to_its_rounding():
    results = []
    for dtype in ("float32", "bfloat16"):
        network, layout, parameters = made([Dense(64, "leaky_relu"), Dense(10)], 40, dtype=dtype)
        rows, out, deltas = rows_of(50, 40), np.empty((50, 10), np.float32), rows_of(50, 10, 1)
        vectors = [layout.zeros(), layout.zeros(), layout.zeros(), np.empty((50, 40), np.float32)]
        network.gradient(parameters, vectors[0], None, None, rows, np.arange(50) % 10, "softmax")
        network.forward(parameters, None, None, rows, out, slot=0)
        network.backward(parameters, vectors[1], None, None, deltas, below=vectors[3])
        network.tangent(parameters, vectors[2], None, None, rows_of(50, 40, 2))
        results.append(vectors)
    for exact, rounded in zip(*results, strict=True):
        assert 0 < np.linalg.norm(rounded - exact) < 0.06 * np.linalg.norm(exact)  # rounding turns a few units on


PENALTIES = {
    "mean |g|^2": (lambda g: np.mean((g**2).sum(axis=1)), lambda g: 2 * g / len(g)),
    "mean (|g| - 1)^2": (
        lambda g: np.mean((np.linalg.norm(g, axis=1) - 1) ** 2),
        lambda g: 2 * (1 - 1 / np.linalg.norm(g, axis=1, keepdims=True)) * g / len(g)),
}


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize(("inputs", "hidden", "activation"), [
    (2, (16, 16), "leaky_relu"), (30, (20, 10), "leaky_relu"), (30, (20, 10), "relu"), (5, (), "linear")], ids=str)
@pytest.mark.parametrize("n", [1, 7, 32])
def test_tangents_give_the_gradient_of_a_penalty_on_gradients(penalty, inputs, hidden, activation, n):
    value, slope = PENALTIES[penalty]
    network, layout, parameters = made([*(Dense(units, activation) for units in hidden), Dense(1)], inputs)
    rows, ones, oracle = rows_of(n, inputs), np.ones((n, 1), np.float32), InDouble(network, layout)
    out, g, gradients = np.empty((n, 1), np.float32), np.empty((n, inputs), np.float32), layout.zeros()
    network.forward(parameters, None, None, rows, out, slot=0)
    network.backward(parameters, None, None, None, ones, below=g)
    for view in layout.views(gradients).values():
        view[...] = np.nan
    network.tangent(parameters, gradients, None, None, slope(g).astype(np.float32))
    places = np.concatenate([np.random.default_rng(2).integers(s.begin, s.end, 8) for s in layout])
    expected = differences(lambda p: value(oracle.backward(p, rows, ones)[1]), parameters.astype(float), places)
    assert_close(gradients[places], expected, 2e-4)
    for name, view in layout.views(gradients).items():
        assert not name.endswith("bias") or not view.any()
    twice = gradients.copy()
    network.tangent(parameters, twice, None, None, slope(g).astype(np.float32), add=True)
    assert_close(twice, 2 * gradients)


def test_tangents_are_refused_where_slopes_move():
    network, layout, parameters = made([Dense(4, "relu"), Dense(3, "tanh"), Dense(1)], 5, name="critic")
    rows = rows_of(3, 5)
    network.forward(parameters, None, None, rows, np.empty((3, 1), np.float32), slot=0)
    network.backward(parameters, None, None, None, np.ones((3, 1), np.float32))
    with pytest.raises(ParameterError, match=r"layer critic\.1 is Dense\(outputs=3, activation='tanh'.*piecewise"):
        network.tangent(parameters, layout.zeros(), None, None, rows)


@pytest.mark.parametrize("first", [1, 2])
@pytest.mark.parametrize("n", [0, 1, 40])
def test_frozen_layers_are_left_alone(first, n):
    network, layout, parameters = made([Dense(9, "relu"), Dense(7, "tanh"), Dense(4)], 6)
    rows, labels, whole, told = rows_of(n, 6), np.arange(n) % 4, layout.zeros(), []
    part, other = np.full(layout.size, 7, np.float32), np.full(layout.size, 7, np.float32)
    network.gradient(parameters, whole, None, None, rows, labels, "softmax")
    batch = Batch(rows, ready=lambda *each: told.append(each))
    network.gradient(parameters, part, None, batch, rows, labels, "softmax", first=first)
    assert [begin for begin, _ in told] == [layout[f"{i}.weight"].begin for i in (2, 1)[: 3 - first]]
    out, below = np.empty((n, 4), np.float32), np.empty((n, network.shapes[first][0]), np.float32)
    network.forward(parameters, None, None, rows, out, slot=0)
    deltas = softmax(out.astype(float), labels)[1].astype(np.float32) if n else out
    network.backward(parameters, other, None, None, deltas, first=first, below=below)
    for name, view in layout.views(part).items():
        if int(name[0]) < first:
            assert (view == 7).all() and (layout.views(other)[name] == 7).all()
        else:
            np.testing.assert_array_equal(view, layout.views(whole)[name])
            assert_close(layout.views(other)[name], view)
    with pytest.raises(ValueError, match="first is 3; expected 0 to 2"):
        network.gradient(parameters, part, None, None, rows, labels, "softmax", first=3)


def test_a_tangent_needs_the_deltas_of_all_layers():
    network, layout, parameters = made([Dense(3), Dense(1)], 4)
    rows, gradients = rows_of(2, 4), layout.zeros()
    network.forward(parameters, None, None, rows, np.empty((2, 1), np.float32), slot=0)
    network.backward(parameters, gradients, None, None, np.ones((2, 1), np.float32), first=1)
    with pytest.raises(ValueError, match="no deltas of all its layers"):
        network.tangent(parameters, gradients, None, None, rows)


def test_networks_share_one_layout():
    generator = Network([Dense(8, "relu"), Dense(5)], 3, name="generator", group="generator")
    critic = Network([Dense(8, "leaky_relu"), Dense(1)], 5, name="critic", group="critic", number=2)
    layout = Layout([*generator.slices, *critic.slices])
    assert layout.groups == ("generator", "critic")
    parameters, gradients = layout.zeros(), np.full(layout.size, 7, np.float32)
    for network in (generator, critic):
        network.compile(layout)
        network.initialise(parameters, 4)
    noise, samples = rows_of(20, 3), np.empty((20, 5), np.float32)
    scores, deltas, below = np.empty((20, 1), np.float32), rows_of(20, 1, 1), np.empty((20, 5), np.float32)
    generator.forward(parameters, None, None, noise, samples, slot=0)
    critic.forward(parameters, None, None, samples, scores, slot=0)
    critic.backward(parameters, None, None, None, deltas, below=below)
    generator.backward(parameters, gradients, None, None, below)
    begin, end = layout.range("critic")
    assert (gradients[begin:end] == 7).all()

    chain, own, own_parameters = made([*generator.layers, *critic.layers], 3)
    for mine, theirs in zip(own.views(own_parameters).values(), layout.views(parameters).values(), strict=True):
        mine[...] = theirs
    again, got = np.empty((20, 1), np.float32), own.zeros()
    chain.forward(own_parameters, None, None, noise, again, slot=0)
    chain.backward(own_parameters, got, None, None, deltas)
    np.testing.assert_array_equal(again, scores)
    for mine, theirs in list(zip(own.views(got).values(), layout.views(gradients).values(), strict=True))[:4]:
        assert_close(theirs, mine)


def test_layers_of_other_numbers_begin_otherwise():
    networks = [Network([Dense(4), Dense(4)], 4, name=str(number), number=number) for number in (0, 1, 3)]
    layout = Layout([s for network in networks for s in network.slices])
    parameters = layout.zeros()
    for network in networks:
        network.compile(layout).initialise(parameters, 4)
    views = layout.views(parameters)
    np.testing.assert_array_equal(views["0.1.weight"], views["1.0.weight"])  # both are layer 1
    weights = [views[name] for name in ("0.0.weight", "0.1.weight", "1.1.weight", "3.0.weight", "3.1.weight")]
    assert len({each.tobytes() for each in weights}) == 5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("parts", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [0, 1, 7, 40])
def test_parts_together_do_all_that_the_whole_does(parts, dtype, n):
    if dtype == "bfloat16" and not _core.has_bfloat16():
        pytest.skip("the processor has no bfloat16")
    whole, layout, parameters = made([Dense(11, "leaky_relu"), Dense(9, "relu"), Dense(5)], 3, dtype=dtype)
    rows, labels, deltas, directions = rows_of(n, 3), np.arange(n) % 5, rows_of(n, 5, 1), rows_of(n, 3, 2)

    def work(network, layout, parameters, batch):
        out, below = np.empty((n, 5), np.float32), np.empty((n, 3), np.float32)
        vectors = [layout.zeros() for _ in range(3)]
        loss = network.gradient(parameters, vectors[0], None, batch, rows, labels, "softmax")
        scores = network.evaluate(parameters, None, batch, rows, labels, "softmax")
        network.forward(parameters, None, batch, rows, out, slot=2)
        network.backward(parameters, vectors[1], None, batch, deltas, slot=2, below=below)
        network.tangent(parameters, vectors[2], None, batch, directions, slot=2)
        return [loss, *scores.values()], vectors, [out, below]

    def of_part(part, group):
        network = whole.split(part, parts)
        mine = Layout(network.slices)
        network.compile(mine)
        return mine, *work(network, mine, mine.cut(layout, parameters), Batch(rows, group=group))

    sums, vectors, outputs = work(whole, layout, parameters, None)
    exact = dtype == "float32" or n <= 12
    results = together(parts, of_part)
    scores = sum(np.array(each) for _, each, _, _ in results)
    np.testing.assert_allclose(scores, sums, rtol=1e-4 if exact else 0.2)
    for mine, _, got, whole_outputs in results:
        wanted = [*(mine.cut(layout, vector) for vector in vectors), *outputs]
        for one, expected in zip([*got, *whole_outputs], wanted, strict=True):
            assert np.linalg.norm(one - expected) <= (1e-5 if exact else 0.03) * np.linalg.norm(expected) + 1e-12


def test_a_chain_may_mix_cut_layers_with_whole_ones():
    """What later layers that cannot be cut will need of dense ones, and of the network."""
    whole, layout, parameters = made([Dense(6, "tanh"), Dense(9, "relu"), Dense(7, "sigmoid"), Dense(5)], 3)
    rows, n = rows_of(14, 3), 14
    for cut in ((1,), (0, 2), (3,), (0, 1, 3)):
        for loss, targets in (("mse", rows_of(n, 5, 1)), ("softmax", np.arange(n) % 5)):
            expected = layout.zeros()
            value = whole.gradient(parameters, expected, None, None, rows, targets, loss)

            def work(part, group, cut=cut, loss=loss, targets=targets):
                part_of = [(part, 2) if i in cut else (0, 1) for i in range(4)]
                mine = Layout([s for i, layer in enumerate(whole.layers)
                               for s in layer.slices(str(i), whole.shapes[i], part=part_of[i])])
                network = _core.Network([layer.native(str(i), whole.shapes[i], mine, Layout(), part_of[i])
                                         for i, layer in enumerate(whole.layers)])
                got = mine.zeros()
                value = network.gradient(mine.cut(layout, parameters), got, None, Batch(rows, group=group), rows,
                                         targets, loss)
                return mine, got, value

            results = together(2, work)
            assert sum(value for _, _, value in results) == pytest.approx(value, rel=1e-5)
            for mine, got, _ in results:
                assert_close(got, mine.cut(layout, expected), 5e-5)


def test_copies_and_pickles_are_compiled_again():
    network, layout, parameters = made([Dense(9, "relu"), Dense(2)], 4, name="a", group="b", number=3)
    rows, outs = rows_of(5, 4), [np.empty((5, 2), np.float32) for _ in range(3)]
    for each, out in zip((network, copy.deepcopy(network), pickle.loads(pickle.dumps(network))), outs, strict=True):
        each.forward(parameters, None, None, rows, out)
        np.testing.assert_array_equal(out, outs[0])
        assert Layout(each.slices) == layout


def test_steady_steps_of_alternating_sizes_keep_no_memory():
    import ctypes

    class Mallinfo(ctypes.Structure):
        _fields_ = [(name, ctypes.c_size_t) for name in ("a", "b", "c", "d", "mapped", "e", "f", "used", "g", "h")]

    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo is None:
        pytest.skip("this C library has no mallinfo2")
    mallinfo.restype = Mallinfo
    network, layout, parameters = made([Dense(50, "relu"), Dense(1)], 100)
    gradients, ones = layout.zeros(), np.ones((70, 1), np.float32)
    cases = [(rows_of(n, 100), np.empty((n, 1), np.float32), np.empty((n, 100), np.float32)) for n in (33, 70, 20)]

    def used_after(steps):
        for _ in range(steps):
            for rows, out, below in cases:
                network.forward(parameters, None, None, rows, out, slot=0)
                network.backward(parameters, gradients, None, None, ones[: len(rows)], below=below)
                network.tangent(parameters, gradients, None, None, below, add=True)
        info = mallinfo()
        return info.used + info.mapped

    used_after(3)
    before = used_after(3)
    assert used_after(100) - before < 4096


def test_what_is_wrong_is_named():
    assert isinstance(Dense(3), Layer)
    with pytest.raises(ParameterError, match="outputs is 0"):
        Dense(0)
    with pytest.raises(ParameterError, match="did you mean 'relu'"):
        Dense(3, "rleu")
    with pytest.raises(ParameterError, match="layers is empty"):
        Network([], 3)
    with pytest.raises(ParameterError, match="names has 1 names; expected one for each of 2 layers"):
        Network([Dense(3), Dense(2)], 3, names=["a"])
    with pytest.raises(ShapeError, match=r"inputs of shape \(4, 4\); expected \(features,\)"):
        Network([Dense(3)], (4, 4))
    with pytest.raises(ParameterError, match=r"split is 4, but layer head\.1 has 3 outputs"):
        Network([Dense(8), Dense(3)], 3, name="head").split(0, 4)
    with pytest.raises(InternalError, match="before it was compiled"):
        Network([Dense(3)], 3).flops  # noqa: B018
    network, layout, parameters = made([Dense(8), Dense(3)], 4)
    rows, gradients = rows_of(6, 4), layout.zeros()
    labels = np.array([0, 1, 2, 0, 3, 1])
    with pytest.raises(ValueError, match="row 4 has label 3; expected 0 to 2"):
        network.gradient(parameters, gradients, None, None, rows, labels, "softmax")
    with pytest.raises(ValueError, match="row 1 has label -1; expected 0 to 2"):
        network.evaluate(parameters, None, None, rows, np.array([0, -1, 2, 0, 0, 1]), "softmax")
    with pytest.raises(ValueError, match="targets has 3 labels; expected 6"):
        network.evaluate(parameters, None, None, rows, labels[:3], "softmax")
    with pytest.raises(TypeError, match="int64"):
        network.evaluate(parameters, None, None, rows, labels.astype(np.int32), "softmax")
    with pytest.raises(ParameterError, match="slot is 1, which keeps no pass"):
        network.backward(parameters, gradients, None, None, rows, slot=1)
    with pytest.raises(ValueError, match="slot is 16; expected 0 to 15"):
        network.forward(parameters, None, None, rows, np.empty((6, 3), np.float32), slot=16)
    network.forward(parameters, None, None, rows, np.empty((6, 3), np.float32), slot=1)
    with pytest.raises(ValueError, match=r"deltas has shape \(6, 4\); expected \(6, 3\)"):
        network.backward(parameters, gradients, None, None, rows, slot=1)
    with pytest.raises(ValueError, match="expected a backward pass before"):
        network.tangent(parameters, gradients, None, None, rows, slot=1)
