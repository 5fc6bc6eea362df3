"""What training must reach on the real MNIST: the figures of the README. Minutes, so only in `make test-long`."""

import json

import pytest
import support

from pyddl import _core
from pyddl.data import find

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(find("mnist") is None, reason="no MNIST here"),
]


def trained(folder, *options):
    """Summary of 20 epochs of 784-256-64-256-784 on 2 ranks with the command's defaults."""
    done = support.run_ranks(
        2,
        [
            support.sys.executable,
            "-m",
            "pyddl",
            "train",
            "autoencoder",
            "--data",
            "mnist",
            "--hidden",
            "256,64",
            "--epochs",
            "20",
            "--out",
            str(folder),
            *options,
        ],
        timeout=1700,
    )
    assert done.code == 0, done
    return json.loads((folder / "summary.json").read_text())


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
