"""Layers over pictures: against NumPy in double and its finite differences, odd sizes among them."""

import ctypes
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from layer_oracles import InDouble, assert_close, assert_derivative, made, rows_of
from model_parts import together

from pyddl import _core
from pyddl.data.batch import Batch
from pyddl.errors import ParameterError, ShapeError
from pyddl.layout import Layout
from pyddl.models.layers import (
    BatchNorm,
    Conv,
    ConvTranspose,
    Corrupt,
    Dense,
    Dropout,
    Flatten,
    Gaussian,
    Layer,
    LayerNorm,
    Pool,
    Reshape,
    Resize,
    Sparsity,
    Transposed,
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
CASES |= {
    "batch norm": ([BatchNorm()], 6),
    "batch norm relu": ([BatchNorm("relu")], (3, 3, 20)),
    "batch norm 1@7": ([BatchNorm("tanh")], (7, 7, 1)),
    "batch norm wide": ([BatchNorm("leaky_relu")], (1, 1, 130)),
    "layer norm": ([LayerNorm()], 6),
    "layer norm relu": ([LayerNorm("relu")], (3, 5, 7)),
    "layer norm wide": ([LayerNorm("tanh")], (2, 2, 70)),
    "dropout": ([Dropout(0.3)], 7),
    "masking": ([Corrupt(0.4), Dense(5, "tanh")], 6),
    "gaussian noise": ([Dense(6), Corrupt(0.4, "gaussian")], (9,)),
    "gaussian": ([Dense(8), Gaussian(), Dense(3)], 5),
    "tied": ([Dense(7, "tanh"), Dense(4), Transposed("1", 7, "tanh"), Transposed("0", 20, bias=False)], 20),
    "seed": ([Conv(6, 3, bias=False), BatchNorm("relu"), Pool(2), Conv(8, 3, bias=False), BatchNorm("relu"), Flatten(),
              Dense(8), Gaussian(), Dropout(0.1), Dense(128), LayerNorm(), Reshape((4, 4, 8)), Resize(2),
              Conv(1, 3)], (8, 8, 1)),
}
ALL = pytest.mark.parametrize("case", CASES)


def batch_of(rows, **more):
    return Batch(rows, 100 + np.arange(len(rows)), seed=5, step=7, turn=2, **more)


def short_of_rows(case, n):
    """Batch norm cannot train on one value of a channel."""
    return n == 1 and case in ("batch norm", "batch norm wide")


@ALL
@pytest.mark.parametrize("n", [0, 1, 3, 18])
def test_layers_are_what_numpy_says(case, n):
    network, layout, parameters, buffers = made(*CASES[case])
    inputs, outputs = (int(np.prod(network.shapes[i])) for i in (0, -1))
    n += short_of_rows(case, n)
    rows, deltas = rows_of(n, inputs), rows_of(n, outputs, 1)
    batch = batch_of(rows)
    oracle = InDouble(network, layout, batch=batch, slot=3)
    out, below = np.full((n, outputs), np.nan, np.float32), np.full((n, inputs), np.nan, np.float32)
    network.forward(parameters, buffers, batch, rows, out, slot=3)
    assert_close(out, oracle.outputs(parameters.astype(float), rows), 1e-4)
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
    n += short_of_rows(case, n)
    rows, targets = rows_of(n, inputs), rows_of(n, outputs, 1)
    batch = batch_of(rows)
    out, one, kept, twice = np.empty((n, outputs), np.float32), layout.zeros(), layout.zeros(), layout.zeros()
    value = network.gradient(parameters, one, buffers, batch, rows, targets, "mse")
    network.forward(parameters, buffers, batch, rows, out, slot=0)
    assert value == pytest.approx(float(((out - targets).astype(float) ** 2).sum()), rel=1e-5)
    told = []
    network.backward(parameters, kept, buffers, None, 2 * (out - targets))
    assert_close(kept, one, 1e-4)
    batch.ready = lambda *each: told.append(each)
    network.backward(parameters, twice, buffers, batch, 2 * (out - targets), final=False)
    assert not told
    network.backward(parameters, twice, buffers, batch, 2 * (out - targets), add=True)
    assert_close(twice, 2 * one, 1e-4)
    covered = np.zeros(layout.size, bool)
    for begin, end in told:
        assert not covered[begin:end].any()
        covered[begin:end] = True
    assert all(covered[s.begin : s.end].all() for s in layout)


TANGENTS = [name for name, (chain, _) in CASES.items() if all(layer.piecewise_linear for layer in chain)]


@pytest.mark.parametrize("case", TANGENTS)
@pytest.mark.parametrize("n", [0, 1, 5])
def test_tangents_are_gradients_of_directional_derivatives(case, n):
    network, layout, parameters, buffers = made(*CASES[case])
    inputs, outputs = (int(np.prod(network.shapes[i])) for i in (0, -1))
    rows, deltas, directions = rows_of(n, inputs), rows_of(n, outputs, 1), rows_of(n, inputs, 2)
    batch = batch_of(rows)
    network.forward(parameters, buffers, batch, rows, np.empty((n, outputs), np.float32), slot=0)
    network.backward(parameters, None, buffers, None, deltas)
    gradients = layout.zeros()
    for view in layout.views(gradients).values():
        view[...] = np.nan
    network.tangent(parameters, gradients, buffers, None, directions)
    if not layout.size:
        return
    oracle, step = InDouble(network, layout, batch=batch), 1e-5
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
@pytest.mark.parametrize("n", [2, 18])
def test_bfloat16_is_float32_to_its_rounding(case, n):
    results = []
    for dtype in ("float32", "bfloat16"):
        network, layout, parameters, buffers = made(*CASES[case], dtype=dtype)
        inputs, outputs = (int(np.prod(network.shapes[i])) for i in (0, -1))
        rows, deltas = rows_of(n, inputs), rows_of(n, outputs, 1)
        batch = batch_of(rows)
        out, below, gradients = np.empty((n, outputs), np.float32), np.empty((n, inputs), np.float32), layout.zeros()
        network.forward(parameters, buffers, batch, rows, out, slot=0)
        network.backward(parameters, gradients, buffers, batch, deltas, below=below)
        loss = layout.zeros()
        network.gradient(parameters, loss, buffers, batch, rows, deltas, "mse")
        # Rounding has another of a window's values be the largest: then deltas go elsewhere.
        results.append((out, gradients, loss) if case.startswith("max") else (out, gradients, loss, below))
    for exact, rounded in zip(*results, strict=True):
        assert np.linalg.norm(rounded - exact) <= 0.15 * np.linalg.norm(exact)  # rounding turns a few units on


WINOGRAD = {  # the smaller picture, channels, whether it is taken for 40 rows
    (3, 1): {"8x8": (8, 8, 16, 32, False), "7x9": (7, 9, 32, 16, False), "28": (28, 28, 32, 32, True),
             "5x1": (5, 1, 48, 64, False)},
    (4, 2): {"8x8": (8, 8, 64, 96, True), "7x9": (7, 9, 32, 16, False), "4x5": (4, 5, 48, 64, False),
             "14": (14, 14, 16, 32, False)},
}


@pytest.mark.parametrize(("kernel", "stride", "case"), [(*kind, case) for kind, cases in WINOGRAD.items()
                                                        for case in cases])
@pytest.mark.parametrize("kind", [Conv, ConvTranspose])
@pytest.mark.parametrize("n", [1, 40])
def test_winograd_is_a_convolution_to_its_rounding(kernel, stride, case, kind, n):
    height, width, inputs, channels, pays = WINOGRAD[kernel, stride][case]
    if kind is Conv:
        height, width = stride * height, stride * width
    results = []
    for winograd in (False, True):
        network, layout, parameters, buffers = made([kind(channels, kernel, stride, activation="relu")],
                                                    (height, width, inputs), winograd=winograd)
        rows, deltas = rows_of(n, height * width * inputs), rows_of(n, int(np.prod(network.output)), 1)
        out, below, gradients = np.empty_like(deltas), np.empty_like(rows), layout.zeros()
        network.forward(parameters, buffers, None, rows, out, slot=0)
        deltas[np.abs(results[0][0] if results else out) < 1e-3] = 0  # a kink there
        network.backward(parameters, gradients, buffers, None, deltas, below=below)
        added, moved = gradients.copy(), layout.zeros()
        network.backward(parameters, added, buffers, None, deltas, add=True)
        network.tangent(parameters, moved, buffers, None, rows[::-1].copy())
        assert_close(added, 2 * gradients)
        results.append((out, below, gradients, moved))
    differ = [np.linalg.norm(fast - direct) / np.linalg.norm(direct) for direct, fast in zip(*results, strict=True)]
    assert max(differ) < 2e-5
    if n == 40 and pays:
        assert min(differ) > 0  # it was taken


@pytest.mark.skipif(not _core.has_bfloat16(), reason="the processor has no bfloat16")
@pytest.mark.parametrize("layer", [Conv(64, 3), Conv(32, 4, 2), Conv(32, 5, 3, padding=3), Conv(32, 2, padding="valid"),
                                   ConvTranspose(24, 4), ConvTranspose(8, 3, 1)])
@pytest.mark.parametrize("n", [2, 7, 33])
def test_weight_gradients_in_bfloat16_are_exact_for_what_is_read(layer, n):
    channels = 32 if layer.transposed else 16
    rounded = [rows_of(n, 6 * 7 * channels), None]
    results = []
    for dtype in ("float32", "bfloat16"):
        network, layout, parameters, buffers = made([layer], (6, 7, channels), dtype=dtype, winograd=False)
        rounded[1] = rows_of(n, int(np.prod(network.output)), 1)
        rows, deltas = ((each.view(np.uint32) & 0xffff0000).view(np.float32) for each in rounded)
        gradients = layout.zeros()
        network.forward(parameters, buffers, None, rows, np.empty_like(deltas), slot=0)
        network.backward(parameters, gradients, buffers, None, deltas)
        twice = gradients.copy()
        network.backward(parameters, twice, buffers, None, deltas, add=True)
        assert_close(twice, 2 * gradients)
        results.append(gradients)
    assert_close(*results)


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


@pytest.mark.parametrize(
    "case", ["classifier", "autoencoder", "planes", "transposed 5-1@7", "transposed 16-24@7", "seed"])
def test_steady_steps_keep_no_memory(case):
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo is None:
        pytest.skip("this C library has no mallinfo2")
    mallinfo.restype = Mallinfo
    network, layout, parameters, buffers = made(*CASES[case])
    inputs, outputs = (int(np.prod(network.shapes[i])) for i in (0, -1))
    gradients = layout.zeros()
    cases = [(rows_of(n, inputs), rows_of(n, outputs), batch_of(np.empty((n, 1)))) for n in (9, 20, 4)]

    def used_after(steps):
        for _ in range(steps):
            for rows, targets, batch in cases:
                network.gradient(parameters, gradients, buffers, batch, rows, targets, "mse")
        info = mallinfo()
        return info.used + info.mapped

    used_after(3)
    before = used_after(3)
    assert used_after(60) - before < 4096


@pytest.mark.parametrize(("level", "onednn"), [(2, "SSE41"), (3, "AVX2")])
def test_every_level_is_right(level, onednn):
    if os.environ.get("PYDDL_LEVEL") or level >= _core.simd_level():
        pytest.skip("a level is forced already, or this is the processor's own")
    environment = {**os.environ, "PYDDL_LEVEL": str(level), "ONEDNN_MAX_CPU_ISA": onednn}
    line = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__, "-k",
            "(numpy and 18) or winograd or largest or moments"]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


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
        (lambda: BatchNorm(decay=1), "decay is 1"),
        (lambda: Dropout(1), "p is 1"),
        (lambda: Corrupt(1.5), "amount is 1.5"),
        (lambda: Corrupt(0.5, "salt"), "kind is 'salt'"),
        (lambda: Gaussian(-1), "kl is -1"),
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
        ([Gaussian()], 5, r"shape \(5,\); expected \(2 n,\)"),
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


