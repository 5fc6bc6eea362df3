"""Boltzmann machines in C++ against NumPy in double, which draws the same random numbers by their keys."""

from itertools import pairwise

import numpy as np
import pytest

from pyddl import _core

PURPOSE, SEED, STEP = 5, 11, 3
SIZES = [(1, 1), (7, 1), (1, 5), (17, 13), (64, 31), (131, 67)]  # visible, hidden
ROWS = [0, 1, 2, 7, 31]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softplus(x):
    return np.logaddexp(0, x)


class Machine:
    """A native machine, its parameters, and the same in double; hidden units of kind "code" are Gaussian."""

    def __init__(self, visible, hidden, kind="bernoulli", *, learned=False, dtype="float32", seed=0):
        rng = np.random.default_rng(seed)
        self.V, self.H, self.kind = visible, hidden, kind
        self.begins = np.cumsum([0, visible * hidden, visible, hidden])
        self.places = {"visible": visible, "hidden": hidden, "weights": 0,
                       "kind": "gaussian" if kind == "gaussian" else "bernoulli", "code": kind == "code",
                       "visible_bias": int(self.begins[1]), "hidden_bias": int(self.begins[2]),
                       "log_variance": int(self.begins[3]) if learned else -1, "learned": learned}
        self.learned = learned
        self.native = _core.Rbm(self.places, dtype)
        self.parameters = rng.normal(0, 0.5, self.begins[3] + (visible if learned else 0)).astype(np.float32)
        self.parameters[: visible * hidden] /= np.sqrt(max(visible, hidden)) / 2

    def tensors(self, parameters=None):
        p = (self.parameters if parameters is None else parameters).astype(np.float64)
        w, b, c = np.split(p[: self.begins[3]], self.begins[1:3])
        s2 = np.exp(p[self.begins[3]:]) if self.learned else np.ones(self.V)
        return w.reshape(self.V, self.H), b, c, s2

    def rows(self, count, seed=1):
        rng = np.random.default_rng(seed)
        return rng.normal(size=(count, self.V)).astype(np.float32) if self.kind == "gaussian" else \
            rng.random((count, self.V), dtype=np.float32)

    def free_energy(self, v, parameters=None):
        w, b, c, s2 = self.tensors(parameters)
        if self.kind == "code":
            x = v @ w + c
            return -v @ b - ((x**2).sum(axis=1) - (c**2).sum() + self.H * np.log(2 * np.pi)) / 2
        hidden = softplus((v / s2) @ w + c).sum(axis=1) if self.kind == "gaussian" else softplus(v @ w + c).sum(axis=1)
        return ((v - b) ** 2 / (2 * s2)).sum(axis=1) - hidden if self.kind == "gaussian" else -v @ b - hidden

    def hidden_mean(self, v):
        w, _, c, s2 = self.tensors()
        x = (v / s2 if self.kind == "gaussian" else v) @ w + c
        return x if self.kind == "code" else sigmoid(x)

    def visible_sample(self, h, numbers, substep, step=STEP):
        w, b, _, s2 = self.tensors()
        y = h @ w.T + b
        out = np.empty(y.shape, np.float32)
        if self.kind != "gaussian":
            _core.bernoulli(out, sigmoid(y).astype(np.float32), numbers, SEED, PURPOSE, step, substep)
            return out.astype(np.float64)
        _core.normal(out, numbers, SEED, PURPOSE, step, substep)
        return y + out * np.sqrt(s2)

    def hidden_sample(self, v, numbers, substep, step=STEP):
        p = self.hidden_mean(v)
        out = np.empty(p.shape, np.float32)
        if self.kind == "code":
            _core.normal(out, numbers, SEED, PURPOSE, step, substep)
            return p, p + out
        _core.bernoulli(out, p.astype(np.float32), numbers, SEED, PURPOSE, step, substep)
        return p, out.astype(np.float64)


def gradient(machine, rows, chains=None, *, weight=1.0, steps=1, mean=False, offsets=None, sparsity=(0.0, 0.0),
             index=None, numbers=None, **hooks):
    """(loss, gradients) of the native machine; chains and offsets move."""
    out = np.full_like(machine.parameters, 9)
    index = np.arange(len(rows)) + 5 if index is None else index
    if chains is not None and numbers is None:
        numbers = np.arange(len(chains))
    mu, lam = offsets or (None, None)
    loss = machine.native.gradient(
        machine.parameters, out, rows, index, chains, numbers, weight=weight, gibbs_steps=steps,
        mean_reconstruction=mean, visible_offsets=mu, hidden_offsets=lam, offset_rate=0.1, sparsity=sparsity[0],
        sparsity_cost=sparsity[1], seed=SEED, purpose=PURPOSE, step=STEP, turn=0, sum=hooks.get("sum"),
        ready=hooks.get("ready"), rounded=None)
    return loss, out


