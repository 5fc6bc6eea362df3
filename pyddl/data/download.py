"""Where named data sets lie, and how they get there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pyddl.errors import DataError

__all__ = ["Files", "Progress", "cache_folder", "download", "existing", "locate", "places"]

TIMEOUT = 15.0  # seconds without a byte after which a mirror is given up
CHUNK = 1 << 18  # bytes

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Files:
    """The files of one named data set.

    Attributes
    ----------
    name : str
        Also the folder's name.
    sha256 : dict
        File name to digest. Each is also accepted without its ``.gz``.
    mirrors : tuple of str
        Addresses to which ``/`` and a file name is added, tried in order.
    """

    name: str
    sha256: dict[str, str]
    mirrors: tuple[str, ...]


def cache_folder(name: str) -> Path:
    """``$XDG_CACHE_HOME/pyddl/NAME``, by default ``~/.cache/pyddl/NAME``."""
    base: str | Path = os.environ.get("XDG_CACHE_HOME", "")
    if not base:
        try:
            base = Path.home() / ".cache"
        except RuntimeError:  # neither HOME nor an entry of this user, as in containers
            base = Path(tempfile.gettempdir()) / f"cache-of-{os.getuid()}"
    return Path(base) / "pyddl" / name


def places(name: str) -> list[Path]:
    """Folders in which the files of a set are looked for, in order."""
    data = os.environ.get("PYDDL_DATA")
    own = [Path(data) / name, Path(data)] if data else []
    return [*own, cache_folder(name)]


def existing(folder: Path, file: str) -> Path | None:
    """The file in ``folder``, packed or not."""
    for candidate in (folder / file, folder / file.removesuffix(".gz")):
        if candidate.is_file():
            return candidate
    return None


def locate(files: Files) -> Path | None:
    """The first folder that has all the files, or None. Downloads nothing."""
    for folder in places(files.name):
        if all(existing(folder, file) for file in files.sha256):
            return folder
    return None


def download(files: Files, folder: Path | None = None, *, mirrors: Sequence[str] | None = None,
             progress: Progress | None = None, timeout: float = TIMEOUT) -> Path:
    """Fetch the files that ``folder`` lacks; return the folder.

    A file appears under its name only when it is complete and its sha256 is right, so that a run that is
    killed, or several at once, leave nothing half-written.

    Parameters
    ----------
    folder : Path, optional
        By default `cache_folder`.
    mirrors : sequence of str, optional
        Instead of the set's own.
    progress : callable, optional
        ``progress(file, bytes so far, bytes in all or 0)``.
    timeout : float, default=15
        Seconds.

    Raises
    ------
    DataError
        The folder cannot be written, or no mirror gave a file with the right sha256; one reason per mirror.
    """
    folder = cache_folder(files.name) if folder is None else Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, sha256 in files.sha256.items():
            if not (folder / file).is_file() or _sha256(folder / file) != sha256:
                _fetch_from_any(mirrors or files.mirrors, file, sha256, folder, progress, timeout)
    except OSError as error:
        raise DataError(f"{files.name} cannot be stored in {folder}: {error.strerror or error}; set "
                        "XDG_CACHE_HOME to a folder that can be written") from error
    return folder


def _fetch_from_any(mirrors: Sequence[str], file: str, sha256: str, folder: Path, progress: Progress | None,
                    timeout: float) -> None:
    reasons = []
    for mirror in mirrors:
        try:
            _fetch(f"{mirror}/{file}", folder / file, sha256, progress, timeout)
            return
        except _Unfetched as error:
            reasons.append(f"{mirror}/{file}: {error}")
    raise DataError("the download failed: " + "; ".join(reasons))


class _Unfetched(Exception):
    """Why one mirror did not do."""


def _fetch(url: str, target: Path, sha256: str, progress: Progress | None, timeout: float) -> None:
    import hashlib  # with ssl and http behind them: only who downloads pays
    import http.client
    import tempfile
    import urllib.error
    import urllib.request

    digest, size = hashlib.sha256(), 0
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as out:
            try:
                with urllib.request.urlopen(url, timeout=timeout) as response:
                    total = int(response.headers.get("Content-Length") or 0)
                    while chunk := _next_chunk(response):
                        out.write(chunk)
                        digest.update(chunk)
                        size += len(chunk)
                        if progress:
                            progress(target.name, size, total)
            except urllib.error.HTTPError as error:
                raise _Unfetched(f"the server answered {error.code} {error.reason}") from error
            except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ValueError) as error:
                raise _Unfetched(f"no answer ({getattr(error, 'reason', error)})") from error
            if size < total:
                raise _Unfetched(f"the connection ended after {size} of {total} bytes")
            if digest.hexdigest() != sha256:
                raise _Unfetched(f"the file's sha256 is {digest.hexdigest()}; expected {sha256}")
            out.flush()
            os.fsync(out.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _next_chunk(response) -> bytes:  # type: ignore[no-untyped-def]
    """The next bytes; a connection that breaks is the mirror's fault, not the disk's."""
    import http.client

    try:
        return response.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _Unfetched(f"the connection broke ({error})") from error


def _sha256(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
