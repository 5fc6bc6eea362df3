"""CSV, TSV and text of numbers: how they may be written, labels by name, faults with row, line and column."""

import bz2
import gzip

import numpy as np
import pytest
from damage import damage

from pyddl.data import delimited, load
from pyddl.errors import DataError

pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")
ROWS = np.random.default_rng(0).random((50, 4)).astype(np.float32)
BIG = np.random.default_rng(1).random((30000, 10)).astype(np.float32)


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def write(name, content):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return name
    return write


@pytest.mark.parametrize(("name", "content", "header"), [
    ("x.csv", "a,b\n1,2\n3,4.5\n", True),
    ("x.csv", "1,2\n3,4.5\n", False),
    ("x.CSV", '"a","b"\r\n"1","2"\r\n"3","4.5"\r\n', True),
    ("x.csv", " a, b\n 1, 2\n\n 3, 4.5", True),
    ("x.csv", ",a,b\n0,1,2\n1,3,4.5\n", True),  # pandas' index has no name, and is no feature
    ("x.csv", "a,0\n1,2\n3,4.5\n", True),
    ("x.csv", "a;b\n1;2\n3;4,5\n", True),  # a spreadsheet's, with decimal commas
    ("x.csv", "a|b\n1|2\n3|4.5\n", True),
    ("x.tsv", "a, b\tc\n1\t2\n3\t4.5\n", True),
    ("x.txt", "  1 2\n3     4.5  \n", False),
    ("part-00000", "1 2\n3 4.5\n", False),  # Spark's saveAsTextFile
    ("x.csv", b"\xef\xbb\xbfa,b\n1,2\n3,4.5\n", True),
    ("x.csv", b"\xef\xbb\xbf1,2\n3,4.5\n", False),
    ("x.csv", "a,b\n1,2\n3,4.5\n".encode("utf-16"), True),
    ("x.csv.gz", gzip.compress(b"a,b\n1,2\n3,4.5\n"), True),
    ("x.csv.bz2", bz2.compress(b"a,b\n1,2\n3,4.5\n"), True),
    ("x.csv", "\n\na,b\n1,2\n3,4.5\n", True),
])
def test_however_it_is_written(file, name, content, header):
    source = load(file(name, content))
    np.testing.assert_array_equal(source, np.array([[1, 2], [3, 4.5]], dtype=np.float32))
    assert source.describe().endswith(f"from {name}, with {'a header' if header else 'no header'}")


def test_a_header_may_count_the_columns_and_rows_may_begin_with_text(file):
    pd.DataFrame(ROWS).to_csv("x.csv", index=False)
    assert load("x.csv").shape == (50, 4)
    pd.DataFrame(ROWS).assign(y="cat").iloc[:, [4, 0, 1, 2, 3]].to_csv("x.csv", index=False)
    np.testing.assert_allclose(load("x.csv", labels="x.csv:y"), ROWS, rtol=1e-6)
    file("iris.csv", "5.1,3.5,setosa\n4.9,3,setosa\n")
    assert load("iris.csv", labels="iris.csv:2").shape == (2, 2)  # its first line is a row
    file("bits.csv", "0,1\n1,0\n")
    assert load("bits.csv").shape == (2, 2)


def test_rows_may_be_wide(file):
    wide = np.random.default_rng(2).integers(0, 1000, (3, 40000))
    pd.DataFrame(wide).add_prefix("gene").to_csv("x.csv", index=False)
    source = load("x.csv:-gene7")
    assert source.shape == (3, 39999)
    np.testing.assert_array_equal(np.asarray(source)[:, 7:], wide[:, 8:])


def test_truth_values_are_numbers_and_columns_can_be_chosen(file):
    file("x.csv", "a,b,c\ntrue,1,u\nFalse,2,v\n")
    np.testing.assert_array_equal(load("x.csv:b,a"), [[1, 1], [2, 0]])
    with pytest.raises(DataError, match=r"x.csv has no column 'aa'; it has a, b, c; did you mean 'a'"):
        load("x.csv:aa")