def plain_gradient(machine, rows, chains=None, *, weight=1.0, steps=1, mean=False, offsets=None,
                   sparsity=(0.0, 0.0)):
    """The same by formulas, in double; (gradients, chains, offsets)."""
    w, b, c, s2 = machine.tensors()
    rows = rows.astype(np.float64)
    numbers = np.arange(len(rows)) + 5 if chains is None else np.arange(len(chains))
    h = machine.hidden_sample(rows, numbers, 0)[1] if chains is None else chains.astype(np.float64)
    v = np.empty((len(h), machine.V))
    for k in range(1, steps + 1):
        if k == steps and mean:
            v = h @ w.T + b
            v = v if machine.kind == "gaussian" else sigmoid(v)
        else:
            v = machine.visible_sample(h, numbers, 2 * k + 1)
        q, h = machine.hidden_sample(v, numbers, 2 * k)
    scale = s2 if machine.kind == "gaussian" else 1
    u, n, p = rows / scale, v / scale, machine.hidden_mean(rows)
    if offsets is not None and len(rows):
        offsets = [old + 0.1 * (new.mean(axis=0) - old) for old, new in zip(offsets, (u, p), strict=True)]
    if sparsity[1] and len(rows):
        mean_of = np.clip(p.mean(axis=0), 1e-4, 1 - 1e-4)
        p = p - sparsity[1] * (mean_of - sparsity[0]) / (mean_of * (1 - mean_of)) * p * (1 - p)
    of_w = u.T @ p - weight * n.T @ q
    of_b, of_c = u.sum(axis=0) - weight * n.sum(axis=0), p.sum(axis=0) - weight * q.sum(axis=0)
    of_z = (w * of_w).sum(axis=1) * -1
    if machine.kind == "gaussian":
        of_z += ((rows - b) ** 2 / (2 * s2)).sum(axis=0) - weight * ((v - b) ** 2 / (2 * s2)).sum(axis=0)
    if machine.kind == "gaussian":
        of_b = of_b - b / s2 * (len(rows) - weight * len(v))
    if machine.kind == "code":
        of_c = of_c - c * (len(rows) - weight * len(v))
    if offsets is not None:
        mu, lam = offsets
        of_w = of_w - np.outer(mu, of_c) - np.outer(of_b, lam)
        of_b, of_c = of_b - of_w @ lam, of_c - of_w.T @ mu
    return -np.concatenate([of_w.ravel(), of_b, of_c, of_z if machine.learned else []]), h, offsets


