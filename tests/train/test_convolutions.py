"""Convolutional models in the trainer: batch norm's statistics, encoders that are taken over, under every strategy."""

import functools

import numpy as np
import pytest
from phased_runs import alone
from small_runs import STRATEGIES, options_of, same_everywhere

import pyddl
from pyddl.data import ArraySource, load
from pyddl.errors import DataError, ParameterError, ShapeError
from pyddl.models import Autoencoder, Classifier
from pyddl.models.table import Trained
from pyddl.strategies import strategy
from pyddl.train import Trainer, load_run
from pyddl.train.progress import Progress
from pyddl.train.simulation import simulate

ROWS = 403  # of 8 x 8: slices of a batch, and the last batch, are uneven on 2, 3 and 4 ranks


@functools.cache
def digits():
    whole = load("digits")
    pixels = np.asarray(whole)[:ROWS].reshape(-1, 8, 8)
    return ArraySource(pixels, labels=whole.labels[:ROWS], name="digits")


def model_of(**options):
    given = {"conv": "conv6,pool2,conv8", "hidden": (10,), "batch_norm": "synchronised", **options}
    return Autoencoder.for_data(digits(), **given)


def train(out=None, model=None, **options):
    given = {"batch_size": 50, "epochs": 2, "seed": 4, "learning_rate": 0.005, **options}
    return Trainer(model or model_of(), out=None if out is None else str(out), **given).fit(digits(), digits())


def statistics(model, buffers):
    """Mean and variance of each batch norm, from its sums."""
    views, found = model.buffers.views(buffers), {}
    for name, view in views.items():
        if name.endswith(".rows"):
            layer = name.removesuffix(".rows")
            mean = views[f"{layer}.sums"] / view
            found[layer] = np.array([mean, views[f"{layer}.squares"] / view - mean**2])
    return found


@pytest.mark.mpi
def test_synchronised_batch_norm_does_what_one_process_does(world):
    """The last batch, of 3 rows, leaves some ranks of 4 with none."""
    result = train()
    with alone(world):
        one = train()
    assert same_everywhere(world, result.parameters) and same_everywhere(world, result.buffers)
    assert result.metrics[-1]["train_loss"] == pytest.approx(one.metrics[-1]["train_loss"], rel=1e-3)
    assert result.metrics[-1]["test_loss"] == pytest.approx(one.metrics[-1]["test_loss"], rel=5e-3)
    for layer, found in statistics(result.model, result.buffers).items():
        expected = statistics(one.model, one.buffers)[layer]
        np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max(), err_msg=layer)


@pytest.mark.mpi
def test_merged_statistics_are_those_of_all_rows_also_where_each_rank_has_its_own(world):
    """With a rate of next to nothing and no decay of the sums: exact, whatever the slices."""
    from pyddl.models.layers import BatchNorm, Conv

    layers = [Conv(6, 3, bias=False), BatchNorm("relu", decay=0.0)]
    result = train(model=model_of(conv=layers, batch_norm="none"), learning_rate=1e-12, epochs=1, batch_size=ROWS)
    with alone(world):
        one = train(model=model_of(conv=layers, batch_norm="none"), learning_rate=1e-12, epochs=1, batch_size=ROWS)
    views, expected = (each.model.buffers.views(each.buffers) for each in (result, one))
    assert views["encoder.1.rows"][0] == ROWS * 64
    for tensor in ("sums", "squares"):
        name = f"encoder.1.{tensor}"  # of the decoder's the inputs depend on the encoder's statistics
        np.testing.assert_allclose(views[name], expected[name], rtol=1e-4, atol=1e-2)


@pytest.mark.mpi
@pytest.mark.parametrize(("name", "batch_norm"), [*((name, "synchronised") for name in STRATEGIES),
                                                  ("allreduce", "own"), ("averaging", "own"), ("async", "own")])
