"""What users of the command line stumble over: runs in this process, as `pyddl ...` would do them."""

import json
import re
from pathlib import Path

import numpy as np
import pandas
import pytest

from pyddl import Autoencoder as Estimated
from pyddl.data import load
from pyddl.data.spec import from_anywhere
from pyddl.models import Autoencoder, Classifier
from pyddl.train import Trainer, load_run
from pyddl.train.run import read_toml

SMALL = ("train", "autoencoder", "--data", "random:64x10", "--hidden", "4", "--batch-size", "32")


def test_a_quiet_session_does_not_silence_the_next_and_times_cover_the_same_sessions(pyddl_here, tmp_path):
    assert pyddl_here(*SMALL, "--epochs", "2", "--quiet", "--out", "r") == ("", "")
    first = json.loads((tmp_path / "r/summary.json").read_text())
    books = max((tmp_path / "r/checkpoints").glob("step-*/books.json"))  # the newest; what comes after it is lost
    (before,) = json.loads(books.read_text())["seconds_per_rank"]
    assert "quiet" not in read_toml((tmp_path / "r/config.toml").read_text())
    out, _ = pyddl_here("train", "--resume", "--epochs", "3", "--out", "r")
    assert "epoch 3/3" in out and "train loss" in out
    summary = json.loads((tmp_path / "r/summary.json").read_text())
    (mine,) = summary["time_per_rank"]
    assert mine == pytest.approx(summary["time"])
    assert all(mine[part] >= seconds for part, seconds in before.items())
    assert mine["compute"] > first["time"]["compute"]


def test_a_switch_of_a_file_can_be_turned_off(pyddl_here, tmp_path):
    (tmp_path / "c.toml").write_text("quiet = true\ntied = true\n")
    out, _ = pyddl_here(*SMALL, "--config", "c.toml", "--no-quiet", "--no-tied", "--epochs", "1", "--out", "r")
    assert "epoch 1/1" in out and read_toml((tmp_path / "r/config.toml").read_text())["tied"] is False


