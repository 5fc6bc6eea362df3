"""pyddl simulate: the table, the files, and what it refuses."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from pyddl.cli.simulate import command
from pyddl.errors import ParameterError


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


def test_it_knows_servers(simulate):
    done, out = simulate("--strategy", "server", "--mode", "ssp", "--bound", "1", "--servers", "2", "--workers", "3",
                         "--straggler", "4", "--server-optimizer", "adagrad")
    assert done.exit_code == 0, done.output
    assert [line.split()[:2] for line in (out / "table.txt").read_text().splitlines()[1:]] == [
        ["allreduce", "3"], ["server", "3"]]


def test_the_seed_replays_it(simulate):
    outputs = [simulate("--workers", "4", "--seed", seed)[0].output for seed in ("1", "1", "2")]
    assert outputs[0] == outputs[1] != outputs[2]


@pytest.mark.parametrize(("arguments", "message"), [
    (["--reproducible"], "reproducible has no meaning in a simulation"),
    (["--split", "2"], "split has no meaning in a simulation"),
    (["--strategy", "split"], "strategy split makes all ranks one worker"),
    (["--strategy", "gossip", "--workers", "1"], "needs 2 ranks"),
    (["--tau", "3"], "tau is an option of strategy elastic; the strategy here is allreduce"),
])
def test_bad_input_is_named(simulate, arguments, message):
    done, _ = simulate(*arguments)
    assert isinstance(done.exception, ParameterError) and message in str(done.exception)