def test_every_strategy_learns_it(world, name, batch_norm):
    result = train(model=model_of(batch_norm=batch_norm, corrupt=0.1), epochs=4, **options_of(world, name))
    assert name == "local" or same_everywhere(world, result.whole().parameters)
    losses = [line["train_loss"] for line in result.metrics]
    assert losses[-1] < 0.9 * losses[0]
    if result.metrics[-1]["test_loss"] is not None:  # of rank 0 alone where each learns for itself
        assert result.metrics[-1]["test_loss"] < 32  # all pixels by their means: 33.6
    assert all(np.isfinite(each).all() for each in statistics(result.model, result.buffers).values())


@pytest.mark.mpi
def test_a_sparse_and_tied_code_is_one_process_s_on_any_number_of_ranks(world):
    def model():
        return Autoencoder(64, (12, 6), sparsity=0.2, sparsity_cost=2.0, code_activation="sigmoid", tied=True,
                           corrupt=0.2)

    result = train(model=model(), epochs=3)
    with alone(world):
        one = train(model=model(), epochs=3)
    np.testing.assert_allclose(result.parameters, one.parameters, rtol=1e-3, atol=1e-4)
    assert result.metrics[-1]["train_loss"] == pytest.approx(one.metrics[-1]["train_loss"], rel=1e-4)
    assert result.metrics[-1]["train_loss"] > result.metrics[-1]["test_loss"]  # scores have no penalty


