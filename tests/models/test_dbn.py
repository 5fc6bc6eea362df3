"""Deep belief nets: what each stage trains and begins with, what the network is made of, samples, taken-over encoders.
"""

import copy
import pickle
from itertools import pairwise, product

import numpy as np
import pytest

from pyddl import _core
from pyddl.data import ArraySource
from pyddl.data.batch import Batch, Chains
from pyddl.data.statistics import Statistics
from pyddl.errors import DataError, ParameterError, ShapeError
from pyddl.models import DBN, RBM, Classifier, Model, Trained, create, for_data
from pyddl.models.layers import Dense
from pyddl.models.network import Network, NetworkModel
from pyddl.models.stages import stages_of

ROWS = (np.random.default_rng(0).random((50, 9)) < 0.4).astype(np.float32)
LABELS = np.arange(50) % 3
DATA = Statistics(ArraySource(ROWS))
KINDS = {
    "stack": {},
    "autoencoder": {"finetune": "autoencoder"},
    "denoising": {"finetune": "autoencoder", "corrupt": 0.3, "corruption": "gaussian"},
    "classifier": {"finetune": "classifier", "classes": 3},
    "persistent": {"finetune": "autoencoder", "chain": "pcd", "chains": 7},
    "classic": {"finetune": "autoencoder", "centering": False},
    "gaussian": {"finetune": "autoencoder", "visible": "gaussian"},
    "binary code": {"finetune": "autoencoder", "code_units": "bernoulli"},
}


def made(kind, begun=None, hidden=(7, 5, 4), **options):
    """Model, parameters, buffers: so many stages have begun, all by default; weights are of some size."""
    model = DBN(9, hidden, **{**KINDS[kind], **options})
    parameters, buffers, rng = model.layout.zeros(), model.buffers.zeros(), np.random.default_rng(1)
    model.initialise(parameters, buffers, 3, DATA)
    for number, stage in enumerate(model.stages[:begun]):
        if stage.begin is not None:
            stage.begin(parameters, buffers, 3, DATA)
        if number < len(hidden):
            for name, view in model.layout.views(parameters).items():
                if name.startswith(f"level_{number + 1}.") and "variance" not in name:
                    view += rng.normal(0, 0.5, view.shape).astype(np.float32)
    return model, parameters, buffers


def batch_of(model, phase, **given):
    return Batch(ROWS[:40], labels=LABELS[:40], phase=phase, seed=5, step=11,
                 chains=Chains(0, model.chains, model.chains) if model.chain == "pcd" else None, **given)


@pytest.mark.parametrize("kind", KINDS)
def test_it_has_the_protocol_s_members(kind):
    model, parameters, buffers = made(kind)
    assert isinstance(model, Model) and create("dbn", **model.options()).layout == model.layout
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert again.options() == model.options() and again.buffers == model.buffers
        assert [stage.described() for stage in again.stages] == [stage.described() for stage in model.stages]
    assert model.needs_labels == (kind == "classifier")
    assert model.encode(parameters, buffers, ROWS).shape == (50, 4)
    assert model.decode(parameters, buffers, np.ones((2, 4), np.float32)).shape == (2, 9)
    assert model.reconstruct(parameters, buffers, ROWS).shape == (50, 9)
    samples = model.sample(parameters, buffers, 6, 0, steps=3)
    assert samples.shape == (6, 9) and np.array_equal(samples, model.sample(parameters, buffers, 6, 0, steps=3))
    shown = model.pictures(parameters, buffers, ROWS)
    assert {name: rows.shape for name, rows in shown.items()} == {
        "filters_1": (7, 9), "filters_2": (5, 9), "filters_3": (4, 9), "samples": (50, 9)}
    for begun in range(1, len(model.stages) + 1):
        model, parameters, buffers = made(kind, begun)
        scores = model.evaluate(parameters, buffers, batch_of(model, "all"))
        assert next(iter(scores)) == "loss" and np.isfinite(list(scores.values())).all()
        assert set(scores) == {"loss", "accuracy" if kind == "classifier" and begun == 4 else "squared_error"}
        none = model.evaluate(parameters, buffers, Batch(ROWS[:0], labels=LABELS[:0]))
        assert list(none) == list(scores) and not any(none.values())


