"""SIGUSR1, SIGTERM and Ctrl-C end training in order, however it was started, and --resume goes on from there."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support import descendants, ended

from pyddl import data
from pyddl.comm import launcher
from pyddl.errors import CommError
from pyddl.models import Autoencoder
from pyddl.train import Trainer, load_run

TRAIN = [sys.executable, "-m", "pyddl", "train", "autoencoder", "--data", "random:2000x30", "--hidden", "8,3",
         "--batch-size", "10", "--reproducible", "--threads", "1", "--quiet"]
WITHOUT_END = ["--epochs", "100000", "--checkpoint-every", "100000"]
BEYOND_THE_CORES = {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
                    "OMPI_MCA_rmaps_base_oversubscribe": "1"}  # two ranks, perhaps on one core
SOON = 30  # seconds; it takes about one


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def line(how):
    """The line that starts training in one of three ways, and its environment."""
    if how == "one process":
        return TRAIN, environment()
    try:
        argv, settings = launcher.command(2, TRAIN, threads=1)
    except CommError as error:
        pytest.skip(str(error))
    if how == "--ranks 2":
        return [*TRAIN, "--ranks", "2"], environment()
    return [argv[0], "-n", "2", *TRAIN], {**settings, **BEYOND_THE_CORES}  # as a user types it


def end(running):
    """End what still runs after a failed test, the ranks too."""
    for _ in range(2):
        if running.poll() is None:
            running.send_signal(signal.SIGINT)  # the second one ends the launcher
            time.sleep(1)
    if running.poll() is None:
        running.kill()
        running.wait()


def stop_by(number, how, out):
    """Start a training without end, send its first process a signal; return (exit status, standard error)."""
    argv, environ = line(how)
    running = subprocess.Popen([*argv, *WITHOUT_END, "--out", str(out)], env=environ,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        until = time.monotonic() + 100
        while not (out / "metrics.jsonl").exists():
            assert running.poll() is None and time.monotonic() < until, running.communicate()
            time.sleep(0.05)
        running.send_signal(number)
        asked = time.monotonic()
        _, said = running.communicate(timeout=SOON)
        print(f"ended {time.monotonic() - asked:.2f} s after the signal")
    finally:
        end(running)
    return running.returncode, said


@pytest.mark.parametrize(("how", "number"), [
    ("one process", signal.SIGTERM),
    ("--ranks 2", signal.SIGUSR1),
    ("--ranks 2", signal.SIGTERM),
    ("--ranks 2", signal.SIGINT),
    ("mpirun", signal.SIGUSR1),
], ids=lambda value: getattr(value, "name", value))
def test_a_signal_ends_training_with_a_checkpoint_and_75(tmp_path, how, number):
    out = tmp_path / "run"
    status, said = stop_by(number, how, out)
    assert status == 75, said
    assert f"pyddl train --resume --out {out}" in said and said.count("stopped on request") == 1, said
    assert json.loads((out / "summary.json").read_text())["finished"] is None
    epochs = len((out / "metrics.jsonl").read_text().splitlines())
    books = json.loads(max((out / "checkpoints").glob("step-*/books.json")).read_text())
    assert 200 * epochs <= books["step"] < 200 * (epochs + 1)  # it stopped at the next step, not at the next epoch
    if number == signal.SIGTERM or how == "mpirun":  # once for each way to start
        goes_on_as_if_nothing_had_been(how, out, epochs + 2)


def goes_on_as_if_nothing_had_been(how, out, epochs):
    argv, environ = line(how)
    again = subprocess.run([*argv, "--epochs", str(epochs), "--resume", "--out", str(out)], env=environ, timeout=100,
                           capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    whole = Trainer(Autoencoder(30, hidden=(8, 3)), batch_size=10, epochs=epochs, reproducible=True, threads=1).fit(
        data.load("random:2000x30"))
    run = load_run(out)
    assert [m["train_loss"] for m in run.metrics] == [m["train_loss"] for m in whole.metrics]
    assert np.array_equal(run.parameters, whole.parameters)
    assert run.summary["finished"] is not None


def test_a_signal_while_ranks_still_start_is_not_lost(tmp_path):
    argv, environ = line("--ranks 2")
    running = subprocess.Popen([*argv, *WITHOUT_END, "--out", str(tmp_path / "run")], env=environ,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        until = time.monotonic() + 100
        while not Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().strip():  # no mpirun yet
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(0.1)
        running.send_signal(signal.SIGTERM)
        _, said = running.communicate(timeout=SOON)
    finally:
        end(running)
    assert running.returncode == 75, said


@pytest.mark.parametrize(("number", "ranks"), [(signal.SIGTERM, 1), (signal.SIGINT, 1), (signal.SIGUSR1, 2)],
                         ids=lambda value: getattr(value, "name", value))
def test_a_signal_ends_what_comes_before_training_at_once(tmp_path, number, ranks):
    """Such as reading large data, for which a sleep stands here."""
    reading = "import pyddl.data.spec as s, time; s._file = lambda *_: (print('reads', flush=True), time.sleep(600))"
    start = ["-c", f"{reading}; from pyddl.cli import main; main()"]
    argv, environ = [sys.executable, *start, *TRAIN[3:], "--data", "x.csv", "--out", "run"], environment()
    if ranks > 1:
        argv, more = launcher.command(ranks, argv, threads=1)
        environ |= more
    running = subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               start_new_session=True, cwd=tmp_path)
    try:
        for _ in range(ranks):
            assert running.stdout.readline() == "reads\n"
        for process in descendants(running.pid) if ranks > 1 else [running.pid]:
            os.kill(process, number)
        _, said = running.communicate(timeout=SOON)
    finally:
        end(running)
    assert running.returncode == 75, said
    assert said.count("pyddl: stopped on request before training began") == 1 and not (tmp_path / "run").exists(), said


def test_killing_the_program_that_started_the_ranks_ends_them_too(tmp_path):
    argv, environ = line("--ranks 2")
    running = subprocess.Popen([*argv, *WITHOUT_END, "--out", str(tmp_path / "run")], env=environ,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    left = []
    try:
        until = time.monotonic() + 100
        while not (tmp_path / "run/metrics.jsonl").exists():
            assert running.poll() is None and time.monotonic() < until
            time.sleep(0.05)
        left = descendants(running.pid)
        assert len(left) >= 3  # mpirun and two ranks
        running.kill()
        running.wait()
        until = time.monotonic() + SOON
        while not all(map(ended, left)):
            assert time.monotonic() < until, left
            time.sleep(0.1)
    finally:
        end(running)
        for process in left:
            if not ended(process):
                os.kill(process, signal.SIGKILL)
