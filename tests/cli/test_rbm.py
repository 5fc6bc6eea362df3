"""Boltzmann machines on the command line: train, evaluate, generate, and what is refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file
from support import said_by_pyddl as pyddl


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of runs: ``rbm`` on 2 ranks, and ``ae``, an autoencoder."""
    path = tmp_path_factory.mktemp("runs")
    pyddl("train", "rbm", "--data", "digits", "--hidden", "12", "--binarise", "threshold", "--epochs", "3", "--chains",
          "20", "--ranks", "2", "--out", "rbm", cwd=path)
    pyddl("train", "autoencoder", "--data", "digits", "--hidden", "4", "--epochs", "1", "--out", "ae", cwd=path)
    return path


def test_a_run_has_the_plain_energy_s_tensors_and_pictures(folder):
    tensors = load_file(folder / "rbm/model.safetensors")
    shapes = {name.removeprefix("parameters."): tensor.shape for name, tensor in tensors.items()}
    assert shapes["weights"] == (64, 12) and shapes["visible_bias"] == (64,) and shapes["hidden_bias"] == (12,)
    for picture in ("filters", "chains", "reconstructions", "curves"):
        assert (folder / f"rbm/plots/{picture}.png").stat().st_size > 1000
    line = json.loads((folder / "rbm/metrics.jsonl").read_text().splitlines()[-1])
    assert line["test_pseudo_likelihood"] == pytest.approx(-line["test_loss"] / 64)
    assert {"test_free_energy", "test_squared_error"} <= set(line)


def test_its_likelihood_is_a_flag(folder):
    found = json.loads(pyddl("evaluate", "rbm", "--likelihood", "--json", cwd=folder))
    assert found["log_likelihood"] == pytest.approx(-found["free_energy"] - found["log_partition"], rel=1e-6)
    assert found["log_probability_of_rows"] < 0 and "free_energy_gap" in found
    measured = json.loads(pyddl("evaluate", "rbm", "--measure", "likelihood", "--json", cwd=folder))
    assert measured["log_likelihood"] == found["log_likelihood"] and "free_energy_gap" not in measured
    refused = pyddl("evaluate", "ae", "--likelihood", cwd=folder, check=2)
    assert "model autoencoder has no measure 'likelihood'; it has none" in refused


def test_samples_are_written(folder):
    said = pyddl("generate", "rbm", "--count", "7", "--out", "s.npy", cwd=folder)
    samples = np.load(folder / "s.npy")
    assert "7 samples of 64 float32" in said and samples.shape == (7, 64) and set(np.unique(samples)) <= {0, 1}
    pyddl("generate", "rbm", "--count", "7", "--out", "again.npy", cwd=folder)
    assert np.array_equal(np.load(folder / "again.npy"), samples)
    pyddl("generate", "rbm", "--count", "7", "--out", "s.png", cwd=folder)
    assert (folder / "s.png").read_bytes()[:4] == b"\x89PNG"
    assert "generates nothing; these do: vae, rbm, " in pyddl("generate", "ae", cwd=folder, check=2)
    err = pyddl("generate", "rbm", "--out", "s.txt", cwd=folder, check=2)
    assert "expected a name that ends in .npy, .csv, .parquet, .png" in err


@pytest.mark.parametrize(("flags", "message"), [
    (("--chains", "0"), "chains is 0; expected a whole number at least 1"),
    (("--hidden", "8,4"), "hidden is [8, 4]; expected one number, the hidden units of a Boltzmann machine"),
    (("--data", "grey.npy"), "reach from -1 to 2; this model's loss needs values in [0, 1]: scale the data (--scale "
                             "minmax, or"),
    (("--activation", "relu"), "activation is an option of model autoencoder"),
    (("--chain", "ptt", "--ladder", "1"), "ladder is 1; expected a whole number at least 2"),
    (("--chain", "ptt", "--strategy", "averaging", "--ranks", "2"), "choose strategy allreduce, or a model"),
    (("--reproducible",), "keeps buffers (visible_offsets, hidden_offsets), which reproducible training would move"),
])
def test_bad_input_is_named(folder, flags, message):
    np.save(folder / "grey.npy", np.array([[-1, 2, 0], [0, 1, 1]], dtype=np.float32))
    assert message in pyddl("train", "rbm", "--epochs", "1", *flags, "--out", "bad", cwd=folder, check=2)


def test_a_ladder_has_a_likelihood_of_its_own(folder):
    pyddl("train", "rbm", "--data", "digits", "--hidden", "6", "--binarise", "threshold", "--chain", "ptt", "--chains",
          "40", "--epochs", "2", "--out", "ladder", cwd=folder)
    assert "test_log_likelihood" in json.loads((folder / "ladder/metrics.jsonl").read_text().splitlines()[-1])
    found = json.loads(pyddl("evaluate", "ladder", "--likelihood", "--json", cwd=folder))
    assert found["log_likelihood_ladder"] == pytest.approx(found["log_likelihood"], abs=0.3)
    assert found["ladder_rungs"] >= 1 and 0 < found["ladder_exchanges"] <= 1 and found["ladder_error"] < 0.1
    pyddl("generate", "ladder", "--count", "3", "--out", "l.npy", cwd=folder)


def test_centering_can_be_switched_off(folder):
    pyddl("train", "rbm", "--data", "digits", "--hidden", "4", "--epochs", "1", "--no-centering", "--reproducible",
          "--out", "classic", cwd=folder)
    assert "centering = false" in (folder / "classic/config.toml").read_text()
    pyddl("train", "--resume", "--epochs", "2", "--out", "classic", cwd=folder)
    assert "--centering / --no-centering" in pyddl("train", "rbm", "--help", cwd=folder)