@pytest.mark.parametrize("kind", KINDS)
def test_stages_follow_one_another(kind):
    model = DBN(9, (7, 5, 4), **KINDS[kind], pretrain_epochs=(2, 3) if kind == "stack" else (2, 3, 4),
                pretrain_learning_rate=(0.3, 0.2, 0.1))
    stages = stages_of(model)  # which checks them
    names = ["level_1", "level_2", "level_3", *([] if kind == "stack" else [model.finetune])]
    assert [[phase.name for phase in stage.phases] for stage in stages] == [[name] for name in names]
    assert [stage.epochs for stage in stages] == [2, 3, *([] if kind == "stack" else [4]), None]
    assert [stage.phases[0].optimizer["learning_rate"] for stage in stages[:3]] == [0.3, 0.2, 0.1]
    ranges = [model.layout.range_of(stage.phases[0].groups) for stage in stages]
    assert all(before[1] <= after[0] for before, after in pairwise(ranges))
    for (begin, end), machine in zip(ranges, model.levels, strict=False):
        trained = sum(s.size for s in machine.layout if s.name != "log_variance")
        assert trained <= end - begin <= trained + 3 * 16, "no more than the level's own"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_level_s_gradient_is_that_of_a_machine_on_the_means_below(kind, level):
    model, parameters, buffers = made(kind, level)
    views, rows = model.layout.views(parameters), ROWS[:40]
    for k in range(1, level):
        u = rows / np.exp(views["level_1.log_variance"]) if kind == "gaussian" and k == 1 else rows
        rows = (1 / (1 + np.exp(-(u @ views[f"level_{k}.weights"] + views[f"level_{k}.hidden_bias"])))).astype("f4")
    machine: RBM = copy.deepcopy(model.levels[level - 1])
    mine, kept, expected = machine.layout.zeros(), machine.buffers.zeros(), machine.layout.zeros()
    for name, view in machine.layout.views(mine).items():
        view[...] = views[f"level_{level}.{name}"]
    for name, view in machine.buffers.views(kept).items():
        view[...] = model.buffers.views(buffers)[f"level_{level}.{name}"]
    batch = batch_of(model, f"level_{level}")
    batch.rows = rows
    loss = machine.gradient(mine, expected, kept, batch)
    before, told = buffers.copy(), []
    gradients = np.full_like(parameters, 7)
    batch = batch_of(model, f"level_{level}", ready=lambda begin, end: told.append((begin, end)))
    assert model.gradient(parameters, gradients, buffers, batch) == pytest.approx(loss, rel=1e-4)
    for name, view in model.layout.views(gradients).items():
        if name.startswith(f"level_{level}."):
            if "variance" not in name:
                found = machine.layout.views(expected)[name.split(".")[1]]
                np.testing.assert_allclose(view, found, rtol=1e-3, atol=1e-3, err_msg=name)
                place = model.layout[name]
                assert (place.begin, place.end) in told
        else:
            assert (view == 7).all(), name
    for s in model.buffers:
        moved = not np.array_equal(before[s.begin : s.end], buffers[s.begin : s.end])
        assert moved == s.name.startswith(f"level_{level}."), s.name


def test_a_centered_level_begins_at_the_running_means_below():
    model, parameters, buffers = made("persistent", 2)
    kept, views = model.buffers.views(buffers), model.layout.views(parameters)
    model.gradient(parameters, model.layout.zeros(), buffers, batch_of(model, "level_2"))
    means = kept["level_2.hidden_offsets"].copy()
    model.stages[2].begin(parameters, buffers, 3, DATA)
    assert np.array_equal(kept["level_3.visible_offsets"], means)
    np.testing.assert_allclose(1 / (1 + np.exp(-views["level_3.visible_bias"])), means, rtol=1e-5)
    model, parameters, _ = made("stack", hidden=(9, 9))
    first, second = (parameters[place] for place in model._places)
    assert not np.allclose(first[:81], second[:81]), "levels of one shape begin unlike"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "stack"])
def test_the_network_begins_as_the_stack(kind, monkeypatch):
    monkeypatch.setattr("pyddl.models.dbn.FRESH", 0)
    model, parameters, buffers = made(kind, 3)
    before = parameters.copy()
    codes, rebuilt = (function(parameters, buffers, ROWS) for function in (model.encode, model.reconstruct))
    model.stages[3].begin(parameters, buffers, 3, DATA)
    np.testing.assert_allclose(model.encode(parameters, buffers, ROWS), codes, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.reconstruct(parameters, buffers, ROWS), rebuilt, rtol=1e-4, atol=1e-5)
    stack = max(place.stop for place in model._places)
    assert np.array_equal(parameters[:stack], before[:stack]) and not before[stack:].any()
    if model.finetune == "autoencoder":
        scores = model.evaluate(parameters, buffers, batch_of(model, "all"))
        assert scores["squared_error"] == pytest.approx(((rebuilt - ROWS)[:40] ** 2).sum(), rel=1e-4)
    else:
        p = model.probabilities(parameters, buffers, ROWS)
        assert p.shape == (50, 3) and p.sum(axis=1) == pytest.approx(np.ones(50), rel=1e-6)


