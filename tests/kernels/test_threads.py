"""The number of threads: all kernels follow set_threads, whatever OpenMP's own default is."""

import os
import subprocess
import sys

KERNELS = """
import os
import numpy as np
from pyddl import _core

def tasks():
    return len(os.listdir("/proc/self/task"))

_core.set_threads(1)
n = 1 << 18
a, b, c, d = np.zeros((4, n), np.float32)
before = tasks()
for name, kernel in {
    "adam": lambda: _core.adam(a, b, c, d, _core.Ranges([(0, n, 0.0)]), 1e-3, 1.0, 1.0, 0.9, 0.999, 1e-8, 0),
    "add": lambda: _core.add(a, b),
    "sum_of_squares": lambda: _core.sum_of_squares(a),
    "uniform": lambda: _core.uniform(a.reshape(512, -1), np.arange(512), 0, 0),
    "loss_sums": lambda: _core.loss_sums(a.reshape(512, -1), b.reshape(512, -1), "bce"),
    "softmax_sums": lambda: _core.softmax_sums(a.reshape(512, -1), np.zeros(512, int)),
    "network": lambda: _core.Network(
        [{"kind": "dense", "inputs": 512, "outputs": 512, "activation": "relu", "weight": 0}]
    ).forward(a, None, None, b.reshape(512, -1), np.zeros((512, 512), np.float32)),
}.items():
    kernel()
    assert tasks() == before, f"{name} made {tasks() - before} threads"
"""


def test_kernels_make_no_threads_when_told_one():
    environ = {**os.environ, "OMP_NUM_THREADS": "4"}
    told = subprocess.run(
        [sys.executable, "-c", KERNELS], env=environ, capture_output=True, text=True, timeout=100
    )
    assert told.returncode == 0, told.stderr


def test_more_threads_than_openmp_has_room_for_are_never_asked_for():
    """Its record of them lies on the stack: 100,000 of them end the process by a segmentation fault."""
    environ = {**os.environ, "OMP_NUM_THREADS": "100000"}
    code = "from pyddl import _core; print(_core.threads()); _core.set_threads(1025)"
    told = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=100)
    assert told.stdout == "1024\n" and "n is 1025; expected 1 to 1024 threads" in told.stderr
