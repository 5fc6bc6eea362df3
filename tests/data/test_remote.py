"""Addresses: copied once per node, again when they change; what cannot be had is named, with what was tried."""

import gzip
import http.server
import io
import shutil
import sys
import threading
import time

import numpy as np
import pytest

from pyddl.data import load, remote
from pyddl.errors import DataError

ROWS = np.arange(60, dtype=np.float32).reshape(20, 3)
CSV = b"a,b,y\n" + b"\n".join(b",".join(b"%d" % value for value in row) for row in ROWS.astype(int)) + b"\n"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "PAUSE", 0.01)


class Server(http.server.ThreadingHTTPServer):
    """Files of a dictionary, and what was asked for. ``answer`` makes other answers, by method and path."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked, self.answer = {}, [], lambda method, path: None
        self.address = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_):
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(f"{self.command} {self.path}")
        content = self.server.files.get(self.path.partition("?")[0])
        status = self.server.answer(self.command, self.path) or (200 if content is not None else 404)
        if status == "hang":
            time.sleep(3)
            return
        self.send_response(200 if status == "cut" else status)
        if content is not None:
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", str(hash(content)))
        self.end_headers()
        if content is not None and self.command == "GET" and status in (200, "cut"):
            self.wfile.write(content[: 10 if status == "cut" else None])

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def test_a_file_is_copied_once_and_again_when_it_changes(server, tmp_path):
    server.files["/x.csv"] = CSV
    address = f"{server.address}/x.csv"
    for _ in range(2):
        source = load(address)
        np.testing.assert_array_equal(source, ROWS)
    assert source.name == "x.csv" and source.describe().endswith(f"from {address}, with a header")
    assert server.asked.count("GET /x.csv") == 1
    assert source.spec == {"data": address}
    labelled = load(address, labels=f"{address}:y")
    assert labelled.spec == {"data": address, "labels": f"{address}:y"}
    assert labelled.describe().endswith(f"from {address}:y (left out of the features: y)")
    np.testing.assert_array_equal(labelled, ROWS[:, :2])
    np.testing.assert_array_equal(labelled.labels, ROWS[:, 2])
    np.testing.assert_array_equal(load(f"{address}:b?token=1"), ROWS[:, 1:2])
    server.files["/x.csv"] = CSV.replace(b"59", b"7")
    assert np.asarray(load(address))[-1, -1] == 7
    assert len(list((tmp_path / "cache/pyddl/remote").iterdir())) == 2  # that with a token, and the new one


@pytest.mark.parametrize("kind", ["npy", "ubyte.gz", "png"])
def test_every_kind_of_file_may_be_at_an_address(server, kind):
    from idx_files import idx_bytes

    pixels = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    if kind == "png":
        image = pytest.importorskip("PIL.Image")
        image.fromarray(pixels[0]).save(content := io.BytesIO(), "png")
    elif kind == "npy":
        np.save(content := io.BytesIO(), pixels / np.float32(255))
    else:
        content = io.BytesIO(gzip.compress(idx_bytes(pixels)))
    name = "/images-ubyte.gz" if kind == "ubyte.gz" else f"/x.{kind}"
    server.files[name] = content.getvalue()
    source = load(server.address + name)
    assert source.image_shape == (8, 8)
    np.testing.assert_allclose(source, pixels.reshape(1, 64) / 255, rtol=1e-6)


ONCE = """
import sys
import numpy as np
from pyddl.comm.world import world
from pyddl.data import load

