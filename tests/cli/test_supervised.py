"""`pyddl train linear` and `classifier` as a person uses them: labels from anywhere, encoders of runs, bad input."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import pyddl

from pyddl.train.run import read_toml

RANDOM = np.random.default_rng(0)
ROWS = RANDOM.random((240, 6), dtype=np.float32)
CLASSES = np.argmax(ROWS[:, :3], axis=1)
WORDS = np.array(["ash", "beech", "cedar"])[CLASSES]
AMOUNTS = ROWS @ [1, -2, 0.5, 0, 0, 3]


def write_parquet(path, rows, **labels):
    columns = {f"f{i}": rows[:, i] for i in range(rows.shape[1])}
    pq.write_table(pa.table({**columns, **{name: pa.array(values) for name, values in labels.items()}}), path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of rows and labels, and runs of each model."""
    folder = tmp_path_factory.mktemp("supervised")
    for name, values in {"rows": ROWS, "classes": CLASSES, "amounts": AMOUNTS, "short": CLASSES[:-1],
                         "two": np.column_stack([AMOUNTS, -AMOUNTS]), "wide": np.tile(ROWS, 2), "one": CLASSES * 0,
                         "nan": np.where(CLASSES == 1, np.nan, AMOUNTS), "more": CLASSES * 2}.items():
        np.save(folder / f"{name}.npy", values)
    write_parquet(folder / "train.parquet", ROWS[:200], tree=WORDS[:200], amount=AMOUNTS[:200])
    kept = np.arange(200, 240)[WORDS[200:] != "ash"]
    write_parquet(folder / "test.parquet", ROWS[kept], tree=WORDS[kept])
    write_parquet(folder / "strange.parquet", ROWS[200:], tree=["yew"] * 40)
    pyddl("train", "autoencoder", "--data", "rows.npy", "--hidden", "5,4", "--epochs", "3", "--out", "ae", "--quiet",
          cwd=folder)
    pyddl("train", "classifier", "--data", "rows.npy", "--labels", "classes.npy", "--encoder", "ae", "--frozen-epochs",
          "2", "--epochs", "8", "--lr", "0.05", "--batch-size", "40", "--out", "on_ae", "--quiet", cwd=folder)
    pyddl("train", "linear", "--data", "rows.npy", "--labels", "two.npy", "--epochs", "30", "--lr", "0.05",
          "--batch-size", "40", "--out", "lin", "--quiet", cwd=folder)
    return folder


def scores(run, *arguments, cwd):
    return json.loads(pyddl("evaluate", run, "--json", *arguments, cwd=cwd)[0])


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_named_set_brings_its_labels(tmp_path, ranks):
    out, _ = pyddl("train", "classifier", "--data", "digits", "--hidden", "32", "--epochs", "6", "--batch-size", "50",
                   "--ranks", ranks, "--out", "run", cwd=tmp_path)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["model"] == "classifier" and summary["test_accuracy"] > 0.85
    assert "test_accuracy" in out and "test accuracy" in out
    assert {p.name for p in (tmp_path / "run/plots").iterdir()} == {"curves.png", "codes.png", "weights.png"}
    found = scores("run", cwd=tmp_path)
    assert found["rows"] == 297 and found["accuracy"] == pytest.approx(summary["test_accuracy"])
    assert "accuracy" in pyddl("evaluate", "run", "--data", "digits:train", cwd=tmp_path)[0]
    assert "297 codes of 32" in pyddl("encode", "run", cwd=tmp_path)[0]
    (tmp_path / "run/plots/weights.png").unlink()
    assert "weights.png" in pyddl("plot", "run", cwd=tmp_path)[0]


