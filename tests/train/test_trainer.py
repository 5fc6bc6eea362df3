"""The trainer: the same result on any number of ranks, books that add up, a run directory that tells the truth."""

import json
import math
import re

import numpy as np
import pytest

import pyddl
from pyddl.comm.transport import Alone
from pyddl.data import ArraySource
from pyddl.errors import DataError, NotFiniteError, ParameterError, ShapeError
from pyddl.layout import Layout, Slice
from pyddl.models import Autoencoder
from pyddl.optim import Adam
from pyddl.strategies import Local
from pyddl.train import Trainer, evaluate, load_run
from pyddl.train.timing import PARTS

ROWS = np.random.default_rng(5).random((203, 20), dtype=np.float32)  # a prime batch, a short last one
TEST = np.random.default_rng(6).random((1501, 20), dtype=np.float32)
QUICK = {"batch_size": 64, "epochs": 3, "seed": 4}


def train(model=None, data=ROWS, test=TEST, **options):
    return Trainer(model or Autoencoder(20, hidden=(8, 3)), **{**QUICK, **options}).fit(data, test)


def alone(monkeypatch, **options):
    """The same training on this process only: what one process gives."""
    world = pyddl.comm.World(rank=0, size=1, node=0, nodes=1, node_rank=0, node_size=1, mpi=None, transport=Alone())
    with monkeypatch.context() as patch:
        patch.setattr("pyddl.train.trainer.world", lambda: world)
        return train(**options)


@pytest.mark.mpi
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "momentum", "learning_rate": 0.01, "clip_norm": 0.5, "weight_decay": 1e-3},
        {"batch_size": 4},
        {"batch_size": 1000},
    ],
)
def test_allreduce_equals_one_process_to_rounding(world, monkeypatch, options):
    together, one = train(**options), alone(monkeypatch, **options)
    np.testing.assert_allclose(together.parameters, one.parameters, rtol=1e-3, atol=2e-5)
    for a, b in zip(together.metrics, one.metrics, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-5)
        assert a["test_squared_error"] == pytest.approx(b["test_squared_error"], rel=1e-4)


@pytest.mark.mpi
def test_reproducible_training_has_the_bits_of_one_process(world, monkeypatch):
    if world.size == 3:
        with pytest.raises(ParameterError, match="runs on 1, 2, 4 or 8 ranks; this world has 3"):
            train(reproducible=True)
        return
    options = {"reproducible": True, "clip_norm": 0.5}
    together, one = train(**options), alone(monkeypatch, **options)
    assert np.array_equal(together.parameters, one.parameters)
    for a, b in zip(together.metrics, one.metrics, strict=True):
        assert all(a[name] == b[name] for name in ("train_loss", "test_loss", "test_squared_error"))


@pytest.mark.mpi
def test_every_rank_ends_with_the_same_parameters(world):
    result = train()
    everywhere = world.transport.gather(result.parameters.astype(np.float64))
    assert all(np.array_equal(each, everywhere[0]) for each in everywhere)
    assert result.summary["ranks"] == world.size


@pytest.mark.mpi(min_size=2)
def test_a_fault_of_one_rank_is_raised_on_all(world):
    data = ROWS[:, :19] if world.rank == 1 else ROWS
    others = ", ".join(str(rank) for rank in range(world.size) if rank != 1)
    with pytest.raises(ShapeError, match=rf"\(\d+, 20\) on rank {others}; \(\d+, 19\) on rank 1"):
        train(data=data)


@pytest.mark.mpi(min_size=2)
def test_every_rank_must_have_work(world):
    with pytest.raises(ParameterError, match=rf"batch_size is 1, .* {world.size} ranks would not all have work"):
        train(batch_size=1)
    with pytest.raises(DataError, match=rf"have 1 rows for {world.size} ranks"):
        train(data=ROWS[:1])


@pytest.mark.mpi
def test_validation_is_the_same_on_any_number_of_ranks(world, monkeypatch):
    together, one = train(test=None, validation=0.2), alone(monkeypatch, test=None, validation=0.2)
    assert together.metrics[-1]["test_loss"] == pytest.approx(one.metrics[-1]["test_loss"], rel=1e-4)


