"""Update rules: the papers' formulas in NumPy, the reference kernels, clipping, decay, projection, ranges."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyddl import _core, optim
from pyddl.errors import ParameterError, ShapeError
from pyddl.layout import Layout, Slice
from pyddl.optim import OPTIMIZERS, MomentumSchedule, optimizer

NAMES = list(OPTIMIZERS)


def vectors(n, count, seed=0):
    return [v.astype(np.float32) for v in np.random.default_rng(seed).standard_normal((count, n))]


def run(rule, parameters, gradients, ranges=None, scale=1.0):
    """Parameters after one update for each of ``gradients``."""
    p = parameters.astype(np.float32)
    state = [np.zeros_like(p) for _ in rule.state_names]
    for step, g in enumerate(gradients):
        rule.update(p, g, state, ranges or [(0, len(p), True)], scale=scale, step=step)
    return p


# The papers, in double precision: each gets theta, a function g(theta) and the number of steps.

def paper_sgd(theta, g, steps, e=0.1):
    for _ in range(steps):
        theta = theta - e * g(theta)
    return theta


def paper_momentum(theta, g, steps, e=0.1, mu=0.9):
    v = 0
    for _ in range(steps):
        v = mu * v - e * g(theta)
        theta = theta + v
    return theta


def paper_adagrad(theta, g, steps, e=0.1, epsilon=1e-10):
    s = 0
    for _ in range(steps):
        s = s + g(theta) ** 2
        theta = theta - e * g(theta) / (np.sqrt(s) + epsilon)
    return theta


def paper_rmsprop(theta, g, steps, e=0.1, decay=0.9, epsilon=1e-8):
    s = 0
    for _ in range(steps):
        s = decay * s + (1 - decay) * g(theta) ** 2
        theta = theta - e * g(theta) / (np.sqrt(s) + epsilon)
    return theta


def paper_adadelta(theta, g, steps, e=1.0, decay=0.95, epsilon=1e-6):
    s = d = 0
    for _ in range(steps):
        s = decay * s + (1 - decay) * g(theta) ** 2
        change = -np.sqrt(d + epsilon) / np.sqrt(s + epsilon) * g(theta)
        d = decay * d + (1 - decay) * change**2
        theta = theta + e * change
    return theta


def paper_adam(theta, g, steps, e=0.1, beta1=0.9, beta2=0.999, epsilon=1e-8, shrink=0.0):
    m = v = 0
    for t in range(1, steps + 1):
        gradient = g(theta)
        m = beta1 * m + (1 - beta1) * gradient
        v = beta2 * v + (1 - beta2) * gradient**2
        theta = theta - shrink * theta
        theta = theta - e * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + epsilon)
    return theta


PAPERS = {"sgd": paper_sgd, "momentum": paper_momentum, "adagrad": paper_adagrad, "rmsprop": paper_rmsprop,
          "adadelta": paper_adadelta, "adam": paper_adam}


@pytest.mark.parametrize("name", PAPERS)
def test_follows_the_paper(name):
    """Ten steps down a quadratic whose gradient is curvature * (theta - target)."""
    start, target = (v.astype(float) for v in vectors(37, 2))
    curvature = np.linspace(0.1, 2, 37)

    def g(theta):
        return curvature * (theta - target)

    rule = optimizer(name) if name == "adadelta" else optimizer(name, learning_rate=0.1)
    p = start.astype(np.float32)
    state = [np.zeros_like(p) for _ in rule.state_names]
    for step in range(10):
        rule.update(p, (8 * g(p)).astype(np.float32), state, [(0, 37, True)], scale=1 / 8, step=step)
    expected = PAPERS[name](start.astype(np.float32).astype(float), g, 10)
    np.testing.assert_allclose(p, expected, rtol=2e-5, atol=2e-5)
    assert np.abs(p - start).max() > 1e-3


@pytest.mark.parametrize("momentum", [0.9, MomentumSchedule(0.99, every=3)], ids=["constant", "schedule"])
@pytest.mark.parametrize("clocks", [range(12), [0, 0, 1, 1, 1, 2, 3, 3, 4, 5, 5, 6], range(4, 60, 5)],
                         ids=["one by one", "shared", "some"])
def test_nesterov_takes_the_steps_of_sutskever(momentum, clocks):
    """Equations 3 and 4 on theta; our parameters are the look-ahead point theta + momentum * v."""
    start, target = (v.astype(float) for v in vectors(29, 2))
    curvature = np.linspace(0.1, 2, 29)
    at = momentum if callable(momentum) else lambda step: momentum
    theta, v = start.copy(), np.zeros(29)
    rule = optimizer("nesterov", learning_rate=0.1, momentum=momentum)
    p = start.astype(np.float32)
    state = [np.zeros_like(p)]
    reached = 0
    for step, clock in enumerate(clocks):
        ahead = theta + at(reached) * v
        np.testing.assert_allclose(p, ahead, rtol=1e-5, atol=1e-5)
        v = at(reached) * v - 0.1 * curvature * (ahead - target)
        theta = theta + v
        g = (curvature * (p - target)).astype(np.float32)
        rule.update(p, g, state, [(0, 29, True)], scale=1.0, step=step, clock=clock, reached=reached)
        reached = clock + 1
        np.testing.assert_allclose(state[0], v, rtol=1e-5, atol=1e-5)


def test_nesterov_equals_pytorch_for_constant_rate_and_momentum():
    start, *gradients = vectors(19, 7)
    p, b = start.astype(float), np.zeros(19)
    for g in gradients:
        b = 0.9 * b + g
        p = p - 0.1 * (g + 0.9 * b)
    got = run(optimizer("nesterov", learning_rate=0.1), start, gradients)
    np.testing.assert_allclose(got, p, rtol=1e-5, atol=1e-5)


def test_adamw_decouples_the_decay():
    start, *gradients = vectors(23, 7)
    given = iter(gradients)
    expected = paper_adam(start.astype(float), lambda theta: next(given).astype(float), 6, shrink=0.1 * 0.3)
    got = run(optimizer("adamw", learning_rate=0.1, weight_decay=0.3), start, gradients)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


OWN = {"sgd": (), "momentum": (0.9,), "nesterov": (0.9, 0.95), "adagrad": (1e-10,), "rmsprop": (0.9, 1e-8),
       "adadelta": (0.95, 1e-6), "adam": (0.9, 0.999, 1e-8, 6), "adamw": (0.9, 0.999, 1e-8, 6)}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [0, 1, 13, 1009, 70_001])
def test_fast_equals_reference(name, n):
    states = len(OPTIMIZERS[name].state_names)
    for bound in (math.inf, 0.5):
        fast = vectors(n, 2 + states)
        for s in fast[2:]:
            np.abs(s, out=s)
        plain = [v.copy() for v in fast]
        ranges = _core.Ranges([(0, n // 3, 0.1), (n // 3, n, 0.0)])
        getattr(_core, name)(*fast, ranges, 0.01, 0.5, bound, *OWN[name])
        getattr(_core, "reference_" + name)(*plain, ranges, 0.01, 0.5, bound, *OWN[name])
        for a, b in zip(fast, plain, strict=True):
            np.testing.assert_allclose(a, b, rtol=3e-6, atol=1e-6)
        np.testing.assert_array_equal(fast[1], vectors(n, 2)[1])  # gradients are only read
        assert n == 0 or np.abs(fast[0]).max() <= bound


def to_bfloat16(x):
    """Bits of the nearest, ties to even; a NaN keeps its upper half."""
    bits = x.view(np.uint32)
    near = (bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), bits >> 16 | 0x40, near).astype(np.uint16)


@pytest.mark.parametrize("prefix", ["", "reference_"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [0, 1, 15, 16, 37, 1009, 70_001])
def test_rounded_is_what_the_update_wrote(prefix, name, n):
    given = vectors(n, 2 + len(OPTIMIZERS[name].state_names))
    for s in given[2:]:
        np.abs(s, out=s)
    bad = [np.nan, -np.nan, np.inf, -np.inf, 3e38, 0.0, -0.0][:n]
    given[0][:len(bad)] = bad
    given[0][n // 2:][:1] = np.array([0x7F800001], np.uint32).view(np.float32)  # its upper half alone is infinity
    rounded = np.full(n + 3, 0xABCD, np.uint16)
    without = [v.copy() for v in given]
    begin = n // 4
    ranges = _core.Ranges([(begin, n // 3, 0.1), (n // 3, n, 0.0)])
    rule = getattr(_core, prefix + name)
    rule(*given, ranges, 0.01, 0.5, math.inf, *OWN[name], rounded)
    rule(*without, ranges, 0.01, 0.5, math.inf, *OWN[name])
    for a, b in zip(given, without, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(rounded[begin:n], to_bfloat16(given[0])[begin:])
    assert (rounded[:begin] == 0xABCD).all() and (rounded[n:] == 0xABCD).all()


@pytest.mark.parametrize("rounded", [np.zeros(9, np.uint16), np.zeros(10, np.float32), np.zeros((2, 5), np.uint16)])
def test_a_wrong_vector_for_rounded_is_named(rounded):
    p, g = vectors(10, 2)
    with pytest.raises(ShapeError, match=r"rounded has shape .* expected \(10,\) and uint16"):
        optimizer("sgd").update(p, g, [], [(0, 10, True)], scale=1.0, step=0, rounded=rounded)


@pytest.mark.parametrize("name", NAMES)
def test_weight_decay_where_the_layout_says(name):
    layout = Layout([Slice("weight", (5, 3)), Slice("bias", (3,), decay=False), Slice("more", (20,))])
    decayed = np.zeros(layout.size, dtype=bool)
    for s in layout:
        decayed[s.begin : s.end] = s.decay
    start = np.where(layout_mask(layout), 1.0, 0.0).astype(np.float32)
    gradient = 0.5 * start
    with_decay = run(optimizer(name, weight_decay=0.1), start, [gradient] * 3, layout.decayed_ranges())
    without = run(optimizer(name, weight_decay=0.0), start, [gradient] * 3, layout.decayed_ranges())
    if name == "adamw":
        assert (with_decay[decayed] < without[decayed]).all()
    else:  # the same as a gradient that contains the penalty's
        p = start.copy()
        rule = optimizer(name)
        state = [np.zeros_like(p) for _ in rule.state_names]
        for step in range(3):
            with_penalty = gradient + np.float32(0.1) * p
            rule.update(p, with_penalty, state, [(0, layout.size, True)], scale=1.0, step=step)
        np.testing.assert_allclose(with_decay[decayed], p[decayed], rtol=1e-5)
    np.testing.assert_array_equal(with_decay[~decayed], without[~decayed])
    np.testing.assert_array_equal(with_decay[~layout_mask(layout)], 0)  # gaps stay zero


def layout_mask(layout):
    mask = np.zeros(layout.size, dtype=bool)
    for s in layout:
        mask[s.begin : s.end] = True
    return mask


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 100), max_size=4), decays=st.lists(st.booleans(), min_size=5, max_size=5))
def test_the_cut_into_ranges_changes_nothing(name, cuts, decays):
    """Shard by shard or at once: the same bits; what is in no range is not touched."""
    start, *gradients = vectors(120, 4)
    edges = [0, *sorted(cuts), 100]
    ranges = [(a, b, d) for a, b, d in zip(edges, edges[1:], decays, strict=False)]
    rule = optimizer(name, weight_decay=0.1)
    at_once = run(rule, start, gradients, ranges)
    apart = start.copy()
    for r in ranges:
        part = run(optimizer(name, weight_decay=0.1), start, gradients, [r])
        apart[r[0] : r[1]] = part[r[0] : r[1]]
    np.testing.assert_array_equal(at_once, apart)
    np.testing.assert_array_equal(at_once[100:], start[100:])


def test_other_ranges_at_a_later_step_are_seen():
    rule = optimizer("sgd", learning_rate=1.0)
    p, g = np.zeros(4, np.float32), np.ones(4, np.float32)
    ranges = [(0, 2, True)]
    rule.update(p, g, [], ranges, scale=1.0, step=0)
    ranges[0] = (2, 4, True)  # the same list, changed in place
    rule.update(p, g, [], ranges, scale=2.0, step=1)
    np.testing.assert_array_equal(p, [-1, -1, -2, -2])


def test_clipping_by_the_norm_of_the_mean_gradient():
    g = np.array([3, 4, 99], dtype=np.float32) * 10  # mean gradient (3, 4) over the range: norm 5
    rule = optimizer("sgd", learning_rate=1.0, clip_norm=1.0)
    clipped = run(rule, np.zeros(3), [g], [(0, 2, True)], scale=0.1)
    np.testing.assert_allclose(clipped, [-0.6, -0.8, 0], rtol=1e-6)
    rule = optimizer("sgd", learning_rate=1.0, clip_norm=5.1)
    loose = run(rule, np.zeros(3), [g], [(0, 2, True)], scale=0.1)
    np.testing.assert_allclose(loose, [-3, -4, 0], rtol=1e-6)


def test_a_shard_is_clipped_by_the_given_norm():
    g = np.array([30, 40], dtype=np.float32)
    p = np.zeros(2, dtype=np.float32)
    rule = optimizer("sgd", learning_rate=1.0, clip_norm=1.0)
    rule.update(p, g, [], [(0, 1, True)], scale=0.1, step=0, squared_norm=2500.0)
    np.testing.assert_allclose(p, [-0.6, 0], rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_projection(name):
    start, *gradients = vectors(50, 4)
    p = run(optimizer(name, learning_rate=0.1, bound=0.01), start, gradients)
    assert np.abs(p).max() <= np.float32(0.01)
    assert np.abs(p).min() < np.float32(0.01) or name in ("sgd", "momentum", "nesterov", "adadelta", "adam")


@pytest.mark.parametrize("name", NAMES)
def test_nan_is_not_hidden(name):
    g = np.zeros(40, np.float32)
    g[33] = np.nan
    p = run(optimizer(name, bound=1.0), np.zeros(40), [g])
    assert _core.first_not_finite(p) == 33


@pytest.mark.parametrize("name", NAMES)
def test_learning_rate_may_be_a_schedule(name):
    start, *gradients = vectors(10, 4)
    falling = optimizer(name, learning_rate=optim.StepDecay(0.1, every=1, factor=0.5))
    p = start.copy()
    state = [np.zeros_like(p) for _ in falling.state_names]
    for step, g in enumerate(gradients):
        rule = optimizer(name, learning_rate=0.1 * 0.5**step)
        rule.update(p, g, state, [(0, 10, True)], scale=1.0, step=step)
    np.testing.assert_array_equal(run(falling, start, gradients), p)


def test_subnormal_moments_become_zero():
    p, g = np.zeros(8, np.float32), np.zeros(8, np.float32)
    state = [np.full(8, 1e-39, np.float32), np.full(8, 1e-39, np.float32)]
    optimizer("adam").update(p, g, state, [(0, 8, True)], scale=1.0, step=3)
    if _core.simd_level() > 0:
        np.testing.assert_array_equal(state, 0)
    assert np.float32(1e-39) * np.float32(1) > 0  # the thread's own arithmetic is as before


@pytest.mark.parametrize("name", NAMES)
def test_options_make_the_same_optimizer_again(name):
    rule = optimizer(name, learning_rate=0.3, weight_decay=0.2, clip_norm=2.0, bound=0.7)
    again = optimizer(name, **rule.options())
    assert again.options() == rule.options() and repr(again) == repr(rule) and type(again) is type(rule)
    assert "bound" not in optimizer(name).options()
    assert rule.name == name


def test_errors_name_the_cure():
    with pytest.raises(ParameterError, match="did you mean 'adam'"):
        optimizer("adm")
    with pytest.raises(ParameterError, match=r"no option 'momentun'.*did you mean 'momentum'"):
        optimizer("momentum", momentun=0.5)
    for option, wrong in [("learning_rate", -1), ("weight_decay", -0.1), ("clip_norm", 0), ("bound", 0),
                          ("momentum", 1), ("momentum", "much")]:
        with pytest.raises(ParameterError, match=option):
            optimizer("nesterov", **{option: wrong})


def test_wrong_vectors_are_named():
    rule = optimizer("adam")
    good, double, short = np.zeros(8, np.float32), np.zeros(8), np.zeros(7, np.float32)
    for p, g, state, message in [
        (good, double, [good, good], "gradients is a float64"),
        (good, good, [good, short], "second_moment"),
        (double, good, [good, good], "parameters is a float64"),
        (good, good, [good], "state has 1 vectors; adam keeps 2: first_moment, second_moment"),
    ]:
        with pytest.raises(ShapeError, match=message):
            rule.update(p, g, state, [(0, 8, True)], scale=1.0, step=0)
    with pytest.raises(ValueError, match="the ranges end at 9"):
        rule.update(good, good, [good, good], [(0, 9, True)], scale=1.0, step=0)
    with pytest.raises(ValueError, match="expected 0 <= begin <= end"):
        rule.update(good, good, [good, good], [(5, 3, True)], scale=1.0, step=0)


BITS = """
import hashlib, numpy as np
from pyddl.optim import OPTIMIZERS, optimizer
sha = hashlib.sha256()
for name in OPTIMIZERS:
    rule = optimizer(name, weight_decay=0.01)
    p, g = np.random.default_rng(0).standard_normal((2, 100_003)).astype(np.float32)
    state = [np.zeros_like(p) for _ in rule.state_names]
    rounded = np.zeros(len(p), np.uint16)
    for step in range(3):
        rule.update(p, g, state, [(0, 99_999, True)], scale=0.3, step=step, rounded=rounded)
    sha.update(p.tobytes() + rounded.tobytes())
print(sha.hexdigest())
"""


def test_same_bits_on_every_level_and_any_number_of_threads():
    digests = set()
    for level, threads in [("2", "1"), ("3", "2"), ("4", "3"), ("4", "1")]:
        environment = {**os.environ, "PYDDL_LEVEL": level, "OMP_NUM_THREADS": threads}
        digests.add(subprocess.check_output([sys.executable, "-c", BITS], env=environment))
    assert len(digests) == 1
