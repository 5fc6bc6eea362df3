"""Normal distributions as codes, and losses of single rows, against NumPy."""

import numpy as np
import pytest

from pyddl import _core


def drawn(rows, samples, size, seed=0):
    rng = np.random.default_rng(seed)
    codes = rng.normal(0, 0.7, (rows, 2 * size)).astype(np.float32)
    return codes, rng.normal(0, 1, (rows * samples, size)).astype(np.float32)


SIZES = [(1, 1, 1), (7, 1, 3), (5, 4, 2), (33, 3, 20), (0, 1, 4)]


def samples_of(codes, noise):
    """In double: (rows, samples, size)."""
    rows, size = len(codes), codes.shape[1] // 2
    mean, log_variance = np.split(codes.astype(float), 2, axis=1)
    return mean[:, None] + np.exp(log_variance / 2)[:, None] * noise.reshape(rows, -1 if rows else 1, size)


@pytest.mark.parametrize(("rows", "samples", "size"), SIZES)
def test_samples_divergence_and_ratios(rows, samples, size):
    codes, noise = drawn(rows, samples, size)
    z, ratios = np.empty_like(noise), np.empty(len(noise))
    _core.sample_codes(codes, noise, z)
    expected = samples_of(codes, noise)
    np.testing.assert_allclose(z, expected.reshape(z.shape), rtol=1e-5, atol=1e-6)
    mean, log_variance = np.split(codes.astype(float), 2, axis=1)
    found = _core.codes_divergence(codes)
    assert found == pytest.approx(0.5 * np.sum(mean**2 + np.exp(log_variance) - 1 - log_variance), rel=1e-6)
    _core.codes_log_ratios(codes, noise, ratios)
    prior = -0.5 * expected**2
    posterior = -0.5 * (expected - mean[:, None]) ** 2 / np.exp(log_variance)[:, None] - 0.5 * log_variance[:, None]
    np.testing.assert_allclose(ratios, (prior - posterior).sum(axis=2).ravel(), rtol=1e-5, atol=1e-5)
    _core.sample_codes(codes, noise, noise)
    assert np.array_equal(noise, z)


def test_the_divergence_is_what_samples_say():
    """In closed form, and by Monte Carlo: minus the mean of the log ratios."""
    codes, noise = drawn(3, 20000, 4)
    ratios = np.empty(len(noise))
    _core.codes_log_ratios(codes, noise, ratios)
    ratios = ratios.reshape(3, -1)
    error = np.sqrt((ratios.var(axis=1) / ratios.shape[1]).sum())
    assert abs(_core.codes_divergence(codes) + ratios.mean(axis=1).sum()) < 5 * error


@pytest.mark.parametrize(("rows", "samples", "size"), SIZES)
def test_the_way_back_is_the_slope(rows, samples, size):
    codes, noise = drawn(rows, samples, size)
    deltas = np.random.default_rng(1).normal(0, 1, noise.shape).astype(np.float32)
    out = np.empty_like(codes)
    _core.codes_backward(codes, noise, deltas, 0.7, out)

    def loss(c):
        mean, log_variance = np.split(c, 2, axis=1)
        divergence = 0.5 * np.sum(mean**2 + np.exp(log_variance) - 1 - log_variance)
        return np.sum(samples_of(c, noise).reshape(deltas.shape) * deltas) + 0.7 * divergence

    exact = codes.astype(float)
    for at in np.ndindex(*codes.shape):
        step = np.zeros_like(exact)
        step[at] = 1e-5
        assert out[at] == pytest.approx((loss(exact + step) - loss(exact - step)) / 2e-5, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(("rows", "samples", "columns"), [(1, 1, 1), (3, 2, 17), (5, 1, 784), (4, 3, 300), (0, 1, 5)])
@pytest.mark.parametrize("loss", ["bce", "mse"])
def test_losses_of_rows_are_parts_of_the_sum(rows, samples, columns, loss):
    rng = np.random.default_rng(2)
    outputs = rng.normal(0, 2, (rows * samples, columns)).astype(np.float32)
    targets = rng.random((rows, columns), dtype=np.float32)
    out = np.empty(len(outputs))
    _core.loss_of_rows(outputs, targets, loss, out)
    repeated = np.repeat(targets, samples, axis=0)
    for i, found in enumerate(out):
        expected, _ = _core.reference_loss_sums(outputs[i : i + 1].astype(float), repeated[i : i + 1].astype(float),
                                                loss)
        assert found == pytest.approx(expected, rel=1e-5)


def test_shapes_are_checked():
    codes, noise = drawn(4, 2, 3)
    with pytest.raises(ValueError, match="codes have 6 columns, and noise has 2; expected twice as many"):
        _core.sample_codes(codes, noise[:, :2].copy(), noise[:, :2].copy())
    with pytest.raises(ValueError, match="noise has 7 rows; expected a multiple of the 4 of codes"):
        _core.sample_codes(codes, noise[:7], noise[:7].copy())
    with pytest.raises(ValueError, match=r"deltas has shape \(7, 3\); expected \(8, 3\)"):
        _core.codes_backward(codes, noise, noise[:7], 1.0, np.empty_like(codes))
    with pytest.raises(ValueError, match="codes have 5 columns; expected as many log variances as means"):
        _core.codes_divergence(np.zeros((2, 5), np.float32))
    with pytest.raises(ValueError, match=r"outputs has shape \(5, 3\); expected \(4, 3\)"):
        _core.loss_of_rows(np.zeros((5, 3), np.float32), np.zeros((2, 3), np.float32), "mse", np.empty(5))
