"""Folders that Spark has written: parts of every kind, packed in every way, partitions in sub folders, empty parts."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pyddl.data import load
from pyddl.errors import DataError

pa = pytest.importorskip("pyarrow")
HERE = Path(__file__).parent
WRITTEN = HERE / "spark"  # by tests/spark_writes.py
NUMBER = np.arange(24)
ROWS = np.stack([NUMBER / 16, NUMBER * 7 % 16 / 16, 2025 + NUMBER % 2], axis=1).astype(np.float32)
KIND = NUMBER % 3 == 0  # dogs
PACKED = ["csv_gzip", "csv_bzip2", "csv_deflate", "csv_lz4", "csv_snappy", "text", "text_snappy"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.long)], ids=["kept", "written now"])
def spark(request, tmp_path_factory):
    """What Spark wrote once; or, where there is an environment with it (make spark), what it writes now."""
    if not request.param:
        return WRITTEN
    python = Path(f"{sys.prefix}-spark/bin/python")
    if not python.exists() or shutil.which("java") is None:
        pytest.skip("no Spark here: make spark")
    folder = tmp_path_factory.getbasetemp() / "spark"
    if not folder.exists():
        subprocess.run([python, HERE.parent / "spark_writes.py", folder], check=True, capture_output=True, timeout=600)
    return folder


def in_order(source):
    """Rows, by their first value: Spark deals them out as it likes."""
    rows = np.asarray(source)
    return rows[np.argsort(rows[:, 0], kind="stable")]


def check(source, rows):
    np.testing.assert_array_equal(in_order(source), rows)


@pytest.mark.timeout(700)
def test_every_kind_of_folder(spark):
    for name in ("parquet", "parquet_zstd", *PACKED):
        check(load(spark / name), ROWS[:, :2])
    check(load(spark / "orc_snappy"), ROWS)
    for name in ("parquet_with_an_empty_part", "csv_with_an_empty_part"):
        check(load(spark / name), ROWS[(ROWS[:, 0] < 0.5) | (ROWS[:, 0] >= 1), :2])
    for name in ("parquet_by_year", "orc_by_year"):
        source = load(spark / name)
        assert source.columns == ("a", "b", "year") and (source.minimum, source.maximum) == (0, 2026)
        check(source, ROWS)
        check(load(f"{spark / name}:-year"), ROWS[:, :2])
        check(load(f"{spark / name}:b,a"), ROWS[:, [1, 0]][np.argsort(ROWS[:, 1], kind="stable")])
        np.testing.assert_array_equal(np.sort(np.asarray(load(f"{spark / name}:year,a"))[:, 1]), ROWS[:, 0])
        labelled = load(spark / name, labels=f"{spark / name}:year")
        check(labelled, ROWS[:, :2])
        np.testing.assert_array_equal(labelled.labels, 2025 + np.asarray(labelled)[:, 0] * 16 % 2)
    for name in ("csv", "lists_by_kind", "csv_by_year_and_kind"):
        source = load(f"{spark / name}:-year" if "year" in name else spark / name, labels=f"{spark / name}:kind")
        assert source.classes == ("cat", "dog")
        order = np.argsort(np.asarray(source)[:, 0])
        np.testing.assert_array_equal(source.labels[order], KIND)
        np.testing.assert_array_equal(np.asarray(source)[order][:, :2], ROWS[:, :2])


@pytest.mark.parametrize(("name", "message"), [
    ("lists_by_kind", "part-.* is no table of numbers, to which kind, .*a column; leave it out: lists_by_kind:-kind"),
    ("csv_by_year_and_kind", r"kind is 'cat' in kind=cat, no finite number; leave it out \(csv_by_year_and_kind:-kind"),
    ("csv", r"csv/part-.*: row 0 \(line 2\), column kind holds 'dog'; .*: leave the column out with csv:-kind, or"),
    ("parquet_by_year:-year,a", "names columns to take and columns to leave out"),
    ("parquet_by_year:c", "has no column 'c'; it has a, b"),
    ("parquet_by_year:-c", "has no column 'c'; it has a, b"),
])
def test_what_cannot_be_read_is_named(name, message):
    with pytest.raises(DataError, match=message):
        load(f"{WRITTEN}/{name}")


def test_unlike_partitions_are_refused(tmp_path):
    shutil.copytree(WRITTEN / "parquet_by_year", tmp_path / "x")
    file = next((tmp_path / "x/year=2025").glob("part-*"))
    (tmp_path / "x/month=1").mkdir()
    shutil.copy(file, tmp_path / "x/month=1")
    with pytest.raises(DataError, match=r"x has unlike partitions: month=1/part-.* and year=2025/part-.*"):
        load(tmp_path / "x")
    shutil.rmtree(tmp_path / "x/month=1")
    pa.parquet.write_table(pa.table({"a": [1.0], "c": [2.0]}), tmp_path / "x/year=2026/part-9.parquet")
    with pytest.raises(DataError, match=r"columns of part-9.parquet .*have unlike names: .* lacks b and has c"):
        load(tmp_path / "x")
    (tmp_path / "x/year=2026/part-9.parquet").rename(tmp_path / "x/part-9.parquet")
    with pytest.raises(DataError, match=r"x has unlike partitions: part-9.parquet and year=2025/part-"):
        load(tmp_path / "x")
    (tmp_path / "x/part-9.parquet").unlink()
    (tmp_path / "x/year=2026").rename(tmp_path / "x/year=__HIVE_DEFAULT_PARTITION__")
    with pytest.raises(DataError, match="year is empty in year=__HIVE_DEFAULT_PARTITION__, no finite number"):
        load(tmp_path / "x")


@pytest.mark.parametrize("name", ["orc_snappy", "csv_snappy", "csv_lz4", "csv_deflate", "csv_gzip", "csv_bzip2"])
def test_damaged_parts_are_refused_or_read(tmp_path, name):
    from damage import damage

    whole = next((WRITTEN / name).glob("part-*"))
    file = tmp_path / whole.name
    for seed in range(40):
        file.write_bytes(damage(np.random.default_rng(seed), whole.read_bytes()))
        try:
            np.asarray(load(file))
        except DataError as error:
            assert file.name in str(error) and "\n" not in str(error)