CASES = {
    "persistent": {"persistent": True},
    "persistent, 3 steps": {"persistent": True, "steps": 3, "weight": 0.7},
    "from rows": {},
    "from rows, 3 steps": {"steps": 3},
    "mean": {"mean": True, "steps": 2},
    "centered": {"persistent": True, "centered": True, "weight": 1.3},
    "centered, from rows": {"centered": True},
    "sparse": {"sparsity": (0.1, 0.5)},
    "sparse, centered": {"sparsity": (0.1, 0.5), "centered": True, "persistent": True},
}


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("kind", ["bernoulli", "gaussian", "learned"])
@pytest.mark.parametrize("case", CASES)
def test_a_gradient_is_the_formula_s(case, kind, sizes, rows):
    given = dict(CASES[case])
    machine = Machine(*sizes, "bernoulli" if kind == "bernoulli" else "gaussian", learned=kind == "learned")
    v = machine.rows(rows)
    rng = np.random.default_rng(2)
    chains = (rng.random((9, machine.H)) < 0.5).astype(np.float32) if given.pop("persistent", False) else None
    offsets = (rng.random(machine.V, dtype=np.float32), rng.random(machine.H, dtype=np.float32)) \
        if given.pop("centered", False) else None
    expected, moved, means = plain_gradient(machine, v, chains, offsets=offsets, **given)
    before = v.copy()
    _, found = gradient(machine, v, chains, offsets=offsets, **given)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
    assert np.array_equal(v, before)
    if chains is not None:
        assert np.array_equal(chains, moved), "the chains went another way"
    if offsets is not None:
        for mine, mean in zip(offsets, means, strict=True):
            np.testing.assert_allclose(mine, mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("case", [name for name in CASES if "sparse" not in name])
def test_a_gradient_of_a_gaussian_code_is_the_formula_s(case, sizes, rows):
    given = dict(CASES[case])
    machine, rng = Machine(*sizes, "code"), np.random.default_rng(2)
    v = machine.rows(rows)
    chains = rng.normal(size=(9, machine.H)).astype(np.float32) if given.pop("persistent", False) else None
    offsets = (rng.random(machine.V, dtype=np.float32), rng.normal(size=machine.H).astype(np.float32)) \
        if given.pop("centered", False) else None
    expected, moved, _ = plain_gradient(machine, v, chains, offsets=offsets, **given)
    loss, found = gradient(machine, v, chains, offsets=offsets, **given)
    np.testing.assert_allclose(found, expected, rtol=3e-3, atol=5e-3)
    w, b, _, _ = machine.tensors()
    rebuilt = sigmoid(machine.hidden_mean(v) @ w.T + b)
    assert loss == pytest.approx(((rebuilt - v) ** 2).sum(), rel=1e-4, abs=1e-6)
    if chains is not None:
        np.testing.assert_allclose(chains, moved, rtol=1e-4, atol=1e-4)


def test_what_a_gaussian_code_has_not_is_refused():
    machine = Machine(7, 3, "code")
    v, out = machine.rows(2), np.empty(2)
    with pytest.raises(ValueError, match="conditional_loss is of Bernoulli hidden units"):
        machine.native.conditional_loss(machine.parameters, v, np.arange(2), 0, PURPOSE, 0, 1, out)
    with pytest.raises(ValueError, match="enumeration is of Bernoulli hidden units"):
        machine.native.pieces(True)
    with pytest.raises(ValueError, match="annealed importance sampling is of"):
        machine.native.anneal(machine.parameters, np.zeros(7, np.float32), np.array([0.0, 1.0]), v, np.arange(2), 0,
                              PURPOSE, 0, out)
    with pytest.raises(ValueError, match="sparsity is of"):
        gradient(machine, v, sparsity=(0.1, 0.5))
    with pytest.raises(ValueError, match="Gaussian both"):
        _core.Rbm({**machine.places, "kind": "gaussian"})


@pytest.mark.parametrize("case", ["persistent", "from rows, 3 steps", "centered", "centered, from rows"])
@pytest.mark.parametrize("sizes", [(40, 15), (64, 16), (131, 67), (97, 130), (60, 301)], ids=str)
def test_zeros_of_visible_units_are_skipped(case, sizes):
    """Where few units are not zero, sums of rows by lists are the products; on any number of threads, bit for bit."""
    given = dict(CASES[case])
    machine, rng = Machine(*sizes), np.random.default_rng(2)
    machine.parameters[machine.begins[1] : machine.begins[2]] -= 4
    v = machine.rows(12) * (rng.random((12, machine.V)) < 0.1)
    v[3] = 0
    chains = (rng.random((9, machine.H)) < 0.2).astype(np.float32) if given.pop("persistent", False) else None
    offsets = (rng.random(machine.V, dtype=np.float32), rng.random(machine.H, dtype=np.float32)) \
        if given.pop("centered", False) else None
    kept = [each.copy() for each in (chains, *(offsets or ())) if each is not None]
    expected, moved, _ = plain_gradient(machine, v, chains, offsets=offsets, **given)
    _, found = gradient(machine, v, chains, offsets=offsets, **given)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
    assert chains is None or np.array_equal(chains, moved)
    before = _core.threads()
    _core.set_threads(3)
    try:
        again = iter(kept)
        chains = None if chains is None else next(again)
        offsets = None if offsets is None else (next(again), next(again))
        assert np.array_equal(gradient(machine, v, chains, offsets=offsets, **given)[1], found)
    finally:
        _core.set_threads(before)


def test_no_rows_and_no_chains_have_no_gradient():
    machine = Machine(7, 3)
    offsets = np.ones(7, np.float32), np.ones(3, np.float32)
    loss, found = gradient(machine, machine.rows(0), np.zeros((0, 3), np.float32), offsets=offsets)
    assert loss == 0 and not found.any() and offsets[0].all()


@pytest.mark.parametrize("persistent", [False, True])
def test_parts_of_a_batch_and_of_the_chains_add_up(persistent):
    """Whoever holds a row or chain: its random numbers are its own."""
    machine, rows, index = Machine(23, 11), Machine(23, 11).rows(10), np.arange(10) + 5
    rng = np.random.default_rng(2)
    states = (rng.random((6, 11)) < 0.5).astype(np.float32) if persistent else None
    shared = [], []

    def offsets():
        return np.full(23, 0.5, np.float32), np.full(11, 0.5, np.float32)

    whole_chains, part_chains = (None if states is None else states.copy() for _ in range(2))
    weight = 10 / 6 if persistent else 1
    loss, whole = gradient(machine, rows, whole_chains, offsets=offsets(), index=index, weight=weight,
                           sum=lambda x: shared[0].append(x.copy()))
    losses, parts = 0.0, np.zeros_like(whole)
    for begin, end, first, last in ((0, 3, 0, 1), (3, 3, 1, 4), (3, 10, 4, 6)):
        def all_workers(x):
            shared[1].append(x.copy())
            x[:] = shared[0][0]

        some = None if states is None else part_chains[first:last]
        numbers = None if states is None else np.arange(first, last)
        mine, part = gradient(machine, rows[begin:end], some, offsets=offsets(), index=index[begin:end],
                              numbers=numbers, weight=weight, sum=all_workers)
        losses, parts = losses + mine, parts + part
    np.testing.assert_allclose(sum(shared[1]), shared[0][0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(parts, whole, rtol=1e-3, atol=1e-3)
    assert losses == pytest.approx(loss, rel=1e-5)
    assert states is None or np.array_equal(whole_chains, part_chains)


def test_slices_are_announced_once():
    machine, told = Machine(9, 4, "gaussian", learned=True), []
    gradient(machine, machine.rows(3), ready=lambda begin, end: told.append((begin, end)))
    assert sorted(told) == [(0, 36), (36, 45), (45, 49), (49, 58)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_conditionals_and_free_energies_of_a_gaussian_code(sizes):
    machine = Machine(*sizes, "code")
    w, b, c, _ = machine.tensors()
    for count in ROWS:
        v = machine.rows(count)
        means, found, rebuilt = np.empty((count, machine.H), np.float32), np.empty(count), np.empty_like(v)
        machine.native.hidden_mean(machine.parameters, v, means)
        machine.native.free_energy(machine.parameters, v, found)
        machine.native.visible_mean(machine.parameters, means, rebuilt)
        np.testing.assert_allclose(means, v @ w + c, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found, machine.free_energy(v.astype(float)), rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(rebuilt, sigmoid(means @ w.T + b), rtol=1e-4, atol=1e-5)
        loss, squared, energy = machine.native.evaluate(machine.parameters, v, np.arange(count), 0, PURPOSE, 0, 1)
        assert loss == squared == pytest.approx(((rebuilt - v) ** 2).sum(), rel=1e-4, abs=1e-6)
        assert energy == pytest.approx(found.sum(), rel=1e-5, abs=1e-3)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("kind", ["bernoulli", "gaussian", "learned"])
def test_conditionals_and_free_energies_are_those_of_plain_loops(kind, sizes):
    machine = Machine(*sizes, "bernoulli" if kind == "bernoulli" else "gaussian", learned=kind == "learned")
    w, b, c, s2 = machine.tensors()
    given = None if kind == "bernoulli" else s2
    for count in ROWS:
        v = machine.rows(count)
        exact, energies = np.empty((count, machine.H)), np.empty(count)
        _core.reference_rbm_hidden_inputs(v.astype(float), w, c, given, exact)
        _core.reference_rbm_free_energy(v.astype(float), w, b, c, given, energies)
        np.testing.assert_allclose(energies, machine.free_energy(v.astype(float)), rtol=1e-9)
        means, found = np.empty((count, machine.H), np.float32), np.empty(count)
        machine.native.hidden_mean(machine.parameters, v, means)
        machine.native.free_energy(machine.parameters, v, found)
        np.testing.assert_allclose(means, sigmoid(exact), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found, energies, rtol=1e-5, atol=1e-4)
        rebuilt = np.empty_like(v)
        machine.native.visible_mean(machine.parameters, means, rebuilt)
        y = means @ w.T + b
        y = sigmoid(y) if kind == "bernoulli" else y
        np.testing.assert_allclose(rebuilt, y, rtol=1e-4, atol=1e-5)
        loss, squared, energy = machine.native.evaluate(machine.parameters, v, np.arange(count), 0, PURPOSE, 0, 1)
        assert squared == pytest.approx(((y - v) ** 2).sum(), rel=1e-4, abs=1e-6)
        assert energy == pytest.approx(energies.sum(), rel=1e-5, abs=1e-3)
        assert kind == "bernoulli" or loss == squared


@pytest.mark.parametrize("sizes", [(7, 1), (1, 5), (17, 13)], ids=str)
def test_the_conditional_loss_is_that_of_all_flips(sizes):
    machine = Machine(*sizes)
    v = (machine.rows(6) < 0.5).astype(np.float32)
    expected = np.zeros(6)
    for i in range(machine.V):
        flipped = v.copy()
        flipped[:, i] = 1 - flipped[:, i]
        expected += softplus(machine.free_energy(v.astype(float)) - machine.free_energy(flipped.astype(float)))
    found = np.empty(6)
    machine.native.conditional_loss(machine.parameters, v, np.arange(6), 0, PURPOSE, 0, machine.V, found)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    total = np.zeros(6)
    for seed in range(2000):
        machine.native.conditional_loss(machine.parameters, v, np.arange(6), seed, PURPOSE, 0, min(3, machine.V), found)
        total += found
    np.testing.assert_allclose(total / 2000, expected, rtol=0.05)


@pytest.mark.parametrize("kind", ["bernoulli", "gaussian", "learned"])
@pytest.mark.parametrize("sizes", [(1, 1), (5, 3), (6, 10), (12, 9), (3, 12)], ids=str)
def test_log_sums_are_those_of_plain_loops(kind, sizes):
    machine = Machine(*sizes, "bernoulli" if kind == "bernoulli" else "gaussian", learned=kind == "learned")
    w, b, c, s2 = machine.tensors()
    expected = _core.reference_rbm_log_partition(w, b, c, None if kind == "bernoulli" else s2)
    constant = 0 if kind == "bernoulli" else (np.log(2 * np.pi * s2) / 2 - b**2 / (2 * s2)).sum()
    for of_hidden in (True, False) if kind == "bernoulli" else (True,):
        pieces = machine.native.pieces(of_hidden)
        assert pieces == 2 ** max(0, (machine.H if of_hidden else machine.V) - 8)
        cuts = sorted({0, pieces // 3, pieces})
        logs = [machine.native.log_sum(machine.parameters, of_hidden, *cut)
                for cut in pairwise(cuts)]
        assert np.logaddexp.reduce(logs) + constant == pytest.approx(expected, rel=1e-6, abs=1e-4)


@pytest.mark.parametrize("kind", ["bernoulli", "code"])
def test_gibbs_steps_are_the_chain_s(kind):
    machine = Machine(12, 5, kind)
    v = (machine.rows(4) < 0.5).astype(np.float32)
    numbers, energies, mean = np.arange(4) + 2, np.empty((3, 4)), np.empty_like(v)
    expected, before = v.astype(float), []
    w, b, _, _ = machine.tensors()
    for step in range(STEP, STEP + 3):
        before.append(machine.free_energy(expected))
        _, h = machine.hidden_sample(expected, numbers, 0, step)
        last = sigmoid(h @ w.T + b)
        expected = machine.visible_sample(h, numbers, 1, step)
    machine.native.gibbs(machine.parameters, v, numbers, SEED, PURPOSE, STEP, 3, energies, mean)
    assert np.array_equal(v, expected)
    np.testing.assert_allclose(energies, before, rtol=1e-4)
    np.testing.assert_allclose(mean, last, rtol=1e-4)


@pytest.mark.skipif(not _core.has_bfloat16(), reason="the processor has no bfloat16")
def test_bfloat16_products_give_nearly_the_same_gradient():
    exact, rounded = Machine(96, 64), Machine(96, 64, dtype="bfloat16")
    rows = (exact.rows(40) < 0.3).astype(np.float32)
    found = [gradient(machine, rows)[1] for machine in (exact, rounded)]
    assert 0 < np.linalg.norm(found[1] - found[0]) < 5e-2 * np.linalg.norm(found[0])


@pytest.mark.parametrize(("change", "message"), [
    ({"steps": 0}, "gibbs_steps is 0; expected 1 to 2000"),
    ({"index": np.arange(2)}, "index has 2 elements; expected 3"),
    ({"chains": np.zeros((2, 5), np.float32)}, r"chains has shape \(2, 5\); expected \(2, 4\)"),
])
def test_what_does_not_fit_is_refused(change, message):
    machine = Machine(6, 4)
    with pytest.raises(ValueError, match=message):
        gradient(machine, machine.rows(3), **change)


def test_machines_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="has 0 visible and 3 hidden units"):
        Machine(0, 3)
    with pytest.raises(ValueError, match="26 units to enumerate; expected at most 25"):
        Machine(30, 26).native.pieces(True)
    with pytest.raises(ValueError, match="Gaussian units cannot be enumerated"):
        Machine(3, 2, "gaussian").native.pieces(False)
