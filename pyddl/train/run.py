"""The run directory: what a training run leaves behind, and how it is read again.

    config.toml         complete and re-runnable
    metrics.jsonl       a line per epoch
    summary.json        written last; ``finished`` is the mark of a good end
    model.safetensors   the parameters and buffers under plain tensor names
    shown.npy           what the model showed of itself after each epoch, where it does: samples of one noise
    checkpoints/        what ``resume`` goes on from
    plots/  log/
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from pyddl import _check, models
from pyddl.comm.model_group import ModelGroup
from pyddl.comm.transport import Alone
from pyddl.data import Source
from pyddl.data.joined import in_order_of, scaled
from pyddl.data.scaling import Scaling
from pyddl.errors import CheckpointError, DataError, ParameterError, PyddlError
from pyddl.models.protocol import Model, name_of
from pyddl.models.stages import Phase, stages_of
from pyddl.train.agreement import FLOAT32_INSTEAD, dtype_of_all
from pyddl.train.checkpoint import Checkpoints
from pyddl.train.tensors import write_parts

__all__ = ["CONFIG", "METRICS", "MODEL", "ROWS", "SUMMARY", "Run", "RunDirectory", "as_recorded", "claimed",
           "load_run", "new_folder", "read_config", "recorded_config", "replace_text", "write_model", "write_whole",
           "written"]

log = logging.getLogger("pyddl")

CONFIG, METRICS, SUMMARY, MODEL = "config.toml", "metrics.jsonl", "summary.json", "model.safetensors"
SHOWN = "shown.npy"
ROWS = "rows"  # table of config.toml, of what the training rows were
LOCK = ".lock"  # held by the process that writes; stays, empty, as removing it could take it from another one


def new_folder(name: str) -> str:
    """Make a folder for a run that was given none, with the time in its name, which no other run has.

    Where it cannot be made, whoever writes to it says why.
    """
    stamped = f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    for number in itertools.count(1):
        path = Path(stamped if number == 1 else f"{stamped}-{number}")
        with suppress(OSError):
            path.mkdir(parents=True)
            break
        if not path.is_dir():
            break
    return str(path)


class RunDirectory:
    """Writes one run's directory. Only rank 0 makes one.

    Until `close`, or until this process ends, no other process makes one of the same directory. ``cure`` is what the
    message says where there is an earlier run.

    Raises
    ------
    ParameterError
        The directory holds an earlier run and ``overwrite`` is false, another training is writing to it, or it cannot
        be written to.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False, resume: bool = False,
                 cure: str = "say resume to go on with it, overwrite to replace it, or choose another out"):
        self.path = Path(path)
        left = [name for name in (CONFIG, METRICS, SUMMARY, MODEL) if os.path.exists(self.path / name)]
        if left and not (overwrite or resume):
            raise ParameterError(f"{self.path} already holds a run ({left[0]}); {cure}")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._claimed = claimed(self.path, f"another training is writing to {self.path}: let it end, stop it "
                                    f"(SIGUSR1), or choose another out. Where it died with its machine: remove {LOCK} "
                                    "there")
            for name in (SUMMARY, MODEL) if resume else left:
                (self.path / name).unlink(missing_ok=True)  # stale until this session ends
            if overwrite and not resume:
                (self.path / SHOWN).unlink(missing_ok=True)
            for folder in ("plots", "log", "checkpoints"):
                if overwrite and not resume:
                    shutil.rmtree(self.path / folder, ignore_errors=True)
                (self.path / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ParameterError(f"cannot write to the run directory {_check.shown(self.path)}: {error.strerror}") \
                from None

    def close(self) -> None:
        """Let other trainings write to the directory."""
        self._claimed.close()

    def config(self, config: dict[str, Any]) -> None:
        """Write ``config.toml``; None values are left out."""
        import tomli_w

        self._replace(CONFIG, tomli_w.dumps({name: value for name, value in config.items() if value is not None}))

    def metrics(self, line: dict[str, Any]) -> None:
        """Append an epoch's line to ``metrics.jsonl``."""
        with written(self.path / METRICS), open(self.path / METRICS, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def rewrite_metrics(self, lines: list[dict[str, Any]]) -> None:
        """Keep only ``lines``: later ones are of a session that ended after its last checkpoint."""
        self._replace(METRICS, "".join(json.dumps(line) + "\n" for line in lines))

    def shown(self, epoch: int, rows: np.ndarray) -> None:
        """Put what the model shows after an epoch into ``shown.npy`` (epochs, number, features), which grows."""
        path = self.path / SHOWN
        with written(path), open(path, "r+b" if path.exists() else "w+b") as file:
            np.lib.format.write_array_header_1_0(file, {  # which leaves place for more digits of the first axis
                "descr": np.lib.format.dtype_to_descr(rows.dtype), "fortran_order": False,
                "shape": (epoch, *rows.shape)})
            file.seek((epoch - 1) * rows.nbytes, os.SEEK_CUR)
            file.write(np.ascontiguousarray(rows).data)
            file.truncate()

    def summary(self, summary: dict[str, Any]) -> None:
        """Write ``summary.json``."""
        self._replace(SUMMARY, json.dumps(summary, indent=2) + "\n")

    def _replace(self, name: str, text: str) -> None:
        write_whole(self.path / name, text)


def claimed(folder: Path, otherwise: str) -> TextIO:
    """Keep other processes from claiming the folder, until what is returned is closed, or this process ends.

    Raises
    ------
    ParameterError
        Another process has it; it says ``otherwise``.
    """
    lock = open(folder / LOCK, "w", encoding="utf-8")  # noqa: SIM115 (who claims closes it)
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            lock.close()
            raise ParameterError(otherwise) from None
    return lock  # perhaps on a file system without locks: there everyone must take care


def write_model(out: str | Path, model: Model, parameters: np.ndarray, averaged: np.ndarray, buffers: np.ndarray,
                group: ModelGroup | None = None) -> None:
    """Write ``model.safetensors``: every slice under its name, whole. Collective over ``group``, where there is one.

    Where averaged copies of parameters were kept, they are there as ``average.NAME``. A tensor that the model knows by
    several names (``aliases``) is there under each.
    """
    slices = {s.name: s for s in [*model.layout, *model.buffers]}
    tensors = model.layout.views(parameters) | model.buffers.views(buffers)
    for name, of in getattr(model, "aliases", {}).items():
        slices[name], tensors[name] = slices[of], tensors[of]
    if averaged is not parameters:
        slices |= {f"average.{s.name}": s for s in model.layout}
        tensors |= {f"average.{name}": view for name, view in model.layout.views(averaged).items()}
    about = {"format": "pt", "model": name_of(model)}
    if hasattr(model, "options"):
        about["options"] = json.dumps(model.options())
    path = Path(out) / MODEL
    temporary = path.with_name(MODEL + ".part")
    with written(path):
        write_parts(temporary, tensors, slices, group, about)
        if group is None or group.rank == 0:
            os.replace(temporary, path)


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there whole, or as it was before.

    Raises
    ------
    CheckpointError
    """
    with written(path):
        replace_text(path, text)


def replace_text(path: Path, text: str) -> None:
    """The same, where an `OSError` is the caller's."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


@contextmanager
def written(path: Path) -> Iterator[None]:
    """Turn what goes wrong when ``path`` is written into a `CheckpointError` that names it."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError, UnicodeEncodeError) as error:
        raise CheckpointError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error


class Run:
    """A finished run, read from its directory.

    Attributes
    ----------
    path : Path
    config, summary : dict
    metrics : list of dict
    model : Model
    parameters, buffers : ndarray
    averaged : ndarray
        The parameters, with averaged copies in the place of those that have one: what evaluates, encodes and generates.
    """

    def __init__(self, path: Path, config: dict[str, Any], summary: dict[str, Any], metrics: list[dict[str, Any]],
                 model: Model, parameters: np.ndarray, buffers: np.ndarray, averaged: np.ndarray | None = None):
        self.path, self.config, self.summary, self.metrics = path, config, summary, metrics
        self.model, self.parameters, self.buffers = model, parameters, buffers
        self.averaged = parameters if averaged is None else averaged

    @property
    def scaling(self) -> Scaling | None:
        """What the training rows were scaled by."""
        return scaling_of(self.config)

    def unscaled(self, rows: np.ndarray) -> np.ndarray:
        """Rows as the model gives them, in the units of the data."""
        return rows if self.scaling is None else self.scaling.undo(rows)

    def as_trained(self, source: Source) -> Source:
        """``source`` as the training rows were: columns in their order, by name, and scaled.

        Raises
        ------
        DataError
            Its columns have other names, or its pictures another shape.
        """
        return as_recorded(self.config, source, f"the training data of {self.path}")

    def optimizer_state(self) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        """Vectors of the optimizers at the end of the run, and the updates done, as in `Result`, from its last
        checkpoint.

        Both are empty, with a line in the log that says why, where there is no whole checkpoint of that moment, or
        where the ranks' replicas had an optimizer each.
        """
        try:
            saved = Checkpoints(self.path, {"replicas": 1}).newest(Alone())
            if saved is None or saved.books["metrics"] != self.metrics:
                raise DataError(f"{self.path} has no checkpoint of its end")
            phases = stages_of(self.model)[saved.books["stage"]].phases
            updates, = saved.books["updates"][0]
            state: dict[str, np.ndarray] = {}
            for phase in phases:
                for name in saved.tensors:
                    if name.startswith(f"phase.{phase.name}."):
                        vector = name.split(".")[2]
                        if f"{phase.name}.{vector}" not in state:
                            state[f"{phase.name}.{vector}"] = self._vector(saved.tensors, phase, vector)
            return state, {phase.name: done for phase, done in zip(phases, updates, strict=True)}
        except (PyddlError, KeyError, ValueError) as error:
            log.warning("the optimizer starts anew: %s", error)
            return {}, {}

    def _vector(self, tensors: Mapping[str, np.ndarray], phase: Phase, name: str) -> np.ndarray:
        whole, (begin, end) = self.model.layout.zeros(), self.model.layout.range_of(phase.groups)
        for s in self.model.layout:
            if begin <= s.begin < end:
                s.view(whole)[...] = tensors[f"phase.{phase.name}.{name}.{s.name}"]
        return whole[begin:end]


def as_recorded(config: Mapping[str, Any], source: Source, what: str) -> Source:
    """``source`` as the rows were that ``config`` records, which are called ``what``; see `in_order_of`."""
    rows = config.get(ROWS, {})
    source = in_order_of(source, rows.get("columns"), rows.get("image_shape"), what)
    scaling = scaling_of(config)
    return source if scaling is None else scaled(source, scaling)


def scaling_of(config: Mapping[str, Any]) -> Scaling | None:
    """What the rows that ``config`` records were scaled by."""
    record = config.get(ROWS, {}).get("scaling")
    return None if record is None else Scaling.recorded(record)


def load_run(path: str | Path) -> Run:
    """Read a run directory.

    Raises
    ------
    DataError
        It is no run directory, a file is damaged, or the model is of a user's own class, which pyddl cannot make.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    try:
        os.stat(path / MODEL)
    except (OSError, ValueError) as error:
        why = f"it has no {MODEL}" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", error)
        meant = "" if os.path.exists(path) else _check.nearest_path(path)
        raise DataError(f"{_check.shown(path)} is no finished run: {why}; expected the directory given as --out to "
                        f"pyddl train{meant}") from None
    try:
        with safe_open(path / MODEL, framework="numpy") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, TypeError, AttributeError) as error:  # the last two for types NumPy has not
        raise DataError(f"{path / MODEL} cannot be read: {error}") from None
    if "options" not in about or about.get("model") not in models.NAMES:
        raise DataError(
            f"{path / MODEL} holds a model {about.get('model')!r}, which pyddl cannot make by itself; expected one of "
            f"{', '.join(models.NAMES)}. Read its tensors with safetensors"
        )
    try:
        given = json.loads(about["options"])
        dtype = dtype_of_all(Alone(), given.get("dtype", "float32"))  # weights are float32: another type can use them
        if dtype != given.get("dtype", dtype):
            log.warning("%s: %s", path / MODEL, FLOAT32_INSTEAD)
        model = models.create(about["model"], **{**given, "dtype": dtype} if "dtype" in given else given)
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path / MODEL}: the options in its header describe no model: {error}") from None
    for part in (*model.layout, *model.buffers):  # before memory is asked for, which damaged options may want a lot of
        found = tensors.get(part.name)
        if found is None or found.shape != part.shape or found.dtype != np.float32:
            got = "no such tensor" if found is None else f"{found.dtype} of shape {found.shape}"
            raise DataError(f"{path / MODEL}: tensor {part.name} should be float32 of shape {part.shape}; found {got}")
    parameters, buffers = model.layout.zeros(), model.buffers.zeros()
    for name, view in (model.layout.views(parameters) | model.buffers.views(buffers)).items():
        view[...] = tensors[name]
    averaged = parameters.copy() if any(name.startswith("average.") for name in tensors) else parameters
    for name, view in model.layout.views(averaged).items():
        view[...] = tensors.get(f"average.{name}", view)
    summary = _read(path / SUMMARY, _object)
    metrics = _read(path / METRICS, lambda text: [_object(line) for line in text.splitlines()])
    return Run(path, _read(path / CONFIG, read_toml), summary, metrics, model, parameters, buffers, averaged)


