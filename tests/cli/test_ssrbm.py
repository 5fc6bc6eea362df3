"""Spike-and-slab machines on the command line: train, evaluate, encode, generate, and what is refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file
from support import said_by_pyddl as pyddl


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of runs: ``plain`` on 2 ranks, and ``mu``."""
    path = tmp_path_factory.mktemp("runs")
    pyddl("train", "ssrbm", "--data", "digits", "--hidden", "12", "--pool", "2", "--epochs", "2", "--code", "input",
          "--ranks", "2", "--out", "plain", cwd=path)
    pyddl("train", "ssrbm", "--data", "digits", "--hidden", "6", "--form", "mu", "--chain", "pcd", "--epochs", "1",
          "--out", "mu", cwd=path)
    return path


def test_a_run_has_its_tensors_and_pictures(folder):
    shapes = {name.removeprefix("parameters."): tensor.shape
              for name, tensor in load_file(folder / "plain/model.safetensors").items()}
    assert shapes["weights"] == (64, 2, 12) and shapes["spike_bias"] == (12,) and shapes["log_precision"] == (64,)
    for picture in ("filters", "samples", "reconstructions", "curves"):
        assert (folder / f"plain/plots/{picture}.png").stat().st_size > 1000
    line = json.loads((folder / "plain/metrics.jsonl").read_text().splitlines()[-1])
    assert {"test_rejection_rate", "test_free_energy", "test_squared_error"} <= set(line)
    assert "clip_norm = 5.0" in (folder / "plain/config.toml").read_text()


def test_its_likelihood_is_exact_or_refused(folder):
    found = json.loads(pyddl("evaluate", "mu", "--likelihood", "--json", cwd=folder))
    scale = load_file(folder / "mu/model.safetensors")
    scale = next(float(value[0]) for name, value in scale.items() if name.endswith("scale"))
    assert found["log_likelihood"] == pytest.approx(
        -found["free_energy"] - found["log_partition"] - 64 * np.log(scale), rel=1e-5)
    refused = pyddl("evaluate", "plain", "--likelihood", cwd=folder, check=2)
    assert "states of the spikes are improper" in refused


def test_codes_and_samples_are_written(folder):
    pyddl("encode", "plain", "--out", "codes.npy", cwd=folder)
    codes = np.load(folder / "codes.npy")
    assert codes.shape[1] == 12 and (codes.min() < 0 or codes.max() > 1), "inputs, as the run was told"
    said = pyddl("generate", "plain", "--count", "7", "--out", "s.npy", cwd=folder)
    samples = np.load(folder / "s.npy")
    assert "7 samples of 64 float32" in said and samples.shape == (7, 64) and np.isfinite(samples).all()
    pyddl("generate", "mu", "--count", "7", "--out", "s.png", cwd=folder)
    assert (folder / "s.png").read_bytes()[:4] == b"\x89PNG"


def test_a_run_goes_on_from_its_record(folder):
    pyddl("train", "--resume", "--epochs", "3", "--out", "plain", cwd=folder)
    assert len((folder / "plain/metrics.jsonl").read_text().splitlines()) == 3
    pyddl("train", "--config", "plain/config.toml", "--epochs", "1", "--out", "again", cwd=folder)
    assert "pool = 2" in (folder / "again/config.toml").read_text()


@pytest.mark.parametrize(("flags", "message"), [
    (("--radius", "1"), "radius is 1, but training rows lie up to"),
    (("--pool", "0"), "pool is 0; expected a whole number at least 1"),
    (("--hidden", "8,4"), "hidden is [8, 4]; expected one number, the spikes of a Boltzmann machine"),
    (("--visible", "gaussian"), "visible is an option of model rbm"),
])
def test_bad_input_is_named(folder, flags, message):
    assert message in pyddl("train", "ssrbm", "--epochs", "1", *flags, "--out", "bad", cwd=folder, check=2)
