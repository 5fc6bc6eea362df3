"""Searches as they run: on one process and on groups of ranks; what fails, dies, or is stopped."""

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
import searches
import support
from searches import RATES, Running, rows, summary, write

from pyddl.comm import launcher
from pyddl.errors import CommError

pytest.importorskip("optuna")

GIVEN = ("learning_rate", "batch_size")


@pytest.fixture
def ranks():
    """Skips a test of several ranks where there is no MPI."""
    try:
        launcher.find()
    except CommError as error:
        pytest.skip(str(error))


def trials(out):
    """What was drawn, by trial, with values to the digits that any number of ranks agrees on."""
    return {row["number"]: {name: value for name, value in row.items() if name in (*GIVEN, "state")} | {
        "value": row["value"][:6]} for row in rows(out)}


def test_a_search_leaves_runs_a_journal_and_the_best_one(pyddl_here, tmp_path):
    space = write(tmp_path, RATES, epochs=2, trials=4, pruner="asha")
    said, _ = pyddl_here("tune", space, "--out", "s")
    out = tmp_path / "s"
    whole, found = summary(out), rows(out)
    assert whole["finished"] and whole["complete"] + whole["pruned"] == 4 and whole["pruned"] >= 1
    assert f"{whole['complete']} complete, {whole['pruned']} pruned" in said
    assert {row["epochs"] for row in found if row["state"] == "pruned"} == {"1"}
    for row in found:
        run = out / "trials" / f"{int(row['number']):04d}"
        assert (run / "config.toml").exists() and not (run / "checkpoints").exists()
        assert (run / "model.safetensors").exists() == (row["state"] == "complete")
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert len(lines) == int(row["epochs"]) and lines[-1]["test_loss"] == pytest.approx(float(row["value"]))
    complete = [row for row in found if row["state"] == "complete"]
    best = min(complete, key=lambda row: float(row["value"]))
    assert os.readlink(out / "best") == f"trials/{int(best['number']):04d}" and whole["best"]["number"] == int(
        best["number"])
    pyddl_here("train", "--config", "s/best/config.toml", "--out", "again", "--quiet")
    again, first = ([json.loads(line)["test_loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
                    for run in (tmp_path / "again", out / "best"))
    assert again == first


def test_more_trials_can_be_added_and_a_finished_search_has_none_left(pyddl_here, tmp_path):
    space = write(tmp_path, RATES, trials=2)
    pyddl_here("tune", space, "--out", "s", "--quiet")
    first = rows(tmp_path / "s")
    _, err = pyddl_here("tune", space, "--out", "s", "--quiet", "--resume", check=2)
    assert err == "pyddl: no trial left: all 2 of s have ended; give more by --trials, or choose another --out\n"
    assert summary(tmp_path / "s")["finished"]
    pyddl_here("tune", space, "--out", "s", "--quiet", "--resume", "--trials", 3)
    assert rows(tmp_path / "s")[:2] == first and len(rows(tmp_path / "s")) == 3
    _, err = pyddl_here("tune", space, "--out", "s", check=2)
    assert "s already holds a search" in err and "--resume" in err
    pyddl_here("tune", space, "--out", "s", "--quiet", "--overwrite", "--trials", 1)
    assert [row["value"] for row in rows(tmp_path / "s")] == [first[0]["value"]]


def test_a_trial_that_fails_costs_itself(pyddl_here, tmp_path):
    searches.odd(tmp_path)
    space = write(tmp_path, 'strategy = ["allreduce", "odd.py:Killed", "odd.py:OneRaises", "odd.py:Leaves"]\n'
                  'learning_rate = [0.01, 1e30]\nbatch_size = [128]', trials=16)
    pyddl_here("tune", space, "--out", "s", "--quiet")
    why = {}
    for row in rows(tmp_path / "s"):
        diverges = row["strategy"] == "allreduce" and float(row["learning_rate"]) > 1
        why.setdefault("diverges" if diverges else row["strategy"], set()).add(row["why"] or row["state"])
    assert why["allreduce"] == {"complete"} and why["odd.py:Killed"] == {"killed by signal 9 (out of memory?)"}
    assert why["odd.py:OneRaises"].pop().startswith("OneRaises.worker in odd.py raised ValueError")
    assert why["odd.py:Leaves"] == {"sys.exit(3)"}
    assert why["diverges"].pop().startswith("diverged: step ")
    best = (tmp_path / "s/best/config.toml").read_text()
    assert 'strategy = "allreduce"' in best and "learning_rate = 0.01" in best


def test_a_trial_that_wants_more_memory_than_there_is_costs_itself(pyddl_here, tmp_path):
    pyddl_here("tune", write(tmp_path, "hidden = [[8], [1000000, 100000]]", trials=4), "--out", "s", "--quiet")
    found = {(row["hidden"][:2], row["why"].split(":")[0] or row["state"]) for row in rows(tmp_path / "s")}
    assert found == {("8", "complete"), ("10", "out of memory")}


@pytest.mark.parametrize(("space", "flags", "said"), [
    ("learning_rat = [0.1, 0.2]", (), "there is no option 'learning_rat'; did you mean 'learning_rate'"),
    ("learning_rate = {low = 0.1, high = 0.1}", (), "learning_rate"),
    (RATES, ("--ranks-per-trial", 2), "--ranks-per-trial is 2, and there is 1 rank"),
    (RATES, ("--resume",), "--resume goes on with the search of a folder: name it with --out"),
    (RATES, ("--overwrite",), "overwrite is True, and out is not given"),
    (RATES, ("--only", 1, "--out", "s", "--minutes", 3), "--minutes has no effect with --only: leave one"),
    (RATES, ("--collect", "--out", "s", "--ranks", 2), "--ranks has no effect with --collect"),
    (RATES, ("--collect", "--dry-run"), "--dry-run and --collect are both given"),
    (RATES, ("--only", 1), "--only is about the folder of a search"),
    (RATES, ("--only", 7, "--out", "s"), "--only is 7; this search has trials 0 to 2"),
    (RATES, ("--only", 0, "--out", "s", "--sampler", "tpe"), "say --sampler random"),
    (RATES, ("--collect", "--out", "s", "--sampler", "tpe"), "say --sampler random"),
    (RATES, ("--goal", "test_los", "--out", "s"), "goal is 'test_los'; expected a column of metrics.jsonl, of which"),
    ('visible = ["bernoulli", "gaussian"]', (), "visible is an option of model rbm"),
    (RATES, ("--trials", 0), "trials"),
])
def test_bad_input_is_one_line_and_2(pyddl_here, tmp_path, space, flags, said):
    _, err = pyddl_here("tune", write(tmp_path, space), *flags, check=2)
    assert said in err and "Traceback" not in err and len(err.strip().splitlines()) <= 2, err
    assert not (tmp_path / "s").exists(), "it was known before the search began"


def test_data_that_are_not_there_are_found_out_before_any_trial(pyddl_here, ranks, tmp_path):
    space = write(tmp_path, RATES)
    space.write_text(space.read_text().replace('"digits"', '"nowhere.npy"'))
    _, err = pyddl_here("tune", space, "--out", "s", check=2)
    assert "nowhere.npy" in err
    assert support.pyddl("tune", space, "--out", "s", "--ranks", 2, cwd=tmp_path, check=2) == ("", err)
    assert not (tmp_path / "s").exists()


def test_a_journal_of_another_space_is_refused(pyddl_here, ranks, tmp_path):
    pyddl_here("tune", write(tmp_path, RATES, trials=1), "--out", "s", "--quiet")
    other = write(tmp_path, "batch_size = [32, 64]")
    _, err = pyddl_here("tune", other, "--out", "s", "--resume", check=2)
    assert err.startswith("pyddl: s/journal.log is of another space: ")
    assert support.pyddl("tune", other, "--out", "s", "--resume", "--ranks", 2, cwd=tmp_path, check=2) == ("", err)


def test_a_dry_run_says_what_it_would_do_and_leaves_nothing(pyddl_here, tmp_path, monkeypatch):
    monkeypatch.setattr("pyddl.tune.estimate.SECONDS", 0.3)
    out, _ = pyddl_here("tune", write(tmp_path, RATES, trials=7, epochs=300, pruner="asha"), "--dry-run", "--ranks", 4,
                        "--ranks-per-trial", 2)
    assert "learning_rate  0.001 to 0.1, logarithmic" in out and "2 groups of 2 ranks" in out
    assert re.search(r"about [\d.]+ \w+: 7 trials of 300 epochs, of which asha lets about 1% be trained", out), out
    assert re.search(r"measured here for 0\.[34]\d? s", out), out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["space.toml"]


def test_a_dry_run_measures_strategies_that_need_others_by_one_rank_alone(pyddl_here, tmp_path, monkeypatch):
    monkeypatch.setattr("pyddl.tune.estimate.SECONDS", 0.1)
    space = write(tmp_path, 'strategy = ["allreduce", "averaging", "server"]\n'
                            'period = {low = 2, high = 8, when = {strategy = "averaging"}}')
    out, _ = pyddl_here("tune", space, "--dry-run", "--ranks", 2, "--ranks-per-trial", 2)
    assert "if strategy is averaging" in out and "measured here for" in out, out


def test_tasks_of_an_array_train_the_trials_of_the_search(pyddl_here, tmp_path):
    space = write(tmp_path, RATES, trials=4)
    pyddl_here("tune", space, "--out", "whole", "--quiet")
    for number in (2, 0):
        pyddl_here("tune", space, "--out", "tasks", "--only", number)
    assert "trial 2 has ended" in "".join(pyddl_here("tune", space, "--out", "tasks", "--only", 2))
    _, err = pyddl_here("tune", space, "--out", "tasks", check=2)
    assert "tasks already holds trials, and no journal.log; say --resume" in err
    _, err = pyddl_here("tune", space, "--out", "tasks", "--resume", "--seed", 9, check=2)
    assert "trials/0000 is of another space or seed: learning_rate is" in err
    (tmp_path / "tasks/journal.log").unlink()
    out, _ = pyddl_here("tune", space, "--out", "tasks", "--collect")
    assert "2 trials taken into the journal; 1 not yet at the end" in out
    assert summary(tmp_path / "tasks")["finished"] is None
    pyddl_here("tune", space, "--out", "tasks", "--resume", "--quiet")
    assert trials(tmp_path / "tasks") == trials(tmp_path / "whole")


def test_equal_seeds_give_equal_trials_on_any_groups(pyddl_here, ranks, tmp_path):
    space = write(tmp_path, RATES + "\nbatch_size = [64, 128]", trials=5)
    pyddl_here("tune", space, "--out", "one", "--quiet")
    for name, flags in (("three", ("--ranks", 3)), ("pairs", ("--ranks", 5, "--ranks-per-trial", 2))):
        out, _ = support.pyddl("tune", space, "--out", name, *flags, cwd=tmp_path)
        assert trials(tmp_path / name) == trials(tmp_path / "one")
    assert "2 groups of 2 ranks" in out and "warning: rank 4 is left over, and idle: start a multiple of 2" in out


@pytest.mark.parametrize("nodes", [1, 2])
def test_groups_go_on_after_trials_that_fail(ranks, tmp_path, nodes, monkeypatch):
    """Also those whose ranks wait for each other by MPI, where that lets ranks outlive each other."""
    if nodes > 1:
        support.outliving()
        monkeypatch.setenv("PYDDL_RANKS_PER_NODE", "1")
    searches.odd(tmp_path)
    space = write(tmp_path, 'strategy = ["allreduce", "odd.py:OneRaises", "odd.py:OneLeaves"]\n'
                  "learning_rate = [0.01, 1e30]", trials=9)
    support.pyddl("tune", space, "--out", "s", "--quiet", "--ranks", 4, "--ranks-per-trial", 2, cwd=tmp_path)
    for row in rows(tmp_path / "s"):
        if row["strategy"] == "odd.py:OneLeaves":
            assert row["why"] == "sys.exit(0)"
        elif row["strategy"] != "allreduce":
            assert "raised ValueError: lost the thread" in row["why"]
        elif float(row["learning_rate"]) > 1:
            assert row["why"].startswith("diverged: step ")
        else:
            assert row["state"] == "complete"


def test_a_rank_that_dies_costs_its_trial_and_the_others_go_on(ranks, tmp_path):
    support.outliving()
    searches.odd(tmp_path)
    space = write(tmp_path, 'strategy = ["allreduce", "odd.py:OneKilled"]', trials=6)
    _, err = support.pyddl("tune", space, "--out", "s", "--quiet", "--ranks", 4, "--ranks-per-trial", 2, cwd=tmp_path)
    found = rows(tmp_path / "s")
    failed = [row for row in found if row["state"] == "failed"]
    assert 1 <= len(failed) <= 2  # each group has one rank to lose
    assert all(re.fullmatch("rank [13] died", row["why"]) and row["strategy"] == "odd.py:OneKilled" for row in failed)
    assert sum(row["state"] == "complete" for row in found) == 6 - len(failed), err


def test_ranks_that_have_all_gone_are_no_success(ranks, tmp_path):
    """Open MPI's launcher reports 0, where ranks outlive each other."""
    support.outliving()
    searches.odd(tmp_path)
    space = write(tmp_path, RATES, trials=2)
    space.write_text('strategy = "odd.py:Vanishes"\n' + space.read_text())
    _, err = support.pyddl("tune", space, "--quiet", "--ranks", 2, "--ranks-per-trial", 2, cwd=tmp_path, check=1)
    assert err.endswith("pyddl: all ranks have ended, and their work has not, by os._exit in code of yours or of a "
                        "library; go on with --resume and --out\n"), err


def first_of(out):
    return lambda: any(out.glob("trials/*/metrics.jsonl"))


@pytest.mark.parametrize(("begins", "ends"), [
    ((), ("--ranks", 2)), (("--ranks", 3), ()), (("--ranks", 4, "--ranks-per-trial", 2), ("--ranks", 3))])
def test_a_stopped_search_goes_on_from_checkpoints_on_other_ranks(ranks, tmp_path, begins, ends):
    searches.odd(tmp_path)
    (tmp_path / "slow").touch()
    out, space = tmp_path / "s", write(tmp_path, RATES + '\nstrategy = ["odd.py:Slow"]', epochs=3, trials=3)
    with Running(space, "--out", "s", *begins, cwd=tmp_path) as running:
        running.until(first_of(out))
        running.process.send_signal(signal.SIGUSR1)
        status, _, err = running.ends()
    assert status == 75 and err == f"stopped on request; go on with: pyddl tune {space} --resume --out s\n", err
    stopped = summary(out)
    assert stopped["finished"] is None and stopped["complete"] == 0 and stopped["running"] >= 1
    went = {int(path.parent.name): int(re.search(r"(\d+)$", (path / "latest").read_text().strip())[1])
            for path in out.glob("trials/*/checkpoints")}
    assert 12 <= max(went.values()) < 36
    (tmp_path / "slow").unlink()
    said, _ = support.pyddl("tune", space, "--out", "s", "--resume", *ends, cwd=tmp_path)
    assert summary(out)["finished"] and summary(out)["complete"] == 3, said
    for path in sorted(out.glob("trials/*/metrics.jsonl")):
        assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == [1, 2, 3]


def test_a_search_ends_when_its_minutes_are_over(pyddl_here, tmp_path):
    searches.odd(tmp_path)
    (tmp_path / "slow").touch()
    space = write(tmp_path, RATES + '\nstrategy = ["odd.py:Slow"]', epochs=50)
    out, _ = pyddl_here("tune", space, "--out", "s", "--minutes", 0.02)
    assert "trial 0: stopped" in out and summary(tmp_path / "s")["running"] == 1
    assert summary(tmp_path / "s")["finished"] is None
    assert list(tmp_path.glob("s/trials/0000/checkpoints/step-*"))


def test_the_end_of_the_process_that_keeps_the_journal_ends_all_with_a_line(ranks, tmp_path):
    searches.odd(tmp_path)
    (tmp_path / "slow").touch()
    space = write(tmp_path, RATES + '\nstrategy = ["odd.py:Slow"]', epochs=3, trials=2)
    with Running(space, "--out", "s", "--ranks", 2, cwd=tmp_path) as running:
        running.until(first_of(tmp_path / "s"))
        below = support.descendants(running.process.pid)
        keeper, = [process for process in below if ignores(process, signal.SIGUSR1)]
        os.kill(keeper, signal.SIGKILL)
        status, _, err = running.ends()
    assert status not in (0, 75)
    assert "the process that keeps the search's journal has ended; go on with --resume" in err and (
        "Traceback" not in err), err
    until = time.monotonic() + 100
    while not all(map(support.ended, below)):
        assert time.monotonic() < until, below
        time.sleep(0.05)
    (tmp_path / "slow").unlink()
    support.pyddl("tune", space, "--out", "s", "--resume", "--quiet", cwd=tmp_path)
    assert summary(tmp_path / "s")["complete"] == 2


def ignores(process, number):
    """Whether a process ignores a signal."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False
    return bool(int(re.search(r"^SigIgn:\s*([0-9a-f]+)", status, re.MULTILINE)[1], 16) >> (number - 1) & 1)


def test_ranks_of_other_nodes_reach_the_journal_by_tcp(ranks, tmp_path, monkeypatch):
    space = write(tmp_path, RATES, trials=3)
    monkeypatch.setenv("PYDDL_RANKS_PER_NODE", "1")
    out, _ = support.pyddl("tune", space, "--out", "s", "--ranks", 2, cwd=tmp_path)
    assert summary(tmp_path / "s")["complete"] == 3, out
