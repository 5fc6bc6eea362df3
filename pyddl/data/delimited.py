"""Text of numbers by pyarrow: CSV, TSV, and lines with blanks between; with a header or without; plain or packed.

One process of a node reads the text, and all map its values (`pyddl.data.kept`).
"""

from __future__ import annotations

import csv
import io
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pyddl._check import first_line
from pyddl.data.columns import labels_in, named, the_labels
from pyddl.data.formats import Format
from pyddl.data.kept import kept, state_of
from pyddl.data.labels import Labels
from pyddl.data.source import ArraySource, Source
from pyddl.errors import DataError, NoRowsError

__all__ = ["FORMAT", "open_delimited"]

# The last one is what Hadoop and Spark call parts of text.
NAME = re.compile(r"(\.(csv|tsv|tab|txt)|(^|/)part(-[rm])?-\d{5,})(\.(gz|bz2|zst|lz4|snappy|deflate))?$", re.IGNORECASE)
TABS = re.compile(r"\.(tsv|tab)(\.\w+)?$", re.IGNORECASE)
SEPARATORS = ",\t;| "
START = 1 << 16  # bytes that show how a file is written
LINES = 3  # among them: rows may have any number of columns
LONGEST_START = 1 << 26  # bytes
BLOCK = 1 << 22  # bytes of text that are read at a time
LARGEST_PIECE = 1 << 26  # bytes; Hadoop's are 256 KiB
LZ4_FRAME = b"\x04\x22\x4d\x18"  # of the lz4 program's own files
BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
LARGEST = float(np.finfo(np.float32).max)
TRUTH = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True)
class Written:
    """How a file is written.

    Attributes
    ----------
    path : str
    separator : str
    header : bool
    skipped : int
        Lines before the first row.
    names : tuple of str
        Of all columns; without a header their numbers, from 0. pandas' index, a first column without a name, is "".
    encoding : str
    mark : int
        Bytes of a byte order mark that pyarrow would take for text.
    start : int
        Bytes in which the first lines are.
    decimal : str
    """

    path: str
    separator: str
    header: bool
    skipped: int
    names: tuple[str, ...]
    encoding: str
    mark: int
    start: int
    decimal: str = "."

    @property
    def columns(self) -> list[str]:
        """Those that may be features or labels."""
        return [name for name in self.names if name]


def open_delimited(path: str | Path, columns: str = "", without: Sequence[str] = ()) -> Source:
    """Open a text of numbers as rows.

    The separator, which may be a comma, a tab, a semicolon, a bar or blanks, is the one that is most frequent in the
    first line, but always a tab in ``.tsv``. The first line is a header if it has no number, or its numbers merely
    count the columns, or it has text above numbers.

    Parameters
    ----------
    path : str or Path
        A file, plain or packed (``.gz``, ``.bz2``, ``.zst``, ``.lz4``; Hadoop's ``.snappy`` and ``.deflate``).
    columns : str, optional
        Names with commas, or numbers from 0 where there is no header, or those to leave out, each with a minus before;
        all by default.
    without : sequence of str, optional
        Columns that are no features where none are named.

    Raises
    ------
    DataError
        pyarrow is not installed; the file is missing or damaged; a column is missing; a value is no finite number, or
        a line has more values or fewer than the first, with row, line and column; there are no rows.
    """
    file, written = Path(path), _written(str(path))
    names = named(path, written.columns, columns, without)
    if not names:
        raise DataError(f"{path} has no column left that could be a feature; it has {', '.join(written.columns)}")
    written = _with_decimal(written)
    rows = kept(file, state_of(file), lambda: _blocks(written, names), ",".join(names))
    if not len(rows):
        raise _no_rows(path)
    header = "a header" if written.header else "no header"
    source = ArraySource(rows, name=file.name, origin=f"{path}, with {header}")
    source.columns = tuple(names) if written.header else None
    return source


