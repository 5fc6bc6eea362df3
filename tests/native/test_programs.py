"""The programs of this folder under sanitizers: shared memory, with threads and processes as ranks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ENVIRON = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "CTEST_OUTPUT_ON_FAILURE": "1"}


def run(*line):
    done = subprocess.run(line, env=ENVIRON, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.long
@pytest.mark.parametrize("sanitizers", ["thread", "address,undefined"])
def test_no_finding(tmp_path, sanitizers):
    run("cmake", "-G", "Ninja", "-S", str(HERE), "-B", str(tmp_path), f"-DPYDDL_SANITIZE={sanitizers}")
    run("cmake", "--build", str(tmp_path))
    run("ctest", "--test-dir", str(tmp_path))
