"""What surrounds the command: environments of notebooks, services and schedulers, folders of users, closed streams."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pyddl.cli import app
from pyddl.train import run

TRAIN = ("train", "autoencoder", "--data", "digits", "--hidden", "4", "--epochs", "1", "--batch-size", "500")


def pyddl(*arguments, cwd, **options):
    """Run ``python -m pyddl`` with one thread; what became of it."""
    return subprocess.run([sys.executable, "-m", "pyddl", *arguments], cwd=cwd, text=True, timeout=100,
                          **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
                             "env": {**os.environ, "OMP_NUM_THREADS": "1"}, **options})


@pytest.fixture
def command(monkeypatch):
    """``command(*arguments)``: the same in this process; its exit status. Signals are handled as before afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)}

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["pyddl", *map(str, arguments)])
        return app.app()

    yield call
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def hostile(tmp_path):
    """A working directory with modules of the names of those that pyddl needs, and a matplotlibrc that asks for TeX; an
    environment without HOME, of a notebook, in a step of SLURM."""
    for name in ("random", "click", "numpy"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('this is the {name}.py of a user')\n")
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nsavefig.format: pdf\n")
    environ = {name: value for name, value in os.environ.items() if name not in ("HOME", "PYTHONPATH")}
    return tmp_path, {**environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "module://not_there.backend_inline",
                      "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_JOB_NUM_NODES": "",
                      "SLURM_NNODES": "0", "SLURM_TASKS_PER_NODE": "2(x3),1", "SLURM_JOB_NODELIST": "n[001-3,7],g-1"}


def test_ranks_train_whatever_surrounds_them(hostile):
    folder, environ = hostile
    done = pyddl(*TRAIN, "--ranks", "2", cwd=folder, env=environ)
    assert done.returncode == 0, done.stderr
    path, = (folder / "runs").iterdir()
    assert json.loads((path / "summary.json").read_text())["ranks"] == 2
    assert {picture.name for picture in (path / "plots").iterdir()} >= {"curves.png", "reconstructions.png"}


def test_pictures_that_fail_leave_a_line_and_a_finished_run(command, tmp_path, monkeypatch, capsys):
    def broken(*args, **options):
        raise RuntimeError("\nno space\nfor ink")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", broken)
    assert command(*TRAIN, "--out", tmp_path / "run") == 0
    printed = capsys.readouterr()
    assert "pyddl: no pictures: no space\n" in printed.err and "written to" in printed.out
    assert json.loads((tmp_path / "run/summary.json").read_text())["finished"]


def test_drawing_changes_no_settings(tmp_path):
    import matplotlib
    from matplotlib import pyplot

    from pyddl.train.plots import draw_lines

    with matplotlib.rc_context({"text.usetex": True, "font.size": 3}):
        backend = matplotlib.get_backend()
        assert draw_lines(tmp_path / "x.png", {"a": np.eye(3)}, None).exists()
        assert matplotlib.rcParams["text.usetex"] and matplotlib.get_backend() == backend
    assert not pyplot.get_fignums()


def test_runs_of_one_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run.time, "strftime", lambda format: "20260101-000000")
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(run.new_folder, ["rbm"] * 8))
    assert len(set(made)) == 8 and all(Path(each).is_dir() for each in made)
    assert min(made) == "runs/rbm-20260101-000000" and "runs/rbm-20260101-000000-8" in made
    (tmp_path / "file").touch()
    monkeypatch.chdir("/proc")  # where nobody can make one
    assert run.new_folder("rbm") == "runs/rbm-20260101-000000"


def test_a_run_that_is_refused_leaves_no_folder(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command(*TRAIN, "--strategy", "sequential", "--replicas", "501") == 2
    assert not any((tmp_path / "runs").glob("*")), capsys.readouterr()