def _with_decimal(written: Written) -> Written:
    """With a decimal comma, where that makes numbers of text: as spreadsheets write it in half of Europe."""
    if written.separator != ";":
        return written
    import pyarrow

    other = replace(written, decimal=",")
    here, there = _schema(written), _schema(other)
    better = any(pyarrow.types.is_string(here.field(name).type) and pyarrow.types.is_floating(there.field(name).type)
                 for name in written.columns)
    return other if better else written


def _labels(path: str, columns: str) -> Labels:
    """The labels in one column or several of numbers, or in one of text."""
    import pyarrow

    written = _written(path)
    names = the_labels(path, named(path, written.columns, columns), columns)
    written = _with_decimal(written)
    schema = _schema(written)
    kinds = {name: schema.field(name).type for name in names}
    whole = {name for name, kind in kinds.items() if pyarrow.types.is_integer(kind)}
    for name in names:
        if name in whole or pyarrow.types.is_null(kinds[name]):
            kinds[name] = pyarrow.float64()  # later values may be no whole numbers
        elif pyarrow.types.is_temporal(kinds[name]):
            kinds[name] = pyarrow.string()
        elif pyarrow.types.is_binary(kinds[name]):
            raise DataError(f"{path}: column {name} holds text that is not UTF-8; convert the file: iconv -t UTF-8")
    batches = list(_batches(written, names, kinds))
    if not batches:
        raise _no_rows(path)
    table = pyarrow.Table.from_batches(batches)
    found = {}
    for name in names:
        column = table.column(name)
        integers = name in whole and not (column.to_numpy() % 1).any()
        found[name] = column.cast(pyarrow.int64()) if integers else column
    labels = labels_in(path, found)
    if labels.classes and "" in labels.classes:
        row = int(np.argmax(labels.values == labels.classes.index("")))
        raise DataError(f"{path}: column {names[0]} is empty in row {row}; expected labels: fill or drop it")
    return labels


def _rows(path: str) -> int:
    written = _written(path)
    first = written.columns[0]
    import pyarrow

    return sum(batch.num_rows for batch in _batches(written, [first], {first: pyarrow.string()}))


def _blocks(written: Written, names: list[str]) -> Iterator[np.ndarray]:
    """The values, finite float32, some rows at a time."""
    import pyarrow

    schema = _schema(written)
    kinds = {name: schema.field(name).type for name in names}
    kinds = {name: kind if pyarrow.types.is_boolean(kind) else pyarrow.float64() for name, kind in kinds.items()}
    for batch in _batches(written, names, kinds):
        columns = [batch.column(name) for name in names]
        rows = np.column_stack([column.to_numpy(zero_copy_only=False) for column in columns]).astype(np.float64)
        if any(column.null_count for column in columns) or not (np.abs(rows) <= LARGEST).all():
            raise _first_fault(written, names)
        yield rows.astype(np.float32)


def _batches(written: Written, names: Sequence[str], kinds: dict[str, Any]) -> Iterator[Any]:
    """The columns of these names as pyarrow's types, some rows at a time."""
    import pyarrow

    try:
        reader = _reader(written, names, kinds)
        while True:
            batch = reader.read_next_batch()
            if batch.num_rows:
                yield batch
    except StopIteration:
        return
    except (pyarrow.ArrowException, ValueError) as error:
        raise _first_fault(written, names, error) from error
    except (OSError, zlib.error) as error:
        raise DataError(f"{written.path} is damaged: {first_line(error)}") from error


def _reader(written: Written, names: Sequence[str] = (), kinds: dict[str, Any] | None = None,
            block: int = BLOCK) -> Any:
    import pyarrow.csv

    unnamed = iter(range(len(written.names)))
    known = [name or f"\0{next(unnamed)}" for name in written.names]  # an unnamed column has a name that nobody chooses
    return pyarrow.csv.open_csv(
        _stream(written),
        read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=max(block, 2 * written.start),
                                             column_names=known, skip_rows=written.skipped, encoding=written.encoding),
        parse_options=pyarrow.csv.ParseOptions(delimiter=written.separator),
        convert_options=pyarrow.csv.ConvertOptions(column_types=kinds, include_columns=list(names),
                                                   decimal_point=written.decimal))


