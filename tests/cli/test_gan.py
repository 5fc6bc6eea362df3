"""Adversarial pairs on the command line: train, generate, go on elsewhere, simulate, and what is refused."""

import json
import re

import numpy as np
import pytest
import tomllib
from PIL import Image
from support import said_by_pyddl as pyddl

from pyddl.train.run import load_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of runs: ``gan``, conditional on digits, on 2 ranks, resumed alone; ``points``, of two features."""
    path = tmp_path_factory.mktemp("runs")
    line = ("train", "gan", "--data", "digits", "--generator", "12", "--discriminator", "16", "--conditional",
            "--pretrain-steps", "4", "--critic-steps", "2", "--noise", "3")
    pyddl(*line, "--epochs", "2", "--ranks", "2", "--out", "gan", cwd=path)
    pyddl("train", "--resume", "--epochs", "3", "--out", "gan", cwd=path)
    np.save(path / "points.npy", np.random.default_rng(0).normal(4, 0.5, (300, 2)).astype(np.float32))
    np.save(path / "same.npy", np.full((30, 2), 7, np.float32))
    pyddl("train", "gan", "--data", "points.npy", "--objective", "wgan", "--generator", "8", "--discriminator", "8",
          "--epochs", "2", "--optimizer", "rmsprop", "--out", "points", cwd=path)
    return path


def test_books_and_pictures(folder):
    lines = [json.loads(line) for line in (folder / "gan/metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4], "the first of the discriminator alone"
    assert {"train_loss_discriminator", "train_loss_generator", "train_penalty", "train_pairs_right",
            "test_loss_discriminator", "test_pairs_right"} <= set(lines[-1])
    for picture in ("samples.png", "shown.png", "curves.png", "shown.gif"):
        assert (folder / f"gan/plots/{picture}").stat().st_size > 1000
        assert (folder / f"points/plots/{picture}").stat().st_size > 1000
    with Image.open(folder / "gan/plots/shown.gif") as animated:
        assert animated.n_frames == 4, "one for each epoch"
    shown = np.load(folder / "gan/shown.npy")
    assert shown.shape == (4, 50, 64) and shown.min() >= 0 and shown.max() <= 1, "as the data are"
    assert not np.array_equal(shown[0], shown[1])
    config = (folder / "gan/config.toml").read_text()
    assert "generator_every = 2" in config and 'objective = "r3gan"' in config
    assert "clip_weights" not in config and 'optimizer = "rmsprop"' in (folder / "points/config.toml").read_text()


@pytest.mark.parametrize("ranks", [1, 2])
def test_divergence_in_the_first_step_names_the_rate_once(tmp_path, ranks):
    said = pyddl("train", "gan", "--data", "digits", "--generator", "4", "--discriminator", "4", "--epochs", "1",
                 "--lr", "1e30", "--out", "run", "--ranks", ranks, "--quiet", cwd=tmp_path, check=1).strip()
    assert re.fullmatch(r"pyddl: step 0, rank \d: the loss is nan; .*: lower the learning rate, or set clip_norm", said)


def test_samples_and_scores(folder):
    said = pyddl("generate", "gan", "--count", "7", "--out", "s.npy", cwd=folder)
    assert "7 samples of 64 float32" in said and np.load(folder / "s.npy").shape == (7, 64)
    seven = np.load(folder / "s.npy")
    assert seven.min() >= 0 and seven.max() <= 1
    pyddl("generate", "points", "--count", "30", "--out", "new/folder/s.png", cwd=folder)
    assert (folder / "new/folder/s.png").read_bytes()[:4] == b"\x89PNG"
    pyddl("generate", "gan", "--count", "7", "--label", "3", "--out", "threes.npy", cwd=folder)
    same = np.load(folder / "threes.npy") == np.load(folder / "s.npy")[:7]
    assert same.all(axis=1).tolist() == [False] * 3 + [True] + [False] * 3, "the fourth of all in turn"
    assert "label is '11'; expected one of 0, 1" in pyddl("generate", "gan", "--label", "11", cwd=folder, check=2)
    assert "trained without labels" in pyddl("generate", "points", "--label", "0", cwd=folder, check=2)
    found = json.loads(pyddl("evaluate", "gan", "--json", cwd=folder))
    last = json.loads((folder / "gan/metrics.jsonl").read_text().splitlines()[-1])
    assert found["loss_discriminator"] == pytest.approx(last["test_loss_discriminator"], rel=1e-5)


def test_quality_is_in_the_features_of_a_classifier(folder, monkeypatch):
    monkeypatch.setenv("PYDDL_DATA", str(folder / "data"))
    refused = pyddl("evaluate", "gan", "--quality", cwd=folder, check=2)
    assert "there is no classifier of digits, in whose features samples are compared" in refused
    assert f"pyddl train classifier --data digits --hidden 256,64 --epochs 4 --batch-size 200 --lr 0.002 --schedule " \
        f"cosine --out {folder / 'data/digits/classifier'}" in refused
    train = ("train", "classifier", "--data", "digits", "--hidden", "16", "--epochs", "3", "--lr")
    pyddl(*train, "1e-9", "--out", "worthless", cwd=folder)
    refused = pyddl("evaluate", "gan", "--quality", "--classifier", "worthless", cwd=folder, check=2)
    assert "the classifier in worthless gets" in refused and "of the rows right, where one answer for all" in refused
    pyddl(*train, "0.01", "--out", folder / "data/digits/classifier", cwd=folder)
    found = json.loads(pyddl("evaluate", "gan", "--quality", "--json", cwd=folder))
    assert found["frechet_distance"] > found["frechet_distance_of_rows"] > 0
    assert 0 <= found["coverage"] < found["coverage_of_rows"] <= 1 and "sha256" in found["classifier"]
    assert found["classifier_accuracy"] > 0.5
    assert (folder / "gan/plots/nearest.png").stat().st_size > 1000
    assert "expected a classifier" in pyddl("evaluate", "gan", "--quality", "--classifier", "gan", cwd=folder, check=2)
    refused = pyddl("evaluate", "points", "--data", "points.npy", "--quality", cwd=folder, check=2)
    assert "These rows have no labels to train one on" in refused and "--measure energy_distance" in refused
    np.save(folder / "centres.npy", np.array([[4.0, 4.0], [9.0, 9.0]]))
    modes = ("evaluate", "points", "--data", "points.npy", "--modes", "centres.npy")
    found = json.loads(pyddl(*modes, "--deviation", "0.5", "--json", cwd=folder))
    assert {"modes", "modes_of_20", "high_quality"} <= set(found)
    assert "give the deviation of rows about them" in pyddl(*modes, cwd=folder, check=2)


def test_a_simulation(folder):
    said = pyddl("simulate", "gan", "--data", "points.npy", "--epochs", "1", "--workers", "2,3", "--out", "simulated",
                 cwd=folder)
    assert "149 parameters" in said and "allreduce" in said


@pytest.mark.parametrize(("name", "data", "recorded"), [
    ("dcgan", "digits", {"channels": [32, 64]}), ("wgan", "points.npy", {"objective": "wgan", "generator_every": 5})])
def test_a_preset_is_a_gan_with_other_defaults(folder, name, data, recorded):
    line = ("train", name, "--data", data, "--epochs", "1", "--batch-size", "32", "--out", name)
    said = pyddl(*line, cwd=folder)
    assert said.startswith("gan, ") and f"written to {name}" in said
    config = tomllib.loads((folder / name / "config.toml").read_text())
    assert config["model"] == name and recorded.items() <= config.items() and config["batch_size"] == 32
    assert "allreduce" in pyddl("simulate", name, "--data", data, "--epochs", "1", "--workers", "2", "--out",
                                f"simulated-{name}", cwd=folder)
    if name == "dcgan":
        return
    assert "going on after step" in pyddl(*line, "--epochs", "2", "--resume", cwd=folder), "the same line goes on"
    pyddl("train", name, "--config", "gan/config.toml", "--epochs", "1", "--out", "another", cwd=folder)
    other = tomllib.loads((folder / "another/config.toml").read_text())
    assert (other["objective"], other["generator_every"], other["noise"]) == ("wgan", 2, 3), "what was never chosen"


def test_networks_as_texts(folder):
    pyddl("train", "gan", "--data", "digits", "--generator", "dense16,reshape4x4,up1", "--discriminator",
          "conv4k4s2,dense8", "--epochs", "1", "--out", "texts", cwd=folder)
    assert 'discriminator = "conv4k4s2,dense8"' in (folder / "texts/config.toml").read_text()
    assert list(model_of(folder / "texts").generator.shapes[1:]) == [(16,), (4, 4, 1), (8, 8, 1), (64,)]


def model_of(run):
    return load_run(run).model


@pytest.mark.parametrize(("flags", "message"), [
    (("--noise", "0"), "noise is 0; expected a whole number at least 1"),
    (("--generator-every", "0"), "generator_every is 0; expected a whole number at least 1"),
    (("--objective", "wgan_gp", "--clip-weights", "0.1"), "clip_weights belongs to objective wgan"),
    (("--generator", "128,resize"), "generator is '128,resize'; at character 5 is 'resize'; expected resize2"),
    (("--generator", "8,reshape2x4,up1"), "it ends with pictures of 4 by 8, and rows are 2 values"),
    (("--critic-steps", "1000"), "phase generator has a turn in every 1000 steps, and its stage has"),
    (("--packing", "300", "--batch-size", "256"), "of which 300 stay together"),
    (("--channels", "4"), "the rows do not say the shape of a picture"),
    (("--data", "same.npy"), "all 30 rows are the same"),
    (("--activation", "tanh"), "needs a piecewise linear discriminator"),
    (("--hidden", "4"), "hidden is an option of model autoencoder"),
    (("--conditional",), "has no labels"),
])
def test_bad_input_is_named(folder, flags, message):
    assert message in pyddl("train", "gan", "--data", "points.npy", "--epochs", "1", *flags, "--out", "bad", cwd=folder,
                            check=2)
