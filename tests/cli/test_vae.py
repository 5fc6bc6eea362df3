"""Variational autoencoders on the command line: train, evaluate, encode, generate, and what is refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file
from support import said_by_pyddl as pyddl


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a run, ``vae``, on 2 ranks."""
    path = tmp_path_factory.mktemp("runs")
    pyddl("train", "vae", "--data", "digits", "--hidden", "32,2", "--epochs", "3", "--batch-size", "50", "--ranks", "2",
          "--out", "vae", cwd=path)
    return path


def test_a_run_has_pictures_scores_and_tensors(folder):
    tensors = load_file(folder / "vae/model.safetensors")
    assert tensors["encoder.1.weight"].shape == (4, 32) and tensors["decoder.0.weight"].shape == (32, 2)
    for picture in ("filters", "samples", "walk", "reconstructions", "curves"):
        assert (folder / f"vae/plots/{picture}.png").stat().st_size > 1000
    line = json.loads((folder / "vae/metrics.jsonl").read_text().splitlines()[-1])
    assert line["test_loss"] == pytest.approx(line["test_kl"] + line["test_reconstruction"])
    assert line["test_elbo"] == pytest.approx(-line["test_loss"]) and line["test_squared_error"] > 0


def test_its_bounds_are_a_flag(folder):
    found = json.loads(pyddl("evaluate", "vae", "--likelihood", "--json", cwd=folder))
    bounds = [found[f"iwae_{count}"] for count in (1, 5, 50, 500)]
    assert bounds == sorted(bounds) and bounds[0] == pytest.approx(found["elbo"], abs=0.5)
    measured = json.loads(pyddl("evaluate", "vae", "--measure", "likelihood", "--json", cwd=folder))
    assert measured["iwae_500"] == found["iwae_500"]


def test_codes_and_samples_are_written(folder):
    pyddl("encode", "vae", "--out", "codes.npy", cwd=folder)
    assert np.load(folder / "codes.npy").shape == (297, 2)
    said = pyddl("generate", "vae", "--count", "7", "--out", "s.npy", cwd=folder)
    samples = np.load(folder / "s.npy")
    assert "7 samples of 64 float32" in said and samples.shape == (7, 64) and 0 <= samples.min() < samples.max() <= 1
    pyddl("generate", "vae", "--count", "7", "--seed", "1", "--out", "other.npy", cwd=folder)
    assert not np.array_equal(np.load(folder / "other.npy"), samples)
    pyddl("generate", "vae", "--count", "7", "--out", "s.png", cwd=folder)
    assert (folder / "s.png").read_bytes()[:4] == b"\x89PNG"


def test_it_is_an_encoder_and_goes_on_from_its_config(folder):
    said = pyddl("train", "classifier", "--encoder", "vae", "--freeze", "--epochs", "2", "--out", "head", cwd=folder)
    assert "test accuracy" in said
    pyddl("train", "--resume", "--epochs", "4", "--out", "vae", cwd=folder)
    assert len((folder / "vae/metrics.jsonl").read_text().splitlines()) == 4


def test_convolutions_come_before_the_dense_layers(folder):
    pyddl("train", "vae", "--data", "digits", "--conv", "conv4,pool2", "--hidden", "16,3", "--kl-weight", "0.5",
          "--epochs", "2", "--out", "conv", cwd=folder)
    tensors = load_file(folder / "conv/model.safetensors")
    assert tensors["encoder.0.weight"].shape == (3, 3, 1, 4) and (folder / "conv/plots/walk.png").exists()
    text = (folder / "conv/config.toml").read_text()
    assert "kl_weight = 0.5" in text and 'conv = "conv4,pool2"' in text


@pytest.mark.parametrize(("flags", "message"), [
    (("--samples", "0"), "samples is 0; expected a whole number at least 1"),
    (("--kl-weight", "-1"), "kl_weight is -1"),
    (("--hidden", "none"), "hidden is empty; expected at least one layer, the code"),
    (("--data", "grey.npy"), "reach from -1 to 2; this model's loss needs values in [0, 1]: scale the data (--scale "
                             "minmax, or"),
    (("--gibbs-steps", "2"), "gibbs_steps is an option of model rbm"),
])
def test_bad_input_is_named(folder, flags, message):
    np.save(folder / "grey.npy", np.array([[-1, 2, 0], [0, 1, 1]], dtype=np.float32))
    assert message in pyddl("train", "vae", "--epochs", "1", *flags, "--out", "bad", cwd=folder, check=2)