@pytest.mark.mpi
def test_it_resumes_with_its_statistics(world, tmp_path):
    shared = world.transport.gather_objects(tmp_path)[0]
    train(shared / "run", epochs=1)
    world.transport.barrier()
    second, whole = train(shared / "run", epochs=2, resume=True), train(epochs=2)
    np.testing.assert_allclose(second.parameters, whole.parameters, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(second.buffers, whole.buffers, rtol=1e-4, atol=1e-4)
    world.transport.barrier()
    with pytest.raises(DataError, match=r"is of another model: parameters.encoder.0.weight should have shape"):
        train(shared / "run", model_of(conv="conv4,pool2,conv8"), epochs=3, resume=True)


@pytest.mark.mpi
@pytest.mark.parametrize("name", ["allreduce", "averaging", "server"])
def test_a_convolutional_encoder_is_taken_over_with_its_statistics(world, name):
    """Frozen, then all layers."""
    with alone(world):
        below = train(epochs=2)
    encoder = Trained(below.model, below.parameters, below.buffers)

    def classifier(**options):
        return Classifier(64, 10, (12,), encoder=encoder, **options)

    frozen = train(model=classifier(freeze=True), epochs=2, **options_of(world, name)).whole()
    for layout, vector, kept in ((frozen.model.layout, frozen.parameters, below.parameters),
                                 (frozen.model.buffers, frozen.buffers, below.buffers)):
        views, theirs = layout.views(vector), {}
        for old, view in (below.model.layout if kept is below.parameters else below.model.buffers).views(kept).items():
            if old.startswith("encoder."):
                number, tensor = old.removeprefix("encoder.").split(".")
                theirs[f"encoder.{int(number) + 1}.{tensor}"] = view  # after the layer that makes pictures of rows
        assert theirs
        for name_of_it, view in theirs.items():
            exact = {"rtol": 0} if layout is frozen.model.layout else {"rtol": 1e-6}  # buffers were merged
            np.testing.assert_allclose(views[name_of_it], view, err_msg=name_of_it, **exact)
    codes = frozen.model._outputs(frozen.parameters, frozen.buffers, np.asarray(digits()), 0, below.model.encodes + 1)
    expected = below.model.encode(below.parameters, below.buffers, np.asarray(digits()))
    np.testing.assert_allclose(codes, expected, rtol=1e-4, atol=1e-4)
    tuned = train(model=classifier(frozen_epochs=1), epochs=6, **STRATEGIES[name]).whole()
    assert tuned.metrics[-1]["test_accuracy"] > 0.75
    assert not np.array_equal(tuned.buffers, frozen.buffers)
    again = Classifier(**tuned.model.options())
    assert again.layout == tuned.model.layout and again.buffers == tuned.model.buffers


@pytest.mark.mpi(min_size=2)
def test_ranks_hold_its_dense_layers_together_and_the_others_whole(world):
    """Each part has other rows in no layer: all compute the same convolutions, from statistics of the same rows."""
    class Title(Progress):
        def begin(self, title, epochs, steps_per_epoch, step=0):
            self.title = title

    progress = Title()
    split = train(strategy="split", progress=progress).whole()
    dense = 10 * 128 + 10 + 128 * 10
    if world.rank == 0:
        assert (f"each of {world.size} ranks holds a part of {dense:,} parameters, and "
                f"{split.model.layout.count - dense:,} whole") in progress.title
    with pytest.raises(ParameterError, match="no layer of this autoencoder can be cut: only dense layers can"):
        train(model=model_of(hidden=()), strategy="split")
    with alone(world):
        one = train()
    assert split.metrics[-1]["train_loss"] == pytest.approx(one.metrics[-1]["train_loss"], rel=2e-3)
    views, expected = split.model.layout.views(split.parameters), one.model.layout.views(one.parameters)
    np.testing.assert_allclose(views["encoder.6.weight"], expected["encoder.6.weight"], atol=5e-3)


@pytest.mark.parametrize("options", [{}, {"batch_norm": "own"}], ids=str)
def test_reproducible_training_refuses_batch_norm_and_keeps_its_promise_without(options):
    with pytest.raises(ParameterError, match=r"this model keeps buffers \(encoder.1.sums.*train without reproducible"):
        train(model=model_of(**options), reproducible=True)


@pytest.mark.mpi
def test_convolutions_are_reproducible(world):
    if world.size == 3:
        pytest.skip("reproducible needs a divisor of 8")
    result = train(model=model_of(batch_norm="none", corrupt=0.2), reproducible=True)
    with alone(world):
        one = train(model=model_of(batch_norm="none", corrupt=0.2), reproducible=True)
    np.testing.assert_array_equal(result.parameters, one.parameters)


def test_reproducible_training_refuses_a_penalty_on_means_of_the_whole_batch():
    model = Autoencoder(64, (6,), sparsity=0.2, code_activation="sigmoid")
    with pytest.raises(ParameterError, match="statistics of the whole batch"):
        train(model=model, reproducible=True)


@pytest.mark.parametrize("workers", [2, 3])
def test_in_the_simulation_as_well(workers):
    rule = pyddl.optim.optimizer("adam", learning_rate=0.005)
    runs = [simulate(model_of(), digits(), digits(), strategy("allreduce"), each, rule, epochs=2, batch_size=50)
            for each in (1, workers)]
    assert runs[1].curve[-1]["test_loss"] == pytest.approx(runs[0].curve[-1]["test_loss"], rel=5e-3)


def test_what_does_not_fit_is_refused(tmp_path):
    train(tmp_path / "run", epochs=1)
    run = load_run(tmp_path / "run")
    with pytest.raises(ShapeError, match="trained on rows of 64 features; these have 36"):
        Classifier(36, 10, encoder=Trained.of(run))
    other = ArraySource(np.zeros((20, 4, 16), dtype=np.float32))
    with pytest.raises(ShapeError, match=r"pictures of shape \(4, 16\); the convolutions of this model"):
        Trainer(run.model, epochs=1).fit(other)
    with pytest.raises(ParameterError, match=r"layer encoder.1 trains on one value per channel.*another batch_size"):
        Trainer(Autoencoder(1, (2,), conv="conv2k1", image_shape=(1, 1), batch_norm="own"), epochs=1,
                batch_size=1).fit(np.zeros((3, 1), dtype=np.float32))
