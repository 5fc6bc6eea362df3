"""Stacked GANs on the command line: on runs of classifiers and deep belief nets; and what is refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file
from support import said_by_pyddl as pyddl

from pyddl.data import load
from pyddl.models import for_data
from pyddl.train import Trainer
from pyddl.train.run import read_toml

SMALL = ("--generator", "12", "--discriminator", "12", "--noise", "3", "--pretrain-epochs", "1")


def run_of(path, name, epochs=1, **options):
    """A run directory of a model of digits."""
    digits = load("digits")
    Trainer(for_data(name, digits, **options), epochs=epochs, batch_size=50, strategy="local",
            out=str(path)).fit(digits)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of runs: ``s``, a stack on a classifier ``c``, by 2 ranks, resumed alone."""
    path = tmp_path_factory.mktemp("runs")
    run_of(path / "c", "classifier", hidden=(16, 8))
    said = pyddl("train", "stacked_gan", "--data", "digits", "--encoder", "c", *SMALL, "--epochs", "1", "--ranks", "2",
                 "--out", "s", cwd=path)
    (path / "s.txt").write_text(said)
    pyddl("train", "--resume", "--epochs", "2", "--out", "s", cwd=path)
    return path


@pytest.fixture(scope="module")
def without_classes(tmp_path_factory):
    """A folder with ``t``, a stack on a deep belief net ``d``."""
    path = tmp_path_factory.mktemp("runs")
    run_of(path / "d", "dbn", hidden=(12, 6), pretrain_epochs=(1,))
    pyddl("train", "stacked_gan", "--data", "digits", "--encoder", "d", *SMALL, "--epochs", "1", "--out", "t", cwd=path)
    return path


def test_levels_are_announced_and_their_books_kept(folder):
    said = (folder / "s.txt").read_text()
    for number, (names, epoch) in enumerate([("discriminator_0, generator_0", 1), ("discriminator_1, generator_1", 2),
                                             ("discriminator_2, generator_2", 3), ("discriminators, generators", 4)]):
        assert f"stage {number + 1} of 4: {names}, to epoch {epoch}" in said
    lines = [json.loads(line) for line in (folder / "s/metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 5 and "train_loss_generator_2" in lines[2] and "train_loss_generators" in lines[4]
    assert {"train_conditional", "train_entropy", "train_pairs_right", "test_recognised"} <= set(lines[-1])
    config = read_toml((folder / "s/config.toml").read_text())
    assert (config["encoder"], config["entropy_weight"], config["pretrain_epochs"]) == (
        str(folder / "c"), 1.0, [1])
    for picture in ("samples", "inverted_1", "inverted_2", "shown", "curves"):
        assert (folder / f"s/plots/{picture}.png").stat().st_size > 1000
    mine, theirs = (load_file(folder / run / "model.safetensors") for run in ("s", "c"))
    assert np.array_equal(mine["encoder.2.weight"], theirs["head.weight"])


def test_samples_and_scores(folder):
    assert "7 samples of 64 float32" in pyddl("generate", "s", "--count", "7", "--out", "s.npy", cwd=folder)
    pyddl("generate", "s", "--count", "7", "--label", "3", "--out", "threes.npy", cwd=folder)
    in_turn, threes = np.load(folder / "s.npy"), np.load(folder / "threes.npy")
    assert in_turn.min() >= 0 and in_turn.max() <= 1
    assert (in_turn == threes).all(axis=1).tolist() == [False] * 3 + [True] + [False] * 3
    found = json.loads(pyddl("evaluate", "s", "--json", cwd=folder))
    assert found["recognised"] == json.loads((folder / "s/summary.json").read_text())["test_recognised"]
    measured = json.loads(pyddl("evaluate", "s", "--measure", "energy_distance", "--json", cwd=folder))
    assert 0 < measured["energy_distance"] < 16, "of 64 values in [0, 1]"


def test_a_stack_on_a_net_without_classes(without_classes):
    said = pyddl("generate", "t", "--label", "0", cwd=without_classes, check=2)
    assert "trained without labels" in said and "a stacked_gan on a classifier" in said
    assert "50 samples of 64" in pyddl("generate", "t", cwd=without_classes)


def test_quality_has_the_share_of_samples_of_the_class_asked_for(folder):
    run_of(folder / "judge", "classifier", epochs=4, hidden=(16,))
    found = json.loads(pyddl("evaluate", "s", "--quality", "--classifier", "judge", "--json", cwd=folder))
    assert 0 <= found["recognised"] <= 1 and found["frechet_distance"] > found["frechet_distance_of_rows"] > 0


def test_a_simulation(folder):
    said = pyddl("simulate", "stacked_gan", "--data", "digits", "--encoder", "c", "--epochs", "1", "--pretrain-epochs",
                 "1", "--workers", "2", "--out", "simulated", cwd=folder)
    assert "7,989 parameters" in said and "allreduce" in said


@pytest.mark.parametrize(("flags", "message"), [
    (("--data", "digits"), "no encoder is given, whose levels could be inverted: name a run of a classifier with"),
    (("--data", "points.npy", "--encoder", "c"), "was trained on rows of 64 features; these have 2"),
    (("--data", "rows.npy", "--encoder", "c"), "have no labels, which this model needs"),
    (("--data", "digits", "--encoder", "c", "--conditional"), "conditional is an option of model gan"),
])
def test_bad_input_is_named(folder, flags, message):
    np.save(folder / "points.npy", np.zeros((30, 2), np.float32))
    np.save(folder / "rows.npy", np.random.default_rng(0).random((30, 64), dtype=np.float32))
    said = pyddl("train", "stacked_gan", *flags, "--epochs", "1", "--out", "bad", cwd=folder, check=2)
    assert message in said and "Traceback" not in said