def test_a_random_start_is_added_to_an_autoencoder_and_to_no_classifier(monkeypatch):
    for kind in ("autoencoder", "classifier"):
        model, parameters, _ = made(kind)
        monkeypatch.setattr("pyddl.models.dbn.FRESH", 0)
        found, stack = (model.layout.views(vector) for vector in (parameters, made(kind)[1]))
        monkeypatch.undo()
        start = model.layout.zeros()
        model.network.initialise(start, 3)
        for name, view in model.layout.views(start).items():
            added = kind == "autoencoder" and name.endswith("weight")
            np.testing.assert_allclose(found[name] - stack[name], view * added, atol=1e-6, err_msg=name)
            assert not added or name.startswith("level") or view.any()


@pytest.mark.parametrize("kind", ["autoencoder", "classifier"])
def test_the_network_s_gradient_is_that_of_its_layers(kind):
    model, parameters, buffers = made(kind)
    last = [Dense(5, "tanh"), Dense(7, "tanh"), Dense(9)] if kind == "autoencoder" else [Dense(3)]
    names = ["encoder.0", "encoder.1", "encoder.2", *(f"decoder.{i}" for i in range(3))] if kind == "autoencoder" else \
        ["encoder.0", "encoder.1", "encoder.2", "head"]
    code = Dense(4, "linear" if kind == "autoencoder" else "sigmoid")
    same = NetworkModel(Network([Dense(7, "tanh"), Dense(5, "tanh"), code, *last], 9, names=names),
                        "bce" if kind == "autoencoder" else "softmax")
    if kind == "classifier":
        same.targets = lambda batch: batch.labels
    mine, expected, gradients = same.layout.zeros(), same.layout.zeros(), np.full_like(parameters, 7)
    for name, view in same.layout.views(mine).items():
        view[...] = model.layout.views(parameters)[name]
    batch = batch_of(model, kind)
    assert model.gradient(parameters, gradients, buffers, batch) == same.gradient(mine, expected, buffers, batch)
    for name, view in model.layout.views(gradients).items():
        assert np.array_equal(view, same.layout.views(expected)[name]) if not name.startswith("level") else \
            (view == 7).all(), name


def test_samples_are_those_of_the_last_machine_on_their_way_down():
    """Against the exact mean of the visible units, by enumeration of all hidden ones."""
    model, parameters, buffers = made("stack", hidden=(3, 2))
    views = model.layout.views(parameters)
    h = np.array(list(product((0, 1), repeat=3)), dtype=np.float32)
    log = -model.levels[1].free_energy(parameters[model._places[1]], h)
    p = np.exp(log - np.logaddexp.reduce(log))
    expected = p @ (1 / (1 + np.exp(-(h @ views["level_1.weights"].T + views["level_1.visible_bias"]))))
    found = model.sample(parameters, buffers, 4000, 1, steps=60)
    np.testing.assert_allclose(found.mean(axis=0), expected, atol=0.02)
    deeper, parameters, buffers = made("stack", hidden=(40, 6, 5))
    below = deeper.levels[1].decode(*deeper._own(1, parameters, buffers), np.ones((1, 6), np.float32))
    assert 0 < below.min() < 1, "layers on the way are drawn, not means"
    found = deeper.sample(parameters, buffers, 300, 0, steps=20)
    assert len(np.unique(found.round(6), axis=0)) > 200


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("begun", [3, None])
def test_others_take_over_its_encoder(kind, begun):
    model, parameters, buffers = made(kind, begun)
    head = Classifier(9, 3, encoder=Trained(model, parameters, buffers))
    vector = head.layout.zeros()
    head.initialise(vector, head.buffers.zeros(), 0)
    expected = model.encode(parameters, buffers, ROWS)
    np.testing.assert_allclose(head.encode(vector, head.buffers.zeros(), ROWS), expected, rtol=1e-5, atol=1e-5)
    assert [layer.outputs for layer in head.network.layers] == [7, 5, 4, 3], "no layer that corrupts"