world()
assert np.asarray(load(sys.argv[1])).sum() == 1770
"""


def test_a_node_reads_it_once(mpirun, server):
    server.files["/x.csv"] = CSV
    done = mpirun(3, ONCE, f"{server.address}/x.csv")
    assert done.code == 0, done.err
    assert sorted(server.asked) == ["GET /x.csv", *["HEAD /x.csv"] * 3]


def test_an_answer_that_breaks_off_or_fails_is_asked_for_again(server):
    server.files["/x.csv"] = CSV
    troubles = [503, "cut", 200, 200]
    server.answer = lambda method, path: troubles.pop(0) if method == "GET" else None
    np.testing.assert_array_equal(load(f"{server.address}/x.csv"), ROWS)
    assert server.asked.count("GET /x.csv") == 3


def test_a_signed_address_may_be_good_for_get_alone(server):
    server.files["/x.csv"] = CSV
    server.answer = lambda method, path: 403 if method == "HEAD" else None
    np.testing.assert_array_equal(load(f"{server.address}/x.csv?signature=abc:def"), ROWS)


@pytest.mark.parametrize(("answer", "message", "asked"), [
    (404, r"is not there \(the server answered 404 Not Found\)", 1),
    (401, r"may not be read: the server answered 401 Unauthorized; ask for a signed address", 1),
    (403, r"may not be read: the server answered 403 Forbidden; ask for a signed address", 2),
    (500, r"cannot be read: the server answered 500 Internal Server Error \(tried 3 times, for \d+ s\)", 3),
    ("cut", r"cannot be read: the connection ended after 10 of \d+ bytes \(tried 3 times", 4),
    ("hang", r"cannot be read: (no answer for 0.2 s|timed out) \(tried 3 times, for \d+ s\)", 3),
])
def test_what_cannot_be_had_is_named(server, tmp_path, monkeypatch, answer, message, asked):
    monkeypatch.setattr(remote, "PATIENCE", 0.2 if answer == "hang" else 60)
    server.files["/x.csv"] = CSV
    server.answer = lambda method, path: None if answer == "cut" and method == "HEAD" else answer
    with pytest.raises(DataError, match=f"^{server.address}/x.csv {message}") as caught:
        load(f"{server.address}/x.csv")
    assert "\n" not in str(caught.value) and len(server.asked) == asked
    assert not list(tmp_path.glob("cache/pyddl/remote/*"))


def test_nobody_listens_and_no_such_host():
    with pytest.raises(DataError, match=r"http://127.0.0.1:1/x.csv cannot be read: .*refused \(tried 3 times"):
        load("http://127.0.0.1:1/x.csv")
    with pytest.raises(DataError, match=r"^nofs://x/x.csv cannot be opened: Protocol not known: nofs"):
        load("nofs://x/x.csv")
    with pytest.raises(DataError, match=r"https://127.0.0.1:1/x.csv cannot be read: "):
        load("https://127.0.0.1:1/x.csv")


def test_damage_is_told_with_the_address(server):
    server.files["/x.csv"] = b"1,2\n3,x\n"
    with pytest.raises(DataError, match=rf"^{server.address}/x.csv: row 1 \(line 2\), column 1 holds 'x'"):
        load(f"{server.address}/x.csv")


def test_folders_are_copied_without_marks(tmp_path):
    memory = pytest.importorskip("fsspec").filesystem("memory")
    for name, content in {"_SUCCESS": b"", "year=2025/part-00000": b"1 2\n", "year=2026/part-00000": b"3 4\n",
                          "year=2026/.part-00000.crc": b"crc", "_temporary/0/part-00001": b"half"}.items():
        memory.pipe(f"/data/{name}", content)
    np.testing.assert_array_equal(load("memory://data"), [[1, 2, 2025], [3, 4, 2026]])
    np.testing.assert_array_equal(load("memory://data/year=2026/:-1"), [[3]])
    copy = remote.local_copy("memory://data")
    assert sorted(path.name for path in copy.rglob("*")) == ["part-00000"] * 2 + ["year=2025", "year=2026"]
    with pytest.raises(DataError, match=r"^memory://nothing/here.csv is not there"):
        load("memory://nothing/here.csv")
    np.save(tmp_path / "x.npy", ROWS)
    np.testing.assert_array_equal(load(f"file://{tmp_path}/x.npy"), ROWS)


def test_no_room_and_no_cache(server, tmp_path, monkeypatch):
    server.files["/x.csv"] = CSV
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
        with pytest.raises(DataError, match=rf"x.csv has {len(CSV)} bytes, and .* has room for 10: XDG_CACHE_HOME"):
            load(f"{server.address}/x.csv")
    (tmp_path / "cache").rename(tmp_path / "old")
    (tmp_path / "cache").write_text("no folder")
    with pytest.raises(DataError, match=r"cannot be copied into .*cache/pyddl/remote: .*; XDG_CACHE_HOME names"):
        load(f"{server.address}/x.csv")


def test_packages_that_are_missing_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.fs", None)
    with pytest.raises(DataError, match=r"^s3://bucket/x.csv needs pyarrow: pip install 'pyddl\[parquet\]'"):
        load("s3://bucket/x.csv")
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(DataError, match=r"^memory://x.csv needs fsspec: pip install 'pyddl\[parquet\]'"):
        load("memory://x.csv")


def test_storage_that_refuses_names_credentials(server):
    pytest.importorskip("pyarrow.fs")
    server.files["/bucket/x.csv"] = CSV
    options = f"?endpoint_override={server.address.removeprefix('http://')}&scheme=http"
    np.testing.assert_array_equal(load(f"s3://anonymous@bucket/x.csv:a{options}"), ROWS[:, :1])
    server.answer = lambda method, path: 403
    with pytest.raises(DataError, match=r"^s3://bucket/x.csv\S* may not be read: .*; give credentials \(AWS"):
        load(f"s3://bucket/x.csv{options}")
    server.answer = lambda method, path: 503
    with pytest.raises(DataError, match=r"^s3://bucket/x.csv\S* cannot be read: .* \(tried 3 times, for \d+ s\)"):
        load(f"s3://bucket/x.csv{options}")
