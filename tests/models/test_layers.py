"""Layers over pictures: against NumPy in double and its finite differences, odd sizes among them."""

import ctypes
import pickle

import numpy as np
import pytest
from layer_oracles import InDouble, assert_close, assert_derivative, made, rows_of
from model_parts import together

from pyddl import _core
from pyddl.data.batch import Batch
from pyddl.errors import ParameterError, ShapeError
from pyddl.layout import Layout
from pyddl.models.layers import (
    Conv,
    ConvTranspose,
    Dense,
    Flatten,
    Layer,
    Pool,
    Reshape,
    Resize,
    as_plain,
    from_plain,
)
from pyddl.models.network import Network

CASES = {
    "conv 1-5@7": ([Conv(5, 3, activation="relu")], (7, 7, 1)),
    "conv 3-5@7 stride 2": ([Conv(5, 3, 2, activation="leaky_relu")], (7, 7, 3)),
    "conv 3-4@7x5 kernel 4": ([Conv(4, 4, 2, padding=1, bias=False)], (7, 5, 3)),
    "conv 6-1@7": ([Conv(1, 3, activation="tanh")], (7, 7, 6)),
    "conv 6-3@5 kernel 5": ([Conv(3, 5, activation="softplus")], (5, 6, 6)),
    "conv 6-3@7 stride 2": ([Conv(3, 3, 2)], (7, 7, 6)),
    "conv 6-2 valid": ([Conv(2, 3, padding="valid")], (6, 7, 6)),
    "conv 1-1 whole": ([Conv(1, 7, padding="valid")], (7, 7, 1)),
    "conv 20-17@8": ([Conv(17, 3, activation="sigmoid")], (8, 9, 20)),
    "conv 16-32@7": ([Conv(32, 3, activation="relu")], (7, 7, 16)),
    "conv 16-32@1x1": ([Conv(32, 1)], (3, 3, 16)),
    "transposed 5-4@7": ([ConvTranspose(4, 4, activation="relu")], (7, 7, 5)),
    "transposed 5-1@7": ([ConvTranspose(1, 4, activation="sigmoid")], (7, 7, 5)),
    "transposed 5-3@7 kernel 3": ([ConvTranspose(3, 3)], (7, 6, 5)),
    "transposed 5-2 valid": ([ConvTranspose(2, 3, 2, padding="valid", bias=False)], (3, 4, 5)),
    "transposed 1-8 stride 1": ([ConvTranspose(8, 3, 1)], (5, 5, 1)),
    "transposed 3-8 stride 1": ([ConvTranspose(8, 3, 1, padding=0)], (5, 5, 3)),
    "transposed 16-24@7": ([ConvTranspose(24, 4, activation="tanh")], (7, 7, 16)),
    "max 2": ([Pool(2)], (7, 7, 3)),
    "max 3": ([Pool(3)], (7, 8, 1)),
    "mean 2": ([Pool(2, "mean")], (7, 7, 5)),
    "nearest 2": ([Resize(2)], (7, 5, 3)),
    "nearest 3": ([Resize(3)], (2, 3, 1)),
    "bilinear 2": ([Resize(2, "bilinear")], (7, 7, 3)),
    "bilinear 3": ([Resize(3, "bilinear")], (1, 5, 2)),
    "planes": ([Reshape((4, 5, 3), planes=True), Conv(2, 3), Flatten(planes=True)], 60),
    "classifier": ([Reshape((7, 7, 1)), Conv(4, 3, activation="relu"), Pool(2), Conv(6, 3, activation="relu"),
                    Pool(3), Flatten(), Dense(5)], 49),
    "autoencoder": ([Conv(6, 3, activation="leaky_relu"), Pool(2), Conv(4, 3), Resize(2, "bilinear"),
                     Conv(1, 3), Flatten()], (8, 8, 1)),
}
ALL = pytest.mark.parametrize("case", CASES)