# ---- normalisation


def test_running_statistics_are_decayed_sums_and_serve_where_nothing_trains():
    network, layout, parameters, buffers = made([BatchNorm("relu", decay=0.8), Conv(2, 3)], (4, 4, 3))
    views = Layout(network.buffers).views(buffers)
    rows, out, below = rows_of(9, 48), np.empty((9, 32), np.float32), np.empty((9, 48), np.float32)
    network.forward(parameters, buffers, None, rows, out)  # nothing summed yet: mean 0, variance 1
    assert_close(out, InDouble(network, layout, training=False).outputs(parameters.astype(float), rows))
    assert not buffers.any()
    sums = np.zeros((3, 3))
    for step in range(5):
        x = 3 * rows_of(step + 1, 48, step) + 10
        network.gradient(parameters, layout.zeros(), buffers, None, x, x[:, :32].copy(), "mse")
        x = x.astype(float).reshape(-1, 3)
        sums = 0.8 * sums + np.array([x.sum(axis=0), (x * x).sum(axis=0), np.full(3, len(x))])
    for name, expected in (("0.sums", sums[0]), ("0.squares", sums[1]), ("0.rows", sums[2, :1])):
        np.testing.assert_allclose(views[name], expected, rtol=1e-5)
    before = buffers.copy()
    mean = sums[0] / sums[2]
    oracle = InDouble(network, layout, training=False, statistics={"0": (mean, sums[1] / sums[2] - mean**2)})
    rows = 3 * rows + 10
    network.forward(parameters, buffers, None, rows, out, slot=0, training=False)
    assert_close(out, oracle.outputs(parameters.astype(float), rows), 1e-4)
    deltas, gradients = rows_of(9, 32, 1), layout.zeros()
    network.backward(parameters, gradients, buffers, None, deltas, below=below)
    assert_derivative(lambda p: (oracle.outputs(p, rows) * deltas).sum(), parameters, gradients, 1e-3)
    assert_derivative(lambda x: (oracle.outputs(parameters.astype(float), x) * deltas).sum(), rows, below, 1e-3)
    network.gradient(parameters, gradients, buffers, None, rows, deltas, "mse", first=1)
    network.evaluate(parameters, buffers, None, rows, deltas, "mse")
    np.testing.assert_array_equal(buffers, before)


