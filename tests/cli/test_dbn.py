"""Deep belief nets on the command line: train, go on, evaluate, generate, serve as an encoder; and what is refused."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file
from support import said_by_pyddl as pyddl

from pyddl.train.run import read_toml


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of runs: ``net``, an autoencoder by 2 ranks, ``stack``, and what they said."""
    path = tmp_path_factory.mktemp("runs")
    said = pyddl("train", "dbn", "--data", "digits", "--hidden", "24,16,6", "--finetune", "autoencoder",
                 "--pretrain-epochs", "3,2,4", "--pretrain-lr", "0.1,0.1,0.01", "--epochs", "3", "--lr", "0.005",
                 "--batch-size", "50", "--ranks", "2", "--out", "net", cwd=path)
    (path / "net.txt").write_text(said)
    pyddl("train", "dbn", "--data", "digits", "--hidden", "24,16", "--pretrain-epochs", "3", "--epochs", "2",
          "--batch-size", "20", "--out", "stack", cwd=path)
    return path


def tensors_of(run):
    return {name.removeprefix("parameters."): tensor for name, tensor in load_file(run / "model.safetensors").items()}


def test_stages_are_announced_by_their_names(folder):
    said = (folder / "net.txt").read_text()
    names = ["level_1, to epoch 3", "level_2, to epoch 5", "level_3, to epoch 9", "autoencoder, to epoch 12"]
    title, rest = said.split("epoch  1/12", 1)
    for number, name in enumerate(names):
        line = f"stage {number + 1} of 4: {name}"
        assert line in title and (number == 0 or line in rest)
    assert rest.index("level_2") < rest.index("epoch  4/12") < rest.index("level_3") < rest.index("epoch  6/12")


def test_a_run_has_stack_and_network_and_pictures(folder):
    shapes = {name: tensor.shape for name, tensor in tensors_of(folder / "net").items()}
    assert shapes["level_1.weights"] == (64, 24) and shapes["encoder.0.weight"] == (24, 64)
    assert shapes["decoder.2.weight"] == (64, 24)
    for picture in ("filters_1", "filters_3", "samples", "reconstructions", "curves"):
        assert (folder / f"net/plots/{picture}.png").stat().st_size > 1000
    config = read_toml((folder / "net/config.toml").read_text())
    assert config["pretrain_epochs"] == [3, 2, 4] and config["pretrain_learning_rate"] == [0.1, 0.1, 0.01]
    assert config["finetune"] == "autoencoder" and config["optimizer"] == "adamw" and config["chain"] == "cd"


def test_it_encodes_evaluates_and_generates(folder):
    summary = json.loads((folder / "net/summary.json").read_text())
    found = json.loads(pyddl("evaluate", "net", "--json", cwd=folder))
    assert found["squared_error"] == pytest.approx(summary["test_squared_error"]) and found["rows"] == 297
    assert "297 codes of 6" in pyddl("encode", "net", cwd=folder)
    assert "7 samples of 64" in pyddl("generate", "net", "--count", "7", "--out", "s.npy", cwd=folder)
    samples = np.load(folder / "s.npy")
    assert samples.shape == (7, 64) and 0 <= samples.min() < samples.max() <= 1
    pyddl("generate", "stack", "--count", "7", "--out", "s.png", cwd=folder)
    assert (folder / "s.png").read_bytes()[:4] == b"\x89PNG"
    assert "has no measure 'likelihood'" in pyddl("evaluate", "net", "--likelihood", cwd=folder, check=2)


@pytest.mark.parametrize("run", ["net", "stack"])
def test_a_classifier_stands_on_it_with_few_labels(folder, run):
    pyddl("train", "classifier", "--data", "digits", "--encoder", run, "--labelled", "200", "--epochs", "40",
                 "--lr", "0.01", "--batch-size", "20", "--out", f"on_{run}", "--quiet", cwd=folder)
    summary = json.loads((folder / f"on_{run}/summary.json").read_text())
    assert summary["test_accuracy"] > 0.25, "not chance, which is 0.1"
    assert read_toml((folder / f"on_{run}/config.toml").read_text())["labelled"] == 200
    assert tensors_of(folder / f"on_{run}")["encoder.0.weight"].shape == (24, 64)


def test_a_config_file_goes_on_and_goes_again(folder, tmp_path):
    config = (folder / "stack/config.toml").read_text().replace("epochs = 2\n", "epochs = 4\n", 1)
    (tmp_path / "again.toml").write_text(config)
    said = pyddl("train", "dbn", "--config", "again.toml", "--finetune", "classifier", "--pretrain-epochs", "1",
                 "--ranks", "2", "--out", "again", cwd=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "again/metrics.jsonl").read_text().splitlines()]
    assert "stage 3 of 3: classifier, to epoch 6" in said and len(lines) == 6
    assert "test_accuracy" in lines[-1] and "test_accuracy" not in lines[0]
    assert {"curves.png", "filters_1.png", "reconstructions.png"} <= {
        path.name for path in (tmp_path / "again/plots").iterdir()}


@pytest.mark.parametrize(("arguments", "message"), [
    (["dbn", "--hidden", "64"], "a deep belief net has at least two layers, for example 256,64; one alone is an rbm"),
    (["dbn", "--finetune", "classifier", "--data", "random:50x9"], "has no labels, which this model needs"),
    (["dbn", "--finetune", "clasifier"], "did you mean 'classifier'"),
    (["dbn", "--pretrain-epochs", "1,2,3"], "pretrain_epochs is [1, 2, 3]; expected one number"),
    (["dbn", "--pretrain-lr", "0.1,x"], "expected numbers with commas, for example 0.1,0.01"),
    (["dbn", "--pretrain-lr", "0"], "pretrain_learning_rate is 0.0; expected a number above 0"),
    (["dbn", "--data", "wide.npy"], "values in [0, 1]: scale the data (--scale minmax, or "),
    (["dbn", "--corrupt", "0.1"], "corrupt belongs to finetune autoencoder and classifier; the finetune here is none"),
    (["rbm", "--finetune", "classifier"], "finetune is an option of model dbn; the model here is rbm"),
    (["rbm", "--labelled", "100"], "model rbm as given needs no labels: leave it out"),
    (["classifier", "--labelled", "9"], "the labels of digits are of 10 classes: give at least one row for each"),
    (["classifier", "--labelled", "1501"], "digits has 1500 rows: give at most so many"),
])
def test_bad_input_ends_with_2_and_one_line(tmp_path, arguments, message):
    np.save(tmp_path / "wide.npy", np.full((20, 9), 1.5, np.float32))
    said = pyddl("train", *arguments, "--epochs", "1", cwd=tmp_path, check=2)
    assert message in said and "Traceback" not in said
