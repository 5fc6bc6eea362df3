"""Downloads: a file appears only whole and with the right sha256, and every failure has its reason."""

import hashlib
import os
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from idx_files import MNIST_FILES, write_mnist

import pyddl.data
from pyddl.data.download import Files, download
from pyddl.data.named import NAMED
from pyddl.errors import DataError, ParameterError


class Mirror(ThreadingHTTPServer):
    """Serves ``contents`` (name to bytes) on 127.0.0.1; names in ``cut`` break off half-way."""

    def __init__(self, contents):
        self.contents, self.cut, self.asked = contents, set(), []
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/mnist"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.rsplit("/", 1)[1]
        self.server.asked.append(name)
        if not self.path.startswith("/mnist/") or name not in self.server.contents:
            self.send_error(404)
            return
        content = self.server.contents[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if name in self.server.cut else content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def contents(tmp_path):
    write_mnist(tmp_path / "origin")
    return {name: (tmp_path / "origin" / name).read_bytes() for name in MNIST_FILES}


@pytest.fixture
def mirror(contents, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Mirror(contents) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def files(contents, mirror):
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    return Files("mnist", digests, (mirror.url,))


def test_files_arrive_whole(files, contents, tmp_path):
    seen = []
    folder = download(files, tmp_path / "new" / "folder", progress=lambda *now: seen.append(now))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == contents
    complete = {name: (len(content), len(content)) for name, content in contents.items()}
    assert {name: (size, total) for name, size, total in seen} == complete
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in folder.iterdir())


def test_what_is_there_is_not_fetched_again(files, mirror, contents, tmp_path):
    download(files, tmp_path / "cache")
    (tmp_path / "cache" / MNIST_FILES[1]).write_bytes(b"damaged")
    mirror.asked.clear()
    download(files, tmp_path / "cache")
    assert mirror.asked == [MNIST_FILES[1]]
    assert (tmp_path / "cache" / MNIST_FILES[1]).read_bytes() == contents[MNIST_FILES[1]]


def fails(files, folder, message):
    with pytest.raises(DataError, match=message) as caught:
        download(files, folder)
    left = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    assert not [name for name in left if name.startswith(".")]
    return left, str(caught.value)


def test_a_wrong_sha256_is_refused(files, mirror, tmp_path):
    mirror.contents[MNIST_FILES[2]] += b"x"
    expected = files.sha256[MNIST_FILES[2]]
    left, message = fails(files, tmp_path / "cache", f"sha256 is [0-9a-f]{{64}}; expected {expected}")
    assert sorted(left) == sorted(MNIST_FILES[:2])
    assert f"{mirror.url}/{MNIST_FILES[2]}" in message


def test_half_a_download_is_refused(files, mirror, tmp_path):
    mirror.cut.add(MNIST_FILES[0])
    left, _ = fails(files, tmp_path / "cache", "connection (ended after|broke)")
    assert left == []


def test_a_missing_file_is_refused(files, mirror, tmp_path):
    del mirror.contents[MNIST_FILES[3]]
    left, _ = fails(files, tmp_path / "cache", "the server answered 404")
    assert sorted(left) == sorted(MNIST_FILES[:3])


def test_the_next_mirror_is_tried(files, mirror, contents, tmp_path):
    dead = "http://127.0.0.1:9/mnist"
    folder = download(files, tmp_path / "cache", mirrors=[dead, mirror.url])
    assert sorted(path.name for path in folder.iterdir()) == sorted(contents)
    useless = replace(files, mirrors=(dead, f"{mirror.url}-absent"))
    _, message = fails(useless, tmp_path / "none", "the download failed")
    assert f"{dead}/{MNIST_FILES[0]}: no answer" in message
    assert f"{mirror.url}-absent/{MNIST_FILES[0]}: the server answered 404" in message


def test_a_cache_that_cannot_be_written_is_named(files, tmp_path):
    (tmp_path / "file").write_text("in the way")
    folder = tmp_path / "file" / "mnist"
    _, message = fails(files, folder, "mnist cannot be stored in .*: Not a directory; set XDG_CACHE_HOME")
    assert str(folder) in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_without_permission_is_named(files, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    fails(files, tmp_path / "locked" / "mnist", "Permission denied")


def test_load_fetches_what_is_nowhere(files, mirror, tmp_path, monkeypatch):
    monkeypatch.delenv("PYDDL_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(NAMED, "mnist", replace(NAMED["mnist"], files=files))
    assert pyddl.data.load("mnist").shape == (6, 784)
    assert pyddl.data.find("mnist") == tmp_path / "pyddl" / "mnist"
    mirror.asked.clear()
    assert pyddl.data.fetch("mnist") == tmp_path / "pyddl" / "mnist"
    assert pyddl.data.load("mnist:test").shape == (3, 784)
    assert mirror.asked == []


def test_a_set_of_a_package_is_only_looked_up():
    assert pyddl.data.fetch("digits") == pyddl.data.find("digits")
    with pytest.raises(ParameterError, match="did you mean 'digits'"):
        pyddl.data.fetch("digit")
