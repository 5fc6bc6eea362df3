"""From a specification on a command line to a source."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pyddl import _check
from pyddl.data import cifar, delimited, hdf5, idx, npy, orc, parquet
from pyddl.data.download import TIMEOUT, Progress, download
from pyddl.data.folders import Part, WithColumns, kind_of, left_to_files, partition_number, parts_of
from pyddl.data.formats import Format
from pyddl.data.joined import JoinedSource, LabelledSource, ScaledSource, in_order_of, scaled
from pyddl.data.labels import Labels, as_labels
from pyddl.data.named import NAMED, missing
from pyddl.data.pictures import ENDINGS, are_pictures, asked_of_pictures, open_pictures, picture_labels
from pyddl.data.remote import is_address, local_copy
from pyddl.data.scaled import learned
from pyddl.data.source import ArraySource, RandomSource, Source
from pyddl.errors import DataError, NoRowsError, ParameterError
from pyddl.names import SCALES

__all__ = ["FORMATS", "fetch", "find", "from_anywhere", "load", "of_pictures"]

T = TypeVar("T")
PARTS = ("train", "test")
FORMATS: tuple[Format, ...] = (npy.FORMAT, idx.FORMAT, hdf5.FORMAT, parquet.FORMAT, orc.FORMAT, delimited.FORMAT,
                              cifar.FORMAT)


def load(spec: Any, part: str | None = None, *, labels: Any = None, image_size: str | Sequence[int] | None = None,
         grey: bool = False, scale: str | Source | None = None) -> Source:
    """Open a data set.

    Parameters
    ----------
    spec : str, path, array or Source
        A name (``digits``, ``mnist``, ``cifar10``), also with ``:train`` or ``:test``; the path of a file: ``.npy``,
        IDX (``.idx``, ``-ubyte``, plain or ``.gz``; values / 255), a binary batch of CIFAR-10 (``data_batch_N.bin``),
        HDF5 (``.h5``, ``.hdf5``; ``FILE:DATASET`` where it has several), or a table: Parquet, ORC or text of numbers
        (``.csv``, ``.tsv``, ``.txt``, with a header or without, plain or packed), of which ``FILE:COLUMN,COLUMN`` are
        some columns, and ``FILE:-COLUMN`` all but one; a folder of files of one of these kinds, whose rows are joined
        in the order of the names, and columns by theirs, sub folders ``COLUMN=VALUE`` being columns too; a folder of
        pictures (``.png``, ``.jpg``), whose sub folders are classes; or ``random:ROWSxFEATURES``. An address
        (``s3://...``, ``gs://...``, ``hdfs://...``, ``https://...``, or another that fsspec knows) is one of a file or
        folder of these. An array becomes an `ArraySource`, a source is returned as it is.
    part : {"train", "test"}, optional
        Of a named set; "train" by default, whose ``test`` is the other.
    labels : str, path, array or Source, optional
        Where each row's labels are, as ``spec`` says where the rows are: one column or several, of integers or floats,
        which keep their type (integers of Parquet files become int64), booleans, which become 0 and 1, or one column of
        text, which becomes classes. Of a named set its own labels are taken; it needs none to be given. Columns that
        are labels are no features where ``spec`` is the same file and names no columns. Files are mapped where the rows
        would be, those of a folder joined in memory.
    image_size : str or sequence of int, optional
        Height and width to which pictures are scaled, such as ``"28x28"``; without it all must have one size.
    grey : bool, default=False
        Whether coloured pictures become grey ones.
    scale : {"minmax", "standard", "pixels"} or Source, optional
        Bring columns to one scale, which these rows give: to [0, 1], or to mean 0 and deviation 1; or divide values of
        0 to 255 by 255. Pictures have one scale for all pixels; a column with one value in all rows becomes 0. Of a
        scaled source its own is taken: test rows need that of the training rows, which the trainer gives to those
        without one.

    Returns
    -------
    Source

    Raises
    ------
    ParameterError
        The part is unknown or given twice. ``image_size`` or ``grey`` are given for what is no folder of pictures.
    DataError
        Nothing of that name, or the file is damaged. A named set that is not on this machine is fetched into
        the user cache; without a network the message lists every place that was tried. What an address leads to cannot
        be had. A label is missing, NaN or infinite. Rows that are to be scaled are all alike.
    ShapeError
        There are more labels than rows, or fewer.

    Examples
    --------
    >>> load("random:1000000x784").shape
    (1000000, 784)
    >>> load([[0.1], [0.2], [0.3]], labels=["no", "yes", "no"]).labels
    array([0, 1, 0])
    >>> np.asarray(load([[10, 0.1], [20, 0.2], [40, 0.4]], scale="minmax"))[1].round(2)
    array([0.33, 0.33], dtype=float32)
    """
    rows, names = _here(spec), _here(labels)
    addresses = {_inner(here)[0]: _address(given)[0] for given, here in ((spec, rows), (labels, names))
                 if here is not given}
    with _errors_with(addresses):
        pictured = _pictured(rows)
        if (image_size is not None or grey) and not pictured:
            raise ParameterError(f"image_size and grey are for pictures, and data {spec!r} are none: leave them out")
        without = [] if labels is None else columns_of(names, rows)
        known = _labels(os.fspath(names)) if without else None  # first: an unknown name is no feature's fault
        source = open_pictures(Path(rows), image_size, grey) if pictured else _load(rows, part, without)
        if isinstance(spec, str | os.PathLike):
            source.spec = {"data": os.fspath(spec) + (f":{part}" if part else ""),
                           **asked_of_pictures(image_size, grey)}
        if addresses and hasattr(source, "origin"):
            source.origin = _told(source.origin, addresses)
        if labels is not None:
            source = _labelled(source, names, labels, without, addresses, known)
        return source if scale is None else _scaled(source, scale)


def from_anywhere(spec: str) -> str:
    """A specification that means the same in another working directory: paths become absolute, and names stay."""
    path, inner = _inner(spec)
    if spec.partition(":")[0] in NAMED or not os.path.exists(path):
        return spec
    return os.path.abspath(path) + (f":{inner}" if inner else "")


def _labelled(source: Source, labels: Any, given: Any, without: Sequence[str], addresses: Mapping[str, str],
              known: Labels | None) -> Source:
    """The rows with labels from elsewhere, which were ``given`` by this name, and may be ``known`` already."""
    if not isinstance(labels, str | os.PathLike):
        found = _labels_of(labels) if isinstance(labels, Source) else as_labels(labels, source.name)
        labelled = LabelledSource(source, found, origin="memory")
        labelled.spec = source.spec
        return labelled
    origin = _told(os.fspath(labels), addresses)
    if without:
        origin += f" (left out of the features: {', '.join(without)})"
    labelled = LabelledSource(source, known or _labels(os.fspath(labels), source), origin=origin)
    labelled.spec = {**source.spec, "labels": os.fspath(given)} if source.spec else source.spec
    return labelled


@contextlib.contextmanager
def _errors_with(addresses: Mapping[str, str]) -> Iterator[None]:
    """Let errors name addresses in the place of their copies."""
    try:
        yield
    except DataError as error:
        if not addresses:
            raise
        raise type(error)(_told(str(error), addresses)) from error


def _scaled(source: Source, scale: str | Source) -> Source:
    if isinstance(scale, str):
        return ScaledSource(source, learned(scale, source))
    if scale.scaling is None:
        raise ParameterError(f"scale is {scale.name}, which is not scaled; expected one of {', '.join(SCALES)}, or a "
                             "source that was scaled so")
    alike: Source = scaled(source, scale.scaling)
    return alike


def _told(text: str, addresses: Mapping[str, str]) -> str:
    """What a user reads, who knows addresses and not where copies are."""
    for copy, address in addresses.items():
        text = text.replace(copy, address)
    return text


def _here(spec: Any) -> Any:
    """A specification in which the copy of what is at an address stands for it; others as they are."""
    if not isinstance(spec, str) or not is_address(spec):
        return spec
    address, inner = _address(spec)
    copy = str(local_copy(address))
    return f"{copy}:{inner}" if inner else copy


def _address(text: str) -> tuple[str, str]:
    """``s3://bucket/x.csv:name?options`` -> (``s3://bucket/x.csv?options``, ``name``)."""
    base, mark, options = text.partition("?")
    path, _, inner = base.rpartition(":")
    if "://" not in path or "/" in inner or "/" not in path.split("://", 1)[1]:
        return text, ""
    return path + mark + options, inner


def of_pictures(spec: Any) -> bool:
    """Whether these data are a picture or a folder of pictures."""
    return _pictured(_here(spec))


def _pictured(spec: Any) -> bool:
    return isinstance(spec, str | os.PathLike) and os.path.exists(spec) and are_pictures(Path(spec))


def _load(spec: Any, part: str | None, without: Sequence[str]) -> Source:
    if isinstance(spec, Source):
        return spec
    if not isinstance(spec, str | os.PathLike):
        return ArraySource(spec)
    text = os.fspath(spec)
    name, colon, suffix = text.partition(":")
    if name == "random" and colon:
        _no_part(text, part)
        return _random(text, suffix)
    if name in NAMED:
        if colon and part not in (None, suffix):
            raise ParameterError(f"data is {text!r} and part is {part!r}; give one of the two")
        return _named(name, _check.one_of("part", suffix if colon else part or "train", PARTS))
    _no_part(text, part)
    return _file(text, without)


def _labels(text: str, source: Source | None = None) -> Labels:
    """The labels that a specification names, perhaps of these rows."""
    name, colon, _ = text.partition(":")
    if name in NAMED or (name == "random" and colon):
        return _labels_of(_load(text, None, ()))
    path, inner = _inner(text)
    if _pictured(path):
        return picture_labels(Path(path))
    kind = kind_of(path)
    if kind == "folder":
        found = _with_rows(_parts_of(Path(path), inner), lambda part, form: _part_labels(part, form, inner))
        return found[0] if len(found) == 1 else _joined(found, path)
    if kind != "file":
        meant = _check.nearest_path(text, NAMED)
        if source is not None and source.spec and text in (source.columns or ()):
            meant = f"; did you mean {_inner(source.spec['data'])[0] + ':' + text!r}?"
        raise DataError(f"labels {_check.shown(text)!r} are neither a known data set nor a file; expected "
                        f"{', '.join(sorted(NAMED))}, or the path of a file or folder of labels{meant}")
    return _format(path, inner).labels(path, inner)


def _part_labels(part: Part, form: Format, inner: str) -> Labels:
    """The labels of a file of a folder: what its sub folders say of it, or what is in it."""
    if inner not in part.values:
        return form.labels(str(part.path), inner)
    rows = len(form.open(str(part.path), "", ())) if form.rows is None else form.rows(str(part.path))
    if not rows:
        raise NoRowsError(f"{part.path} has no rows; expected at least one")
    value = part.values[inner]
    number = int(value) if re.fullmatch(r"-?\d{1,18}", value) else value
    return as_labels(np.full(rows, number), str(part.path))


def _labels_of(source: Source) -> Labels:
    """The labels that a source brings, or else its rows."""
    if source.labels is not None:
        return Labels(source.labels, source.classes)
    return as_labels(source.array if isinstance(source, ArraySource) else np.asarray(source), source.name)


def _joined(parts: Sequence[Labels], path: str) -> Labels:
    shapes = {part.values.shape[1:] for part in parts}
    if len(shapes) > 1 or len({part.classes is None for part in parts}) > 1:
        raise DataError(f"{path}: the files have labels of different kinds; all need the same")
    if parts[0].classes is not None:
        return as_labels(np.concatenate([np.array(part.classes)[part.values] for part in parts]), path)
    return Labels(np.concatenate([part.values for part in parts]))


def columns_of(labels: Any, spec: Any) -> list[str]:
    """Names of the labels within the file or folder that the rows are in too, where no features are named there."""
    if not isinstance(labels, str | os.PathLike) or not isinstance(spec, str | os.PathLike):
        return []
    (path, inner), (rows, features) = _inner(os.fspath(labels)), _inner(os.fspath(spec))
    same = path == rows or (os.path.exists(path) and os.path.exists(rows) and os.path.samefile(path, rows))
    return inner.split(",") if same and inner and (not features or features.startswith("-")) else []


def find(name: str) -> Path | None:
    """The folder in which a named set lies on this machine, or None. Downloads nothing."""
    return NAMED[_check.one_of("name", name, NAMED)].find()


def fetch(name: str, folder: str | os.PathLike[str] | None = None, *, mirrors: Sequence[str] | None = None,
          progress: Progress | None = None, timeout: float = TIMEOUT) -> Path:
    """Download a named set, unless it is there already; return its folder.

    See `pyddl.data.download.download` for the parameters. A set that comes with a package is only looked up.
    """
    files = NAMED[_check.one_of("name", name, NAMED)].files
    if files is None:
        folder = find(name)
        if folder is None:
            raise missing(name)
        return Path(folder)
    target = None if folder is None else Path(folder)
    return download(files, target, mirrors=mirrors, progress=progress, timeout=timeout)


def _named(name: str, part: str) -> Source:
    named = NAMED[name]
    folder = named.find()
    if folder is None and named.files is not None:
        try:
            folder = download(named.files)
        except DataError as error:
            raise missing(name, str(error)) from error
    if folder is None:
        raise missing(name)
    return named.read(folder, part)


def _random(text: str, sizes: str) -> Source:
    match = re.fullmatch(r"(\d+)x(\d+)", sizes)
    if not match or int(match[1]) < 1 or int(match[2]) < 1:
        raise ParameterError(f"data is {text!r}; expected random:ROWSxFEATURES, both at least 1, as in "
                             "random:10000x784")
    return RandomSource(int(match[1]), int(match[2]))


def _file(given: str, without: Sequence[str]) -> Source:
    text, inner = _inner(given)
    path = Path(text)
    kind = kind_of(text)
    if kind == "folder":
        return _folder(path, inner, without)
    if kind != "file":
        raise DataError(f"data {_check.shown(text)!r} is neither a known data set nor a file; expected "
                        f"{', '.join(sorted(NAMED))} (with :train or :test), random:ROWSxFEATURES, or the path of a "
                        f"file or folder of data{_check.nearest_path(given, NAMED)}")
    return _format(text, inner).open(text, inner, without)


def _folder(folder: Path, inner: str, without: Sequence[str]) -> Source:
    """The rows of all files of a folder."""
    parts = _parts_of(folder, inner)
    keys = list(parts[0][0].values)
    within, chosen = left_to_files(inner, without, keys)

    def opened(part: Part, form: Format) -> Source:
        try:
            source = form.open(str(part.path), within, [name for name in without if name not in keys])
        except DataError as error:  # columns of all parts are chosen together
            raise type(error)(str(error).replace(f" {part.path.name}:", f" {folder.name}:")) from error
        if chosen and (form.rows is None or source.inner):
            raise DataError(f"{folder}: {part.path.name} is no table of numbers, to which {chosen[0]}, of the sub "
                            f"folders, could be a column; leave it out: {folder.name}:-{chosen[0]}")
        return WithColumns(source, {key: partition_number(part, key, folder) for key in chosen}) if chosen else source

    source = JoinedSource(_with_rows(parts, opened), name=folder.name or str(folder), origin=str(folder))
    named = inner.split(",")
    return in_order_of(source, named, None, inner) if chosen and set(named) == set(source.columns or ()) else source


def _inner(text: str) -> tuple[str, str]:
    """``file.h5:name`` -> (``file.h5``, ``name``)."""
    path, colon, inner = text.rpartition(":")
    if colon and not os.path.exists(text) and (os.path.isdir(path) or any(form.names and form.matches(path)
                                                                          for form in FORMATS)):
        return path, inner
    return text, ""


def _parts_of(folder: Path, inner: str) -> list[tuple[Part, Format]]:
    """The files of a folder, all of one kind."""
    parts = parts_of(folder)
    keys = parts[0].values
    inner = ",".join(name for name in inner.split(",") if name.lstrip("-") not in keys)
    found = [(part, _format(str(part.path), inner)) for part in parts]
    for part, form in found:
        if form is not found[0][1]:
            raise DataError(f"{folder} is a folder of several kinds of files: {parts[0].path.relative_to(folder)} and "
                            f"{part.path.relative_to(folder)}; expected one kind")
    return found


def _with_rows(parts: Sequence[tuple[Part, Format]], read: Callable[[Part, Format], T]) -> list[T]:
    """What ``read`` makes of each file of a folder; of those without rows nothing, unless all are."""
    found: list[T] = []
    none: NoRowsError | None = None
    for part, form in parts:
        try:
            found.append(read(part, form))
        except NoRowsError as error:
            none = error
    if none is not None and not found:
        raise none
    return found


def _format(path: str, inner: str) -> Format:
    """The kind that a file of this name is of."""
    for form in FORMATS:
        if form.matches(path):
            if inner and not form.names:
                raise DataError(f"{path} has no parts with names, such as {inner!r}; only HDF5 files and tables "
                                f"(Parquet, ORC, CSV) have: leave out :{inner}")
            return form
    raise DataError(f"{path} is of no supported kind; expected a name that ends in "
                    f"{', '.join(form.endings for form in FORMATS)}, {ENDINGS}")


def _no_part(text: str, part: str | None) -> None:
    if part is not None:
        raise ParameterError(f"data {text!r} has no part {part!r}; only named sets have parts: "
                             f"{', '.join(sorted(NAMED))}")