@pytest.mark.parametrize("cuts", [[0, 20], [0, 5, 12, 20], [0, 0, 1, 20, 20]])
def test_synchronised_workers_do_what_one_does(cuts):
    chain = [Conv(5, 3, bias=False), BatchNorm("relu", synchronised=True), Flatten(), Dense(6),
             BatchNorm(synchronised=True), Dense(3)]
    network, layout, parameters, buffers = made(chain, (4, 4, 2))
    rows, targets, one = rows_of(20, 32) + 2, rows_of(20, 3, 1), layout.zeros()
    own = [buffers.copy() for _ in cuts[1:]]
    for _ in range(2):
        value = network.gradient(parameters, one, buffers, None, rows, targets, "mse")
    workers = len(cuts) - 1
    barrier, shared = threading.Barrier(workers), [None] * workers

    def work(k):
        def add(vector):
            shared[k] = vector.copy()
            barrier.wait(100)
            vector[:] = np.sum(shared, axis=0)
            barrier.wait(100)
            return vector

        mine = pickle.loads(pickle.dumps(network))
        part, gradients = slice(cuts[k], cuts[k + 1]), layout.zeros()
        for _ in range(2):
            batch = Batch(rows[part], sum=add)
            loss = mine.gradient(parameters, gradients, own[k], batch, batch.rows, targets[part], "mse")
        return loss, gradients

    with ThreadPoolExecutor(workers) as pool:
        results = list(pool.map(work, range(workers)))
    assert sum(loss for loss, _ in results) == pytest.approx(value, rel=1e-5)
    assert_close(np.sum([gradients for _, gradients in results], axis=0), one, 2e-5)
    np.testing.assert_allclose(np.sum(own, axis=0), buffers, rtol=1e-5, atol=1e-5)
    for each in own:
        np.testing.assert_array_equal(each, own[0])


