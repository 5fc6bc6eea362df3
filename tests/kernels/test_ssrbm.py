"""Spike-and-slab machines in C++ against NumPy in double, which draws the same random numbers by their keys."""

import numpy as np
import pytest
from layer_oracles import differences

from pyddl import _core

PURPOSE, SEED, STEP = 5, 11, 3
SIZES = [(1, 1, 1), (7, 1, 2), (1, 5, 1), (17, 13, 3), (64, 31, 2), (131, 67, 1)]  # visible, hidden, pool
ROWS = [0, 1, 2, 7, 31]
KINDS = {
    "plain": {},
    "plain, one precision": {"diagonal": False, "alpha": "scalar"},
    "plain, learned alpha": {"alpha": "diagonal"},
    "mu": {"mu": True},
    "mu, one precision": {"mu": True, "diagonal": False, "alpha": "diagonal"},
    "mu, learned alpha": {"mu": True, "alpha": "scalar"},
}


class Machine:
    """A native machine, its parameters, and the same in double."""

    def __init__(self, visible, hidden, pool=1, *, mu=False, diagonal=True, alpha=None, dtype="float32", seed=0):
        self.V, self.H, self.K, self.diagonal = visible, hidden, pool, diagonal
        shapes = {"weights": (visible, pool, hidden), "spike_bias": (hidden,),
                  "log_precision": (visible if diagonal else 1,)}
        if mu:
            shapes |= {"slab_mean": (pool, hidden), "log_phi": (visible, hidden) if diagonal else (hidden,)}
        if alpha:
            shapes["log_alpha"] = (pool, hidden) if alpha == "diagonal" else (1,)
        self.shapes, at, self.places = shapes, 0, {}
        for name, shape in shapes.items():
            self.places[name] = at
            at += int(np.prod(shape))
        rng = np.random.default_rng(seed)
        self.parameters = rng.normal(0, 0.4, at).astype(np.float32)
        self.parameters[: visible * pool * hidden] /= np.sqrt(visible * pool)
        absent = {name: -1 for name in ("slab_mean", "log_phi", "log_alpha")}
        self.native = _core.Ssrbm({"visible": visible, "hidden": hidden, "pool": pool, **absent, **self.places,
                                   "diagonal_precision": diagonal, "diagonal_alpha": alpha == "diagonal"}, dtype)
        self.mean, self.scale = rng.normal(size=visible).astype(np.float32), 1.7

    def rows(self, count, seed=1):
        return (self.mean + 1.7 * np.random.default_rng(seed).normal(size=(count, self.V))).astype(np.float32)

    def tensors(self, parameters=None):
        p = (self.parameters if parameters is None else parameters).astype(np.float64)
        t = {name: p[at : at + int(np.prod(self.shapes[name]))].reshape(self.shapes[name])
             for name, at in self.places.items()}
        w = t["weights"]
        alpha = np.exp(np.clip(t.get("log_alpha", np.zeros(1)), -2, 2)) * np.ones((self.K, self.H))
        mu = t.get("slab_mean", np.zeros((self.K, self.H)))
        phi = np.zeros((self.V, self.H))
        if "log_phi" in t and self.diagonal:
            phi = np.exp(t["log_phi"]) + (abs(w) * abs(w).sum(axis=0) / alpha).sum(axis=1)
        elif "log_phi" in t:
            phi = phi + np.exp(t["log_phi"]) + ((w**2).sum(axis=0) / alpha).sum(axis=0)
        return w, t["spike_bias"], np.exp(t["log_precision"]) * np.ones(self.V), alpha, mu, phi

    def inputs(self, u, parameters=None):
        w, b, _, alpha, mu, phi = self.tensors(parameters)
        y = np.einsum("rd,dki->rki", u, w)
        return y, b - u**2 @ phi / 2 + (mu * y + y**2 / (2 * alpha)).sum(axis=1)

    def free_energy(self, u, parameters=None):
        lam, alpha = self.tensors(parameters)[2:4]
        x = self.inputs(u, parameters)[1]
        return (u**2 @ lam) / 2 - np.logaddexp(0, x).sum(axis=1) - np.log(2 * np.pi / alpha).sum() / 2

    def visible(self, s, h):
        """Mean and precision of u."""
        w, _, lam, _, _, phi = self.tensors()
        precision = lam + h @ phi.T
        return np.einsum("rki,dki->rd", s, w) / precision, precision

    def gibbs(self, u, numbers, substep=0, step=STEP, radius=np.inf, attempts=32):
        """(moved, which first left the ball)."""
        _, _, _, alpha, mu, _ = self.tensors()
        y, x = self.inputs(u)
        n, slabs = len(u), self.K * self.H
        h, noise = np.empty((n, self.H), np.float32), np.empty((n, slabs + self.V), np.float32)
        _core.bernoulli(h, (1 / (1 + np.exp(-x))).astype(np.float32), numbers, SEED, PURPOSE, step, substep)
        _core.normal(noise, numbers, SEED, PURPOSE, step, substep + 1)
        s = h[:, None] * (y / alpha + mu + noise[:, :slabs].reshape(n, self.K, self.H) / np.sqrt(alpha))
        m, precision = self.visible(s, h)
        moved, first = u.copy(), np.zeros(n, bool)
        for r in range(n):
            z = noise[r, slabs:]
            for attempt in range(attempts):
                if attempt:
                    again = np.empty((1, self.V), np.float32)
                    _core.normal(again, numbers[r : r + 1], SEED, PURPOSE, step + (attempt << 34), substep + 1)
                    z = again[0]
                proposal = m[r] + z / np.sqrt(precision[r])
                if np.linalg.norm(proposal) < radius:
                    moved[r] = proposal
                    break
                first[r] = True
        return moved, first

    def seen(self, v):
        return (v.astype(np.float64) - self.mean) / self.scale

    def reconstruct(self, u):
        _, _, _, alpha, mu, _ = self.tensors()
        y, x = self.inputs(u)
        p = 1 / (1 + np.exp(-x))
        return self.visible(p[:, None] * (y / alpha + mu), p)[0]


