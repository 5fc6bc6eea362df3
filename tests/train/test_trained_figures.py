"""What training must reach on the real MNIST: figures of README and docs. Minutes, so only in `make test-long`."""

import json
import resource
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
    found = json.loads((folder / "summary.json").read_text())
    print(model, {name: value for name, value in found.items() if name.startswith(("train_", "test_"))})
    return found


def processor_seconds():
    """Of all programs that have ended under this one, ranks too."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def trained(folder, *options):
    """Summary of 20 epochs of 784-256-64-256-784 on 2 ranks with the command's defaults."""
    return summary_of("autoencoder", folder, "--hidden", "256,64", "--epochs", "20", *options)


def options_in_docs(model, beginning):
    """What follows MODEL in a line of a page in docs/models, but data, ranks and run directory."""
    pages = "\n".join(each.read_text(encoding="utf-8")
                      for each in sorted((Path(__file__).parents[2] / "docs/models").glob("*.md")))
    words = next(line for line in pages.replace("\\\n", " ").splitlines()
                 if line.startswith(f"$ pyddl train {model} {beginning}")).split()
    given = dict(zip(words[4::2], words[5::2], strict=True))
    return {name: value for name, value in given.items() if name not in ("--data", "--ranks", "--out")}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_classifier_on_an_encoder_reaches_the_accuracy_in_the_docs(tmp_path, seed):
    """784-1024-512-10, by the lines of the pages in docs/models."""
    below = options_in_docs("autoencoder", "--data mnist --hidden 1024,512")
    summary_of("autoencoder", tmp_path / "below", "--seed", str(seed), *(w for pair in below.items() for w in pair))
    given = {**options_in_docs("classifier", "--data mnist --encoder"), "--encoder": str(tmp_path / "below")}
    words = [word for pair in given.items() for word in pair]
    found = summary_of("classifier", tmp_path / "run", "--seed", str(seed), *words)
    assert found["test_accuracy"] >= 0.985


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_variational_autoencoder_reaches_the_bound_in_the_docs(tmp_path, seed):
    """784-400-20, by the line of its page."""
    given = options_in_docs("vae", "--data mnist")
    found = summary_of("vae", tmp_path / "run", "--seed", str(seed), *(word for pair in given.items() for word in pair))
    assert found["test_elbo"] >= -104.0


def test_a_deep_belief_net_reconstructs_as_the_docs_say(tmp_path):
    """784-250-100-30, by the line of its page: 4.21 there; from a random start 4.62 with tanh, 4.29 with ReLU."""
    given = options_in_docs("dbn", "--data mnist")
    assert summary_of("dbn", tmp_path / "run", *(w for pair in given.items() for w in pair))["test_squared_error"] < 4.4


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


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_classifier_on_convolutions_reaches_the_accuracy_in_the_docs(tmp_path, seed):
    """By the lines of docs/models/classifier.md; ten minutes of two processors are the limit of both together."""
    begin = processor_seconds()
    below = options_in_docs("autoencoder", "--data mnist --conv conv32,pool2,conv64,pool2")
    given = options_in_docs("classifier", "--data mnist --encoder runs/convolutions")
    summaries = []
    for model, options, out in (("autoencoder", below, "below"),
                                ("classifier", {**given, "--encoder": str(tmp_path / "below")}, "run")):
        words = [word for pair in options.items() for word in pair]
        summaries.append(summary_of(model, tmp_path / out, "--seed", str(seed), *words))
    assert summaries[1]["test_accuracy"] >= 0.992
    assert 10 < processor_seconds() - begin < 2 * 600


def test_denoising_makes_features_for_a_classifier_that_has_few_labels():
    """Logistic regression on 500 sigmoid codes, fitted to the first 1,000 rows: seeds 0, 1, 2."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from pyddl.data import load
    from pyddl.models import Autoencoder
    from pyddl.train import Trainer

    mnist = load("mnist")
    rows, test = np.asarray(mnist)[:1000], np.asarray(mnist.test)
    for seed in range(3):
        accuracy = {}
        for corrupt in (0.0, 0.5):
            model = Autoencoder(784, (500,), code_activation="sigmoid", corrupt=corrupt)
            made = Trainer(model, epochs=6, batch_size=256, seed=seed).fit(mnist)
            codes, others = (model.encode(made.parameters, made.buffers, each) for each in (rows, test))
            fitted = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300)).fit(codes,
                                                                                                 mnist.labels[:1000])
            accuracy[corrupt] = fitted.score(others, mnist.test.labels)
        assert accuracy[0.5] > accuracy[0.0] + 0.01, (seed, accuracy)


def test_convolutions_reconstruct_better_than_dense_layers_from_as_many_codes(tmp_path):
    """64 codes, 4 epochs of batches of 128."""
    shared = ["--epochs", "4", "--batch-size", "128"]
    dense = summary_of("autoencoder", tmp_path / "dense", "--hidden", "256,64", *shared)
    convolutions = summary_of("autoencoder", tmp_path / "convolutions", "--hidden", "64", "--conv",
                              "conv16,pool2,conv32,pool2", "--batch-norm", "synchronised", *shared)
    assert convolutions["test_squared_error"] < dense["test_squared_error"]
