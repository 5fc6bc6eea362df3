"""The scripts in slurm/, on a cluster that ../shared/tools/slurm-sandbox starts for them where it is there."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from searches import RATES, odd, write
from support import said_by_pyddl

from pyddl.comm import launcher
from pyddl.errors import CommError

ROOT = Path(__file__).parent.parent
SANDBOX = Path(os.environ.get("PYDDL_SLURM_SANDBOX", ROOT / "../shared/tools/slurm-sandbox"))
SCRIPTS = sorted((ROOT / "slurm").glob("*.sbatch"))
TASKS = ["--ntasks-per-node=2", "--cpus-per-task=1"]
SMALL = ["--data", "random:2000x30", "--hidden", "8,3", "--batch-size", "50"]
WITHOUT_END = ["--epochs", "100000", "--checkpoint-every", "100000"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_sound_and_says_how_it_is_used(script):
    text = script.read_text()
    assert subprocess.run(["bash", "-n", str(script)]).returncode == 0
    assert f"slurm/{script.name}" in text and "# Use: sbatch" in text
    assert re.search(r"srun -K1 .*--mpi=", text), "a rank that dies must end the step; PMI must be named"
    assert "--partition=<name>" in text and not re.search(r"^#SBATCH --(partition|account)", text, re.MULTILINE)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """``slurm(*command)`` runs a command against a cluster of two nodes."""
    if not SANDBOX.exists() or any(shutil.which(tool) is None for tool in ("sbatch", "munged")):
        pytest.skip("needs slurm-sandbox and Debian's slurm-wlm, munge, libpmix-dev")
    try:
        family = launcher.find().family
    except CommError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("slurm") / "cluster"
    environ = {**os.environ, "SLURM_SANDBOX_DIR": str(folder),
               "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
               "PYDDL_PMI": "pmix" if family == "Open MPI" else "pmi2"}
    ours = {"env": environ, "capture_output": True, "text": True}
    started = subprocess.run([SANDBOX, "start", "-n", "2", "-c", "2"], **ours)
    if started.returncode:
        pytest.skip(f"slurm-sandbox does not start here: {started.stdout}{started.stderr}")

    def run(*command):
        return subprocess.run([SANDBOX, "run", *command], timeout=100, **ours)

    yield run
    subprocess.run([SANDBOX, "stop"], **ours)


def submit(slurm, script, folder, nodes, *arguments, tasks=TASKS, small=SMALL):
    """Submit a script of ours; return the job's number."""
    done = slurm("sbatch", "--parsable", "--chdir", str(folder), "--output", str(folder / "log"), f"--nodes={nodes}",
                 *tasks, str(ROOT / "slurm" / script), *small, *map(str, arguments))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def wait_for(found, log, seconds=90):
    until = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < until, log.read_text() if log.exists() else "no log"
        time.sleep(0.1)


def test_training_on_two_nodes_stops_on_request_and_goes_on(slurm, tmp_path):
    log = tmp_path / "log"
    job = submit(slurm, "resume.sbatch", tmp_path, 2, *WITHOUT_END)
    run = tmp_path / "runs" / job
    wait_for(lambda: (run / "metrics.jsonl").exists(), log)
    slurm("scancel", "--signal=USR1", job)  # as --signal=USR1@60 does: to the steps
    wait_for((run / "summary.json").exists, log)
    wait_for(lambda: "Restarts=1" in slurm("scontrol", "show", "job", job).stdout, log)
    first = json.loads((run / "summary.json").read_text())
    assert first["finished"] is None and first["ranks"] == 4
    assert "stopped on request" in log.read_text()
    assert "Exited with exit code 75" in log.read_text()
    assert "Terminated" not in log.read_text(), log.read_text()  # no rank was killed since another ended with 75 first
    slurm("scancel", job)
    step = int(re.search(r"step-0*(\d+)", (run / "checkpoints/latest").read_text())[1])
    epochs = first["epochs"] + 2
    submit(slurm, "train.sbatch", tmp_path, 1, "--epochs", str(epochs), "--out", str(run))
    wait_for(lambda: re.search(r"going on after step .*written to", log.read_text(), re.DOTALL), log)
    assert json.loads((run / "summary.json").read_text())["finished"] is not None
    assert f"going on after step {step} of {40 * epochs}" in log.read_text()
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(1, epochs + 1))


def test_a_search_on_two_nodes_stops_on_request_and_goes_on(slurm, tmp_path):
    log, space = tmp_path / "log", write(tmp_path, RATES + '\nstrategy = ["odd.py:Slow"]', trials=3, epochs=2)
    odd(tmp_path)
    (tmp_path / "slow").touch()
    job = submit(slurm, "tune.sbatch", tmp_path, 2, space, "--ranks-per-trial", "2", small=())
    run = tmp_path / "runs" / job
    wait_for(lambda: len([*run.glob("trials/*/metrics.jsonl")]) == 2, log)
    slurm("scancel", "--signal=USR1", job)
    wait_for((run / "summary.json").exists, log)
    wait_for(lambda: "Restarts=1" in slurm("scontrol", "show", "job", job).stdout, log)
    stopped = json.loads((run / "summary.json").read_text())
    assert stopped["stopped"] == "request" and stopped["running"] == stopped["groups"] == 2, log.read_text()
    slurm("scancel", job)
    (tmp_path / "slow").unlink()
    submit(slurm, "tune.sbatch", tmp_path, 1, space, "--out", str(run), small=())
    wait_for(lambda: re.search(r"stopped on request.*written to", log.read_text(), re.DOTALL), log)
    wait_for((run / "summary.json").exists, log)
    ended = json.loads((run / "summary.json").read_text())
    assert ended["finished"] and ended["complete"] == 3 and ended["groups"] == 2, log.read_text()


@pytest.mark.long
def test_a_job_array_trains_trials(slurm, tmp_path):
    space = write(tmp_path, RATES, trials=2)
    job = submit(slurm, "tune_array.sbatch", tmp_path, 1, space, tasks=["--ntasks=1", "--cpus-per-task=1",
                 "--array=0-1"], small=())
    run = tmp_path / "runs" / job
    wait_for(lambda: len([*run.glob("trials/*/summary.json")]) == 2, tmp_path / "log")
    assert "2 trials taken into the journal" in said_by_pyddl("tune", space, "--out", run, "--collect", cwd=tmp_path)


@pytest.mark.long
def test_scaling_makes_a_table(slurm, tmp_path):
    log = tmp_path / "log"
    submit(slurm, "scaling.sbatch", tmp_path, 1, "--epochs", "2")
    wait_for(lambda: log.exists() and re.search(r"^ +2 .*%", log.read_text(), re.MULTILINE), log)
    assert re.search(r"^ +1 +[\d,]+ +1\.00 ", log.read_text(), re.MULTILINE)


def test_singletons_are_refused(slurm):
    """srun without PMI starts processes that do not know each other: pyddl must not train them one by one."""
    train = [sys.executable, "-m", "pyddl", "train", "autoencoder", "--data", "random:50x5"]
    done = slurm("srun", "--mpi=none", "-n2", "-N1", *train)
    assert done.returncode not in (0, 75)
    assert "srun --mpi=pmix" in done.stderr and "sees 1" in done.stderr, done.stderr
