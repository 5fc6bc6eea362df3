"""The end of a run of tests on ranks names the test in which it failed, whatever ended it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pyddl.comm import launcher
from pyddl.errors import CommError

TESTS = """
import os, time
import pytest

if {collected!r} and os.environ["OMPI_COMM_WORLD_RANK"] == "1":
    raise ValueError("no import here")

@pytest.mark.mpi
def test_first(world):
    world.transport.barrier()

@pytest.mark.mpi
@pytest.mark.timeout({limit})
def test_second(world):
    if world.rank == 1:
        {fault}
    world.transport.barrier()
"""


@pytest.mark.parametrize(("fault", "last"), [
    ("assert 1 == 2", "rank 1 of 2 failed in test_of_ranks.py::test_second"),
    ("time.sleep(1000)", "rank [01] of 2 failed in test_of_ranks.py::test_second"),  # who waits for longer
    ("os.kill(os.getpid(), 9)", "rank 1 of 2 was in test_of_ranks.py::test_second"),
    ("", "rank 1 of 2 failed in test_of_ranks.py"),
], ids=["fails", "hangs", "dies", "is not collected"])
def test_the_last_lines_say_where_each_rank_was(tmp_path, fault, last):
    try:
        if launcher.find().family != "Open MPI":
            pytest.skip("ranks are told by Open MPI's variables")
    except CommError as error:
        pytest.skip(str(error))
    here = Path(__file__).parent
    shutil.copy(here / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").touch()
    (tmp_path / "test_of_ranks.py").write_text(TESTS.format(
        fault=fault or "pass", collected=not fault, limit=3 if "sleep" in fault else 100))
    done = subprocess.run([here / "ranks", sys.executable, "2", "-p", "no:cacheprovider"], cwd=tmp_path,
                          capture_output=True, text=True, errors="replace", timeout=100)
    assert done.returncode != 0, done
    lines = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert len(lines) == 2 and any(re.fullmatch(f"FAILED: {last}", line) for line in lines), done
    if "failed" in last:
        assert " failed in " in lines[-1], "the culprit comes last"
