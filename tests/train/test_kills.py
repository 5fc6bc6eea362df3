"""Checkpoints survive what happens while they are written: kill -9 at any moment, a full disk, a read-only one."""

import ctypes
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from pyddl.comm.transport import Alone
from pyddl.errors import CheckpointError
from pyddl.train.checkpoint import Checkpoints, Saved
from pyddl.train.run import load_run

ABOUT = {"replicas": 1}
REACHES_THE_DISK = ((os, "fsync"), (os, "rename"), (os, "replace"), (os, "open"), (os, "mkdir"), (Path, "write_text"),
                    (shutil, "rmtree"), (safetensors.numpy, "save_file"))


def saved(step):
    return Saved({"x": np.full(1000, step, np.float32)}, {"step": step})


def write_and_die(out, deadly, half):
    """In a child, save steps 1 to 5; from step 3 on, call number ``deadly`` that reaches the disk kills it.

    With ``half``, a file or folder that the call writes or removes is left half done.

    Returns
    -------
    tuple of int
        The last step that was finished, and how many calls there were.
    """
    out.mkdir()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        calls = 0

        def patch(home, name):
            real = getattr(home, name)

            def call(*arguments, **keywords):
                nonlocal calls
                calls += 1
                if calls == deadly:
                    if half and name in ("save_file", "write_text"):
                        real(*arguments, **keywords)
                        file = arguments[1 if name == "save_file" else 0]
                        os.truncate(file, os.path.getsize(file) // 2)
                    if half and name == "rmtree" and os.path.isdir(arguments[0]):
                        for left in sorted(os.listdir(arguments[0]))[:1]:
                            os.unlink(os.path.join(arguments[0], left))
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **keywords)

            setattr(home, name, call)

        try:
            checkpoints = Checkpoints(out, ABOUT)
            for step in range(1, 6):
                if step == 3:
                    for home, name in REACHES_THE_DISK:
                        patch(home, name)
                checkpoints.save(saved(step), Alone(), best=step % 2 == 1)
                os.write(writer, bytes([step, calls]))
        finally:
            os._exit(0)  # never pytest's own end
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as said:
        finished, calls = said.read()[-2:]
    return finished, calls


@pytest.mark.parametrize("half", [False, True])
def test_killed_at_any_call_the_last_checkpoint_loads_and_the_next_is_written(tmp_path, monkeypatch, half):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # slow, and only a crash of the machine needs it
    _, calls = write_and_die(tmp_path / "whole", 0, half)
    assert calls > 40
    for deadly in range(1, calls + 1):
        out = tmp_path / str(deadly)
        finished, _ = write_and_die(out, deadly, half)
        assert finished < 5
        checkpoints = Checkpoints(out, ABOUT)
        newest = checkpoints.newest(Alone())
        assert newest.books["step"] in (finished, finished + 1), deadly
        assert np.all(newest.tensors["x"] == newest.books["step"])
        best = (out / "checkpoints/best").read_text().strip()
        assert (out / "checkpoints" / best / "manifest.json").exists(), deadly
        checkpoints.save(saved(9), Alone())
        assert checkpoints.newest(Alone()).books["step"] == 9
        assert not list((out / "checkpoints").glob(".step-*")), deadly  # no rubbish is left


# ---- whole programs, killed at random times ---------------------------------------------------------------------

PROGRAM = """
import sys
import numpy as np, pyddl
rows = np.random.default_rng(5).random((203, 20), dtype=np.float32)
model = pyddl.models.Autoencoder(20, hidden=(8, 3))
pyddl.train.Trainer(model, out=sys.argv[1], resume=True, batch_size=50, epochs=60).fit(rows)
"""


@pytest.mark.parametrize("kills", [2, pytest.param(100, marks=[pytest.mark.long, pytest.mark.timeout(1500)])])
def test_killed_at_random_times_a_run_ends_as_the_uninterrupted_one(tmp_path, kills):
    def start(name):
        return subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path / name)])

    begin = time.monotonic()
    assert start("whole").wait() == 0
    whole = time.monotonic() - begin
    draw = random.Random(8)
    for _ in range(kills):
        running = start("run")
        try:
            running.wait(draw.uniform(0.3, 1.0) * whole)
        except subprocess.TimeoutExpired:
            running.kill()
        if running.wait() == 0:
            shutil.rmtree(tmp_path / "run")  # it came to the end: begin again
    assert start("run").wait() == 0
    one, other = load_run(tmp_path / "whole"), load_run(tmp_path / "run")
    assert np.array_equal(one.parameters, other.parameters)
    assert [m["train_loss"] for m in one.metrics] == [m["train_loss"] for m in other.metrics]