def test_statistics_hold_far_from_zero():
    network, _, parameters, buffers = made([BatchNorm()], (5, 5, 1))
    parameters[0], parameters[16] = 1, 0
    rows, out = rows_of(40, 25) + 1e4, np.empty((40, 25), np.float32)
    network.forward(parameters, buffers, None, rows, out, slot=0)
    exact = rows.astype(float)
    assert_close(out, (exact - exact.mean()) / np.sqrt(exact.var() + 1e-5), 1e-3)


def test_batch_norm_refuses_one_value_per_channel():
    network, layout, parameters, buffers = made([Dense(4), BatchNorm(), Dense(1)], 3, name="critic")
    rows = rows_of(1, 3)
    with pytest.raises(ValueError, match=r"layer critic\.1 trains on one value per channel.*larger batch"):
        network.gradient(parameters, layout.zeros(), buffers, None, rows, rows[:, :1].copy(), "mse")
    assert not buffers.any()
    network.forward(parameters, buffers, None, rows, np.empty((1, 1), np.float32))
    with pytest.raises(ValueError, match=r"buffers has 0 elements; layers\[1\] expects at least"):
        network.forward(parameters, None, None, rows, np.empty((1, 1), np.float32))
    network.forward(parameters, buffers, None, rows_of(3, 3), np.empty((3, 1), np.float32), slot=0)
    network.backward(parameters, None, buffers, None, np.ones((3, 1), np.float32))
    with pytest.raises(ParameterError, match=r"layer critic\.1 is BatchNorm"):
        network.tangent(parameters, layout.zeros(), buffers, None, rows_of(3, 3))