def gradient(machine, rows, chains=None, *, weight=1.0, steps=1, index=None, numbers=None, radius=0.0, ready=None,
             turn=0):
    out = np.full_like(machine.parameters, 9)
    index = np.arange(len(rows)) + 5 if index is None else index
    if chains is not None and numbers is None:
        numbers = np.arange(len(chains))
    loss = machine.native.gradient(
        machine.parameters, out, rows, index, chains, numbers, mean=machine.mean, scale=machine.scale, radius=radius,
        weight=weight, gibbs_steps=steps, seed=SEED, purpose=PURPOSE, step=STEP, turn=turn, ready=ready, rounded=None)
    return loss, out


def slopes(machine, u):
    """Of the summed free energies of rows u, by differences."""
    parameters = machine.parameters.astype(np.float64)
    return differences(lambda p: machine.free_energy(u, p).sum(), parameters, range(len(parameters)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_what_rows_are_told(size, kind):
    machine = Machine(*size, **KINDS[kind])
    for count in ROWS:
        v = machine.rows(count)
        u = machine.seen(v)
        seen = {"mean": machine.mean, "scale": machine.scale}
        out, energies, rebuilt = np.empty((count, machine.H), np.float32), np.empty(count), np.empty_like(v)
        x = machine.inputs(u)[1]
        machine.native.spikes(machine.parameters, v, out, **seen, probability=False)
        np.testing.assert_allclose(out, x, rtol=1e-4, atol=1e-4)
        machine.native.spikes(machine.parameters, v, out, **seen, probability=True)
        np.testing.assert_allclose(out, 1 / (1 + np.exp(-x)), atol=1e-4)
        machine.native.free_energy(machine.parameters, v, energies, **seen)
        np.testing.assert_allclose(energies, machine.free_energy(u), rtol=1e-5, atol=1e-3)
        machine.native.reconstruct(machine.parameters, v, rebuilt, **seen)
        np.testing.assert_allclose(rebuilt, machine.mean + 1.7 * machine.reconstruct(u), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_gradient_is_that_of_rows_less_that_of_chains(kind, persistent, steps):
    machine = Machine(9, 5, 2, **KINDS[kind])
    rows = machine.rows(7)
    u, numbers = machine.seen(rows), np.arange(7) + 5
    chains, weight, ends = None, 1.0, u
    if persistent:
        chains, weight = np.random.default_rng(3).normal(size=(4, 9)).astype(np.float32), 7 / 4
        ends, numbers = chains.astype(np.float64), np.arange(4)
    for k in range(steps):
        ends = machine.gibbs(ends, numbers, 2 * k)[0]
    loss, found = gradient(machine, rows, chains, weight=weight, steps=steps)
    expected = slopes(machine, u) - weight * slopes(machine, ends)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-2 * np.sqrt(np.mean(expected**2)))
    if persistent:
        np.testing.assert_allclose(chains, ends, rtol=1e-4, atol=1e-4)
    assert loss == pytest.approx(1.7**2 * ((machine.reconstruct(u) - u) ** 2).sum(), rel=0.35), "of 8 units of 9"


def test_the_loss_is_estimated_without_bias():
    machine = Machine(40, 6, 2, mu=True)
    rows = machine.rows(4000)
    exact = 1.7**2 * ((machine.reconstruct(machine.seen(rows)) - machine.seen(rows)) ** 2).sum()
    assert gradient(machine, rows)[0] == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_the_sum_of_its_rows(kind):
    machine = Machine(17, 13, 3, **KINDS[kind])
    rows = machine.rows(12)
    loss, whole = gradient(machine, rows, radius=30.0)
    each = [gradient(machine, rows[i : i + 1], index=np.array([5 + i]), radius=30.0) for i in range(12)]
    np.testing.assert_allclose(whole, sum(g for _, g in each), rtol=1e-4, atol=1e-4)
    assert loss == pytest.approx(sum(one for one, _ in each), rel=1e-4)


@pytest.mark.parametrize("kind", ["plain", "mu", "mu, one precision"])
def test_chains_stay_in_the_ball(kind):
    machine = Machine(6, 4, 2, **KINDS[kind])
    chains = np.random.default_rng(3).normal(size=(50, 6)).astype(np.float32)
    chains *= 1.5 / np.linalg.norm(chains, axis=1, keepdims=True)
    ends, first = machine.gibbs(chains.astype(np.float64), np.arange(50), radius=2.0)
    assert 0 < first.sum() < 50
    kept = chains.copy()
    gradient(machine, machine.rows(0), kept, radius=2.0 * machine.scale)
    np.testing.assert_allclose(kept, ends, rtol=1e-4, atol=1e-4)
    assert np.linalg.norm(kept, axis=1).max() < 2.0
    v = (chains * machine.scale + machine.mean).astype(np.float32)
    found = machine.native.evaluate(machine.parameters, v, np.arange(50), mean=machine.mean, scale=machine.scale,
                                    radius=2.0 * machine.scale, seed=SEED, purpose=PURPOSE, step=STEP)
    assert found[2] == first.sum()
    still = v.copy()
    machine.native.gibbs(machine.parameters, still, np.arange(50), mean=machine.mean, scale=machine.scale,
                         radius=1e-3, seed=SEED, purpose=PURPOSE, step=STEP, steps=3)
    np.testing.assert_allclose(still, v, rtol=1e-5, atol=1e-5)


def test_steps_of_a_chain_are_numbered():
    machine = Machine(6, 4, mu=True)
    v = machine.rows(5)
    u = machine.seen(v)
    for k in range(3):
        u = machine.gibbs(u, np.arange(5), step=STEP + k)[0]
    machine.native.gibbs(machine.parameters, v, np.arange(5), mean=machine.mean, scale=machine.scale, radius=0.0,
                         seed=SEED, purpose=PURPOSE, step=STEP, steps=3)
    np.testing.assert_allclose(machine.seen(v), u, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("beyond", [3.0, -3.0])
def test_the_slabs_precision_counts_within_bounds_only(beyond):
    machine = Machine(5, 3, alpha="diagonal")
    at = machine.places["log_alpha"]
    machine.parameters[at:] = np.copysign(2.0, beyond)
    v, ends = machine.rows(6), []
    for value in (np.copysign(2.0, beyond), beyond):
        machine.parameters[at:] = value
        energies = np.empty(6)
        machine.native.free_energy(machine.parameters, v, energies, mean=machine.mean, scale=machine.scale)
        ends.append(energies)
        found = gradient(machine, v)[1][at:]
    assert np.array_equal(*ends)
    assert (found * np.sign(beyond) >= 0).all() and found.any(), "a step may only lead back"


@pytest.mark.parametrize("kind", KINDS)
def test_normalisers_are_those_of_gaussians(kind):
    machine = Machine(8, 5, 2, **KINDS[kind])
    w, b, lam, alpha, mu, phi = machine.tensors()
    logs, improper = [], 0
    for state in range(32):
        h = np.array([state >> i & 1 for i in range(5)])
        inverse = np.diag(lam - 0.1 + phi @ h) - np.einsum("dki,eki,ki->de", w, w, h / alpha)
        linear = np.einsum("dki,ki->d", w, h * mu)
        if np.linalg.eigvalsh(inverse)[0] <= 0:
            improper += 1
            continue
        logs.append(h @ b + 4 * np.log(2 * np.pi) - np.linalg.slogdet(inverse)[1] / 2
                    + linear @ np.linalg.solve(inverse, linear) / 2 + np.log(2 * np.pi / alpha).sum() / 2)
    found = machine.native.log_normalisers(machine.parameters, 0, 32, 0.1)
    assert found == (pytest.approx(np.logaddexp.reduce(logs), rel=1e-6), improper)
    parts = [machine.native.log_normalisers(machine.parameters, *part, 0.1) for part in ((0, 11), (11, 11), (11, 32))]
    assert np.logaddexp.reduce([part[0] for part in parts]) == pytest.approx(found[0], rel=1e-9)


def test_parameters_far_out_are_proper_in_form_mu_and_not_in_the_plain_one():
    for kind, bad in (("mu", 0), ("mu, one precision", 0), ("plain", 31)):
        machine = Machine(8, 5, **KINDS[kind])
        machine.parameters[: 8 * 5] *= 1000
        assert machine.native.log_normalisers(machine.parameters, 0, 32)[1] == bad


def test_slices_are_announced():
    told = []
    machine = Machine(9, 5, 2, mu=True, alpha="diagonal")
    gradient(machine, machine.rows(3), ready=lambda begin, end: told.append((begin, end)))
    assert sorted(told) == [(at, at + int(np.prod(machine.shapes[name]))) for name, at in machine.places.items()]


@pytest.mark.skipif(not _core.has_bfloat16(), reason="needs a processor that multiplies bfloat16")
@pytest.mark.parametrize("kind", ["plain", "mu"])
def test_products_in_bfloat16_are_near_those_in_float32(kind):
    exact, rounded = (Machine(64, 31, 2, dtype=dtype, **KINDS[kind]) for dtype in ("float32", "bfloat16"))
    rows = exact.rows(40)
    chains = np.random.default_rng(2).normal(size=(40, 64)).astype(np.float32)
    found, expected = (gradient(machine, rows, chains.copy())[1] for machine in (rounded, exact))
    assert np.linalg.norm(found - expected) < 0.05 * np.linalg.norm(expected)
    assert not np.array_equal(found, expected)


@pytest.mark.parametrize(("change", "message"), [
    ({"pool": 0}, "pool 0; expected at least 1"),
    ({"hidden": 0}, "0 hidden units"),
    ({"weights": -1}, "begins before the vector does"),
])
def test_bad_shapes_are_named(change, message):
    machine = Machine(4, 3)
    shape = {"visible": 4, "hidden": 3, "pool": 1, "slab_mean": -1, "log_phi": -1, "log_alpha": -1, **machine.places,
             "diagonal_precision": True, "diagonal_alpha": False, **change}
    with pytest.raises(ValueError, match=message):
        _core.Ssrbm(shape)


def test_bad_calls_are_named():
    machine = Machine(4, 3)
    rows = machine.rows(2)
    for change, message in (({"steps": 0}, "gibbs_steps is 0"), ({"turn": 16}, "turn is 16"),
                            ({"radius": -1.0}, "radius"), ({"index": np.arange(3)}, "index has 3 elements; expect")):
        with pytest.raises(ValueError, match=message):
            gradient(machine, rows, **change)
    with pytest.raises(ValueError, match="gradients has 5 elements"):
        machine.native.gradient(machine.parameters, np.zeros(5, np.float32), rows, np.arange(2), None, None,
                                mean=machine.mean, scale=1.0, radius=0.0, weight=1.0, gibbs_steps=1, seed=0, purpose=0,
                                step=0, turn=0, ready=None, rounded=None)
    with pytest.raises(ValueError, match="parameters has 3 elements"):
        machine.native.log_normalisers(machine.parameters[:3], 0, 8)
    with pytest.raises(ValueError, match="0 <= begin <= end <= 8"):
        machine.native.log_normalisers(machine.parameters, 0, 9)
    with pytest.raises(ValueError, match="21 spikes to enumerate; expected at most 20"):
        large = Machine(2, 21)
        large.native.log_normalisers(large.parameters, 0, 1)


def test_threads_change_rounding_at_most():
    before, found = _core.threads(), []
    machine = Machine(300, 130, 2, mu=True, alpha="diagonal")
    rows = machine.rows(120)
    try:
        for count in (1, 3):
            _core.set_threads(count)
            chains = np.random.default_rng(2).normal(size=(60, 300)).astype(np.float32)
            found.append((*gradient(machine, rows, chains, weight=2.0, radius=35.0), chains))
    finally:
        _core.set_threads(before)
    for one, three in zip(*found, strict=True):
        np.testing.assert_allclose(three, one, rtol=1e-3, atol=1e-3 * np.abs(one).mean())
