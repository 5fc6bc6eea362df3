"""Spike-and-slab machines: theory by integration, chains, exact likelihood, protocol. Kernels: see tests/kernels."""

import copy
import pickle

import numpy as np
import pytest

import pyddl.data
from pyddl.data import ArraySource
from pyddl.data.batch import Batch, Chains
from pyddl.data.statistics import Statistics
from pyddl.errors import DataError, ParameterError, ShapeError
from pyddl.models import Model, SpikeSlabRBM, create
from pyddl.models.ssrbm_likelihood import exact_log_partition, likelihood
from pyddl.models.stages import stages_of
from pyddl.optim import OPTIMIZERS
from pyddl.train import Trainer
from pyddl.train.crew import Crew

DIGITS = np.asarray(pyddl.data.load("digits"))
KINDS = {
    "plain": {},
    "pooled": {"pool": 2, "slab_precision": "scalar", "gibbs_steps": 2},
    "scalar": {"precision": "scalar", "slab_precision": "diagonal"},
    "persistent": {"chain": "pcd"},
    "mu": {"form": "mu", "chain": "pcd", "pool": 2},
    "mu, scalar": {"form": "mu", "precision": "scalar", "slab_precision": "diagonal", "radius": 60.0},
    "raw": {"standardise": False, "radius": 50.0},
}


def rows_of(count, inputs, seed=0):
    rng = np.random.default_rng(seed)
    return (1 + rng.normal(size=(count, inputs)) * rng.uniform(0.5, 1.5, inputs)).astype(np.float32)


def made(inputs=6, hidden=4, deviation=0.3, **options):
    """Model, parameters, buffers; tensors of some size."""
    model = SpikeSlabRBM(inputs, (hidden,), **options)
    parameters, buffers = model.layout.zeros(), model.buffers.zeros()
    model.initialise(parameters, buffers, 3, Statistics(ArraySource(rows_of(50, inputs))))
    rng = np.random.default_rng(1)
    for s in model.layout:
        if s.group != "data":
            parameters[s.begin : s.end] = rng.normal(0, deviation, s.size)
    return model, parameters, buffers


def measured(model, parameters, buffers, rows, crew=None):
    return likelihood(model, parameters, buffers, ArraySource(rows), crew or Crew())


def on_a_grid(model, parameters, reach=12.0, points=600):
    """Points of the plane about the mean, in the data's unit, exp(-free energy) there, and the area of each."""
    views = model.layout.views(parameters)
    scale = float(views["scale"][0])
    axis = np.linspace(-reach, reach, points) * scale
    grid = (np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2) + views["mean"]).astype(np.float32)
    return grid, np.exp(-model.free_energy(parameters, grid)), (2 * reach / (points - 1)) ** 2


# ---- protocol


@pytest.mark.parametrize("kind", KINDS)
def test_it_has_the_protocol_s_members(kind):
    model, parameters, buffers = made(**KINDS[kind])
    assert isinstance(model, Model) and create("ssrbm", **model.options()).layout == model.layout
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert again.options() == model.options() and again.buffers == model.buffers
    assert model.layout["weights"].shape == (6, model.pool, 4) and len(stages_of(model)) == 1
    rows = rows_of(9, 6)
    scores = model.evaluate(parameters, buffers, Batch(rows))
    assert next(iter(scores)) == "loss" and all(np.isfinite(value) for value in scores.values())
    assert ("rejection_rate" in scores) == (kind != "mu")
    assert list(model.evaluate(parameters, buffers, Batch(rows[:0])).values()) == [0.0] * len(scores)
    codes = model.encode(parameters, buffers, rows)
    assert codes.shape == (9, 4) and codes.min() >= 0 and codes.max() <= 1
    assert np.array_equal(model.encode(parameters, buffers, rows[:1]), codes[:1]), "alone or among others"
    error = ((model.reconstruct(parameters, buffers, rows) - rows) ** 2).sum()
    assert scores["squared_error"] == scores["loss"] == pytest.approx(error, rel=1e-4)
    assert scores["free_energy"] == pytest.approx(model.free_energy(parameters, rows).sum(), rel=1e-5)
    shown = model.pictures(parameters, buffers, rows)
    assert shown["filters"].shape == (4 * model.pool, 6) and shown["samples"].shape == (50, 6)
    assert np.array_equal(shown["filters"][0], model.layout.views(parameters)["weights"][:, 0, 0])
    assert model.sample(parameters, buffers, 7, 0, steps=3).shape == (7, 6)


def test_codes_are_probabilities_or_their_inputs():
    model, parameters, buffers = made()
    inputs = SpikeSlabRBM(6, (4,), code="input").encode(parameters, buffers, rows_of(9, 6))
    np.testing.assert_allclose(model.encode(parameters, buffers, rows_of(9, 6)), 1 / (1 + np.exp(-inputs)), atol=1e-6)
    assert inputs.min() < 0


