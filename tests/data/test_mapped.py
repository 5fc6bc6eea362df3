"""Mapped files: the values, no descriptors, any number of them; a file that is cut ends the process with its name."""

import gc
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pyddl.data import blocks, load
from pyddl.data.mapped import mapped
from pyddl.errors import DataError

ROWS = np.random.default_rng(0).random((60, 3))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["f8", ">f4", "u1", "i2"])
def test_values_are_those_of_the_file(tmp_path, order, dtype):
    values = np.asarray(ROWS * 9, dtype=dtype, order=order)
    (tmp_path / "x").write_bytes(b"head." + values.tobytes(order))
    found = mapped(tmp_path / "x", dtype, values.shape, 5, order)
    np.testing.assert_array_equal(found, values)
    assert isinstance(found, np.memmap) and not found.flags.writeable
    np.save(tmp_path / "x.npy", values)
    np.testing.assert_array_equal(np.asarray(load(tmp_path / "x.npy")), values.astype(np.float32))


def test_a_mapping_ends_with_its_last_view_and_holds_no_file(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(range(200)))
    before = len(os.listdir("/proc/self/fd"))
    view = mapped(path, "u1", (200,))[7:9]
    assert len(os.listdir("/proc/self/fd")) == before
    gc.collect()
    assert view.tolist() == [7, 8] and str(path) in Path("/proc/self/maps").read_text()
    del view
    gc.collect()
    assert str(path) not in Path("/proc/self/maps").read_text()
    with pytest.raises(FileNotFoundError, match="gone"):
        mapped(tmp_path / "gone", "u1", (1,))


CUT = """
import os, sys
import numpy as np, pyddl
here = pyddl.world()
source = pyddl.data.load(sys.argv[1])
here.transport.barrier()  # all have it
os.truncate(sys.argv[1], 5000)
pyddl.Autoencoder(hidden=(2,), epochs=1).fit(source)
"""


def cut_file(folder):
    np.save(folder / "x.npy", np.zeros((100_000, 3)))
    return str(folder / "x.npy")


@pytest.mark.parametrize("python", [(), ("-X", "faulthandler")])
def test_a_file_that_is_cut_is_named(tmp_path, python):
    path = cut_file(tmp_path)
    done = subprocess.run([sys.executable, *python, "-c", CUT, path], capture_output=True, text=True,
                          timeout=100)
    assert done.returncode == 1
    assert done.stderr.startswith(f"pyddl: {path} was cut while it was read: ") and done.stderr.count("\n") == 1


def test_a_file_that_is_cut_ends_all_ranks(mpirun, tmp_path):
    path = cut_file(tmp_path)
    done = mpirun(2, CUT, path)
    assert done.code not in (0, None) and f"of 2: {path} was cut while it was read: " in done.err
    assert "Traceback" not in done.err and "Fatal" not in done.err


@pytest.mark.parametrize("ending", ["npy", "parquet", "h5"])
def test_a_folder_may_have_more_files_than_may_be_open(tmp_path, monkeypatch, ending):
    for i in range(60):
        path, rows = tmp_path / f"{i:02}.{ending}", ROWS[i : i + 1]
        if ending == "npy":
            np.save(path, rows)
        elif ending == "h5":
            with pytest.importorskip("h5py").File(path, "w") as file:
                file.create_dataset("x", data=rows, chunks=(1, 3))
        else:
            table = pytest.importorskip("pyarrow").table(dict(zip("abc", rows.T, strict=True)))
            pytest.importorskip("pyarrow.parquet").write_table(table, path)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(blocks.open_files, "_most", 8)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 40, limits[1]))
    try:
        source = load(tmp_path)
        for _ in range(2):
            np.testing.assert_array_equal(np.asarray(source), ROWS.astype(np.float32))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    if ending != "npy":
        assert len({id(part.cache) for part in source._sources}) == 1, "memory does not grow with the files"


@pytest.mark.parametrize("ending", ["parquet", "h5"])
def test_a_file_that_changes_between_two_reads_is_named(tmp_path, monkeypatch, ending):
    path = tmp_path / f"x.{ending}"
    if ending == "h5":
        with pytest.importorskip("h5py").File(path, "w") as file:
            file.create_dataset("x", data=ROWS, chunks=(7, 3))
    else:
        table = pytest.importorskip("pyarrow").table(dict(zip("abc", ROWS.T, strict=True)))
        pytest.importorskip("pyarrow.parquet").write_table(table, path, row_group_size=7)
    source = load(path)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(DataError, match=rf"x.{ending}"):
        np.asarray(source)
