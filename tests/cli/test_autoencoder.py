"""`pyddl train autoencoder` as a person uses it with pictures: convolutions, noise, other models on top, bad input."""

import json

import numpy as np
import pytest
from support import pyddl

from pyddl.train.run import read_toml

RANDOM = np.random.default_rng(0)
GREY = RANDOM.random((120, 8, 6)).astype(np.float32)
COLOUR = RANDOM.random((60, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    np.save(folder / "grey.npy", GREY)
    np.save(folder / "flat.npy", GREY.reshape(len(GREY), -1))
    np.save(folder / "colour.npy", COLOUR)
    return folder


def test_convolutions_noise_and_a_classifier_on_them(folder):
    out, _ = pyddl("train", "autoencoder", "--data", "digits", "--conv", "conv8,pool2,conv8", "--hidden", "12",
                   "--batch-norm", "synchronised", "--corrupt", "0.2", "--epochs", "2", "--batch-size", "50",
                   "--out", "ae", cwd=folder)
    assert "test_squared_error" in out
    config = read_toml((folder / "ae/config.toml").read_text())
    assert (config["conv"], config["hidden"], config["corrupt"]) == ("conv8,pool2,conv8", [12], 0.2)
    pictures = {path.name for path in (folder / "ae/plots").iterdir()}
    assert pictures == {"curves.png", "reconstructions.png", "codes.png", "filters.png"}
    (folder / "ae/plots/codes.png").unlink()
    assert "codes.png" in pyddl("plot", "ae", cwd=folder)[0]
    summary = json.loads((folder / "ae/summary.json").read_text())
    found = json.loads(pyddl("evaluate", "ae", "--json", cwd=folder)[0])
    assert found["loss"] == pytest.approx(summary["test_loss"], rel=1e-5)
    assert "297 codes of 12" in pyddl("encode", "ae", cwd=folder)[0]
    pyddl("train", "classifier", "--data", "digits", "--encoder", "ae", "--frozen-epochs", "1", "--epochs", "6",
          "--batch-size", "50", "--lr", "0.01", "--out", "on_ae", "--quiet", cwd=folder)
    assert json.loads((folder / "on_ae/summary.json").read_text())["test_accuracy"] > 0.85
    again = json.loads(pyddl("evaluate", "on_ae", "--json", cwd=folder)[0])
    assert again["accuracy"] > 0.85
    pyddl("train", "autoencoder", "--resume", "--out", "ae", "--epochs", "3", "--quiet", cwd=folder)
    assert len((folder / "ae/metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("arguments", [
    ["--data", "colour.npy", "--conv", "conv4s2", "--hidden", "none"],
    ["--data", "flat.npy", "--conv", "conv4,mean2", "--image-shape", "8,6", "--hidden", "5"],
    ["--data", "grey.npy", "--hidden", "5", "--tied", "--code-activation", "sigmoid", "--sparsity", "0.1"],
], ids=["colours", "a shape given", "sparse and tied"])
def test_pictures_of_one_s_own(folder, tmp_path, arguments):
    pyddl("train", "autoencoder", *arguments, "--epochs", "1", "--batch-size", "40", "--out", tmp_path / "run",
          "--quiet", cwd=folder)
    pictures = {path.name for path in (tmp_path / "run/plots").iterdir()}
    assert pictures == {"curves.png", "reconstructions.png", "filters.png"}  # no labels: no map of codes


@pytest.mark.parametrize(("arguments", "message"), [
    (["--data", "flat.npy", "--conv", "conv4"], "conv needs pictures, and flat.npy does not say the shape of one: rows "
                                                "have 48 features; give image_shape (--image-shape HEIGHT,WIDTH"),
    (["--data", "flat.npy", "--conv", "conv4", "--image-shape", "7,7"],
     "image_shape is (7, 7), which has 49 values; rows have 48 features"),
    (["--data", "grey.npy", "--conv", "conv4,pol2"], "conv is 'conv4,pol2'; at character 7 is 'pol2'; expected one of "
                                                     "conv, pool, mean, dropout, each with a number, as in conv32"),
    (["--data", "grey.npy", "--conv", "conv4k4"], "kernel is 4, which is even"),
    (["--data", "grey.npy", "--conv", "conv4,pool2,pool2"],
     "layer encoder.2 is Pool(size=2, kind='max') and gets pictures of 4 x 3, which its mirror"),
    (["--data", "grey.npy", "--batch-norm", "own"], "batch_norm is given, which only convolutions ask for"),
    (["--data", "grey.npy", "--sparsity", "0.1"], "give code_activation sigmoid (--code-activation sigmoid)"),
    (["--data", "grey.npy", "--conv", "conv4", "--tied"], "weights of dense layers can be tied"),
    (["--data", "grey.npy", "--corrupt", "1.5"], "corrupt is 1.5"),
])
def test_bad_input_is_named(folder, tmp_path, arguments, message):
    _, err = pyddl("train", "autoencoder", *arguments, "--out", tmp_path / "run", cwd=folder, check=2)
    assert message in err.replace("\n", " ")
