"""pyddl simulate: the table, the files, and what it refuses."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from pyddl import models
from pyddl.cli.simulate import DEFAULTS, command
from pyddl.errors import DataError, ParameterError


@pytest.fixture
def simulate(tmp_path):
    rows = tmp_path / "rows.npy"
    np.save(rows, np.random.default_rng(1).random((64, 6), dtype=np.float32))

    def run(*arguments):
        line = ["--data", str(rows), "--hidden", "4,2", "--epochs", "2", "--batch-size", "16", "--out",
                str(tmp_path / "out"), *arguments]
        done = CliRunner().invoke(command, line, catch_exceptions=True)
        return done, tmp_path / "out"

    return run


def test_it_shows_each_strategy_at_each_number_of_workers(simulate):
    done, out = simulate("--strategy", "averaging", "--period", "2", "--workers", "2,8")
    assert done.exit_code == 0, done.output
    table = (out / "table.txt").read_text()
    assert table in done.output
    assert [line.split()[:2] for line in table.splitlines()[1:]] == [
        ["allreduce", "2"], ["averaging", "2"], ["allreduce", "8"], ["averaging", "8"]]
    curves = [json.loads(line) for line in (out / "curves.jsonl").read_text().splitlines()]
    assert len(curves) == 4 * 8 and {curve["workers"] for curve in curves} == {2, 8}
    assert (out / "loss.png").read_bytes()[:4] == b"\x89PNG"


def test_it_says_how_far_it_is_where_that_takes_long(simulate, monkeypatch):
    monkeypatch.setattr("pyddl.cli.simulate._Progress.EVERY", 0)
    done, _ = simulate("--workers", "3")
    assert "allreduce, 3 workers: step 4 of 8\n" in done.output
    monkeypatch.undo()
    assert "step" not in simulate("--workers", "3")[0].output.splitlines()[2]


def test_it_knows_servers(simulate):
    done, out = simulate("--strategy", "server", "--mode", "ssp", "--bound", "1", "--servers", "2", "--workers", "3",
                         "--straggler", "4", "--server-optimizer", "adagrad")
    assert done.exit_code == 0, done.output
    assert [line.split()[:2] for line in (out / "table.txt").read_text().splitlines()[1:]] == [
        ["allreduce", "3"], ["server", "3"]]


def test_the_seed_replays_it(simulate):
    outputs = [simulate("--workers", "4", "--seed", seed)[0].output for seed in ("1", "1", "2")]
    assert outputs[0] == outputs[1] != outputs[2]


CONFIG = """
model = "autoencoder"
data = "{rows}"
hidden = [4, 2]
strategy = "averaging"
period = 2
epochs = 2
batch_size = 16
workers = [3]
latency = 1.0
reproducible = false
ranks = 2
timeout = 600.0
quiet = false
"""  # with much of what a run's config.toml has


def test_a_file_gives_options_and_flags_win_over_it(tmp_path):
    rows, config = tmp_path / "rows.npy", tmp_path / "c.toml"
    np.save(rows, np.random.default_rng(1).random((64, 6), dtype=np.float32))
    config.write_text(CONFIG.format(rows=rows))

    def run(*arguments):
        done = CliRunner().invoke(command, ["--config", str(config), "--out", str(tmp_path / "out"), *arguments])
        return done, (tmp_path / "out/table.txt").read_text().splitlines()[1:]

    done, table = run()
    assert done.exit_code == 0, done.output
    assert [line.split()[:2] for line in table] == [["allreduce", "3"], ["averaging", "3"]]
    assert float(table[1].split()[2]) > 1  # the latency
    done, table = run("--workers", "2,4", "--latency", "0", "--period", "4")
    assert [line.split()[1] for line in table] == ["2", "2", "4", "4"] and float(table[1].split()[2]) < 1
    config.write_text(CONFIG.format(rows=rows).replace("= false", "= true"))
    done, _ = run()
    assert f"{config}: reproducible has no meaning in a simulation" in str(done.exception)
    config.write_text("perod = 3\n")
    done, _ = run()
    assert f"{config}: there is no option 'perod'; did you mean 'period'" in str(done.exception)
    config.unlink()
    done, _ = run()
    assert isinstance(done.exception, DataError) and "no such file" in str(done.exception)


def test_a_validation_part_is_kept_back(simulate):
    whole, _ = simulate("--workers", "2")
    part, _ = simulate("--workers", "2", "--validation", "0.25")
    assert "64 rows" in whole.output and "48 rows" in part.output


def test_the_help_has_the_defaults_that_are_taken():
    text = " ".join(CliRunner().invoke(command, ["autoencoder", "--help"]).output.split())
    for name, value in {**DEFAULTS, **models.TABLE["autoencoder"].simulated}.items():
        shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        assert f"[{shown}" in text, name
    assert "--patience" not in text, "it has no meaning in a simulation"


@pytest.mark.parametrize("arguments", [("--workers", "2,1", "--strategy", "gossip"), ("--workers", "4,17"),
                                       ("--strategy", "sequential", "--replicas", "17")], ids=str)
def test_what_is_refused_is_refused_before_anything_is_trained(simulate, arguments):
    done, out = simulate("--workers", "4", *arguments)
    assert isinstance(done.exception, ParameterError)
    assert done.output == "" and not out.exists()


@pytest.mark.parametrize(("arguments", "message"), [
    (["--reproducible"], "reproducible has no meaning in a simulation"),
    (["--split", "2"], "split has no meaning in a simulation"),
    (["--strategy", "split"], "strategy split makes all ranks one worker"),
    (["--strategy", "gossip", "--workers", "1"], "needs 2 ranks"),
    (["--workers", "4,17"], "a step has 16 rows, and 17 workers would not all have work"),
    (["--tau", "3"], "tau is an option of strategy elastic; the strategy here is allreduce"),
])
def test_bad_input_is_named(simulate, arguments, message):
    done, _ = simulate(*arguments)
    assert isinstance(done.exception, ParameterError) and message in str(done.exception)