def _schema(written: Written) -> Any:
    """The types of all columns, as far as the first rows show them; none where there are no rows."""
    import pyarrow

    try:
        return _reader(written, block=START).schema
    except pyarrow.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            return pyarrow.schema([(name, pyarrow.null()) for name in written.columns])
        raise _first_fault(written, [], error) from error
    except (OSError, zlib.error) as error:
        raise DataError(f"{written.path} is damaged: {first_line(error)}") from error


def _stream(written: Written) -> Any:
    """The unpacked bytes."""
    stream = _unpacked(written.path)
    stream.read(written.mark)
    return _Pieces(_squeezed(stream)) if written.separator == " " else stream


def _unpacked(path: str) -> Any:
    """What is read from a file, by its ending. Hadoop packs in ways of its own where it writes text."""
    import pyarrow

    if path.lower().endswith(".deflate"):
        return _Pieces(_inflated(path))
    if path.lower().endswith(".snappy"):
        return _Pieces(_hadoop_blocks(path, "snappy"))
    if path.lower().endswith(".lz4"):
        with open(path, "rb") as file:
            if file.read(4) != LZ4_FRAME:
                return _Pieces(_hadoop_blocks(path, "lz4_raw"))
    return pyarrow.input_stream(path, compression="detect")


def _inflated(path: str) -> Iterator[bytes]:
    """A zlib stream."""
    unpacker = zlib.decompressobj()
    with open(path, "rb") as file:
        while packed := file.read(START):
            yield unpacker.decompress(packed)
    if not unpacker.eof:
        raise OSError("its packed data break off")


def _hadoop_blocks(path: str, codec: str) -> Iterator[bytes]:
    """Blocks of Hadoop's BlockCompressorStream: bytes that they unpack to; then pieces until these are there, each
    after its own size. Sizes are big-endian numbers of 4 bytes."""
    import pyarrow

    unpacker = pyarrow.Codec(codec)
    with open(path, "rb") as file:
        while size := file.read(4):
            left = int.from_bytes(size, "big")
            while left > 0:
                packed = file.read(int.from_bytes(file.read(4), "big"))
                piece = unpacker.decompress(packed, min(left, LARGEST_PIECE), asbytes=True)
                left -= len(piece)
                if not piece:
                    raise OSError("its packed data break off")
                yield piece


def _squeezed(stream: Any) -> Iterator[bytes]:
    """Text in which lines do not begin or end with blanks, and one blank stands for several."""
    rest = b""
    while more := stream.read(START):
        whole, line_end, rest = (rest + more).rpartition(b"\n")
        yield re.sub(rb"(?m)^ | (?=\r?$)", b"", re.sub(rb"[ \t]+", b" ", whole + line_end))
    yield re.sub(rb"[ \t]+", b" ", rest).strip()


class _Pieces(io.RawIOBase):
    """Pieces of bytes as a file."""

    def __init__(self, pieces: Iterator[bytes]):
        self._pieces, self._left = pieces, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = piece
        found, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(found)] = found
        return len(found)


def _written(path: str) -> Written:
    """Look at the first lines."""
    try:
        import pyarrow
    except ImportError as error:
        raise DataError(f"{path} needs pyarrow: pip install 'pyddl[parquet]'") from error
    try:
        with _unpacked(path) as stream:
            start = stream.read(START)
            while start.count(b"\n") < LINES and len(start) < LONGEST_START and (more := stream.read(START)):
                start += more
    except (OSError, zlib.error, pyarrow.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}") from error
    mark = next((mark for mark in BYTE_ORDER_MARKS if start.startswith(mark)), b"")
    encoding = BYTE_ORDER_MARKS.get(mark, "utf-8")
    if b"\0" in start and encoding == "utf-8":
        raise DataError(f"{path} is no text: it has a zero byte at offset {start.index(0)}; expected numbers with "
                        "commas, tabs or blanks between")
    text = start[len(mark) if encoding == "utf-8" else 0 :].decode(encoding, errors="replace")
    lines = [(number, line) for number, line in enumerate(text.splitlines()) if line.strip()]
    if not lines:
        raise _no_rows(path)
    first = lines[0][1]
    separator = "\t" if TABS.search(path) else max(SEPARATORS, key=first.strip(" ").count)
    rows = [next(csv.reader([" ".join(line.split()) if separator == " " else line], delimiter=separator))
            for _, line in lines[:2]]
    header = _is_header([field.strip() for field in rows[0]], [field.strip() for field in rows[-1]])
    names = [field.strip() for field in rows[0]] if header else [str(number) for number in range(len(rows[0]))]
    return Written(path, separator, header, lines[0][0] + header, tuple(names), encoding,
                   len(mark) if encoding == "utf-8" else 0, len(start))