def recorded_config(path: str | Path) -> dict[str, Any]:
    """What ``config.toml`` of a run directory records; empty where there is none yet."""
    file = Path(path) / CONFIG
    return _read(file, read_toml) if os.path.exists(file) else {}


def read_toml(text: str) -> dict[str, Any]:
    """Parse TOML; errors are ValueErrors."""
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib  # type: ignore[no-redef]

    return tomllib.loads(text)


def read_config(path: str) -> dict[str, Any]:
    """What a TOML file says; its names and values are not checked yet."""
    try:
        return read_toml(Path(path).read_text(encoding="utf-8-sig"))  # Windows' editors begin with a byte order mark
    except FileNotFoundError:
        raise DataError(f"{path}: no such file{_check.nearest_path(path)}") from None
    except OSError as error:
        raise DataError(f"{_check.shown(path)}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8 (byte {error.start}): save it in that encoding") from None
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    except RecursionError:
        raise DataError(f"{path}: lists or tables within one another, too many to read") from None


def _object(text: str) -> dict[str, Any]:
    """Parse a JSON object; errors are ValueErrors."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(f"expected an object, {{...}}; found {text[:20]!r}")
    return value


def _read(path: Path, parse: Any) -> Any:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} is missing; the run did not finish, or the file was removed") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