def test_parameters_begin_as_data_say():
    rows = rows_of(80, 6)
    model, parameters, buffers = (SpikeSlabRBM(6, (4,), chain="pcd"), *(None,) * 2)
    parameters, buffers = model.layout.zeros(), model.buffers.zeros()
    model.initialise(parameters, buffers, 0, Statistics(ArraySource(rows)))
    views = model.layout.views(parameters)
    np.testing.assert_allclose(views["mean"], rows.mean(axis=0), rtol=1e-5)
    assert views["scale"][0] == pytest.approx(np.sqrt(rows.var(axis=0).mean()), rel=1e-5)
    distance = np.linalg.norm(rows - rows.mean(axis=0), axis=1).max()
    assert views["radius"][0] == pytest.approx(1.2 * distance, rel=1e-5)
    chains = model.buffers.views(buffers)["chains"]
    assert np.linalg.norm(chains, axis=1).max() < views["radius"][0] / views["scale"][0] and chains.std() > 0.3
    assert [s.name for s in model.layout if s.group == "data"] == ["mean", "scale", "radius"]


# ---- theory


@pytest.mark.parametrize("kind", KINDS)
def test_the_positive_phase_is_the_slope_of_the_free_energy(kind):
    """With chains that count nothing, the gradient is that of the summed free energies, by finite differences."""
    model, parameters, buffers = made(**{**KINDS[kind], "chain": "pcd"})
    rows, gradients = rows_of(8, 6), model.layout.zeros()
    model.gradient(parameters, gradients, buffers, Batch(rows, chains=Chains(0, 0, 100)))
    for s in model.layout:
        if s.group == "data":
            continue
        for at in range(s.begin, s.end):
            if s.name == "weights" and abs(parameters[at]) < 1e-2:
                continue  # |w| has a corner
            energies = []
            for step in (4e-3, -4e-3):
                moved = parameters.copy()
                moved[at] += step
                energies.append(model.free_energy(moved, rows).sum())
            assert gradients[at] == pytest.approx((energies[0] - energies[1]) / 8e-3, rel=1e-2, abs=3e-2), s.name


@pytest.mark.parametrize("kind", ["plain", "pooled", "scalar", "mu", "mu, scalar"])
def test_the_partition_function_is_the_integral_of_the_free_energy(kind):
    model, parameters, buffers = made(2, 3, **{**KINDS[kind], "radius": 60.0})
    _, density, area = on_a_grid(model, parameters)
    assert exact_log_partition(model, parameters, Crew()) == pytest.approx(np.log(density.sum() * area), abs=1e-4)
    found = measured(model, parameters, buffers, rows_of(20, 2))
    p = np.exp(-model.free_energy(parameters, rows_of(20, 2)))
    scale = float(model.layout.views(parameters)["scale"][0])
    assert found["log_likelihood"] == pytest.approx(np.log(p / (density.sum() * area * scale**2)).mean(), abs=1e-4)
    assert found["outside_ball"] < 1e-6


@pytest.mark.parametrize("kind", ["plain", "pooled", "mu", "mu, scalar"])
@pytest.mark.parametrize("reach", [0.0, 1.5])
def test_samples_have_the_density_of_the_machine(kind, reach):
    """Also within a ball that cuts off a good part of it."""
    model, parameters, _ = made(2, 3, **{**KINDS[kind], "radius": 60.0})
    views = model.layout.views(parameters)
    views["radius"][:] = reach * views["scale"]
    grid, density, _ = on_a_grid(model, parameters)
    off = (grid - views["mean"]) / views["scale"]
    if reach:
        density = density * ((off**2).sum(axis=1) < reach**2)
    density /= density.sum()
    start = np.tile(views["mean"], (40000, 1)).astype(np.float32)
    samples = (model.gibbs(parameters, start, 40, seed=5) - views["mean"]) / views["scale"]
    for power in ((1, 0), (0, 1), (2, 0), (0, 2), (1, 1), (4, 0), (2, 2)):
        found, expected = ((each[:, 0] ** power[0] * each[:, 1] ** power[1]) for each in (samples, off))
        error = found.std() / np.sqrt(len(found))
        assert found.mean() == pytest.approx((density * expected).sum(), abs=4.5 * error), power