def _is_header(first: list[str], second: list[str]) -> bool:
    """Whether a first line names columns, the second being as it is."""
    numbers = [field for field in first if _number(field) is not None]
    if len(numbers) == len(first):
        return len(first) > 2 and numbers == [str(each) for each in range(len(first))]
    if not numbers or (not first[0] and len(first) > 1):
        return True
    counts = [[str(each + begin) for each in range(len(numbers))] for begin in (0, 1)]
    return (len(numbers) > 1 and numbers in counts) or any(
        field and _number(field) is None and _number(under) is not None
        for field, under in zip(first, second, strict=False))


def _number(field: str, decimal: str = ".") -> float | None:
    """The value of a field, or None."""
    try:
        return float(field.replace(decimal, ".") if decimal != "." else field)
    except ValueError:
        return TRUTH.get(field.lower())


def _first_fault(written: Written, names: Sequence[str], reported: BaseException | None = None) -> DataError:
    """What is wrong in the first row where something is: read again, slowly."""
    path, places = written.path, {written.names.index(name): name for name in names}
    stream = _stream(written)
    lines = io.TextIOWrapper(io.BufferedReader(_Pieces(iter(lambda: stream.read(START), b""))), written.encoding,
                             errors="replace", newline="")
    for _ in range(written.skipped):
        lines.readline()
    rows = csv.reader(lines, delimiter=written.separator)
    row = 0
    try:
        for fields in rows:
            if not fields:
                continue
            at = f"{path}: row {row} (line {written.skipped + rows.line_num})"
            if len(fields) != len(written.names):
                return DataError(f"{at} has {len(fields)} values; expected {len(written.names)}, as in the first line: "
                                 "mend it, or remove it")
            for place, name in places.items():
                value = _number(fields[place].strip(), written.decimal)
                if value is None or not abs(value) <= LARGEST:
                    cures = ["mend or drop such rows", _left_out(written, [each for each in names if each != name])]
                    first, other = cures if row else reversed(cures)  # a column of dates or text begins with one
                    return DataError(f"{at}, column {name} {_holds(fields[place].strip(), value)}; expected a finite "
                                     f"number: {first}, or {other}")
            row += 1
    except csv.Error as error:
        return DataError(f"{path}: row {row} (line {written.skipped + rows.line_num}) cannot be read: {error}")
    return DataError(f"{path} cannot be read: {first_line(reported) if reported else 'its values changed meanwhile'}")


def _left_out(written: Written, names: Sequence[str]) -> str:
    """How to take these columns only."""
    others = [f"-{name}" for name in written.names if name not in names]
    chosen = ",".join(others) if len(others) <= 5 else "NAME,NAME"
    return f"leave the column out with {Path(written.path).name}:{chosen}"


def _holds(field: str, value: float | None) -> str:
    if not field:
        return "is empty"
    shown = field if len(field) <= 40 else field[:37] + "..."
    too_large = value is not None and math.isfinite(value)
    return f"holds {shown}, too large for a float32" if too_large else f"holds {shown!r}"


def _no_rows(path: str | Path) -> NoRowsError:
    return NoRowsError(f"{path} has no rows; expected at least one")


FORMAT = Format(".csv, .tsv or .txt (or these with .gz, .bz2 or .zst)", lambda path: NAME.search(path) is not None,
                open_delimited, _labels, names=True, rows=_rows)