@ALL
@pytest.mark.parametrize("n", [0, 1, 3, 18])
def test_layers_are_what_numpy_says(case, n):
    network, layout, parameters, buffers = made(*CASES[case])
    inputs, outputs = (int(np.prod(network.shapes[i])) for i in (0, -1))
    rows, deltas, oracle = rows_of(n, inputs), rows_of(n, outputs, 1), InDouble(network, layout)
    out, below = np.full((n, outputs), np.nan, np.float32), np.full((n, inputs), np.nan, np.float32)
    network.forward(parameters, buffers, None, rows, out, slot=3)
    assert_close(out, oracle.outputs(parameters.astype(float), rows))
    gradients = layout.zeros()
    for view in layout.views(gradients).values():
        view[...] = np.nan
    given = [a.copy() for a in (rows, deltas, parameters)]
    network.backward(parameters, gradients, buffers, None, deltas, slot=3, below=below)
    for array, before in zip((rows, deltas, parameters), given, strict=True):
        np.testing.assert_array_equal(array, before)
    if layout.size:
        assert_derivative(lambda p: (oracle.outputs(p, rows) * deltas).sum(), parameters, gradients)
    if n:
        assert_derivative(lambda x: (oracle.outputs(parameters.astype(float), x) * deltas).sum(), rows, below)
    again = np.full_like(below, np.nan)
    network.backward(parameters, None, buffers, None, deltas, slot=3, below=again)  # no gradients are wanted
    np.testing.assert_array_equal(again, below)


@ALL
@pytest.mark.parametrize("n", [0, 1, 18])
def test_gradients_of_a_loss_and_of_two_passes_add_up(case, n):
    network, layout, parameters, buffers = made(*CASES[case])
    inputs, outputs = (int(np.prod(network.shapes[i])) for i in (0, -1))
    rows, targets = rows_of(n, inputs), rows_of(n, outputs, 1)
    out, one, kept, twice = np.empty((n, outputs), np.float32), layout.zeros(), layout.zeros(), layout.zeros()
    value = network.gradient(parameters, one, buffers, None, rows, targets, "mse")
    network.forward(parameters, buffers, None, rows, out, slot=0)
    assert value == pytest.approx(float(((out - targets).astype(float) ** 2).sum()), rel=1e-5)
    told = []
    batch = Batch(rows, ready=lambda *each: told.append(each))
    network.backward(parameters, kept, buffers, None, 2 * (out - targets))
    assert_close(kept, one, 1e-4)
    network.forward(parameters, buffers, None, rows, out, slot=1)
    network.backward(parameters, twice, buffers, batch, 2 * (out - targets), final=False)
    assert not told
    network.backward(parameters, twice, buffers, batch, 2 * (out - targets), slot=1, add=True)
    assert_close(twice, 2 * one, 1e-4)
    covered = np.zeros(layout.size, bool)
    for begin, end in told:
        assert not covered[begin:end].any()
        covered[begin:end] = True
    assert all(covered[s.begin : s.end].all() for s in layout)
    assert network.evaluate(parameters, buffers, None, rows, targets, "mse")["loss"] == pytest.approx(value, rel=1e-5)


TANGENTS = [name for name, (chain, _) in CASES.items() if all(layer.piecewise_linear for layer in chain)]


@pytest.mark.parametrize("case", TANGENTS)
@pytest.mark.parametrize("n", [0, 1, 5])
def test_tangents_are_gradients_of_directional_derivatives(case, n):
    network, layout, parameters, buffers = made(*CASES[case])
    inputs, outputs = (int(np.prod(network.shapes[i])) for i in (0, -1))
    rows, deltas, directions = rows_of(n, inputs), rows_of(n, outputs, 1), rows_of(n, inputs, 2)
    network.forward(parameters, buffers, None, rows, np.empty((n, outputs), np.float32), slot=0)
    network.backward(parameters, None, buffers, None, deltas)
    gradients = layout.zeros()
    for view in layout.views(gradients).values():
        view[...] = np.nan
    network.tangent(parameters, gradients, buffers, None, directions)
    if not layout.size:
        return
    oracle, step = InDouble(network, layout), 1e-5
    u = directions.astype(float)

    def along(p):
        moved = oracle.outputs(p, rows.astype(float) + step * u) - oracle.outputs(p, rows.astype(float) - step * u)
        return (moved * deltas).sum() / (2 * step)

    assert_derivative(along, parameters, gradients, 2e-3)
    twice = gradients.copy()
    network.tangent(parameters, twice, buffers, None, directions, add=True)
    assert_close(twice, 2 * gradients)