def test_variances_of_slabs_and_visible_units_are_1_over_their_precisions():
    """One spike, always on: from v = 0 the slab has variance 1 / a, and v then 1 / L + w^2 / (L^2 a)."""
    model, parameters, _ = made(1, 1, slab_precision="scalar", standardise=False, radius=1e4)
    views = model.layout.views(parameters)
    views["spike_bias"][:], views["weights"][:] = 50, 1.5
    for a, precision in ((0.4, 2.0), (3.0, 0.5)):
        views["log_slab_precision"][:], views["log_precision"][:] = np.log(a), np.log(precision)
        moved = model.gibbs(parameters, np.zeros((100000, 1), np.float32), 1)
        assert moved.var() == pytest.approx(1 / precision + 1.5**2 / (precision**2 * a), rel=0.03)
    views["spike_bias"][:] = -50
    moved = model.gibbs(parameters, np.zeros((100000, 1), np.float32), 1)
    assert moved.var() == pytest.approx(1 / 0.5, rel=0.03)


def test_contrastive_divergence_comes_near_the_exact_gradient_as_chains_grow_longer():
    model, parameters, buffers = made(2, 2, deviation=0.5, form="mu", chain="cd")
    rows = np.repeat(rows_of(40, 2), 200, axis=0)
    grid, density, _ = on_a_grid(model, parameters, points=300)
    free = SpikeSlabRBM(2, (2,), form="mu", chain="pcd")

    def slopes(v):
        out = free.layout.zeros()
        free.gradient(parameters, out, free.buffers.zeros(), Batch(v, chains=Chains(0, 0, 1)))
        return out[: model.layout["mean"].begin] / len(v)

    drawn = grid[np.random.default_rng(0).choice(len(grid), 400000, p=density / density.sum())]
    exact = slopes(rows) - slopes(drawn)
    off = {}
    for steps in (1, 4, 40):
        machine, out = SpikeSlabRBM(2, (2,), form="mu", gibbs_steps=steps), model.layout.zeros()
        machine.gradient(parameters, out, buffers, Batch(rows))
        off[steps] = np.linalg.norm(out[: len(exact)] / len(rows) - exact) / np.linalg.norm(exact)
    assert off[40] < 0.1 and off[4] < off[1] and off[40] < off[1], off


def test_only_weights_over_the_root_of_the_slabs_precision_matter():
    """That is why it is fixed by default."""
    model, parameters, _ = made(pool=2, slab_precision="diagonal", form="mu")
    views, rows = model.layout.views(parameters), rows_of(20, 6)
    alpha = np.exp(views["log_slab_precision"])
    before = model.free_energy(parameters, rows)
    views["log_slab_precision"][:] = 0
    views["weights"][:] /= np.sqrt(alpha)
    views["slab_mean"][:] *= np.sqrt(alpha)
    after = model.free_energy(parameters, rows)
    np.testing.assert_allclose(after - before, (after - before)[0], atol=1e-3)


# ---- exact likelihood


def test_every_state_of_form_mu_is_proper():
    rng = np.random.default_rng(0)
    for precision in ("diagonal", "scalar"):
        model, parameters, _ = made(8, 6, form="mu", precision=precision, pool=2)
        views = model.layout.views(parameters)
        for _ in range(20):
            views["weights"][:] = rng.normal(0, 10 ** rng.uniform(-1, 3), views["weights"].shape)
            views["log_phi"][:] = rng.normal(-5, 3, views["log_phi"].shape)
            assert np.isfinite(exact_log_partition(model, parameters, Crew()))


def test_what_has_no_exact_likelihood_is_refused():
    rows = rows_of(20, 6)
    model, parameters, buffers = made(radius=40.0)
    assert measured(model, parameters, buffers, rows)["outside_ball"] < 1e-3
    views = model.layout.views(parameters)
    views["weights"][:, 0, 0] = 5
    with pytest.raises(DataError, match=r"8 of 16 states of the spikes are improper.*Form mu has proper states only"):
        measured(model, parameters, buffers, rows)
    model, parameters, buffers = made()
    model.layout.views(parameters)["radius"][:] = 1.5
    with pytest.raises(DataError, match=r"lies outside the ball of radius 1\.5, which makes it another one"):
        measured(model, parameters, buffers, rows)
    model, parameters, buffers = made(6, 21, form="mu")
    with pytest.raises(ParameterError, match="21 hidden units are too many for an enumeration, which takes up to 20"):
        measured(model, parameters, buffers, rows)


def test_the_share_outside_the_ball_is_bounded_from_above():
    model, parameters, buffers = made(2, 3, form="mu", radius=60.0)
    grid, density, _ = on_a_grid(model, parameters)
    off = np.linalg.norm((grid - model.layout.views(parameters)["mean"]) / model.layout.views(parameters)["scale"],
                         axis=1)
    scale = float(model.layout.views(parameters)["scale"][0])
    for reach in (5.0, 6.0, 7.0):
        model.layout.views(parameters)["radius"][:] = reach * scale
        try:
            found = measured(model, parameters, buffers, rows_of(20, 2))["outside_ball"]
        except DataError:
            continue
        share = density[off > reach].sum() / density.sum()
        assert share <= found < 1e-3
    assert found < 1e-3, "the last one is large enough"


# ---- training