def test_help_comes_in_groups(pyddl_here):
    out, _ = pyddl_here("train", "autoencoder", "--help")
    titles = [line for line in out.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["Options:", "Data:", "Model:", "Training:", "Options of single strategies:", "Ranks and machine:",
                      "Output:"]
    model, training = out.index("\nModel:"), out.index("\nTraining:")
    assert model < out.index("--hidden") < training < out.index("--epochs") < out.index("--period")
    assert "--no-quiet" not in out and "--centering / --no-centering" in pyddl_here("train", "rbm", "--help")[0]


def test_a_run_of_a_notebook_records_data_that_load_named(pyddl_here, tmp_path):
    digits = load("digits")
    model = Autoencoder(digits.features, hidden=(4,))
    result = Trainer(model, epochs=1, out=str(tmp_path / "named")).fit(digits)
    assert read_toml((tmp_path / "named/config.toml").read_text())["data"] == "digits"
    out, err = pyddl_here("evaluate", "named", "--json")
    assert json.loads(out)["loss"] == pytest.approx(result.summary["test_loss"], rel=1e-6) and not err
    assert "reconstructions.png" in pyddl_here("plot", "named")[0]
    Trainer(model, epochs=1, out=str(tmp_path / "array")).fit(np.asarray(digits))
    out, err = pyddl_here("plot", "array")
    assert out == "array/plots/curves.png\n"
    assert err == "curves alone are drawn: array does not record its data; name some with --data\n"
    assert "name some with --data" in pyddl_here("evaluate", "array", check=2)[1]


def test_names_of_labels_and_of_test_data_are_recorded_too(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((40, 3), dtype=np.float32))
    np.save(tmp_path / "y.npy", np.arange(40) % 2)
    rows, labels = str(tmp_path / "x.npy"), str(tmp_path / "y.npy")
    source = load(rows, labels=labels)
    assert source.spec == {"data": rows, "labels": labels} and load("digits", "test").spec == {"data": "digits:test"}
    assert load(np.eye(3)).spec == {} and load(rows, labels=np.arange(40)).spec == {"data": rows}
    Trainer(Classifier(3, hidden=(), classes=2), epochs=1, out=str(tmp_path / "r")).fit(source, source)
    config = read_toml((tmp_path / "r/config.toml").read_text())
    assert {config["data"], config["test"]} == {rows} and {config["labels"], config["test_labels"]} == {labels}


@pytest.mark.parametrize(("arguments", "said"), [
    (["evaluate", "r", "--classifier", "c"], "--classifier is for --quality, which is not given: give it too, or"),
    (["evaluate", "r", "--deviation", "1"], "--deviation is for --modes, which is not given"),
    *(([command, "r", *flag], f"{flag[0]} is for the pictures of --data, which is not given")
      for command in ("evaluate", "encode", "reconstruct") for flag in (["--image-size", "8x8"], ["--grey"])),
    (["simulate", "--node-latency", "1"], "node_latency is between workers of one node, and each has a node of its"),
])
def test_what_would_do_nothing_is_refused(pyddl_here, tmp_path, arguments, said):
    estimated = Estimated(hidden=(2,), epochs=1).fit(np.eye(4))
    estimated.save(tmp_path / "r")
    assert pyddl_here(*arguments, check=2)[1].startswith(f"pyddl: {said}")


def test_parameters_that_run_away_are_told_of_at_the_end_of_a_quiet_run_too(pyddl_here, tmp_path):
    wild = (*SMALL, "--epochs", "3", "--lr", "1e12", "--out", "r")
    out, err = pyddl_here(*wild, "--quiet")
    said = re.fullmatch(r"warning: since epoch 1: (parameters reach .e.1\d, in \S+: training has diverged, .*)\n", err)
    assert not out and said, err
    assert json.loads((tmp_path / "r/summary.json").read_text())["warnings"] == [f"since epoch 1: {said[1]}"]
    out, err = pyddl_here(*wild, "--overwrite")
    assert out.count("warning: epoch 1: parameters reach") == out.count("warning:") == err.count("warning:") == 1
    with pytest.warns(UserWarning, match="since epoch 1: parameters reach"):
        Estimated(hidden=(4,), learning_rate=1e12, epochs=1).fit(np.eye(9))


def test_a_run_is_found_and_goes_on_from_any_folder(pyddl_here, tmp_path, monkeypatch):
    table = np.column_stack([np.random.default_rng(0).random((40, 3)), np.arange(40) % 2])
    np.savetxt("x.csv", table, delimiter=",", header="a,b,c,y", comments="")
    Path("mine.py").write_text("from pyddl.strategies import Local\n\n\nclass Mine(Local):\n    pass\n")
    one = ["--epochs", "1", "--batch-size", "20", "--quiet"]
    pyddl_here("train", "autoencoder", "--data", "x.csv:a,b,c", "--hidden", "2", *one, "--out", "ae")
    pyddl_here("train", "classifier", "--data", "x.csv:a,b,c", "--labels", "x.csv:y", "--test", "x.csv:a,b,c",
               "--test-labels", "x.csv:y", "--encoder", "ae", "--strategy", "mine.py:Mine", *one, "--out", "r")
    monkeypatch.chdir(tmp_path.parent)
    run = str(Path(tmp_path.name, "r"))
    before = json.loads(pyddl_here("evaluate", run, "--json")[0])
    assert before["rows"] == 40 and "40 codes" in pyddl_here("encode", run, "--out", str(tmp_path / "c.npy"))[0]
    pyddl_here("train", "--resume", "--epochs", "2", "--out", run)
    assert len(load_run(run).metrics) == 2
    assert from_anywhere("digits:test") == "digits:test" and from_anywhere("random:2x3") == "random:2x3"
    assert from_anywhere("https://host/x.csv:a") == "https://host/x.csv:a"


def test_evaluating_without_a_test_part_says_which_rows_it_takes(pyddl_here, tmp_path):
    pyddl_here(*SMALL, "--epochs", "1", "--quiet", "--out", "r")
    said = pyddl_here("evaluate", "r")[1]
    assert said == "r has no test part: taken are the rows that it was trained on (--data names others)\n"
    assert pyddl_here("evaluate", "r", "--data", "random:8x10")[1] == ""


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A run on digits, codes of two units."""
    path = tmp_path_factory.mktemp("digits") / "r"
    source = load("digits")
    Trainer(Autoencoder(source.features, hidden=(8, 2)), epochs=1, out=str(path)).fit(source)
    return path


@pytest.mark.parametrize("ending", ["csv", "parquet", "npy"])
def test_codes_reconstructions_and_samples_are_written_as_the_ending_says(pyddl_here, tmp_path, digits, ending):
    rows = np.asarray(load("digits", "test"))
    found = load_run(digits)
    codes = found.model.encode(found.averaged, found.buffers, rows)
    for command, wanted, prefix in (("encode", codes, "code"), ("reconstruct", None, "x")):
        out, _ = pyddl_here(command, digits, "--out", f"c.{ending}")
        assert out.startswith(f"c.{ending}: 297 ")
        if wanted is None:
            wanted = found.model.reconstruct(found.averaged, found.buffers, rows)
        if ending == "npy":
            got = np.load(tmp_path / "c.npy")
        else:
            read = {"csv": pandas.read_csv, "parquet": pandas.read_parquet}[ending]
            frame = read(tmp_path / f"c.{ending}")
            assert list(frame.columns) == [f"{prefix}{i}" for i in range(wanted.shape[1])]
            got = frame.to_numpy().astype(np.float32)
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("command", ["encode", "reconstruct", "generate"])
def test_a_file_of_an_unknown_kind_is_refused(pyddl_here, digits, command):
    _, err = pyddl_here(command, digits, "--out", "c.txt", check=2)
    assert err == ("pyddl: out is c.txt, and nothing is written as .txt here: expected a name that ends in .npy, .csv, "
                   f".parquet{', .png' * (command == 'generate')}\n")


def test_only_what_reconstructs_is_asked_to(pyddl_here, tmp_path):
    pyddl_here("train", "classifier", "--data", "digits", "--epochs", "1", "--out", "c", "--quiet")
    _, err = pyddl_here("reconstruct", "c", check=2)
    assert "the model in c, classifier, reconstructs nothing; these do: autoencoder, vae, rbm" in err
