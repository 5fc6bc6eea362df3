"""Networks of dense layers: fast kernels against plain loops in double, those against finite differences."""

import ctypes
import os
import subprocess
import sys

import numpy as np
import pytest
from layer_oracles import differences

from pyddl import _core
from pyddl.data.batch import Batch

ACTIVATIONS = ["linear", "sigmoid", "relu", "leaky_relu", "tanh", "softplus"]
LEVELS = {
    2: "SSE41",
    3: "AVX2",
    4: "ALL",
}  # PYDDL_LEVEL: what caps oneDNN's own choice at about the same level


def dense(inputs, outputs, activation, weight, bias=-1, **more):
    return {"kind": "dense", "inputs": inputs, "outputs": outputs, "activation": activation, "weight": weight,
            "bias": bias, **more}


def sizes_of(layer):
    return tuple(layer[name] for name in ("inputs", "outputs", "weight", "bias"))


def chain(sizes, activations, bias=True):
    """Layers of a chain with each tensor on a multiple of 16 floats, and the length of the vector."""
    layers, at = [], 0
    for inputs, outputs, activation in zip(sizes, sizes[1:], activations, strict=False):
        weights, at = at, at + -(-inputs * outputs // 16) * 16
        layers.append(dense(inputs, outputs, activation, weights, at if bias else -1))
        at += -(-outputs // 16) * 16 if bias else 0
    return layers, at


def random_case(layers, size, batch, seed=0):
    rng = np.random.default_rng(seed)
    parameters = np.zeros(size, np.float32)
    for inputs, outputs, weights, bias in map(sizes_of, layers):
        parameters[weights : weights + inputs * outputs] = rng.normal(0, inputs**-0.5, inputs * outputs)
        if bias >= 0:
            parameters[bias : bias + outputs] = rng.normal(0, 0.1, outputs)
    rows = rng.random((batch, layers[0]["inputs"]), dtype=np.float32)
    targets = rng.random((batch, layers[-1]["outputs"]), dtype=np.float32)
    return parameters, rows, targets


def reference_gradient(layers, parameters, rows, targets, loss):
    gradients = np.zeros(parameters.size)
    value = _core.reference_network_gradient(
        layers, parameters.astype(float), gradients, rows.astype(float), targets.astype(float), loss
    )
    return value, gradients


def assert_close(got, expected, rtol=2e-5):
    """Close relative to the largest element: a sum's rounding error follows its terms, not its result."""
    scale = max(np.abs(expected).max(initial=0), 1e-6)
    np.testing.assert_allclose(got, expected, rtol=0, atol=rtol * scale)


@pytest.mark.parametrize("batch", [0, 1, 7, 31, 128])
@pytest.mark.parametrize("inputs,outputs", [(1, 1), (17, 13), (65, 257), (1025, 3), (515, 6)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_layer_matches_reference(activation, inputs, outputs, batch):
    layers, size = chain([inputs, outputs], [activation])
    network = _core.Network(layers)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(batch, inputs))
    w = rng.normal(0, inputs**-0.5, (outputs, inputs))
    b = rng.normal(size=outputs)
    y, y32 = np.empty((batch, outputs)), np.empty((batch, outputs), np.float32)
    _core.reference_dense_forward(x, w, b, activation, y)
    parameters, at = np.zeros(size, np.float32), layers[0]["bias"]
    parameters[: w.size], parameters[at : at + outputs] = w.ravel(), b
    x32 = x.astype(np.float32)
    network.forward(parameters, None, None, x32, y32, slot=0)
    assert_close(y32, y)

    upstream = rng.normal(size=y.shape)
    d, dw, db, dx = upstream.copy(), np.empty(w.shape), np.empty(b.shape), np.empty(x.shape)
    _core.reference_dense_backward(x, w, y, activation, d, dw, db, dx)
    gradients, dx32 = np.full(size, np.nan, np.float32), np.full(x.shape, np.nan, np.float32)
    network.backward(parameters, gradients, None, None, x32, upstream.astype(np.float32), dx32)
    for got, expected in [(gradients[: w.size], dw.ravel()), (gradients[at : at + outputs], db), (dx32, dx)]:
        assert_close(got, expected, 5e-5)


@pytest.mark.parametrize("batch", [0, 1, 7, 128])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "sizes,activations,loss",
    [
        ([1, 1], ["linear"], "mse"),
        ([13, 7, 13], ["sigmoid", "sigmoid"], "mse"),
        ([65, 31, 1, 31, 65], ["relu", "softplus", "leaky_relu", "tanh"], "mse"),
        ([784, 97, 784], ["tanh", "linear"], "bce"),
        ([257, 64, 16, 64, 257], ["relu", "leaky_relu", "softplus", "linear"], "bce"),
    ],
)
def test_network_matches_reference(sizes, activations, loss, bias, batch):
    layers, size = chain(sizes, activations, bias)
    parameters, rows, targets = random_case(layers, size, batch)
    before = [a.copy() for a in (parameters, rows, targets)]
    network = _core.Network(layers)
    gradients = np.zeros(size, np.float32)
    for inputs, outputs, weights, offset in map(sizes_of, layers):  # gradients are overwritten, gaps are left alone
        gradients[weights : weights + inputs * outputs] = np.nan
        if offset >= 0:
            gradients[offset : offset + outputs] = np.nan
    value = network.gradient(parameters, gradients, None, None, rows, targets, loss)
    expected_value, expected = reference_gradient(layers, parameters, rows, targets, loss)
    assert value == pytest.approx(expected_value, rel=1e-5, abs=1e-6)
    assert_close(gradients, expected)
    assert network.evaluate(parameters, None, None, rows, targets, loss)["loss"] == pytest.approx(value, rel=1e-6)
    for array, copy in zip((parameters, rows, targets), before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_reference_matches_finite_differences(activation, loss):
    layers, size = chain([5, 4, 3, 5], [activation, activation, "linear" if loss == "bce" else activation])
    parameters, rows, targets = (a.astype(float) for a in random_case(layers, size, 6, seed=3))
    gradients, scratch = np.zeros(size), np.zeros(size)
    _core.reference_network_gradient(layers, parameters, gradients, rows, targets, loss)
    places = np.random.default_rng(4).choice(size, 40, replace=False)
    expected = differences(lambda p: _core.reference_network_gradient(layers, p, scratch, rows, targets, loss),
                           parameters, places)
    np.testing.assert_allclose(gradients[places], expected, rtol=1e-5, atol=1e-7)


def test_forward_runs_a_part_of_the_chain():
    layers, size = chain([9, 6, 3, 6, 9], ["relu", "tanh", "sigmoid", "linear"])
    parameters, rows, _ = random_case(layers, size, 11)
    network = _core.Network(layers)
    whole, codes, again = (np.empty((11, n), np.float32) for n in (9, 3, 9))
    network.forward(parameters, None, None, rows, whole)
    network.forward(parameters, None, None, rows, codes, 0, 2)
    network.forward(parameters, None, None, codes, again, 2)
    np.testing.assert_array_equal(whole, again)


def test_targets_may_be_the_rows():
    layers, size = chain([20, 5, 20], ["relu", "linear"])
    parameters, rows, _ = random_case(layers, size, 9)
    network = _core.Network(layers)
    one, two = np.zeros(size, np.float32), np.zeros(size, np.float32)
    values = [
        network.gradient(parameters, one, None, None, rows, rows, "bce"),
        network.gradient(parameters, two, None, None, rows, rows.copy(), "bce"),
    ]
    assert values[0] == values[1]
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("batch", [0, 5])
def test_ready_announces_final_ranges_last_layer_first(batch):
    layers, size = chain([12, 8, 4, 12], ["relu", "sigmoid", "linear"])
    parameters, rows, targets = random_case(layers, size, batch)
    network = _core.Network(layers)
    gradients = np.full(size, np.nan, np.float32)
    seen = []
    told = Batch(rows, ready=lambda begin, end: seen.append((begin, end, gradients[begin:end].copy())))
    network.gradient(parameters, gradients, None, told, rows, targets, "mse")
    assert [s[:2] for s in seen] == [(w, b + o) for _, o, w, b in map(sizes_of, reversed(layers))]
    for begin, end, then in seen:
        np.testing.assert_array_equal(then, gradients[begin:end])
    for inputs, outputs, weights, bias in map(sizes_of, layers):
        assert np.isfinite(gradients[weights : weights + inputs * outputs]).all()
        assert np.isfinite(gradients[bias : bias + outputs]).all()


def test_ready_announces_separate_slices_where_the_bias_lies_elsewhere():
    layers = [dense(4, 3, "linear", 32, 0), dense(3, 2, "linear", 64, 16)]
    parameters, rows, targets = random_case(layers, 80, 2)
    seen = []
    network = _core.Network(layers)
    told = Batch(rows, ready=lambda b, e: seen.append((b, e)))
    network.gradient(parameters, np.zeros(80, np.float32), None, told, rows, targets, "mse")
    assert seen == [(64, 70), (16, 18), (32, 44), (0, 3)]


def test_ready_must_be_callable():
    layers, size = chain([4, 3], ["linear"])
    parameters, rows, targets = random_case(layers, size, 2)
    network = _core.Network(layers)
    with pytest.raises(TypeError, match="callable"):
        network.gradient(parameters, np.zeros(size, np.float32), None, Batch(rows, ready=3), rows, targets, "mse")


def test_an_error_in_ready_reaches_the_caller_and_leaves_the_network_usable():
    layers, size = chain([4, 3], ["linear"])
    parameters, rows, targets = random_case(layers, size, 2)
    network = _core.Network(layers)

    def fail(begin, end):
        raise RuntimeError("no route")

    with pytest.raises(RuntimeError, match="no route"):
        network.gradient(parameters, np.zeros(size, np.float32), None, Batch(rows, ready=fail), rows, targets, "mse")
    assert network.gradient(parameters, np.zeros(size, np.float32), None, None, rows, targets, "mse") > 0


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_in_the_parameters_is_never_hidden(activation):
    layers, size = chain([40, 33, 40], [activation, "linear"])
    parameters, rows, targets = random_case(layers, size, 6)
    parameters[7] = np.nan  # one weight of the first layer
    gradients = np.zeros(size, np.float32)
    network = _core.Network(layers)
    assert np.isnan(network.gradient(parameters, gradients, None, None, rows, targets, "bce"))
    assert np.isnan(gradients).any()
    assert np.isnan(list(network.evaluate(parameters, None, None, rows, targets, "mse").values())).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_hold_far_out(activation):
    x = np.array([[-1e4], [-100], [-20], [0], [20], [100], [1e4]], np.float32)
    y, expected = np.empty((7, 1), np.float32), np.empty((7, 1))
    one = np.ones((1, 1), np.float32)
    _core.Network([dense(1, 1, activation, 0)]).forward(one[0], None, None, x, y)
    with np.errstate(over="ignore"):
        _core.reference_dense_forward(x.astype(float), one.astype(float), None, activation, expected)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-7)


def test_flops_count_the_products():
    layers, _ = chain([784, 256, 64, 256, 784], ["relu"] * 3 + ["linear"])
    first, inner = 784 * 256, 2 * 256 * 64 + 256 * 784
    assert _core.Network(layers).flops == 2 * (2 * first + 3 * inner)


def test_wrong_arguments_are_named():
    layers, size = chain([4, 3, 2], ["relu", "relu"])
    network = _core.Network(layers)
    parameters, rows, targets = random_case(layers, size, 2)
    gradients = np.zeros(size, np.float32)
    with pytest.raises(ValueError, match=r"rows has shape \(2, 3\); expected \(2, 4\)"):
        network.gradient(parameters, gradients, None, None, np.ascontiguousarray(rows[:, :3]), targets, "mse")
    with pytest.raises(ValueError, match=r"targets has shape \(1, 2\); expected \(2, 2\)"):
        network.gradient(parameters, gradients, None, None, rows, targets[:1], "mse")
    with pytest.raises(ValueError, match="parameters has 3 elements"):
        network.gradient(parameters[:3], gradients, None, None, rows, targets, "mse")
    with pytest.raises(ValueError, match="gradients has 3 elements"):
        network.gradient(parameters, gradients[:3], None, None, rows, targets, "mse")
    with pytest.raises(ValueError, match="last layer's activation is 'relu'; expected linear"):
        network.gradient(parameters, gradients, None, None, rows, targets, "bce")
    with pytest.raises(ValueError, match="loss is 'mae'; expected one of mse, bce"):
        network.gradient(parameters, gradients, None, None, rows, targets, "mae")
    with pytest.raises(ValueError, match=r"out has shape \(2, 4\); expected \(2, 2\)"):
        network.forward(parameters, None, None, rows, np.empty((2, 4), np.float32))
    with pytest.raises(ValueError, match="first and last are 1 and 3"):
        network.forward(parameters, None, None, rows, targets, 1, 3)
    with pytest.raises(TypeError):  # never a silent copy or cast
        network.gradient(parameters.astype(float), gradients, None, None, rows, targets, "mse")
    with pytest.raises(TypeError):
        network.gradient(
            parameters, gradients, None, None, np.asfortranarray(np.ones((2, 4), np.float32)), targets, "mse"
        )
    with pytest.raises(ValueError, match=r"layers\[1\] has 5 inputs; expected 3"):
        _core.Network([dense(4, 3, "relu", 0), dense(5, 2, "relu", 16)])
    with pytest.raises(ValueError, match="activation is 'gelu'"):
        _core.Network([dense(4, 3, "gelu", 0)])
    with pytest.raises(ValueError, match="dtype is 'float16'"):
        _core.Network(layers, dtype="float16")
    with pytest.raises(ValueError, match="layers is empty"):
        _core.Network([])
    with pytest.raises(ValueError, match="a layer has no outputs"):
        _core.Network([{"kind": "dense", "inputs": 3}])
    with pytest.raises(ValueError, match="kind is 'cloud'; expected one of dense, reshape"):
        _core.Network([{"kind": "cloud"}])
    with pytest.raises(ValueError, match=r"4 outputs is part 2 of 2; expected cuts"):
        _core.Network([dense(4, 4, "relu", 0, cuts=[0, 2, 4], part=2)])
    gradients.flags.writeable = False
    with pytest.raises(ValueError, match=r"writeable|read-only"):
        network.gradient(parameters, gradients, None, None, rows, targets, "mse")


def test_more_batch_sizes_than_the_cache_holds():
    layers, size = chain([6, 5, 6], ["tanh", "linear"])
    network = _core.Network(layers)
    parameters, rows, targets = random_case(layers, size, 70)
    gradients = np.zeros(size, np.float32)
    for batch in [*range(1, 71), 1, 70, 2]:
        network.gradient(parameters, gradients, None, None, rows[:batch], targets[:batch], "mse")
        assert_close(
            gradients, reference_gradient(layers, parameters, rows[:batch], targets[:batch], "mse")[1]
        )


def test_nothing_is_carried_from_call_to_call():
    layers, size = chain([30, 20, 30], ["sigmoid", "linear"])
    parameters, rows, targets = random_case(layers, size, 40)
    network = _core.Network(layers)
    first, again, other = (np.zeros(size, np.float32) for _ in range(3))
    network.gradient(parameters, first, None, None, rows, targets, "bce")
    network.gradient(-parameters, other, None, None, np.full_like(rows, np.nan), targets, "bce")
    network.gradient(parameters, again, None, None, rows, targets, "bce")
    np.testing.assert_array_equal(first, again)


def test_a_steady_step_keeps_no_memory():
    """Bytes in use by malloc are the same after 200 steps as after the first few."""

    class Mallinfo(ctypes.Structure):
        # arena, ordblks, smblks, hblks, hblkhd, usmblks, fsmblks, uordblks, fordblks, keepcost
        _fields_ = [
            (name, ctypes.c_size_t) for name in ("a", "b", "c", "d", "mapped", "e", "f", "used", "g", "h")
        ]

    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo is None:
        pytest.skip("this C library has no mallinfo2")
    mallinfo.restype = Mallinfo
    layers, size = chain([100, 50, 100], ["relu", "linear"])
    parameters, rows, targets = random_case(layers, size, 33)
    network = _core.Network(layers)
    gradients = np.zeros(size, np.float32)

    def used_after(steps):
        for _ in range(steps):
            network.gradient(parameters, gradients, None, None, rows, targets, "bce")
        info = mallinfo()
        return info.used + info.mapped

    used_after(5)
    before = used_after(5)
    assert used_after(200) - before < 4096  # Python's own small objects come and go


def test_threads_change_nothing_but_rounding():
    layers, size = chain([300, 200, 300], ["relu", "linear"])
    parameters, rows, targets = random_case(layers, size, 256)
    network = _core.Network(layers)
    before = _core.threads()
    results = {}
    try:
        for n in (1, 2, 1, 2):
            _core.set_threads(n)
            assert _core.threads() == n
            gradients = np.zeros(size, np.float32)
            value = network.gradient(parameters, gradients, None, None, rows, targets, "bce")
            if n in results:
                assert results[n][0] == value
                np.testing.assert_array_equal(results[n][1], gradients)
            results[n] = value, gradients
    finally:
        _core.set_threads(before)
    assert results[1][0] == pytest.approx(results[2][0], rel=1e-6)
    assert_close(results[1][1], results[2][1])
    with pytest.raises(ValueError, match="n is 0"):
        _core.set_threads(0)


def test_calls_from_several_python_threads():
    from concurrent.futures import ThreadPoolExecutor

    layers, size = chain([50, 20, 50], ["relu", "linear"])
    network = _core.Network(layers)
    cases = [random_case(layers, size, 16, seed) for seed in range(8)]

    def one(case):
        gradients = np.zeros(size, np.float32)
        return network.gradient(case[0], gradients, None, None, case[1], case[2], "bce"), gradients

    serial = [one(c) for c in cases]
    with ThreadPoolExecutor(4) as pool:
        for (value, gradients), (expected_value, expected) in zip(pool.map(one, cases), serial, strict=True):
            assert value == expected_value
            np.testing.assert_array_equal(gradients, expected)


def test_version_and_peak():
    assert _core.onednn_version().split(".")[0] == "3"
    assert _core.product_peak("float32", 0.02) > 0.1


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_is_right(level):
    """The kernels of this file and of the losses, with the level (and oneDNN's) forced in a new process."""
    if os.environ.get("PYDDL_LEVEL"):
        pytest.skip("a level is forced already")
    if level > _core.simd_level():
        pytest.skip(f"this processor has no level {level}")
    folder = os.path.dirname(__file__)
    environment = {**os.environ, "PYDDL_LEVEL": str(level), "ONEDNN_MAX_CPU_ISA": LEVELS[level]}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"{folder}/test_network.py",
         f"{folder}/test_losses.py", "-k", "matches or far_out or nan"],
        env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


# ---- bfloat16

needs_bfloat16 = pytest.mark.skipif(
    not _core.has_bfloat16(), reason="this processor has no bfloat16 products"
)


def rounded(x):
    """To bfloat16 (nearest, ties to even) and back."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


@needs_bfloat16
@pytest.mark.parametrize("batch", [0, 1, 7, 128])
@pytest.mark.parametrize(
    "sizes,activations,loss",
    [
        ([65, 31, 5, 31, 65], ["sigmoid", "softplus", "tanh", "tanh"], "mse"),
        ([257, 64, 16, 64, 257], ["relu", "sigmoid", "softplus", "linear"], "bce"),
    ],
)
def test_bfloat16_matches_reference_to_its_rounding(sizes, activations, loss, batch):
    layers, size = chain(sizes, activations)
    parameters, rows, targets = random_case(layers, size, batch)
    network = _core.Network(layers, dtype="bfloat16")
    gradients = np.zeros(size, np.float32)
    value = network.gradient(parameters, gradients, None, None, rows, targets, loss)
    expected_value, expected = reference_gradient(layers, parameters, rows, targets, loss)
    assert value == pytest.approx(expected_value, rel=0.02, abs=1e-6)
    for inputs, outputs, weights, bias in map(sizes_of, layers):
        for part in (slice(weights, weights + inputs * outputs), slice(bias, bias + outputs)):
            error = np.linalg.norm(gradients[part] - expected[part])
            assert error <= 0.03 * np.linalg.norm(expected[part])
    assert network.evaluate(parameters, None, None, rows, targets, loss)["loss"] == pytest.approx(value, rel=1e-6)


@needs_bfloat16
@pytest.mark.parametrize("batch", [13, 33])
def test_bfloat16_rounds_operands_only(batch):
    """One layer on operands that bfloat16 holds exactly: products and sums are those of float32."""
    layers, size = chain([50, 40], ["linear"])
    parameters, rows, _ = (rounded(a) for a in random_case(layers, size, batch))
    out, out32 = np.empty((batch, 40), np.float32), np.empty((batch, 40), np.float32)
    _core.Network(layers, "bfloat16").forward(parameters, None, None, rows, out)
    _core.Network(layers).forward(parameters, None, None, rows, out32)
    assert_close(out, out32, 1e-6)


@needs_bfloat16
def test_bfloat16_gradients_are_sums_of_rounded_deltas():
    layers, size = chain([30, 20], ["linear"])
    parameters, rows, targets = (rounded(a) for a in random_case(layers, size, 64))
    gradients, out = np.zeros(size, np.float32), np.empty((64, 20), np.float32)
    network = _core.Network(layers, "bfloat16")
    network.gradient(parameters, gradients, None, None, rows, targets, "mse")
    network.forward(parameters, None, None, rows, out)
    deltas = 2 * (out - targets)
    assert_close(gradients[:600].reshape(20, 30), rounded(deltas).T.astype(float) @ rows, 1e-6)
    assert_close(gradients[608:628], deltas.sum(axis=0), 1e-6)  # biases are never rounded


@needs_bfloat16
@pytest.mark.parametrize("batch", [0, 1, 13, 128])
def test_weights_that_come_rounded_give_the_same_bits(batch):
    layers, size = chain([65, 31, 5, 31, 65], ["relu", "linear", "tanh", "linear"])
    parameters, rows, targets = random_case(layers, size, batch)
    network = _core.Network(layers, "bfloat16")
    given = (rounded(parameters).view(np.uint32) >> 16).astype(np.uint16)
    one, two = np.zeros(size, np.float32), np.zeros(size, np.float32)
    values = [
        network.gradient(parameters, one, None, None, rows, targets, "mse"),
        network.gradient(parameters, two, None, Batch(rows, rounded=given), rows, targets, "mse"),
    ]
    assert values[0] == values[1]
    np.testing.assert_array_equal(one, two)
    if batch > 12:  # fewer rows take float32, and leave them alone
        assert network.gradient(parameters, two, None, Batch(rows, rounded=np.zeros_like(given)), rows, targets,
                                "mse") != values[0]
    with pytest.raises(ValueError, match=f"rounded has {size - 1} elements; expected {size}"):
        network.gradient(parameters, two, None, Batch(rows, rounded=given[1:]), rows, targets, "mse")


@needs_bfloat16
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bfloat16_keeps_nan_and_infinity(activation):
    layers, size = chain([40, 33, 40], [activation, "linear"])
    parameters, rows, targets = random_case(layers, size, 20)
    network = _core.Network(layers, "bfloat16")
    for bad in (np.float32(np.nan), np.array([0x7F800001], np.uint32).view(np.float32)[0]):
        poisoned = parameters.copy()
        poisoned[7] = bad  # the second is a NaN whose upper half alone looks like infinity
        gradients = np.zeros(size, np.float32)
        assert np.isnan(network.gradient(poisoned, gradients, None, None, rows, targets, "bce"))
        assert np.isnan(gradients).any()
    parameters[layers[1]["bias"]] = np.inf  # a bias of the output layer
    assert not np.isfinite(network.gradient(parameters, np.zeros(size, np.float32), None, None, rows, targets, "mse"))


@needs_bfloat16
def test_bfloat16_takes_few_rows_in_float32():
    layers, size = chain([50, 40, 50], ["relu", "linear"])
    parameters, rows, targets = random_case(layers, size, 12)
    one, two = np.zeros(size, np.float32), np.zeros(size, np.float32)
    values = [
        _core.Network(layers, dtype).gradient(parameters, out, None, None, rows, targets, "bce")
        for dtype, out in (("float32", one), ("bfloat16", two))
    ]
    assert values[0] == values[1]
    np.testing.assert_array_equal(one, two)


def test_bfloat16_is_refused_without_hardware():
    code = (
        "from pyddl import _core\n"
        "assert not _core.has_bfloat16() and _core.product_peak('bfloat16', 0.01) == 0\n"
        "try: _core.Network([dict(kind='dense', inputs=2, outputs=2, activation='relu', weight=0)], 'bfloat16')\n"
        "except ValueError as e: print(e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    assert "neither AVX512_BF16 nor AMX" in done.stdout