def test_validation_stands_in_for_test_data():
    given = pyddl.data.split(pyddl.data.load(ROWS), 0.3, seed=4)
    by_hand, by_option = train(data=given[0], test=given[1], seed=4), train(test=None, validation=0.3, seed=4)
    np.testing.assert_array_equal(by_hand.parameters, by_option.parameters)
    assert by_hand.metrics[-1]["test_loss"] == by_option.metrics[-1]["test_loss"]
    with pytest.raises(ParameterError, match="both given; leave one of the two out"):
        train(test=ROWS, validation=0.3)


@pytest.mark.mpi(min_size=2)
def test_local_replicas_differ_and_no_rank_waits(world):
    result = train(strategy="local")
    everywhere = world.transport.gather(result.parameters.astype(np.float64))
    assert not np.array_equal(everywhere[0], everywhere[1])


class CountingModel:
    """Records which rows came; its gradient is the sum of the rows."""


    def __init__(self, inputs):
        self.layout, self.buffers, self.seen = Layout([Slice("w", (inputs,))]), Layout(), []

    def initialise(self, parameters, buffers, seed, data):
        parameters[:] = 0

    def gradient(self, parameters, gradients, buffers, batch):
        self.seen.append((batch.step, batch.index.copy()))
        self.layout.views(gradients)["w"][:] = batch.rows.sum(axis=0)
        return float(batch.rows.sum(dtype=np.float64))


