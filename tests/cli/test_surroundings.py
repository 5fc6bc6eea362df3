"""What surrounds the command: environments of notebooks, services and schedulers, folders of users, closed streams."""

import io
import json
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pyddl.cli import app, output
from pyddl.train import run
from pyddl.train.run import read_config

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
    assert not list(tmp_path.iterdir()), capsys.readouterr()


# ---- streams and names ---------------------------------------------------------------------------------------------

def test_training_goes_on_where_standard_output_is_full(tmp_path):
    with open("/dev/full", "w") as full:
        done = pyddl(*TRAIN, "--out", "run", cwd=tmp_path, stdout=full)
    assert (done.returncode, done.stderr) == (
        0, "pyddl: standard output cannot be written (No space left on device); going on without it\n")
    assert json.loads((tmp_path / "run/summary.json").read_text())["finished"]


def test_a_reader_who_leaves_stops_no_training(capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe:
        stream = output.GoingOn(pipe)
        for _ in range(3):
            print("text", file=stream, flush=True)
        assert stream.encoding == pipe.encoding
    assert capsys.readouterr().err == "pyddl: standard output cannot be written (Broken pipe); going on without it\n"


def test_training_needs_no_standard_output_at_all(command, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert command(*TRAIN, "--out", tmp_path / "run") == 0


def test_other_commands_say_that_standard_output_is_full(tmp_path):
    with open("/dev/full", "w") as full:
        done = pyddl("--help", cwd=tmp_path, stdout=full)
    assert done.returncode == 1
    assert done.stderr == "pyddl: standard output cannot be written: No space left on device\n"


LONG = "x" * 300


@pytest.mark.parametrize(("arguments", "message"), [
    (("train", "rbm", "--data", f"{LONG}.npy"), r"pyddl: x+\.\.\.x+\.npy cannot be read: File name too long"),
    (("train", "rbm", "--data", "digits", "--labels", LONG), r"pyddl: x+\.\.\.x+ cannot be read: File name too long"),
    (("train", "--config", LONG), r"pyddl: x+\.\.\.x+: File name too long"),
    (("train", "rbm", "--out", LONG), r"pyddl: cannot write to the run directory x+\.\.\.x+: File name too long"),
    (("train", "rbm", "--out", LONG, "--resume"), r"pyddl: x+\.\.\.x+/checkpoints: File name too long"),
    (("evaluate", LONG), r"pyddl: x+\.\.\.x+ is no finished run: File name too long"),
    (("train", "rbm", "--data", "gone.npy"), r"pyddl: gone.npy is a link to nowhere, which is not there"),
    (("train", "rbm", "--data", "round"), r"pyddl: round cannot be read: Too many levels of symbolic links"),
    (("train", "rbm", "--out", "gone.npy/x"), r"pyddl: cannot write to the run directory gone.npy/x: File exists"),
    (("train", "--config", "utf16.toml"), r"pyddl: utf16.toml is no text in UTF-8 \(byte 0\): save it in that enc"),
    (("train", "--config", "."), r"pyddl: .: Is a directory"),
    (("train", "rbm", "--data", "\udcff.npy"), r"pyddl: data '\\udcff.npy' is neither a known data set nor a file"),
])
def test_names_that_cannot_be(command, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    os.symlink("nowhere", "gone.npy")
    os.symlink("round", "round")
    (tmp_path / "utf16.toml").write_text('model = "rbm"', encoding="utf-16")
    assert command(*arguments) in (1, 2)
    said = capsys.readouterr().err
    assert re.match(message, said) and said.count("\n") == 1, said


def test_what_may_not_be_read_is_named(command, tmp_path, monkeypatch, capsys):
    """The tests may run as root, who may read everything: so the system's refusal is played."""
    real = os.stat
    secret = tmp_path / "secret"
    secret.mkdir()
    np.save(secret / "x.npy", np.zeros((2, 2)))

    def stat(path, *args, **options):
        if str(path).startswith(f"{secret}/"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **options)

    monkeypatch.setattr(os, "stat", stat)
    for given in (f"{secret}/x.npy", f"{secret}"):
        assert command("train", "rbm", "--data", given) == 2
        assert capsys.readouterr().err == f"pyddl: {secret}/x.npy cannot be read: Permission denied\n"
    assert command("evaluate", f"{secret}/run") == 2
    assert "run is no finished run: Permission denied" in capsys.readouterr().err


def test_a_byte_order_mark_begins_no_option(tmp_path):
    (tmp_path / "x.toml").write_bytes(b'\xef\xbb\xbfmodel = "rbm"\r\nhidden = 7\r\n')
    assert read_config(str(tmp_path / "x.toml")) == {"model": "rbm", "hidden": 7}


def test_a_working_directory_that_is_gone_is_named(tmp_path):
    (tmp_path / "x").mkdir()
    done = pyddl("train", "rbm", "--data", "digits", cwd=tmp_path / "x", preexec_fn=(tmp_path / "x").rmdir)
    assert (done.returncode, done.stderr) == (
        1, "pyddl: the working directory is no longer there: change to another one\n")


def test_any_character_can_be_printed(monkeypatch):
    screen = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(screen, encoding="ascii"))
    output.any_characters()
    print("\u00fcber \udcff", flush=True)
    assert screen.getvalue() == rb"\xfcber \udcff" + b"\n"