# ---- disks ------------------------------------------------------------------------------------------------------

@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(disk)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs leave to mount: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def large(step):
    return Saved({"x": np.full(300_000, step, np.float32)}, {"step": step})  # 1.2 MB


def test_on_a_full_disk_saving_is_refused_and_the_last_checkpoint_loads(small_disk):
    checkpoints = Checkpoints(small_disk, ABOUT)
    for step in (1, 2):
        checkpoints.save(large(step), Alone())
    filler = small_disk / "filler"
    filler.write_bytes(bytes(1_000_000))
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"cannot write the checkpoint .*-000000000003: .*No space left"):
            checkpoints.save(large(3), Alone())
        assert checkpoints.newest(Alone()).books["step"] == 2
    filler.unlink()
    checkpoints.save(large(3), Alone())
    assert checkpoints.newest(Alone()).books["step"] == 3


@pytest.mark.parametrize("free", range(0, 4096 * 14, 4096))
def test_wherever_the_disk_becomes_full_the_last_checkpoint_loads(small_disk, free):
    checkpoints = Checkpoints(small_disk, ABOUT)
    for step in (1, 2):
        checkpoints.save(saved(step), Alone())
    with open(small_disk / "filler", "wb", buffering=0) as filler:
        room = os.statvfs(small_disk)
        while room.f_bavail * room.f_bsize > free:
            filler.write(bytes(4096))
            room = os.statvfs(small_disk)
    try:
        checkpoints.save(saved(3), Alone())
        expected = 3
    except CheckpointError as error:
        assert "No space left on device" in str(error)
        expected = 2
    assert checkpoints.newest(Alone()).books["step"] in (expected, 3)


def test_a_read_only_disk_is_named_and_can_be_read(small_disk):
    checkpoints = Checkpoints(small_disk, ABOUT)
    checkpoints.save(large(1), Alone())
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(CheckpointError, match=r"cannot write the checkpoint .*: Read-only file system"):
        checkpoints.save(large(2), Alone())
    assert checkpoints.newest(Alone()).books["step"] == 1


def train(out, *more, prepare=None):
    line = ["train", "autoencoder", "--data", "random:200x30", "--epochs", "3", "--out", str(out), *more]
    return subprocess.run([sys.executable, "-m", "pyddl", *line], capture_output=True, text=True, preexec_fn=prepare)


def test_the_program_says_in_a_line_that_the_disk_is_full_or_read_only(small_disk):
    done = train(small_disk / "run", "--hidden", "2000,300")
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done
    assert done.stderr.startswith("pyddl: cannot write") and "No space left on device" in done.stderr
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = train(small_disk / "other")
    assert done.returncode == 2, done
    assert "cannot write to the run directory" in done.stderr and "Read-only file system" in done.stderr


# ---- folders that may not be written to, whoever runs this ------------------------------------------------------

PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1  # linux/prctl.h, linux/capability.h


def obey_permissions():
    """In a new process: what root runs next may no longer write where the permissions forbid it."""
    if os.geteuid() == 0 and ctypes.CDLL(None, use_errno=True).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0):
        os._exit(77)


@pytest.fixture
def locked(tmp_path):
    """``locked(folder)`` takes away the permission to write there, until the test ends."""
    folders = []

    def lock(folder):
        folder.chmod(0o555)
        folders.append(folder)

    tried = subprocess.run(["true"], preexec_fn=obey_permissions)
    if tried.returncode == 77:
        pytest.skip("root here may neither drop a capability nor be refused to write")
    yield lock
    for folder in folders:
        folder.chmod(0o755)


def test_a_run_directory_that_cannot_be_made_is_named(tmp_path, locked):
    locked(tmp_path)
    done = train(tmp_path / "run", prepare=obey_permissions)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done
    assert f"cannot write to the run directory {tmp_path / 'run'}: Permission denied" in done.stderr


def test_checkpoints_that_may_not_be_written_are_named_and_the_last_one_loads(tmp_path, locked):
    checkpoints = tmp_path / "run/checkpoints"
    for epochs in ("2", "3"):
        assert train(tmp_path / "run", "--epochs", epochs, "--resume").returncode == 0
    left = sorted(checkpoints.iterdir())
    locked(checkpoints)
    done = train(tmp_path / "run", "--epochs", "5", "--resume", prepare=obey_permissions)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done
    assert "pyddl: cannot write the checkpoint" in done.stderr and "Permission denied" in done.stderr
    assert sorted(checkpoints.iterdir()) == left
    checkpoints.chmod(0o755)
    done = train(tmp_path / "run", "--epochs", "5", "--resume")
    assert done.returncode == 0 and "going on after step" in done.stdout, done
