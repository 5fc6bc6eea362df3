"""Losses fused with their gradients: against plain loops in double, far out, and with NaN."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_oracles import differences

from pyddl import _core

ACTIVATIONS = ["linear", "sigmoid", "relu", "leaky_relu", "tanh", "softplus"]
ULP = np.finfo(np.float32).eps


def outputs_of(activation, z):
    y = np.empty(z.shape)
    _core.reference_dense_forward(z.reshape(-1, 1), np.ones((1, 1)), None, activation, y.reshape(-1, 1))
    return y


@pytest.mark.parametrize("rows,columns", [(1, 1), (3, 13), (33, 64), (7, 65), (128, 4100), (0, 5)])
@pytest.mark.parametrize("loss,activation", [*(("mse", a) for a in ACTIVATIONS), ("bce", "linear")])
def test_gradient_matches_reference(loss, activation, rows, columns):
    rng = np.random.default_rng(0)
    y = outputs_of(activation, rng.normal(0, 2, (rows, columns))).astype(np.float32)
    t = rng.random((rows, columns), dtype=np.float32)
    derivatives = np.empty((rows, columns))
    expected, squared = _core.reference_loss_sums(y.astype(float), t.astype(float), loss, derivatives)
    slopes, bias = derivatives.copy(), np.zeros(columns)
    _core.reference_dense_backward(
        np.ones((rows, 1)),
        np.ones((columns, 1)),
        y.astype(float),
        activation,
        slopes,
        np.empty((columns, 1)),
        bias,
    )
    deltas, bias32 = np.full((rows, columns), np.nan, np.float32), np.full(columns, np.nan, np.float32)
    value = _core.loss_gradient(y, t, loss, activation, deltas, bias32)
    assert value == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(deltas, slopes, rtol=8 * ULP, atol=2 * ULP)
    np.testing.assert_allclose(bias32, bias, rtol=1e-5, atol=1e-6 * max(rows, 1))
    assert _core.loss_sums(y, t, loss) == pytest.approx((expected, squared), rel=1e-6)
    in_place = y.copy()
    assert _core.loss_gradient(in_place, t, loss, activation, in_place) == value
    np.testing.assert_array_equal(in_place, deltas)


def test_cross_entropy_matches_double_to_few_ulp():
    """exp and log1p of this package, over the whole range of logits: at most 8 ulp of the loss."""
    z = np.concatenate([np.linspace(-90, 90, 40001), np.logspace(-30, 4, 2001), -np.logspace(-30, 4, 2001)])
    z = z.astype(np.float32)[:, None]
    for target in (0.0, 1.0):
        # With t = 0 the loss is softplus(z): no cancellation. t = 1 mirrors it.
        signed = z if target == 0 else -z
        expected = np.maximum(signed, 0).astype(float) + np.log1p(np.exp(-np.abs(signed.astype(float))))
        loss = np.array(
            [_core.loss_sums(v[None], np.full((1, 1), target, np.float32), "bce")[0] for v in z[::16]]
        )
        np.testing.assert_allclose(loss, expected[::16, 0], rtol=8 * ULP, atol=2e-38)
        deltas = np.empty_like(z)
        _core.loss_gradient(z, np.full_like(z, target), "bce", "linear", deltas)
        mean = np.exp(-np.maximum(-z, 0).astype(float)) / (1 + np.exp(-np.abs(z.astype(float))))
        np.testing.assert_allclose(deltas, mean - target, rtol=8 * ULP, atol=ULP)


def test_cross_entropy_far_out_is_exact():
    z = np.array([[1e4, -1e4, 1e4, -1e4, 0]], np.float32)
    t = np.array([[1, 0, 0, 1, 0.5]], np.float32)
    deltas = np.empty_like(z)
    value = _core.loss_gradient(z, t, "bce", "linear", deltas)
    assert value == pytest.approx(2e4 + np.log(2), rel=1e-7)
    np.testing.assert_array_equal(deltas, np.array([[0, 0, 1, -1, 0]], np.float32))
    assert _core.loss_sums(z, t, "bce")[1] == 2.0


@pytest.mark.parametrize("position", [0, 63, 64, 99])
@pytest.mark.parametrize("loss", ["mse", "bce"])
@pytest.mark.parametrize("bad", ["outputs", "targets"])
def test_nan_is_kept(loss, position, bad):
    arrays = {"outputs": np.zeros((3, 100), np.float32), "targets": np.zeros((3, 100), np.float32)}
    arrays[bad][1, position] = np.nan
    deltas, bias = np.empty((3, 100), np.float32), np.empty(100, np.float32)
    assert np.isnan(_core.loss_gradient(arrays["outputs"], arrays["targets"], loss, "linear", deltas, bias))
    assert np.isnan(deltas[1, position]) and np.isnan(deltas).sum() == 1
    assert np.isnan(bias[position]) and np.isnan(bias).sum() == 1
    assert np.isnan(_core.loss_sums(arrays["outputs"], arrays["targets"], loss)).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_in_outputs_passes_every_slope(activation):
    y = np.full((1, 3), np.nan, np.float32)
    deltas = np.empty_like(y)
    _core.loss_gradient(y, np.zeros_like(y), "mse", activation, deltas)
    assert np.isnan(deltas).all()


@given(rows=st.integers(0, 70), columns=st.integers(1, 200), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_any_shape_sums_every_element_once(rows, columns, seed):
    rng = np.random.default_rng(seed)
    y = rng.integers(-3, 4, (rows, columns)).astype(np.float32)
    t = rng.integers(-3, 4, (rows, columns)).astype(np.float32)
    deltas, bias = np.empty_like(y), np.empty(columns, np.float32)
    assert (
        _core.loss_gradient(y, t, "mse", "linear", deltas, bias) == ((y - t) ** 2).sum()
    )  # small integers: exact
    np.testing.assert_array_equal(deltas, 2 * (y - t))
    np.testing.assert_array_equal(bias, 2 * (y - t).sum(axis=0))


def test_the_number_of_threads_changes_no_bit():
    rng = np.random.default_rng(5)
    z, t = (rng.random((300, 700), dtype=np.float32) for _ in range(2))
    before, results = _core.threads(), []
    try:
        for n in (1, 2, 3):
            _core.set_threads(n)
            deltas, bias = np.empty_like(z), np.empty(700, np.float32)
            results.append((_core.loss_gradient(z, t, "bce", "linear", deltas, bias), deltas, bias))
    finally:
        _core.set_threads(before)
    for value, deltas, bias in results[1:]:
        assert value == results[0][0]
        np.testing.assert_array_equal(deltas, results[0][1])
        np.testing.assert_array_equal(bias, results[0][2])


def test_wrong_shapes_are_named():
    y, t = np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32)
    with pytest.raises(ValueError, match=r"targets has shape \(2, 4\); expected \(2, 3\)"):
        _core.loss_gradient(y, t, "mse", "linear", np.empty_like(y))
    with pytest.raises(ValueError, match="bias_gradients has 4 elements; expected 3"):
        _core.loss_gradient(y, y, "mse", "linear", np.empty_like(y), np.empty(4, np.float32))


# ---- softmax

@pytest.mark.parametrize("rows,columns", [(0, 5), (1, 1), (3, 2), (33, 10), (129, 65), (300, 1000), (7, 4100)])
def test_softmax_matches_reference(rows, columns):
    rng = np.random.default_rng(0)
    z, labels = rng.normal(0, 3, (rows, columns)).astype(np.float32), rng.integers(0, columns, rows)
    derivatives = np.empty((rows, columns))
    expected, right = _core.reference_softmax_sums(z.astype(float), labels, derivatives)
    deltas, bias = np.full_like(z, np.nan), np.full(columns, np.nan, np.float32)
    value = _core.softmax_gradient(z, labels, deltas, bias)
    assert value == pytest.approx(expected, rel=1e-6, abs=1e-6)
    np.testing.assert_allclose(deltas, derivatives, rtol=1e-5, atol=4 * ULP)
    np.testing.assert_allclose(bias, derivatives.sum(axis=0), rtol=1e-5, atol=1e-6 * max(rows, 1))
    assert _core.softmax_sums(z, labels) == (value, right)
    in_place = z.copy()
    assert _core.softmax_gradient(in_place, labels, in_place) == value
    np.testing.assert_array_equal(in_place, deltas)


def test_the_reference_of_softmax_matches_finite_differences():
    rng = np.random.default_rng(0)
    z, labels, derivatives = rng.normal(0, 3, (4, 5)), np.array([0, 4, 2, 2]), np.empty((4, 5))
    _core.reference_softmax_sums(z, labels, derivatives)
    expected = differences(lambda z: _core.reference_softmax_sums(z, labels)[0], z, np.ndindex(z.shape))
    np.testing.assert_allclose(derivatives.ravel(), expected, rtol=0, atol=1e-8)


def test_softmax_far_out_is_exact():
    z = np.array([[1e4, -1e4, 0], [-1e4, -1e4, -1e4], [3e38, 3e38, -3e38], [20, 0, -20]], np.float32)
    deltas = np.empty_like(z)
    losses = [_core.softmax_sums(z[b : b + 1], np.array([label]))[0] for b, label in enumerate((1, 2, 0, 0))]
    assert losses == pytest.approx([2e4, np.log(3), np.log(2), 2.0611537e-9], rel=1e-6)  # small ones keep their digits
    _core.softmax_gradient(z, np.array([1, 2, 0, 0]), deltas)
    np.testing.assert_allclose(deltas[:3], [[1, -1, 0], [1 / 3, 1 / 3, -2 / 3], [-0.5, 0.5, 0]], rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_softmax_shows_nan_and_infinity(bad):
    for at in range(3):
        z = np.zeros((2, 3), np.float32)
        z[1, at] = bad
        deltas, bias = np.empty_like(z), np.empty(3, np.float32)
        assert not np.isfinite(_core.softmax_gradient(z, np.array([0, 1]), deltas, bias))
        assert np.isnan(deltas[1]).any() and np.isnan(bias).any() and np.isfinite(deltas[0]).all()
        loss, right = _core.softmax_sums(z, np.array([0, 1]))
        assert not np.isfinite(loss) and right in (1, 2)


@pytest.mark.parametrize(("logits", "label", "right"), [
    ([1, 2, 2], 1, 1), ([1, 2, 2], 2, 0), ([2, 2, 2], 0, 1), ([2, 2, 2], 1, 0), ([0, 0, 1], 2, 1),
    ([np.nan, 1, 2], 2, 0), ([1, np.nan, 0], 0, 0)], ids=str)
def test_the_first_of_equal_logits_wins(logits, label, right):
    assert _core.softmax_sums(np.array([logits], np.float32), np.array([label]))[1] == right


def test_softmax_does_not_depend_on_threads():
    rng = np.random.default_rng(5)
    z, labels = rng.random((300, 700), dtype=np.float32), rng.integers(0, 700, 300)
    before, results = _core.threads(), []
    try:
        for n in (1, 2, 3):
            _core.set_threads(n)
            deltas, bias = np.empty_like(z), np.empty(700, np.float32)
            results.append((_core.softmax_gradient(z, labels, deltas, bias), _core.softmax_sums(z, labels),
                            deltas.tobytes(), bias.tobytes()))
    finally:
        _core.set_threads(before)
    assert results[0] == results[1] == results[2]


def test_labels_are_checked():
    z, deltas = np.zeros((2, 3), np.float32), np.empty((2, 3), np.float32)
    with pytest.raises(ValueError, match="row 1 has label 3; expected 0 to 2"):
        _core.softmax_gradient(z, np.array([0, 3]), deltas)
    with pytest.raises(ValueError, match="targets has 1 labels; expected 2"):
        _core.softmax_sums(z, np.array([0]))
    with pytest.raises(ValueError, match="softmax', whose targets are labels"):
        _core.loss_sums(z, z, "softmax")