# ---- noise


@pytest.mark.parametrize("layer", [Dropout(0.3), Corrupt(0.4), Corrupt(0.5, "gaussian"), Gaussian()], ids=str)
def test_noise_depends_on_its_keys_and_on_nothing_else(layer):
    network, _, parameters, buffers = made([layer], 20)
    size = int(np.prod(network.output))
    rows = np.abs(rows_of(12, 20)) + 1

    def noisy(slot=0, part=slice(None), network=network, **keys):
        batch = Batch(rows[part], np.arange(50, 62)[part], **{"seed": 1, "step": 2, "turn": 1, **keys})
        out = np.empty((len(batch), size), np.float32)
        network.forward(parameters, buffers, batch, batch.rows, out, slot=slot)
        return out

    whole = noisy()
    np.testing.assert_array_equal(noisy(), whole)
    np.testing.assert_array_equal(np.concatenate([noisy(part=slice(0, 5)), noisy(part=slice(5, 12))]), whole)
    others = [noisy(seed=2), noisy(step=3), noisy(turn=2), noisy(slot=1),
              noisy(network=made([layer], 20, number=1)[0])]
    assert len({each.tobytes() for each in [whole, *others]}) == 6
    out = np.empty((12, size), np.float32)
    network.forward(parameters, buffers, None, rows, out)  # serving: nothing is drawn
    np.testing.assert_array_equal(out, rows[:, :size])
    with pytest.raises(ValueError, match=r"12 rows, whose indices are 0; expected a batch"):
        network.forward(parameters, buffers, None, rows, out, slot=0)
    with pytest.raises(ValueError, match="turn 16"):
        noisy(turn=16)


def test_noise_has_its_moments():
    rows, out = np.ones((2000, 50), np.float32), np.empty((2000, 50), np.float32)
    for layer, mean, deviation in [(Dropout(0.2), 1, 0.5), (Corrupt(0.3), 0.7, 0.21**0.5),
                                   (Corrupt(0.3, "gaussian"), 1, 0.3)]:
        network, _, parameters, buffers = made([layer], 50)
        network.forward(parameters, buffers, batch_of(rows), rows, out, slot=0)
        assert out.mean() == pytest.approx(mean, abs=0.01)
        assert out.std() == pytest.approx(deviation, rel=0.02)


@pytest.mark.parametrize("n", [0, 1, 6])
def test_the_divergence_is_part_of_loss_and_gradient(n):
    network, layout, parameters, buffers = made([Dense(8, "tanh"), Gaussian(kl=0.5), Dense(3)], 5)
    rows, targets, gradients = rows_of(n, 5), rows_of(n, 3, 1), layout.zeros()
    batch = batch_of(rows)
    oracle = InDouble(network, layout, batch=batch)

    def divergence(p):
        views = layout.views(np.zeros(layout.size, np.float32))
        weight, bias = (p[layout[f"0.{name}"].begin : layout[f"0.{name}"].end].reshape(views[f"0.{name}"].shape)
                        for name in ("weight", "bias"))
        mean, log_variance = np.split(np.tanh(rows.astype(float) @ weight.T + bias), 2, axis=1)
        return 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum()

    def loss(p):
        return ((oracle.outputs(p, rows) - targets) ** 2).sum() + 0.5 * divergence(p)

    value = network.gradient(parameters, gradients, buffers, batch, rows, targets, "mse")
    exact = parameters.astype(float)
    assert value == pytest.approx(loss(exact), rel=1e-5)
    assert_derivative(loss, parameters, gradients)
    scores = network.evaluate(parameters, buffers, batch, rows, targets, "mse", sampling=True)
    assert scores["kl"] == pytest.approx(divergence(exact), rel=1e-5)
    assert scores["loss"] == pytest.approx(value, rel=1e-5)
    oracle = InDouble(network, layout, training=False)
    scores = network.evaluate(parameters, buffers, None, rows, targets, "mse")
    assert scores["loss"] == pytest.approx(loss(exact), rel=1e-5)


# ---- tied weights and sparsity