@pytest.mark.skipif(not _core.has_bfloat16(), reason="the processor has no bfloat16")
@ALL
@pytest.mark.parametrize("n", [1, 18])
def test_bfloat16_is_float32_to_its_rounding(case, n):
    results = []
    for dtype in ("float32", "bfloat16"):
        network, layout, parameters, buffers = made(*CASES[case], dtype=dtype)
        inputs, outputs = (int(np.prod(network.shapes[i])) for i in (0, -1))
        rows, deltas = rows_of(n, inputs), rows_of(n, outputs, 1)
        out, below, gradients = np.empty((n, outputs), np.float32), np.empty((n, inputs), np.float32), layout.zeros()
        network.forward(parameters, buffers, None, rows, out, slot=0)
        network.backward(parameters, gradients, buffers, None, deltas, below=below)
        loss = layout.zeros()
        network.gradient(parameters, loss, buffers, None, rows, deltas, "mse")
        results.append((out, gradients, below, loss))
    for exact, rounded in zip(*results, strict=True):
        assert np.linalg.norm(rounded - exact) <= 0.15 * np.linalg.norm(exact)  # rounding turns a few units on


def test_the_largest_of_a_window_is_the_first_and_nan_is_never_hidden():
    network, _, parameters, buffers = made([Pool(2)], (2, 2, 1))
    for row, place in ([1, 3, 3, 2], 1), ([-1, -1, -1, -1], 0), ([1, np.nan, 3, np.nan], 1), ([np.nan, 1, 2, 3], 0):
        rows, out = np.array([row], np.float32), np.empty((1, 1), np.float32)
        below = np.empty((1, 4), np.float32)
        network.forward(parameters, buffers, None, rows, out, slot=0)
        np.testing.assert_array_equal(out[0, 0], rows[0, place])
        network.backward(parameters, None, buffers, None, np.ones((1, 1), np.float32), below=below)
        np.testing.assert_array_equal(below[0], np.eye(4)[place])
    for chain in ([Conv(8, 3, activation="relu")], [ConvTranspose(8, 4, activation="relu")], [Conv(1, 3)]):
        network, _, parameters, buffers = made(chain, (6, 6, 4))
        parameters[3] = np.nan
        out = np.empty((2, int(np.prod(network.output))), np.float32)
        network.forward(parameters, buffers, None, rows_of(2, 144), out)
        assert np.isnan(out).any()


def test_first_values_do_not_depend_on_the_layout():
    for layer in (Conv(8, 3), ConvTranspose(8, 4), Conv(8, 3, activation="relu", initialiser="sparse")):
        network = Network([layer], (6, 6, 4), number=5)
        other = Network([Dense(3), Dense(144), Reshape((6, 6, 4)), layer], 7, number=2)
        views = []
        for each in (network, other):
            layout = Layout(each.slices)
            parameters = layout.zeros()
            each.compile(layout).initialise(parameters, 9)
            views.append(layout.views(parameters)[f"{each.names[-1]}.weight"])
        np.testing.assert_array_equal(*views)
    weights = layout.views(parameters)["3.weight"]
    assert ((weights != 0).sum(axis=(0, 1, 2)) == 15).all()
    network, layout, parameters, _ = made([Conv(64, 3, activation="relu")], (6, 6, 32))
    network.initialise(parameters, 9)
    assert layout.views(parameters)["0.weight"].std() == pytest.approx((2 / (32 * 9)) ** 0.5, rel=0.02)
    network, layout, parameters, _ = made([ConvTranspose(64, 4)], (6, 6, 32))
    network.initialise(parameters, 9)
    assert layout.views(parameters)["0.weight"].std() == pytest.approx((2 / (96 * 4)) ** 0.5, rel=0.02)


def test_layers_as_plain_values():
    for chain, inputs in CASES.values():
        for layer in chain:
            assert isinstance(layer, Layer)
            assert from_plain(as_plain(layer)) == layer
        network, _, parameters, buffers = made(chain, inputs)
        rows = rows_of(2, int(np.prod(network.shapes[0])))
        outs = np.empty((2, 2, int(np.prod(network.output))), np.float32)
        network.forward(parameters, buffers, None, rows, outs[0])
        pickle.loads(pickle.dumps(network)).forward(parameters, buffers, None, rows, outs[1])
        np.testing.assert_array_equal(*outs)