@pytest.mark.parametrize(("name", "expected", "classes"), [
    ("n", [2, 5, 8], None), ("x", [2, 5, 8.5], None), ("t", [1, 0, 1], ("fig", "pear")), ("d", [0, 1, 0], None),
    ("b", [1, 0, 1], None), ("n,x", [[2, 2], [5, 5], [8, 8.5]], None), ("day", [0, 1, 1], ("2026-01-02", "2026-01-03")),
])
def test_columns_of_labels_are_no_features(file, name, expected, classes):
    file("x.csv", "a,n,x,t,d,b,day\n1,2,2,pear,0,true,2026-01-02\n3,5,5,fig,1,false,2026-01-03\n"
                  "5,8,8.5,pear,0,true,2026-01-03\n")
    source = load("x.csv:a", labels=f"x.csv:{name}")
    np.testing.assert_array_equal(source.labels, expected)
    assert source.classes == classes and source.features == 1
    kind = "f" if "x" in name else "i"
    assert source.labels.dtype.kind == kind
    file("y.csv", "a,y\n1,2\n")
    assert load("y.csv", labels="y.csv:y").features == 1


@pytest.mark.parametrize(("content", "message"), [
    ("a,b\n1,2\n3,x\n", r"x.csv: row 1 \(line 3\), column b holds 'x'; expected a finite number: mend or "
     "drop such rows, or leave the column out with x.csv:-b$"),
    ("1,2\n3,4\nx,5\n", r"x.csv: row 2 \(line 3\), column 0 holds 'x'"),
    ("a,b\n" + "1,2\n" * 200_000 + "x,2\n", r"row 200000 \(line 200002\), column a holds 'x'"),
    ("a,b\n1,2\n3\n", r"x.csv: row 1 \(line 3\) has 1 values; expected 2"),
    ("a,b\n1,2\n\n3,4,5\n", r"x.csv: row 1 \(line 4\) has 3 values; expected 2"),
    ("a,b\n1,\n", r"row 0 \(line 2\), column b is empty"),
    ("a,b\n1,2\nnan,2\n", r"row 1 \(line 3\), column a holds 'nan'"),
    ("a,b\n1,1e60\n", r"row 0 \(line 2\), column b holds 1e60, too large for a float32"),
    ("", "x.csv has no rows"), ("a,b\n", "x.csv has no rows"), ("\n\n", "x.csv has no rows"),
    ("a,a\n1,2\n", "x.csv has two columns of one name"),
    (b"\x89PNG\0\0", "x.csv is no text: it has a zero byte at offset 4"),
], ids=lambda each: str(each)[:20])
def test_faults_have_file_row_and_column(file, monkeypatch, content, message):
    monkeypatch.setattr(delimited, "BLOCK", 1 << 16)
    with pytest.raises(DataError, match=message):
        load(file("x.csv", content))


@pytest.mark.parametrize(("content", "labels", "message"), [
    ("a,y\n1,u\n2,\n", "y", "column y is empty in row 1"),
    ("a,y\n1,1\n2,\n", "y", "column y has 1 empty values, the first in row 1"),
    (b"a,y\n1,n\xe9\n", "y", "column y holds text that is not UTF-8"),
    ("a,y\n1,2\n", "", r"which column holds the labels\? It has a, y"),
    ("a,y\n1,2\n", "yy", "has no column 'yy'; it has a, y"),
])
def test_wrong_labels_are_refused(file, content, labels, message):
    file("x.csv", content)
    with pytest.raises(DataError, match=message):
        load("x.csv:a", labels=f"x.csv:{labels}" if labels else "x.csv")


def test_large_ones_are_read_once_and_mapped(file, monkeypatch):
    pd.DataFrame(BIG).to_csv("x.csv", index=False)
    first = load("x.csv")
    assert isinstance(first.array, np.memmap)
    np.testing.assert_allclose(first, BIG, rtol=1e-6)
    monkeypatch.setattr(delimited, "_blocks", None)  # not called again
    np.testing.assert_array_equal(load("x.csv"), first)


def test_without_pyarrow_the_extra_is_named(file, monkeypatch):
    import sys

    file("x.csv", "1,2\n")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"x.csv needs pyarrow: pip install 'pyddl\[parquet\]'"):
        load("x.csv")


@pytest.mark.parametrize("packed", [False, True])
def test_damaged_files_are_refused_or_read(file, packed):
    whole = pd.DataFrame(ROWS, columns=list("abcd")).to_csv(index=False).encode()
    for seed in range(100):
        random = np.random.default_rng(seed)
        content = damage(random, gzip.compress(whole) if packed else whole)
        try:
            np.asarray(load(file("x.csv" + ".gz" * packed, content)))
        except DataError as error:
            assert "x.csv" in str(error) and "\n" not in str(error)
