"""Addresses: one process of a node copies what is there into the user's cache, and all read the copy.

``s3``, ``gs``, ``hdfs`` and ``abfs`` by pyarrow, ``http`` and ``https`` by Python's own client, all others by fsspec.
What has changed at its address since is copied again.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import queue
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar
from urllib.parse import parse_qs, quote, unquote, urlsplit

from pyddl import _check
from pyddl.data.download import cache_folder
from pyddl.data.kept import begun, one_at_a_time, require_room
from pyddl.errors import DataError

__all__ = ["is_address", "local_copy"]

log = logging.getLogger("pyddl")
T = TypeVar("T")
PATIENCE = 60.0  # seconds without a byte after which an attempt is given up
CONNECT = 10.0  # seconds for a connection, where the client can tell
ATTEMPTS = 3
PAUSE = 1.0  # seconds before the second attempt, twice as many before the third
CHUNK = 1 << 20  # bytes
BY_ARROW = ("s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss")
LONGEST = 200  # characters of what a client says
REFUSALS = ("ACCESS_DENIED", "access token", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "credential",
            "PERMISSION_DENIED", "UNAUTHENTICATED", "Permission denied", "401", "403", "Forbidden", "Unauthorized")
CREDENTIALS = {
    "s3": "give credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or ~/.aws/credentials), or of a "
          "public bucket s3://anonymous@BUCKET/...",
    "gs": "give credentials (GOOGLE_APPLICATION_CREDENTIALS, or gcloud auth application-default login), or of a public "
          "bucket gs://anonymous@BUCKET/...",
    "hdfs": "log in where the cluster asks for it (kinit), or ask its owner",
    "https": "ask for a signed address, or fetch the file by hand"}
CREDENTIALS["gcs"], CREDENTIALS["http"] = CREDENTIALS["gs"], CREDENTIALS["https"]


@dataclass(frozen=True)
class File:
    """A file at an address.

    Attributes
    ----------
    path : str
        Below the address; of the address itself empty.
    size : int or None
        Bytes; None where the server does not say.
    state : str
        Another one after each change of the file; empty where the server does not say.
    """

    path: str
    size: int | None
    state: str


class Place(Protocol):
    """What an address leads to. All may raise OSError."""

    def files(self) -> list[File]:
        """Those at the address, or below it; none where there is nothing."""

    def open(self, file: File) -> Any:
        """Something with ``read(bytes)`` and ``close()``."""


class Refused(Exception):
    """What another attempt will not mend."""


def is_address(text: str) -> bool:
    return "://" in text


def local_copy(address: str) -> Path:
    """Copy the file or folder at an address into the cache, unless that has it; return the copy.

    Parameters
    ----------
    address : str
        ``SCHEME://...``. Options of the storage may follow a question mark, as in
        ``s3://bucket/folder?endpoint_override=localhost:9000&scheme=http``.

    Raises
    ------
    DataError
        A package for such addresses is missing; nothing is there; it may not be read; no answer came, in so many
        attempts and seconds; the cache has no room. The message begins with the address.
    """
    scheme, rest = address.split("://", 1)
    if scheme == "file":
        return Path("/" + rest.lstrip("/") if rest.startswith("/") else rest)
    began = time.monotonic()
    try:
        place = _opened(address, scheme)
        files = _attempted(address, began, lambda beat: place.files())
        if not files:
            raise DataError(f"{address} is not there; expected a file of data, or a folder of such")
        return _copied(address, place, files, began)
    except Refused as error:
        raise DataError(f"{address} {error}") from error


def _copied(address: str, place: Place, files: list[File], began: float) -> Path:
    name = unquote(PurePosixPath(urlsplit(address).path).name) or urlsplit(address).netloc
    digest = hashlib.sha256(address.rstrip("/").encode()).hexdigest()[:16]
    state = hashlib.sha256("\n".join(f"{file.path} {file.state}" for file in files).encode()).hexdigest()[:16]
    try:
        folder = cache_folder("remote")
        folder.mkdir(parents=True, exist_ok=True)
        copy = folder / f"{digest}-{state}"
        with one_at_a_time(copy):
            if copy.is_dir():
                if not all(file.state for file in files):
                    log.warning("%s does not say whether it has changed: taking the copy %s", address, copy)
            else:
                _copy(address, place, files, copy, name, began)
                for old in folder.glob(f"{digest}-*"):
                    if old != copy:
                        shutil.rmtree(old, ignore_errors=True)
        return copy / name
    except OSError as error:
        raise DataError(f"{address} cannot be copied into {cache_folder('remote')}: {error.strerror or error}; "
                        "XDG_CACHE_HOME names another folder") from error


def _copy(address: str, place: Place, files: list[File], copy: Path, name: str, began: float) -> None:
    """Put a whole copy in place, or none."""
    require_room(sum(file.size or 0 for file in files), f"{address} has", folder=copy.parent)
    hidden = begun(copy)
    try:
        for file in files:
            path = PurePosixPath(file.path)
            if path.is_absolute() or ".." in path.parts:
                raise DataError(f"{address} has a file of the name {file.path!r}; expected one below the address")
            target = hidden / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            where = f"{address.partition('?')[0].rstrip('/')}/{file.path}" if file.path else address
            _attempted(where, began if len(files) == 1 else time.monotonic(),
                       lambda beat, file=file, target=target: _transfer(place, file, target, beat))  # type: ignore[misc]
        os.replace(hidden, copy)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _transfer(place: Place, file: File, target: Path, beat: Callable[[], None]) -> None:
    done = 0
    with open(target, "wb") as out, contextlib.closing(place.open(file)) as stream:
        while chunk := stream.read(CHUNK):
            out.write(chunk)
            done += len(chunk)
            beat()
        out.flush()
        os.fsync(out.fileno())
    if file.size is not None and done != file.size:
        raise ConnectionError(f"the connection ended after {done} of {file.size} bytes")


def _attempted(address: str, began: float, work: Callable[[Callable[[], None]], T]) -> T:
    """The result of ``work``, or a DataError after the last attempt."""
    scheme = address.split("://", 1)[0]
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _watched(work)
        except Refused:
            raise
        except Exception as error:  # of one of a dozen clients: OSError, pyarrow's, requests', botocore's, ...
            why = _first_line(error)
            if isinstance(error, PermissionError) or any(each in str(error) for each in REFUSALS):
                cure = CREDENTIALS.get(scheme, "give credentials as its package expects them")
                raise Refused(f"may not be read: {why}; {cure}") from error
            if isinstance(error, FileNotFoundError):
                raise Refused(f"is not there ({why}); expected a file of data, or a folder of such") from error
            if isinstance(error, ImportError | ValueError | TypeError):
                raise Refused(f"cannot be opened: {why}") from error
            if attempt == ATTEMPTS:
                raise Refused(f"cannot be read: {why} (tried {attempt} times, for {time.monotonic() - began:.0f} s); "
                              "check the address and the network, or copy the data here by hand") from error
            time.sleep(PAUSE * attempt)
    raise AssertionError


def _watched(work: Callable[[Callable[[], None]], T]) -> T:
    """``work(beat)``, given up when ``beat`` was not called for too long: not every client knows a time limit."""
    answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    heard = [time.monotonic()]

    def beat() -> None:
        heard[0] = time.monotonic()

    def run() -> None:
        try:
            answers.put((work(beat), None))
        except BaseException as error:
            answers.put((None, error))

    threading.Thread(target=run, daemon=True, name="pyddl-remote").start()
    while True:
        try:
            result, error = answers.get(timeout=max(0.01, heard[0] + PATIENCE - time.monotonic()))
        except queue.Empty:
            if time.monotonic() - heard[0] >= PATIENCE:
                raise TimeoutError(f"no answer for {PATIENCE:g} s") from None
            continue
        if error is not None:
            raise error
        return result


def _first_line(error: BaseException) -> str:
    """What a client says, without the pages after it."""
    reason = getattr(error, "reason", None)  # of urllib's errors
    line = _check.first_line(reason if isinstance(reason, BaseException) else error).rstrip(".")
    return line if len(line) <= LONGEST else line[:LONGEST] + "..."


def _opened(address: str, scheme: str) -> Place:
    if scheme in ("http", "https"):
        return _Http(address)
    if scheme in BY_ARROW:
        return _Arrow(address, scheme)
    return _Fsspec(address)


# ---- http and https, by Python's own client ---------------------------------------------------------------------

class _Http:
    def __init__(self, address: str):
        self.address = quote(address, safe=":/?&=%#@+,;~!$'()*[]")

    def files(self) -> list[File]:
        try:
            headers = self._headers("HEAD")
        except OSError as error:
            if getattr(error, "code", None) not in (400, 403, 405, 501):  # a signed address is good for GET alone
                raise
            headers = self._headers("GET")
        size = headers.get("Content-Length")
        state = " ".join(headers.get(name, "") for name in ("ETag", "Last-Modified")).strip()
        return [File("", int(size) if size and not headers.get("Content-Encoding") else None,
                     f"{state} {size}" if state else "")]

    def open(self, file: File) -> Any:
        return self._asked("GET")

    def _headers(self, method: str) -> Any:
        with contextlib.closing(self._asked(method)) as answer:
            return answer.headers

    def _asked(self, method: str) -> Any:
        import urllib.error
        import urllib.request

        try:
            return urllib.request.urlopen(urllib.request.Request(self.address, method=method), timeout=PATIENCE)
        except urllib.error.HTTPError as error:
            kinds = {404: FileNotFoundError, 410: FileNotFoundError, 401: PermissionError, 403: PermissionError}
            answered = kinds.get(error.code, OSError)(f"the server answered {error.code} {error.reason}")
            answered.code = error.code  # type: ignore[attr-defined]
            raise answered from error
        except urllib.error.URLError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error.reason):
                raise Refused(f"is not trusted: {error.reason}; SSL_CERT_FILE names others") from error
            raise


# ---- s3, gs, hdfs and abfs, by pyarrow --------------------------------------------------------------------------

class _Arrow:
    def __init__(self, address: str, scheme: str):
        try:
            import pyarrow.fs as fs
        except ImportError as error:
            raise Refused("needs pyarrow: pip install 'pyddl[parquet]'") from error
        self.fs = fs
        try:
            self.system, self.path = _watched(lambda beat: self._system(address, scheme))
        except Exception as error:
            if "libhdfs" in str(error) or "libjvm" in str(error):
                raise Refused(f"needs Hadoop's client: {_first_line(error)}; set HADOOP_HOME, JAVA_HOME and CLASSPATH, "
                              "or use the address of WebHDFS: webhdfs://HOST:9870/...") from error
            raise Refused(f"cannot be opened: {_first_line(error)}") from error

    def _system(self, address: str, scheme: str) -> tuple[Any, str]:
        parts = urlsplit(address)
        options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        anonymous = parts.username == "anonymous"
        bucket = parts.netloc.rpartition("@")[2]
        path = (bucket + unquote(parts.path)).rstrip("/")
        if scheme == "s3":
            known = {name: options[name] for name in ("region", "scheme", "endpoint_override") if name in options}
            endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
            if endpoint:
                known.setdefault("endpoint_override", endpoint)
            elif "endpoint_override" not in known and not {"AWS_REGION", "AWS_DEFAULT_REGION"} & set(os.environ):
                with contextlib.suppress(OSError):
                    known.setdefault("region", self.fs.resolve_s3_region(bucket))
            return self.fs.S3FileSystem(anonymous=anonymous, connect_timeout=CONNECT, request_timeout=PATIENCE,
                                        retry_strategy=self.fs.AwsStandardS3RetryStrategy(max_attempts=1),
                                        **known), path
        if scheme in ("gs", "gcs"):
            from datetime import timedelta

            known = {name: options[name] for name in ("scheme", "endpoint_override") if name in options}
            patience = timedelta(seconds=CONNECT / ATTEMPTS)
            return self.fs.GcsFileSystem(anonymous=anonymous, retry_time_limit=patience, **known), path
        return self.fs.FileSystem.from_uri(address)

    def files(self) -> list[File]:
        about = self.system.get_file_info(self.path)
        if about.type == self.fs.FileType.File:
            return [self._file(about, "")]
        below = self.system.get_file_info(self.fs.FileSelector(self.path, recursive=True, allow_not_found=True))
        found = [(each, each.path[len(self.path) :].lstrip("/")) for each in below
                 if each.type == self.fs.FileType.File]
        return [self._file(each, path) for each, path in sorted(found, key=lambda pair: pair[1]) if not _mark(path)]

    def _file(self, about: Any, path: str) -> File:
        return File(path, about.size, f"{about.size} {about.mtime_ns}")

    def open(self, file: File) -> Any:
        return self.system.open_input_stream(f"{self.path}/{file.path}" if file.path else self.path, compression=None)


# ---- all others, by fsspec --------------------------------------------------------------------------------------

class _Fsspec:
    def __init__(self, address: str):
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise Refused("needs fsspec: pip install 'pyddl[parquet]'") from error
        try:
            self.system, self.path = url_to_fs(address)
        except (ImportError, ValueError, OSError) as error:  # each storage has a package of its own, which it names
            raise Refused(f"cannot be opened: {_first_line(error)}") from error

    def files(self) -> list[File]:
        self.system.invalidate_cache()
        about = self.system.info(self.path)
        if about["type"] != "directory":
            return [self._file(about, "")]
        root = self.path.rstrip("/")
        found = {path[path.index(root) + len(root) :].lstrip("/"): each
                 for path, each in self.system.find(self.path, detail=True).items()}
        return [self._file(found[path], path) for path in sorted(found) if not _mark(path)]

    def _file(self, about: dict[str, Any], path: str) -> File:
        state = {key: str(value) for key, value in sorted(about.items()) if "access" not in key.lower()}
        return File(path, about.get("size"), str(state))

    def open(self, file: File) -> Any:
        return self.system.open(f"{self.path.rstrip('/')}/{file.path}" if file.path else self.path, "rb")


def _mark(path: str) -> bool:
    """Whether this is a mark of another program, such as ``_SUCCESS``."""
    return any(part.startswith((".", "_")) for part in PurePosixPath(path).parts)