@pytest.mark.parametrize("parts", [2, 3])
def test_dense_layers_are_cut_and_others_held_whole(parts):
    chain = [Conv(4, 3, activation="relu"), Pool(2), Flatten(), Dense(9, "tanh"), Dense(24), Reshape((2, 3, 4)),
             ConvTranspose(3, 4), Flatten()]
    whole, layout, parameters, _ = made(chain, (7, 7, 1))
    rows, targets, expected = rows_of(14, 49), rows_of(14, 72, 1), layout.zeros()
    value = whole.gradient(parameters, expected, None, None, rows, targets, "mse")

    def of_part(part, group):
        network = whole.split(part, parts)
        mine = Layout(network.slices)
        network.compile(mine)
        got, batch = mine.zeros(), Batch(rows, group=group)
        return mine, got, network.gradient(mine.cut(layout, parameters), got, None, batch, rows, targets, "mse")

    results = together(parts, of_part)
    assert sum(loss for _, _, loss in results) == pytest.approx(value, rel=1e-5)
    for mine, got, _ in results:
        assert_close(got, mine.cut(layout, expected), 5e-5)


def test_threads_change_nothing_but_rounding():
    chain, before = CASES["autoencoder"][0], _core.threads()
    network, layout, parameters, buffers = made([Conv(32, 3, activation="relu"), *chain], (28, 28, 1))
    rows, results = rows_of(20, 784), []
    try:
        for threads in (1, 2, 1):
            _core.set_threads(threads)
            gradients = layout.zeros()
            network.gradient(parameters, gradients, buffers, None, rows, rows, "mse")
            results.append(gradients)
    finally:
        _core.set_threads(before)
    np.testing.assert_array_equal(results[0], results[2])
    assert_close(results[1], results[0], 1e-4)


class Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in ("a", "b", "c", "d", "mapped", "e", "f", "used", "g", "h")]


@pytest.mark.parametrize("case", ["classifier", "autoencoder", "planes", "transposed 5-1@7", "transposed 16-24@7"])
def test_steady_steps_keep_no_memory(case):
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo is None:
        pytest.skip("this C library has no mallinfo2")
    mallinfo.restype = Mallinfo
    network, layout, parameters, buffers = made(*CASES[case])
    inputs, outputs = (int(np.prod(network.shapes[i])) for i in (0, -1))
    gradients = layout.zeros()
    cases = [(rows_of(n, inputs), rows_of(n, outputs)) for n in (9, 20, 4)]

    def used_after(steps):
        for _ in range(steps):
            for rows, targets in cases:
                network.gradient(parameters, gradients, buffers, None, rows, targets, "mse")
        info = mallinfo()
        return info.used + info.mapped

    used_after(3)
    before = used_after(3)
    assert used_after(60) - before < 4096


def test_what_is_wrong_is_named():
    for wrong, match in [
        (lambda: Conv(0, 3), "channels is 0"),
        (lambda: Conv(4, 2), "kernel is 2, which is even.*choose kernel 3"),
        (lambda: Conv(4, 3, padding="some"), "padding is 'some'"),
        (lambda: Conv(4, 3, padding=3), "padding is 3, but the kernel is 3"),
        (lambda: Conv(4, 3, activation="rleu"), "did you mean 'relu'"),
        (lambda: ConvTranspose(4, 3, 0), "stride is 0"),
        (lambda: Pool(16), "size is 16"),
        (lambda: Pool(2, "median"), "kind is 'median'"),
        (lambda: Resize(2, "cubic"), "kind is 'cubic'"),
    ]:
        with pytest.raises(ParameterError, match=match):
            wrong()
    for chain, inputs, match in [
        ([Conv(4, 3)], 49, r"layer 0: Conv\(.*inputs of shape \(49,\); expected \(height, width, channels\).*Reshape"),
        ([Pool(4), Conv(4, 3, padding="valid")], (8, 8, 1), "layer 1: .*kernel is larger than the picture"),
        ([Pool(9)], (8, 8, 1), "layer 0: .*windows are larger"),
        ([Reshape((7, 7, 2))], 49, r"shape \(49,\) have 49 values; shape \(7, 7, 2\) needs 98"),
        ([Conv(4, 3), Dense(3)], (8, 8, 1), r"layer 1: a dense layer has inputs of shape \(8, 8, 4\).*Flatten\(\)"),
        ([ConvTranspose(1, 3, 1, padding=2)], (2, 2, 1), "nothing would be left"),
    ]:
        with pytest.raises(ShapeError, match=match):
            Network(chain, inputs)
    with pytest.raises(ShapeError, match="planes"):
        Reshape((49,), planes=True)
    with pytest.raises(ShapeError, match="shape is"):
        Reshape((7, 7))
    with pytest.raises(ValueError, match="sizes that belong together"):
        _core.Network([{"kind": "conv", "from": (7, 7, 1), "to": (3, 3, 1), "kernel": 3, "stride": 1, "padding": 1,
                        "activation": "relu", "weight": 0}])