def test_an_encoder_is_frozen_first_and_then_moves(folder):
    config = read_toml((folder / "on_ae/config.toml").read_text())
    assert (config["encoder"], config["frozen_epochs"], config["labels"]) == (
        str(folder / "ae"), 2, str(folder / "classes.npy"))
    lines = [json.loads(line) for line in (folder / "on_ae/metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 10 and lines[-1]["train_loss"] < lines[1]["train_loss"]
    assert scores("on_ae", cwd=folder)["accuracy"] > 0.8
    assert "240 codes of 4" in pyddl("encode", "on_ae", "--out", "c.npy", cwd=folder)[0]
    frozen = ("train", "classifier", "--data", "rows.npy", "--labels", "classes.npy", "--encoder", "ae", "--freeze")
    pyddl(*frozen, "--epochs", "2", "--out", "frozen", "--quiet", cwd=folder)
    pyddl("encode", "frozen", "--out", "theirs.npy", cwd=folder)
    pyddl("encode", "ae", "--out", "mine.npy", cwd=folder)
    assert np.array_equal(np.load(folder / "theirs.npy"), np.load(folder / "mine.npy"))
    again = ("train", "--config", "on_ae/config.toml", "--out", "again", "--quiet")
    pyddl(*again, cwd=folder)
    assert scores("again", cwd=folder) == scores("on_ae", cwd=folder)


def test_it_goes_on_where_it_stopped(folder):
    pyddl("train", "--resume", "--out", "on_ae", "--epochs", "9", "--quiet", cwd=folder)
    assert len((folder / "on_ae/metrics.jsonl").read_text().splitlines()) == 11


def test_a_classifier_is_an_encoder_too(folder):
    out, _ = pyddl("train", "linear", "--data", "rows.npy", "--labels", "amounts.npy", "--encoder", "on_ae", "--epochs",
                   "1", "--out", "on_both", cwd=folder)
    assert "linear, 64 parameters" in out  # 6-5, 5-4 and 4-1, biases too


def test_several_quantities_of_a_row(folder):
    found = scores("lin", cwd=folder)
    assert found["squared_error"] == found["loss"] < 0.5
    _, err = pyddl("encode", "lin", cwd=folder, check=2)
    assert err.endswith("\npyddl: model linear has one layer here, and no encoder: codes would be the rows "
                        "themselves\n")
    _, err = pyddl("evaluate", "lin", "--data", "rows.npy", cwd=folder, check=2)
    assert "these data have no labels, which this model needs" in err and err.count("\n") == 1
    assert scores("lin", "--data", "rows.npy", "--labels", "two.npy", cwd=folder)["loss"] == found["loss"]


def test_columns_of_a_parquet_file_and_test_data_with_fewer_classes(folder):
    columns = "f0,f1,f2,f3,f4,f5"
    line = ("train", "classifier", "--data", f"train.parquet:{columns}", "--labels", "train.parquet:tree", "--hidden",
            "16", "--epochs", "30", "--lr", "0.02", "--batch-size", "20", "--quiet", "--out", "trees")
    pyddl(*line, "--test", f"test.parquet:{columns}", "--test-labels", "test.parquet:tree", cwd=folder)
    summary = json.loads((folder / "trees/summary.json").read_text())
    assert summary["test_accuracy"] > 0.8
    given = ("--data", f"test.parquet:{columns}", "--labels", "test.parquet:tree")  # beech and cedar are 1 and 2
    assert scores("trees", *given, cwd=folder)["accuracy"] == pytest.approx(summary["test_accuracy"])
    given = ("--data", f"strange.parquet:{columns}", "--labels", "strange.parquet:tree")
    _, err = pyddl("evaluate", "trees", *given, cwd=folder, check=2)
    assert "labels of class 'yew', which is none of the 3 classes of the training data: ash, beech, cedar" in err
    pyddl("train", "linear", "--data", f"train.parquet:{columns}", "--labels", "train.parquet:amount", "--epochs", "2",
          "--quiet", "--out", "amounts", cwd=folder)


def test_they_are_simulated(folder):
    line = ("simulate", "classifier", "--data", "rows.npy", "--labels", "classes.npy", "--encoder", "ae")
    out, _ = pyddl(*line, "--epochs", "4", "--frozen-epochs", "1", "--workers", "3", "--batch-size", "40", "--strategy",
                   "averaging", "--out", "sim", cwd=folder)
    assert "allreduce" in out and "averaging" in out
    pyddl("simulate", "--config", "on_ae/config.toml", "--workers", "2", "--epochs", "1", "--out", "sim2", cwd=folder)
    pyddl("simulate", "linear", "--data", "rows.npy", "--labels", "two.npy", "--epochs", "2", "--workers", "2", "--out",
          "sim3", cwd=folder)


C, L = ("train", "classifier", "--data", "rows.npy"), ("train", "linear", "--data", "rows.npy")
LABELLED = (*C, "--labels", "classes.npy")


@pytest.mark.parametrize(("arguments", "message"), [
    ((*C, "--labels", "short.npy"), "labels of rows.npy have 239 rows, the data 240; expected one for each row"),
    (C, "rows.npy has no labels, which this model needs: give them with labels (--labels SPEC)"),
    (L, "the training data have no labels, which this model needs: give them with --labels"),
    ((*C, "--labels", "one.npy"), "all 240 labels of rows.npy are 0: one class only; a classifier needs two at least"),
    ((*C, "--labels", "nan.npy"), "is nan; expected finite numbers"),
    ((*L, "--labels", "nan.npy"), "is nan; expected finite numbers"),
    ((*C, "--labels", "amounts.npy"), "classes are whole numbers from 0 on: for quantities choose model linear"),
    ((*C, "--labels", "two.npy"), "has labels of 2 numbers each; a classifier needs one, the row's class"),
    ((*L[:2], "--data", "train.parquet:f0,f1", "--labels", "train.parquet:tree"),
     "has labels that are classes (ash, beech, cedar), and least squares needs numbers: choose model classifier"),
    ((*C[:3], "wide.npy", "--labels", "classes.npy", "--encoder", "ae"),
     "the run named as encoder was trained on rows of 6 features; these have 12"),
    ((*LABELLED, "--encoder", "lin"), "holds a model 'linear', which has no encoder of layers: name a run"),
    ((*LABELLED, "--encoder", "nowhere"), "nowhere is no finished run"),
    ((*LABELLED, "--encoder", "."), "is no finished run"),
    ((*LABELLED, "--frozen-epochs", "2"), "frozen_epochs is 2, and there is no encoder that could be frozen"),
    ((*LABELLED, "--freeze"), "freeze is True, and there is no encoder that could be frozen"),
    ((*LABELLED, "--encoder", "ae", "--freeze", "--frozen-epochs", "2"), "leave one of the two out"),
    ((*LABELLED, "--code-activation", "relu"), "code_activation is an option of model autoencoder; the model here"),
    ((*L, "--labels", "two.npy", "--hidden", "3"), "hidden is an option of model autoencoder, classifier"),
    ((*LABELLED, "--test", "rows.npy", "--test-labels", "more.npy"), "has the label 4; the model knows 3 classes"),
    ((*LABELLED, "--test", "rows.npy"), "the test data have no labels, which this model needs"),
    ((*LABELLED, "--test-labels", "classes.npy"), "--test-labels are those of the rows of --test, which"),
    (("train", "classifier", "--data", "train.parquet:f0,f1", "--labels", "train.parquet:tree", "--test",
      "strange.parquet:f0,f1", "--test-labels", "strange.parquet:tree"), "labels of class 'yew', which is none of the"),
])
def test_bad_input_ends_with_2_and_one_line(arguments, message, folder):
    out, err = pyddl(*arguments, "--out", "bad", cwd=folder, check=2)
    assert message in err and err.startswith("pyddl: ") and err.count("\n") == 1 and not out, err
    assert not (folder / "bad").exists()
