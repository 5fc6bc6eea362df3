"""What users of the command line stumble over: runs in this process, as `pyddl ...` would do them."""

import json
import signal
import sys

import pytest

from pyddl.cli.app import app
from pyddl.train.run import read_toml


@pytest.fixture
def pyddl(monkeypatch, capsys, tmp_path):
    """``pyddl(*arguments, check=0)`` within ``tmp_path``: what it printed, as (stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments, check=0):
        monkeypatch.setattr(sys, "argv", ["pyddl", *map(str, arguments)])
        status = app()
        out, err = capsys.readouterr()
        assert status == check, f"exit {status}\n{out}\n{err}"
        return out, err

    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)}
    yield call
    for number, handler in before.items():  # those of training stay for the rest of a process
        signal.signal(number, handler)


SMALL = ("train", "autoencoder", "--data", "random:64x10", "--hidden", "4", "--batch-size", "32")


def test_a_quiet_session_does_not_silence_the_next_and_times_cover_the_same_sessions(pyddl, tmp_path):
    assert pyddl(*SMALL, "--epochs", "2", "--quiet", "--out", "r") == ("", "")
    first = json.loads((tmp_path / "r/summary.json").read_text())
    assert "quiet" not in read_toml((tmp_path / "r/config.toml").read_text())
    out, _ = pyddl("train", "--resume", "--epochs", "3", "--out", "r")
    assert "epoch 3/3" in out and "train loss" in out
    summary = json.loads((tmp_path / "r/summary.json").read_text())
    (mine,) = summary["time_per_rank"]
    assert mine == pytest.approx(summary["time"])
    assert all(mine[part] >= seconds for part, seconds in first["time_per_rank"][0].items())
    assert mine["compute"] > first["time"]["compute"]


def test_a_switch_of_a_file_can_be_turned_off(pyddl, tmp_path):
    (tmp_path / "c.toml").write_text("quiet = true\ntied = true\n")
    out, _ = pyddl(*SMALL, "--config", "c.toml", "--no-quiet", "--no-tied", "--epochs", "1", "--out", "r")
    assert "epoch 1/1" in out and read_toml((tmp_path / "r/config.toml").read_text())["tied"] is False


def test_help_comes_in_groups(pyddl):
    out, _ = pyddl("train", "autoencoder", "--help")
    titles = [line for line in out.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["Options:", "Data:", "Model:", "Training:", "Options of single strategies:", "Ranks and machine:",
                      "Output:"]
    model, training = out.index("\nModel:"), out.index("\nTraining:")
    assert model < out.index("--hidden") < training < out.index("--epochs") < out.index("--period")
    assert "--no-quiet" not in out and "--centering / --no-centering" in pyddl("train", "rbm", "--help")[0]
