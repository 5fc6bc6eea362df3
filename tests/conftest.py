"""Serial tests by plain ``pytest``; tests of several ranks by

    python -m pyddl.comm.launcher -n 3 -- python -m pytest --only-mpi -x

where every rank runs the tests marked ``mpi``. A test that fails on one rank ends all, with its traceback.
``make test`` runs them by tests/ranks, which says at the end where each rank was.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from hypothesis import settings

from pyddl.comm.abort import end_all
from pyddl.comm.environment import started, terminal

_ranks = started()

# Drawn examples must agree between ranks.
settings.register_profile("pyddl", deadline=None, derandomize=_ranks is not None)
settings.load_profile("pyddl")


def pytest_addoption(parser):
    parser.addoption("--run-long", action="store_true", help="run tests marked long too")


def pytest_ignore_collect(collection_path, config):
    """Under --only-mpi, do not even import files without a test of several ranks."""
    if config.getoption("--only-mpi") and collection_path.suffix == ".py":
        return True if "mark.mpi" not in collection_path.read_text() else None
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    if config.getoption("--only-mpi"):
        serial = [item for item in items if item.get_closest_marker("mpi") is None]
        config.hook.pytest_deselected(items=serial)
        items[:] = [item for item in items if item.get_closest_marker("mpi") is not None]
    if not config.getoption("--run-long"):
        for item in items:
            if item.get_closest_marker("long") is not None:
                item.add_marker(pytest.mark.skip(reason="long: needs --run-long"))


def pytest_configure(config):
    global _stderr
    _stderr = os.dup(2)  # while a test runs, 2 is a file of pytest's
    if _ranks is not None and config.option.color == "auto":
        config.option.color = "yes" if terminal() else "no"


def pytest_sessionstart(session):
    config = session.config
    if _ranks is not None and _ranks.rank:  # one report is enough; failures come by the hook below
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        reporter._tw._file = open(os.devnull, "w")  # noqa: SIM115


# ---- where a rank is, for tests/ranks, and how it fails

_stderr = 2


def _is(where):
    """Write down where this rank is: a line more, so that one who is killed meanwhile leaves the one before."""
    if _ranks is not None and (folder := os.environ.get("PYDDL_TEST_PLACES")):
        with open(Path(folder, str(_ranks.rank)), "a") as file:
            file.write(f"{where}\n")


def _fails(where, text):
    """End all ranks."""
    _is(f"failed in {where}")
    os.write(_stderr, f"\nrank {_ranks.rank}: {where}\n{text}\n".encode(errors="backslashreplace"))
    end_all(1)


def _several():
    return _ranks is not None and _ranks.size != 1


def pytest_runtest_logstart(nodeid):
    _is(f"was in {nodeid}")


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report):
    if report.failed and _several():
        _fails(report.nodeid, report.longreprtext)


@pytest.hookimpl(trylast=True)
def pytest_collectreport(report):
    if report.failed and _several():
        # Open MPI 5's launcher may hang where a rank dies while MPI starts on another: all start it, who come to it.
        threading.Timer(60, _fails, (report.nodeid, report.longreprtext)).start()
        import pyddl.comm

        pyddl.comm.world()
        _fails(report.nodeid, report.longreprtext)


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_timeout_set_timer(item, settings):
    """pytest-timeout's own way leaves a rank beyond the first without a word."""
    if not _several():
        return None

    def out_of_time():
        faulthandler.dump_traceback(_stderr)
        _fails(item.nodeid, f"it has not ended after {settings.timeout:g} s")

    timer = threading.Timer(settings.timeout, out_of_time)
    timer.daemon = True
    timer.start()
    item.cancel_timeout = timer.cancel
    return True


def pytest_sessionfinish(exitstatus):
    _is(f"has ended with status {int(exitstatus)}")


@pytest.fixture(scope="session")
def world():
    """The world of this run: one rank in serial tests."""
    import pyddl.comm

    return pyddl.comm.world()


@pytest.fixture
def mpirun(tmp_path):
    """``mpirun(ranks, script, *arguments, timeout=100, environ=None, outlive=False)``: a script on ranks of its own.

    Returns `support.Finished`: ``code`` (None after the time limit), ``out``, ``err``, ``seconds``.
    """
    import support

    from pyddl.comm import launcher
    from pyddl.errors import CommError

    try:
        launcher.find()
    except CommError as error:
        pytest.skip(str(error))

    def start(ranks, script, *arguments, timeout=100, environ=None, outlive=False):
        file = tmp_path / "script.py"
        file.write_text(textwrap.dedent(script))
        return support.run_ranks(ranks, support.python(file, *arguments), timeout=timeout, environ=environ,
                                 outlive=outlive)

    return start


@pytest.fixture
def shared(world, tmp_path):
    """A folder of this test that all ranks share."""
    return world.transport.gather_objects(tmp_path)[0]


@pytest.fixture
def pyddl_here(monkeypatch, capsys, tmp_path):
    """``pyddl_here(*arguments, check=0)`` is the command line in this process and in ``tmp_path``: what it printed, as
    (stdout, stderr)."""
    from pyddl.cli.app import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments, check=0):
        monkeypatch.setattr(sys, "argv", ["pyddl", *map(str, arguments)])
        status = app()
        out, err = capsys.readouterr()
        assert status == check, f"exit {status}\n{out}\n{err}"
        return out, err

    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)}
    yield call
    for number, handler in before.items():  # those of training stay for the rest of a process
        signal.signal(number, handler)