@pytest.mark.skipif(not _core.has_bfloat16(), reason="the processor has no bfloat16")
def test_bfloat16_gives_nearly_the_same():
    """With weights that were rounded elsewhere, too: each level finds its own among them."""
    rows = np.tile(ROWS, (3, 1))
    for phase in ("level_2", "autoencoder"):
        found = []
        for dtype in ("float32", "bfloat16", "rounded"):
            model, parameters, buffers = made("autoencoder", 2 if phase == "level_2" else 4, hidden=(64, 48, 33),
                                              dtype="bfloat16" if dtype == "rounded" else dtype)
            assert model.takes_rounded == (dtype != "float32")
            rounded = (parameters.view(np.uint32) + 0x7FFF + ((parameters.view(np.uint32) >> 16) & 1)) >> 16
            gradients = model.layout.zeros()
            model.gradient(parameters, gradients, buffers, Batch(
                rows, phase=phase, rounded=rounded.astype(np.uint16) if dtype == "rounded" else None))
            found.append(gradients)
        exact, mine, given = found
        assert 0 < np.linalg.norm(mine - exact) < 0.1 * np.linalg.norm(exact)
        np.testing.assert_allclose(given, mine, atol=1e-5 * np.abs(mine).max())


def test_classes_are_those_of_the_labels():
    model = for_data("dbn", ArraySource(ROWS, labels=LABELS), hidden=(4, 3), finetune="classifier")
    assert model.classes == 3 and model.layout["head.weight"].shape == (3, 3)
    with pytest.raises(DataError, match="has the label 3; the model knows 3 classes"):
        model.check_data(ArraySource(ROWS, labels=np.arange(50) % 4))
    words = for_data("dbn", ArraySource(ROWS, labels=np.array(["a", "b"])[LABELS % 2]), hidden=(4, 3),
                     finetune="classifier")
    assert words.class_names == ("a", "b") and create("dbn", **words.options()).class_names == ("a", "b")


@pytest.mark.parametrize(("options", "message"), [
    ({"hidden": (4,)}, "a deep belief net has at least two layers, for example 256,64; one alone is an rbm"),
    ({"hidden": ()}, "at least two layers"),
    ({"hidden": (4, 0)}, "hidden is 0"),
    ({"finetune": "autoencode"}, "did you mean 'autoencoder'"),
    ({"finetune": "classifier"}, "no classes are given"),
    ({"finetune": "classifier", "classes": 1}, "classes is 1; expected a whole number at least 2"),
    ({"classes": 3}, "leave them out, or choose finetune classifier"),
    ({"code_units": "linear"}, "code_units is 'linear'; expected one of bernoulli, gaussian"),
    ({"corrupt": 0.2}, "corrupt belongs to finetune autoencoder and classifier; the finetune here is none"),
    ({"finetune": "autoencoder", "corrupt": 1.0}, "amount is 1.0"),
    ({"finetune": "autoencoder", "corrupt": -1.0}, "corrupt is -1.0"),
    ({"finetune": "autoencoder", "pretrain_epochs": (3, 2, 1)}, "one number for all of 2 layers, or 2"),
    ({"pretrain_epochs": (3, 2)}, "or 1, as the last layer has the epochs of training"),
    ({"pretrain_epochs": (0,)}, "pretrain_epochs is 0"),
    ({"pretrain_learning_rate": (0.1, 0.1, 0.1)}, "pretrain_learning_rate is .*; expected one number for all of 2"),
    ({"pretrain_learning_rate": (0.0,)}, "pretrain_learning_rate is 0.0"),
    ({"chains": 0}, "chains is 0"),
])
def test_bad_options_are_named(options, message):
    with pytest.raises(ParameterError, match=message):
        DBN(**{"inputs": 9, "hidden": (4, 3), **options})


def test_unfit_rows_and_questions_are_refused():
    for kind in ("stack", "autoencoder"):
        model, parameters, buffers = made(kind)
        for function, width in ((model.encode, 9), (model.decode, 4), (model.reconstruct, 9)):
            with pytest.raises(ShapeError, match=rf"expected \(n, {width}\)"):
                function(parameters, buffers, np.zeros((3, 5), np.float32))
        with pytest.raises(ParameterError, match=f"finetune '{model.finetune}', and knows no classes: choose"):
            model.probabilities(parameters, buffers, ROWS)
    model, parameters, buffers = made("classifier", 3)
    with pytest.raises(ParameterError, match="knows no classes yet: train to the end"):
        model.probabilities(parameters, buffers, ROWS)