def trained(rows, test=None, **options):
    own = {key: options.pop(key) for key in list(options) if key in SpikeSlabRBM(2, (1,)).options()}
    model = SpikeSlabRBM(rows.shape[1], own.pop("hidden", (8,)), **own)
    options = {"epochs": 10, "batch_size": 50, "optimizer": "sgd", "schedule": "linear", "seed": 1, "strategy": "local",
               "clip_norm": 5.0, **options}
    return Trainer(model, **options).fit(rows, test)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns(kind):
    rows = DIGITS * 3 - 1 if kind != "raw" else (DIGITS - DIGITS.mean(axis=0)) / DIGITS.std()
    result = trained(rows, rows, hidden=(8 if "mu" in kind else 20,), **KINDS[kind])
    if "mu" in kind:
        begun = trained(rows, hidden=(8,), epochs=1, learning_rate=1e-9, **KINDS[kind])
        log_likelihoods = [measured(each.model, each.parameters, each.buffers, rows)["log_likelihood"]
                           for each in (begun, result)]
        assert log_likelihoods[1] > log_likelihoods[0] + 2, log_likelihoods
    else:
        errors = [line["test_squared_error"] for line in result.metrics]
        variance = ((rows - rows.mean(axis=0)) ** 2).sum(axis=1).mean()
        assert errors[-1] < 0.95 * variance, (errors, variance)
    views = result.model.layout.views(result.parameters)
    if "log_slab_precision" in views:
        assert abs(views["log_slab_precision"]).max() > 0.01
    if kind != "mu":
        assert 0 <= result.metrics[-1]["test_rejection_rate"] <= 1


@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_every_optimizer_learns_at_its_default_rate(rule):
    result = trained(DIGITS, DIGITS, hidden=(20,), optimizer=rule)
    variance = ((DIGITS - DIGITS.mean(axis=0)) ** 2).sum(axis=1).mean()
    assert result.metrics[-1]["test_squared_error"] < 0.9 * variance


def test_a_density_with_two_scales_is_better_told_than_by_a_gaussian():
    """Half of the rows have a tenth of the variance: what no Gaussian can say, and a spike can."""
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(4000, 8)) * rng.choice([0.3, 1.0], (4000, 1))).astype(np.float32)
    result = trained(rows, hidden=(2,), form="mu", chain="pcd", optimizer="adam", learning_rate=0.02, epochs=15,
                     batch_size=200, clip_norm=None)
    found = measured(result.model, result.parameters, result.buffers, rows)["log_likelihood"]
    gaussian = -4 * np.log(2 * np.pi * rows.var()) - 4
    assert found > gaussian + 1, (found, gaussian)


# ---- bad input


@pytest.mark.parametrize(("options", "message"), [
    ({"inputs": 0}, "inputs is 0"),
    ({"hidden": (4, 3)}, r"hidden is \[4, 3\]; expected one number"),
    ({"pool": 0}, "pool is 0"),
    ({"chains": 0}, "chains is 0; expected a whole number at least 1"),
    ({"gibbs_steps": 0}, "gibbs_steps is 0"),
    ({"chain": "pdc"}, "did you mean 'pcd'"),
    ({"chain": "ptt"}, "chain is 'ptt'; expected one of cd, pcd"),
    ({"form": "nu"}, "form is 'nu'; expected one of mu, plain"),
    ({"precision": "diag"}, "expected one of diagonal, scalar"),
    ({"slab_precision": "fix"}, "did you mean 'fixed'"),
    ({"radius": 0.0}, "radius is 0.0; expected a number above 0"),
    ({"code": "inputs"}, "did you mean 'input'"),
])
def test_bad_options_are_named(options, message):
    with pytest.raises(ParameterError, match=message):
        SpikeSlabRBM(**{"inputs": 4, **options})


def test_a_radius_smaller_than_the_data_is_refused():
    rows = rows_of(50, 6)
    reach = np.linalg.norm(rows - rows.mean(axis=0), axis=1).max()
    with pytest.raises(ParameterError, match=r"radius is 1, but training rows lie up to .* away from the data's mean: "
                                             "give a larger one"):
        trained(rows, radius=1.0)
    with pytest.raises(ParameterError, match="away from the data's mean"):
        trained(rows, radius=float(reach) * 0.99, form="mu")
    trained(rows, radius=float(reach) * 1.01, epochs=1)
    norm = np.linalg.norm(rows, axis=1).max()
    with pytest.raises(ParameterError, match=r"away from 0: give a larger one"):
        trained(rows, radius=float(norm) * 0.99, standardise=False)


def test_unfit_rows_are_refused():
    model, parameters, buffers = made()
    with pytest.raises(ShapeError, match=r"expected \(n, 6\)"):
        model.encode(parameters, buffers, np.zeros((3, 5), np.float32))
