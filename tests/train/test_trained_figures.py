"""What training must reach on the real MNIST: figures of README and docs. Minutes, so only in `make test-long`."""

import json
from pathlib import Path

import pytest
import support

from pyddl import _core
from pyddl.data import find

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(find("mnist") is None, reason="no MNIST here"),
]


def summary_of(model, folder, *options):
    """Of a training on MNIST on 2 ranks."""
    line = [support.sys.executable, "-m", "pyddl", "train", model, "--data", "mnist", "--out", str(folder), *options]
    done = support.run_ranks(2, line, timeout=1700)
    assert done.code == 0, done
    return json.loads((folder / "summary.json").read_text())


def trained(folder, *options):
    """Summary of 20 epochs of 784-256-64-256-784 on 2 ranks with the command's defaults."""
    return summary_of("autoencoder", folder, "--hidden", "256,64", "--epochs", "20", *options)


def options_in_docs(model, beginning):
    """What follows MODEL in a line of docs/models.md, but data, ranks and run directory."""
    page = (Path(__file__).parents[2] / "docs/models.md").read_text(encoding="utf-8").replace("\\\n", " ")
    words = next(line for line in page.splitlines() if line.startswith(f"$ pyddl train {model} {beginning}")).split()
    given = dict(zip(words[4::2], words[5::2], strict=True))
    return {name: value for name, value in given.items() if name not in ("--data", "--ranks", "--out")}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_classifier_on_an_encoder_reaches_the_accuracy_in_the_docs(tmp_path, seed):
    """784-1024-512-10, by the lines of docs/models.md."""
    below = options_in_docs("autoencoder", "--data mnist --hidden 1024,512")
    summary_of("autoencoder", tmp_path / "below", "--seed", str(seed), *(w for pair in below.items() for w in pair))
    given = {**options_in_docs("classifier", "--data mnist --encoder"), "--encoder": str(tmp_path / "below")}
    words = [word for pair in given.items() for word in pair]
    found = summary_of("classifier", tmp_path / "run", "--seed", str(seed), *words)
    assert found["test_accuracy"] >= 0.985


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_variational_autoencoder_reaches_the_bound_in_the_docs(tmp_path, seed):
    """784-400-20, by the line of docs/models.md; PyTorch's example has -104.5 after so many epochs."""
    given = options_in_docs("vae", "--data mnist")
    found = summary_of("vae", tmp_path / "run", "--seed", str(seed), *(word for pair in given.items() for word in pair))
    assert found["test_elbo"] >= -104.0


def test_replicas_in_turn_reconstruct_better_than_pca(tmp_path):
    """784-256-128-64-32-64-128-256-784: 0.0675 per pixel is the mean image, 0.0168 is PCA with 32 components."""
    options = ["--hidden", "256,128,64,32", "--loss", "mse", "--strategy", "sequential", "--replicas", "4"]
    assert trained(tmp_path, *options)["test_squared_error"] / 784 < 0.0168


@pytest.fixture(scope="module")
def float32(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("float32"))


def test_mnist_is_reconstructed_better_than_by_the_same_network_in_pytorch(float32):
    assert float32["test_squared_error"] < 3.03  # PCA with 64 components: 7.09


@pytest.mark.skipif(not _core.has_bfloat16(), reason="the processor has no bfloat16")
def test_bfloat16_ends_within_one_percent_of_float32(float32, tmp_path):
    bfloat16 = trained(tmp_path / "bfloat16", "--dtype", "bfloat16")
    assert bfloat16["train_loss"] == pytest.approx(float32["train_loss"], rel=0.01)
    assert bfloat16["test_loss"] == pytest.approx(float32["test_loss"], rel=0.01)
