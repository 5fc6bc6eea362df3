"""Checkpoints: everything that training needs to go on; a crash at any moment loses at most the newest one.

    checkpoints/step-000000001170/
        state.safetensors       parameters, optimizer state, buffers, under plain tensor names
        books.json              step, metrics so far, losses of an unfinished epoch, seconds
        manifest.json           what the run was, and the sha256 of each file; written last
    checkpoints/latest, checkpoints/best     the names of two of them

A checkpoint is written into a hidden folder, flushed to the disk, and renamed; then the pointer is replaced. The last
two and the best are kept. Where replicas differ, each rank's tensors are in a file of their own,
``state-3.safetensors``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyddl.comm.model_group import ModelGroup
from pyddl.comm.transport import Transport
from pyddl.errors import CheckpointError, DataError
from pyddl.layout import Slice
from pyddl.train.tensors import Gathered, Parts, write_parts

__all__ = ["Checkpoints", "Saved"]

FORMAT, EARLIER = 2, (1,)  # 1 named the state of the optimizer without a phase
KEPT = 2  # the newest ones: a damaged one must leave another
MANIFEST, BOOKS, LATEST, BEST = "manifest.json", "books.json", "latest", "best"

log = logging.getLogger("pyddl")


@dataclass
class Saved:
    """What a checkpoint holds: named tensors, and the books (plain values).

    Of a split model the tensors are this rank's parts, and ``slices`` says which these are; the files hold whole ones.
    They may be `Gathered`: then all ranks go through them, whoever writes.
    """

    tensors: Mapping[str, np.ndarray]
    books: dict[str, Any]
    slices: Mapping[str, Slice] | None = None


class Checkpoints:
    """The checkpoints of one run directory.

    Parameters
    ----------
    out : str or Path
        The run directory.
    about : dict
        What a resumed run must have in common with this one: plain values. ``replicas`` says how many workers write
        tensors of their own.
    number : int, optional
        This rank's worker; each rank is one by default.
    group : ModelGroup, optional
        The ranks of this worker, where there are several. May be set later.
    """

    def __init__(self, out: str | Path, about: dict[str, Any], number: int | None = None,
                 group: ModelGroup | None = None):
        self.folder = Path(out) / "checkpoints"
        self.about, self.number, self.group = about, number, group
        self._verified_name: str | None = None  # what `verify` has found

    def verify(self) -> dict[str, Any]:
        """The books of the newest checkpoint that is whole; empty where there is none at all. On one rank.

        Raises as `newest` does.
        """
        name = self._verified_name = self._newest_whole()
        return {} if name is None else _read_books(self.folder / name)

    def save(self, saved: Saved, transport: Transport, *, best: bool = False) -> Path:
        """Write a checkpoint, move the pointers, remove those no longer kept. Collective.

        Raises
        ------
        CheckpointError
            It could not be written; the earlier ones are untouched.
        """
        final = self.folder / f"step-{saved.books['step']:012d}"
        hidden = self.folder / f".{final.name}.part"
        replicas = self.about["replicas"]
        with _named(f"cannot write the checkpoint {final}"), _removed_on_failure(hidden):
            if transport.rank == 0:
                self.folder.mkdir(exist_ok=True)
                shutil.rmtree(hidden, ignore_errors=True)
                hidden.mkdir()
            if replicas > 1:
                transport.barrier()  # the folder is there
            number = self._number(transport)
            if number < replicas:
                self._write_tensors(hidden / _state_file(number, replicas), saved)
            elif isinstance(saved.tensors, Gathered):
                for _ in saved.tensors.values():
                    pass
            if replicas > 1:
                transport.barrier()  # all files are there
            if transport.rank == 0:
                self._publish(hidden, final, saved)
                self._point(LATEST, final.name)
                if best:
                    self._point(BEST, final.name)
                self._prune()
        return final

    def newest(self, transport: Transport, slices: Mapping[str, Slice] | None = None) -> Saved | None:
        """The newest checkpoint that is whole; None where there is none at all. Collective.

        A damaged one is named in the log and skipped. Every rank reads the files by itself; with ``slices`` its parts
        of the tensors only.

        Raises
        ------
        CheckpointError
            There are checkpoints, but none is whole.
        DataError
            They are of another model, data set or batch size, or of an earlier version.
        """
        chosen = self._agreed(transport)
        self._verified_name = None
        return None if chosen is None else self._read(self.folder / chosen, self._number(transport), slices)

    def books(self, transport: Transport) -> dict[str, Any]:
        """The books of the newest checkpoint that is whole; empty where there is none at all. Collective.

        Raises as `newest` does.
        """
        chosen = self._agreed(transport)
        return {} if chosen is None else _read_books(self.folder / chosen)

    def _agreed(self, transport: Transport) -> str | None:
        """Name of the newest checkpoint that is whole, as rank 0 finds it. Collective."""
        chosen: str | None = None
        failure: Exception | None = None
        if transport.rank == 0:
            try:
                chosen = self._verified_name or self._newest_whole()
            except (CheckpointError, DataError) as error:
                failure = error
        chosen, failure = transport.gather_objects((chosen, failure))[0]
        if failure is not None:
            raise failure
        return chosen

    def _number(self, transport: Transport) -> int:
        return transport.rank if self.number is None else self.number

    def _newest_whole(self) -> str | None:
        names = self._names()
        latest = self._pointed(LATEST)
        for name in sorted(names, key=lambda name: (name == latest, name), reverse=True):
            path = self.folder / name
            try:
                manifest = self._verified(path)
            except CheckpointError as error:
                log.warning("%s; trying the one before it", error)
                continue
            if (number := manifest["format"]) != FORMAT:
                raise DataError(f"checkpoint {path} is of format {number}, which an earlier version "
                                f"of pyddl wrote; this one reads format {FORMAT}: go on with that version, or start "
                                "without resume, in another run directory")
            self._compare(path, manifest["about"])
            return name
        if names:
            raise CheckpointError(f"none of the {len(names)} checkpoints in {self.folder} is whole; "
                                  "start without resume, in another run directory")
        return None

    def _write_tensors(self, path: Path, saved: Saved) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        about = {"format": "pt"}
        if saved.slices is not None:
            write_parts(path, saved.tensors, saved.slices, self.group, about)
            if self.group is not None and self.group.rank > 0:
                return
        else:
            try:
                save_file({name: np.asarray(tensor, order="C") for name, tensor in saved.tensors.items()}, path,
                          metadata=about)
            except SafetensorError as error:  # a full disk, too
                raise ValueError(error) from None
        _flush(path)

    def _publish(self, hidden: Path, final: Path, saved: Saved) -> None:
        """Books and manifest, then the rename that makes the checkpoint exist."""
        _write(hidden / BOOKS, json.dumps(saved.books) + "\n")
        files = {path.name: _sha256(path) for path in sorted(hidden.iterdir())}
        _write(hidden / MANIFEST, json.dumps({"format": FORMAT, "about": self.about, "sha256": files}, indent=2) + "\n")
        _flush(hidden)
        if final.exists():  # written before by a session that went on to be resumed from an older one
            shutil.rmtree(final)
        os.rename(hidden, final)
        _flush(self.folder)

    def _point(self, pointer: str, name: str) -> None:
        hidden = self.folder / f".{pointer}.part"
        _write(hidden, name + "\n")
        os.replace(hidden, self.folder / pointer)
        _flush(self.folder)

    def _prune(self) -> None:
        names = sorted(self._names())
        kept = {*names[-KEPT:], self._pointed(LATEST), self._pointed(BEST)}
        for name in names:
            if name not in kept:
                shutil.rmtree(self.folder / name)
        for unfinished in self.folder.glob(".step-*.part"):  # of a session that was killed
            shutil.rmtree(unfinished)

    def _names(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        return [path.name for path in self.folder.iterdir() if path.name.startswith("step-") and path.is_dir()]

    def _pointed(self, pointer: str) -> str | None:
        try:
            return (self.folder / pointer).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None

    def _verified(self, path: Path) -> dict[str, Any]:
        """The manifest of a checkpoint whose files have the sums that it says."""
        with _named(f"checkpoint {path} is damaged"):
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            if not isinstance(manifest, dict) or manifest.get("format") not in (*EARLIER, FORMAT):
                raise ValueError(f"{MANIFEST} is not of format {FORMAT}")
            for name, expected in manifest["sha256"].items():
                found = _sha256(path / name)
                if found != expected:
                    raise ValueError(f"{name} has sha256 {found[:12]}...; the manifest expects {expected[:12]}...")
            if not isinstance(manifest["about"], dict) or BOOKS not in manifest["sha256"]:
                raise ValueError(f"{MANIFEST} is incomplete")
        return manifest

    def _compare(self, path: Path, about: dict[str, Any]) -> None:
        for name, mine in self.about.items():
            theirs = about.get(name)
            if theirs == mine:
                continue
            if name == "tensors":
                raise DataError(f"{path} is of another model: {_unlike_tensor(mine, theirs or {})}; resume with the "
                                "same, or choose another run directory")
            old, new = ("none" if each is None else repr(each) for each in (theirs, mine))
            raise DataError(f"checkpoint {path} is of a run with {name} {old}, this one has {new}; "
                            f"resume with the same{' strategy and ranks' if name == 'replicas' else ''}, or choose "
                            "another run directory")

    def _read(self, path: Path, number: int, slices: Mapping[str, Slice] | None) -> Saved:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        with _named(f"cannot read the checkpoint {path}"):
            file = path / _state_file(number, self.about["replicas"])
            try:
                tensors = load_file(file) if slices is None else Parts(file, slices)
            except SafetensorError as error:
                raise ValueError(error) from None
        return Saved(tensors, _read_books(path))


def _unlike_tensor(mine: Mapping[str, list[int]], theirs: Mapping[str, list[int]]) -> str:
    """The first tensor that two models do not have in common."""
    name = next(name for name in [*mine, *theirs] if mine.get(name) != theirs.get(name))
    shapes = [f"shape {tuple(tensors[name])}" if name in tensors else "no such tensor" for tensors in (mine, theirs)]
    return f"{name} should have {shapes[0]}; found {shapes[1]}"


def _read_books(path: Path) -> dict[str, Any]:
    with _named(f"cannot read the checkpoint {path}"):
        return json.loads((path / BOOKS).read_text(encoding="utf-8"))


def _state_file(rank: int, replicas: int) -> str:
    return "state.safetensors" if replicas == 1 else f"state-{rank}.safetensors"


@contextmanager
def _removed_on_failure(folder: Path) -> Iterator[None]:
    """A full disk must not stay full of what could not be finished."""
    try:
        yield
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Turn what the file system and the parsers raise into a `CheckpointError` that begins with ``what``."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise CheckpointError(f"{what}: {error.strerror or error}{where}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{what}: {error}") from error


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    _flush(path)


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
