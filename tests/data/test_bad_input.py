"""Bad input from the command line's side: one clear line, exit status 2, on every number of ranks."""

import gzip
import io
import subprocess
import sys

import numpy as np
import pytest
from idx_files import idx_bytes

IMAGES = idx_bytes(np.zeros((9, 2, 2), dtype=np.uint8))
NAN = np.full((9, 4), np.nan, dtype=np.float32)


def npy(rows):
    buffer = io.BytesIO()
    np.save(buffer, rows)
    return buffer.getvalue()


@pytest.mark.parametrize(("name", "content", "message"), [
    ("x-ubyte.gz", gzip.compress(IMAGES)[:-9], "is truncated: its gzip data break off at offset"),
    ("x-ubyte", b"\0\1" + IMAGES[2:], "expected the magic of an IDX file"),
    ("x-ubyte", IMAGES[:-1], "its header promises 9 x 2 x 2 values"),
    ("x.npy", npy(NAN), "row 0, column 0 is nan; expected a finite float32"),
    ("x.npy", b"1,2\n3,4\n", "expected the magic of a .npy file"),
    ("x.foo", b"1,2\n3,4\n", "is of no supported kind"),
    ("x.csv", b"1,2\n3,x\n", "row 1 (line 2), column 1 holds 'x'; expected a finite number"),
    ("x.csv", b"1,2\n3\n", "row 1 (line 2) has 1 values; expected 2"),
    ("x.png", b"1,2\n", "cannot be read as a picture"),
    ("x.npy", b"", "expected the magic of a .npy file"),
    ("x.npy", npy(np.zeros((0, 4))), "expected (rows, features), at least one of each"),
    ("x.h5", b"1,2\n", "cannot be read as HDF5"),
    ("x.parquet", b"1,2\n", "cannot be read as Parquet"),
])
def test_one_line_names_file_and_fault(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    line = [sys.executable, "-m", "pyddl", "train", "autoencoder", "--data", name, "--out", "run"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert name in done.stderr and message in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


LOAD = """
import os, sys
from pyddl.cli import main
from pyddl.comm.environment import started

os.chdir(sys.argv[1 + started().rank])
sys.argv[1:] = ["train", "autoencoder", "--data", "x.npy", "--hidden", "2", "--epochs", "1", "--quiet", "--out", "run",
                "--batch-size", "4"]
sys.exit(main())
"""


@pytest.mark.parametrize(("other", "message"), [
    (None, "rank 1 of 2: data 'x.npy' is neither a known data set nor a file"),
    (np.zeros((8, 4)), "shapes of the training data differ between the ranks: (9, 4) on rank 0; (8, 4) on rank 1"),
    (np.full((9, 4), 0.5), "checksums of the training data differ between the ranks"),
])
def test_a_file_that_is_missing_or_another_on_one_rank_ends_all(mpirun, tmp_path, other, message):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, rows in zip(folders, (np.zeros((9, 4)), other), strict=True):
        folder.mkdir()
        if rows is not None:
            np.save(folder / "x.npy", rows)
    done = mpirun(2, LOAD, *map(str, folders))
    assert done.code not in (0, None) and message in done.err, done
    assert "Traceback" not in done.err
    assert not (folders[0] / "run").exists()
