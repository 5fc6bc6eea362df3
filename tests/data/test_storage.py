"""Storage of clusters and clouds: S3 and Google's by servers of their own, HDFS by a stand-in for its WebHDFS.

The servers, moto and gcp-storage-emulator, live in an environment of their own: make storage.
"""

import http.server
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from pyddl.data import load, remote
from pyddl.errors import DataError

fs = pytest.importorskip("pyarrow.fs")
SPARK = Path(__file__).parent / "spark/parquet_by_year"
ONCE = """
import sys
from pyddl.comm.world import world
from pyddl.data import load

world()
assert load(sys.argv[1]).shape == (24, 3)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "PAUSE", 0.01)


@contextmanager
def serving(log, program, *arguments):
    """A server from the environment of the servers, with its port; what it logs goes to a file."""
    path = Path(f"{sys.prefix}-storage/bin") / program
    if not path.exists():
        pytest.skip(f"no {program} here: make storage")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with open(log, "w") as out:
        process = subprocess.Popen([path, *[str(each).replace("PORT", str(port)) for each in arguments]], stdout=out,
                                   stderr=out)
        try:
            until = time.monotonic() + 100
            while time.monotonic() < until and process.poll() is None:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


@pytest.mark.long
def test_s3(tmp_path, monkeypatch, mpirun):
    log = tmp_path / "log"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "key")
    with serving(log, "moto_server", "-H", "127.0.0.1", "-p", "PORT") as host:
        system = fs.S3FileSystem(endpoint_override=host, scheme="http", allow_bucket_creation=True)
        system.create_dir("bucket")
        files = [path for path in SPARK.rglob("*") if path.is_file()]
        for file in files:
            with system.open_output_stream(f"bucket/data/{file.relative_to(SPARK)}") as out:
                out.write(file.read_bytes())
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}")
        done = mpirun(3, ONCE, "s3://bucket/data")
        assert done.code == 0, done.err
        lines = [line for line in log.read_text().splitlines() if "GET /bucket/data/" in line]
        assert len(lines) == 2, lines  # each part once, and no mark
        source = load("s3://bucket/data:-year", labels="s3://bucket/data:year")
        assert source.shape == (24, 2) and set(source.labels.tolist()) == {2025, 2026}
        for address in ("s3://bucket/nothing.parquet", "s3://nobody/x.parquet"):
            with pytest.raises(DataError, match=rf"^{address} is not there"):
                load(address)
        request = urllib.request.Request(f"http://{host}/moto-api/reset-auth", data=b"0", method="POST",
                                         headers={"Content-Type": "text/plain"})
        urllib.request.urlopen(request).close()  # from here on moto asks for keys that it has given
        with pytest.raises(DataError, match=r"^s3://bucket/data/x.csv may not be read: .*ACCESS_DENIED.*give cred"):
            load("s3://bucket/data/x.csv")
    with pytest.raises(DataError, match=r"^s3://bucket/data cannot be read: .*onnect.* \(tried 3 times, for \d+ s\)"):
        load("s3://bucket/data")


@pytest.mark.long
def test_google_cloud_storage(tmp_path, mpirun):
    with serving(tmp_path / "log", "gcp-storage-emulator", "start", "--host=127.0.0.1", "--port=PORT", "--in-memory",
                 "--default-bucket=bucket") as host:
        for file in SPARK.rglob("part-*"):
            name = urllib.parse.quote(f"data/{file.relative_to(SPARK)}", safe="")
            request = urllib.request.Request(f"http://{host}/upload/storage/v1/b/bucket/o?uploadType=media&name={name}",
                                             data=file.read_bytes(), method="POST",
                                             headers={"Content-Type": "application/octet-stream"})
            urllib.request.urlopen(request).close()
        options = f"?endpoint_override={host}&scheme=http"
        done = mpirun(2, ONCE, f"gs://anonymous@bucket/data{options}")
        assert done.code == 0, done.err
        assert load(f"gs://anonymous@bucket/data:-year{options}").columns == ("a", "b")
        with pytest.raises(DataError, match=r"^gs://anonymous@bucket/no.csv.* is not there"):
            load(f"gs://anonymous@bucket/no.csv{options}")
    with pytest.raises(DataError, match=r"^gs://anonymous@bucket/x.csv.*cannot be read: .*\(tried 3 times, for "):
        load(f"gs://anonymous@bucket/x.csv{options}")


class WebHdfs(http.server.BaseHTTPRequestHandler):
    """The three operations of WebHDFS that reading needs, on files of a dictionary."""

    def do_GET(self):
        parts = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(parts.path.removeprefix("/webhdfs/v1")).rstrip("/")
        query = {name.lower(): values[0] for name, values in urllib.parse.parse_qs(parts.query).items()}
        files, operation = self.server.files, query.get("op", "").upper()
        below = sorted(name for name in files if name.startswith(f"{path}/"))
        if path not in files and not below:
            fault = {"exception": "FileNotFoundException", "message": f"File does not exist: {path}"}
            return self.say(404, json.dumps({"RemoteException": fault}).encode())
        if operation == "GETFILESTATUS":
            return self.say(200, json.dumps({"FileStatus": self.about(path, "")}).encode())
        if operation == "LISTSTATUS":
            names = sorted({name[len(path) + 1 :].partition("/")[0] for name in below})
            found = [self.about(f"{path}/{name}", name) for name in names]
            return self.say(200, json.dumps({"FileStatuses": {"FileStatus": found}}).encode())
        if "redirected" not in query:  # as a name node sends the reader to a data node
            self.send_response(307)
            self.send_header("Location", f"http://{self.headers['Host']}{self.path}&redirected=yes")
            self.end_headers()
            return None
        self.server.opened.append(path)
        begin = int(query.get("offset", 0))
        return self.say(200, files[path][begin : begin + int(query.get("length", len(files[path])))])

    def about(self, path, name):
        content = self.server.files.get(path)
        kind = "DIRECTORY" if content is None else "FILE"
        return {"pathSuffix": name, "type": kind, "length": len(content or b""), "modificationTime": 1,
                "accessTime": time.time_ns()}

    def say(self, status, content):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def test_hdfs_by_webhdfs(mpirun):
    pytest.importorskip("requests")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), WebHdfs) as server:
        server.files = {f"/data/{file.relative_to(SPARK)}": file.read_bytes() for file in SPARK.rglob("*")
                        if file.is_file()}
        server.opened = []
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        address = f"webhdfs://127.0.0.1:{server.server_port}"
        done = mpirun(2, ONCE, f"{address}/data")
        assert done.code == 0, done.err
        assert len(server.opened) == 2 and not any("_SUCCESS" in path for path in server.opened)
        np.testing.assert_array_equal(np.asarray(load(f"{address}/data:-year")).sum(axis=0), [17.25, 10.75])
        with pytest.raises(DataError, match=rf"^{address}/no.csv is not there"):
            load(f"{address}/no.csv")
        server.shutdown()
    with pytest.raises(DataError, match=rf"^{address}/data cannot be read: .*\(tried 3 times, for \d+ s\)"):
        load(f"{address}/data")


def test_hdfs_without_hadoops_client_says_what_is_missing():
    try:
        fs.HadoopFileSystem("127.0.0.1", 1)
    except OSError as error:
        if "libhdfs" in str(error) or "libjvm" in str(error):
            with pytest.raises(DataError, match=r"^hdfs://127.0.0.1:1/x.csv needs Hadoop's client: .*webhdfs://HOST"):
                load("hdfs://127.0.0.1:1/x.csv")