def test_tied_weights_are_one_tensor_which_is_announced_when_both_layers_are_done():
    network, layout, parameters, buffers = made([Dense(7), Transposed("0", 20)], 20)
    assert [s.name for s in layout] == ["0.weight", "0.bias", "1.bias"]
    told, batch = [], batch_of(rows_of(5, 20))
    batch.ready = lambda begin, end: told.append((begin, end))
    network.gradient(parameters, layout.zeros(), buffers, batch, batch.rows, batch.rows, "mse")
    assert told[0] == (layout["1.bias"].begin, layout["1.bias"].end)
    assert told[1] == (layout["0.weight"].begin, layout["0.bias"].end)
    with pytest.raises(ParameterError, match="share weights: expected one through all layers"):
        network.forward(parameters, buffers, None, batch.rows, np.empty((5, 7), np.float32), last=1, slot=0)


@pytest.mark.parametrize(("chain", "error", "message"), [
    ([Dense(7), Transposed("1", 20)], ParameterError, r"shares the weights of '1'; expected a dense layer before it"),
    ([Dropout(), Transposed("0", 20)], ParameterError, r"shares the weights of '0'; expected a dense layer before it"),
    ([Dense(7), Dense(6), Transposed("0", 20)], ShapeError, "has 6 inputs and 20 outputs; .* are for 7 and 20"),
    ([Dense(7), Transposed("0", 21)], ShapeError, "has 7 inputs and 21 outputs; .* are for 7 and 20"),
])
def test_tied_layers_need_one_that_fits(chain, error, message):
    with pytest.raises(error, match=message):
        Network(chain, 20)


def test_tied_layers_are_not_split():
    with pytest.raises(ParameterError, match=r"layer 1 shares the weights of 0.*leave out split, or tied"):
        Network([Dense(7), Transposed("0", 20)], 20).split(0, 2)


@pytest.mark.parametrize("cuts", [[0, 20], [0, 5, 12, 20], [0, 0, 1, 20, 20]])
def test_sparsity_is_of_all_workers_rows(cuts):
    network, layout, parameters, buffers = made([Dense(6, "sigmoid"), Sparsity(0.1, 0.7), Dense(3)], 5)
    rows, targets, one = rows_of(20, 5), rows_of(20, 3, 1), layout.zeros()
    value = network.gradient(parameters, one, buffers, None, rows, targets, "mse")
    oracle = InDouble(network, layout)

    def loss(p):
        code = InDouble(made([Dense(6, "sigmoid")], 5)[0], layout).outputs(p, rows)
        m, t = code.mean(axis=0), 0.1
        divergence = (t * np.log(t / m) + (1 - t) * np.log((1 - t) / (1 - m))).sum()
        return ((oracle.outputs(p, rows) - targets) ** 2).sum() + 0.7 * 20 * divergence

    assert value == pytest.approx(loss(parameters.astype(float)), rel=1e-5)
    assert_derivative(loss, parameters, one)
    scores = network.evaluate(parameters, buffers, None, rows, targets, "mse")
    assert scores["loss"] == pytest.approx(scores["squared_error"]) and "kl" not in scores

    def work(k, group):
        mine, gradients = pickle.loads(pickle.dumps(network)), layout.zeros()
        part = slice(cuts[k], cuts[k + 1])

        def add(vector):
            vector[:] = sum(group._all(vector))
            return vector

        batch = Batch(rows[part], sum=add)
        return mine.gradient(parameters, gradients, buffers, batch, batch.rows, targets[part], "mse"), gradients

    results = together(len(cuts) - 1, work)
    assert sum(loss for loss, _ in results) == pytest.approx(value, rel=1e-5)
    assert_close(np.sum([gradients for _, gradients in results], axis=0), one, 2e-5)


def test_sparsity_brings_back_units_that_are_off():
    network, _, parameters, buffers = made([Sparsity(0.1)], 2)
    rows, below = np.array([[0, 0.5]] * 3, np.float32), np.empty((3, 2), np.float32)
    network.forward(parameters, buffers, None, rows, np.empty((3, 2), np.float32), slot=0)
    network.backward(parameters, None, buffers, None, np.zeros((3, 2), np.float32), below=below)
    assert np.isfinite(below).all() and (below[:, 0] < 0).all() and (below[:, 1] > 0).all()
    with pytest.raises(ParameterError, match="target is 1"):
        Sparsity(1)
    with pytest.raises(ParameterError, match="cost is 0"):
        Sparsity(0.1, 0)