@pytest.mark.mpi
def test_each_epoch_sees_every_row_once_over_all_ranks(world):
    model = CountingModel(20)
    result = Trainer(model, **QUICK, optimizer="sgd").fit(ROWS)
    steps_per_epoch = math.ceil(len(ROWS) / QUICK["batch_size"])
    for epoch in range(QUICK["epochs"]):
        mine = [index for step, index in model.seen if step // steps_per_epoch == epoch]
        parts = world.transport.gather(np.concatenate(mine).astype(np.float64))
        assert sorted(np.concatenate(parts)) == list(range(len(ROWS)))
    assert result.metrics[0]["train_loss"] == pytest.approx(ROWS.sum(dtype=np.float64) / len(ROWS), rel=1e-6)
    assert result.metrics[0]["test_loss"] is None  # the model has no evaluate


@pytest.mark.mpi
def test_batch_sum_reaches_all_workers(world):
    class Summing(CountingModel):
        def gradient(self, parameters, gradients, buffers, batch):
            gradients[:] = 0
            return float(batch.sum(np.ones(3, dtype=np.float32))[0]) * len(batch)

    result = Trainer(Summing(20), **QUICK).fit(ROWS)
    assert result.metrics[0]["train_loss"] == world.size


def test_batch_sum_is_refused_where_a_step_is_cut_into_shards():
    class Summing(CountingModel):
        def gradient(self, parameters, gradients, buffers, batch):
            batch.sum(np.ones(1, dtype=np.float32))
            return 0.0

    with pytest.raises(ParameterError, match="train without reproducible"):
        Trainer(Summing(20), **QUICK, reproducible=True).fit(ROWS)


def test_the_loss_falls_and_the_books_add_up(tmp_path):
    result = train(out=str(tmp_path / "run"), epochs=5)
    assert result.metrics[-1]["train_loss"] < result.metrics[0]["train_loss"]
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary == result.summary and summary["finished"]
    assert set(summary["time"]) == set(PARTS) and all(value >= 0 for value in summary["time"].values())
    assert sum(summary["time"].values()) == pytest.approx(sum(line["seconds"] for line in result.metrics), rel=0.1)
    assert summary["gflops"] > 0 and summary["peak_gflops"] > 0
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert lines == result.metrics
    assert list(lines[0]) == ["epoch", "train_loss", "test_loss", "test_squared_error", "samples_per_second", "seconds"]


def test_a_run_is_read_back_as_it_was_written(tmp_path):
    result = train(out=str(tmp_path / "run"))
    run = load_run(tmp_path / "run")
    assert np.array_equal(run.parameters, result.parameters)
    assert run.summary == result.summary and run.metrics == result.metrics
    assert run.config["optimizer"] == "adam" and run.config["batch_size"] == 64
    scores = evaluate(run.model, run.parameters, run.buffers, ArraySource(TEST))
    assert scores["loss"] == result.metrics[-1]["test_loss"]


def test_tensors_carry_plain_names(tmp_path):
    from safetensors.numpy import load_file

    train(out=str(tmp_path / "run"))
    assert set(load_file(tmp_path / "run/model.safetensors")) == {
        f"{part}.{i}.{kind}" for part in ("encoder", "decoder") for i in (0, 1) for kind in ("weight", "bias")}


def test_equal_runs_write_equal_files(tmp_path):
    for name in "abcd":
        train(out=str(tmp_path / name), epochs=1)
    files = {(tmp_path / name / "model.safetensors").read_bytes() for name in "abcd"}
    states = {(tmp_path / name / "checkpoints/step-000000000004/state.safetensors").read_bytes() for name in "abcd"}
    assert len(files) == len(states) == 1


def test_an_earlier_run_is_not_overwritten_unless_asked(tmp_path):
    train(out=str(tmp_path / "run"))
    with pytest.raises(ParameterError, match="already holds a run"):
        train(out=str(tmp_path / "run"))
    train(out=str(tmp_path / "run"), overwrite=True, epochs=2)
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 2


def test_evaluation_is_the_mean_over_rows_whatever_the_chunks():
    model = Autoencoder(20, hidden=(8, 3))
    parameters, buffers = model.layout.zeros(), model.buffers.zeros()
    model.initialise(parameters, buffers, 1)
    scores = evaluate(model, parameters, buffers, ArraySource(TEST))
    again = model.reconstruct(parameters, buffers, TEST)
    assert scores["squared_error"] == pytest.approx(
        float(np.sum((again - TEST).astype(np.float64) ** 2)) / len(TEST), rel=1e-5
    )


def test_objects_serve_as_well_as_names():
    named = train(strategy="local", optimizer="adam", learning_rate=0.005)
    given = train(strategy=Local(), optimizer=Adam(0.005))
    assert np.array_equal(named.parameters, given.parameters)


def test_the_seed_decides():
    a, b, c = train(), train(), train(seed=5)
    assert np.array_equal(a.parameters, b.parameters)
    assert not np.array_equal(a.parameters, c.parameters)


def test_schedules_reach_the_optimizer():
    plain, warm = train(epochs=1), train(epochs=1, warmup=1000)
    start = Autoencoder(20, hidden=(8, 3))
    parameters = start.layout.zeros()
    start.initialise(parameters, start.buffers.zeros(), QUICK["seed"])
    assert np.abs(warm.parameters - parameters).max() < 0.1 * np.abs(plain.parameters - parameters).max()


@pytest.mark.parametrize(("options", "data", "error", "message"), [
    ({"epochs": 0}, ROWS, ParameterError, "epochs is 0"),
    ({"epoch": 1}, ROWS, ParameterError, "did you mean 'epochs'"),
    ({}, ROWS * 3, ParameterError, r"reach from .* this model's loss needs values in \[0, 1\]"),
    ({}, ROWS[:0], ShapeError, "at least one row"),
    ({}, ROWS[:, :5], ShapeError, "have 5 features; the model expects 20"),
    ({"strategy": "alreduce"}, ROWS, ParameterError, "did you mean 'allreduce'"),
    ({"optimizer": "adm"}, ROWS, ParameterError, "did you mean 'adam'"),
])
def test_bad_input_is_named(options, data, error, message):
    with pytest.raises(error, match=message):
        train(data=data, **options)


def test_divergence_stops_with_step_rank_and_slice():
    with pytest.raises(
        NotFiniteError, match=r"step \d+, rank 0: the loss is (nan|inf).*(encoder|decoder)\.\d\.(weight|bias)"
    ):
        train(optimizer="sgd", learning_rate=1e30, epochs=50)


def test_a_run_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ParameterError, match="cannot write to the run directory"):
        train(out=str(tmp_path / "file/run"))


def test_a_result_prints_as_a_short_table():
    result = train(test=ROWS, strategy="local", epochs=9)
    lines = repr(result).splitlines()
    assert lines[0] == "autoencoder of 407 parameters: local on 1 rank, 9 epochs"
    assert lines[1].split() == ["epoch", "train_loss", "test_loss", "test_squared_error", "samples_per_second"]
    assert [line.split()[0] for line in lines[2:]] == ["1", "2", "3", "...", "7", "8", "9"]
    assert f"{result.metrics[-1]['test_loss']:.4f}" in lines[-1] and max(map(len, lines)) < 100
    result.metrics.clear()
    assert repr(result) == "autoencoder of 407 parameters: local on 1 rank, 0 epochs"


def test_a_trainer_says_how_it_goes_where_that_is_wanted(capsys):
    for verbose, lines in ((False, []), (True, ["1", "2", "3"])):
        train(strategy="local", verbose=verbose)
        assert re.findall(r"^epoch (\d)/3  train_loss ", capsys.readouterr().out, re.M) == lines
