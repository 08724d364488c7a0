"""Reading files of documents: a line that cannot be read is named, and stops no other.

NDJSON (`.ndjson`, `.jsonl`), CSV and TSV, JSON (`.json`: an array, one object, or NDJSON), Parquet, each of the text
ones also with `.gz`; `-` is NDJSON on standard input.
"""

from __future__ import annotations

import gzip
import io
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import orjson

from ..errors import InputError
from ..mappings import Spec
from .events import Origin, Refused
from .read_csv import csv_documents
from .read_json import json_documents
from .read_parquet import parquet_documents, parquet_rows

Found = tuple[Origin, dict[str, Any]] | Refused
Reader = Callable[[IO[bytes], str, Spec], Iterator[Found]]

MAX_LINE_BYTES = 64_000_000


def read_files(paths: Iterable[str | os.PathLike[str]], spec: Spec) -> Iterator[Found]:
    """The documents of files, each with its origin, in the order given.

    Every file is opened before the first document is read. Raises InputError for one that is missing, unreadable, or of
    an unknown kind.
    """
    sources = [(str(path), _open(str(path))) for path in paths]
    return _read_all(sources, spec)


def count_rows(paths: Iterable[str | os.PathLike[str]]) -> int | None:
    """How many documents files hold, where they say so themselves (Parquet), else None."""
    names = [str(path) for path in paths]
    if not all(name.lower().endswith(".parquet") for name in names):
        return None
    return sum(map(parquet_rows, names))


def _read_all(sources: list[tuple[str, Callable[[str, Spec], Iterator[Found]]]], spec: Spec) -> Iterator[Found]:
    for path, read in sources:
        yield from read(path, spec)


def _open(path: str) -> Callable[[str, Spec], Iterator[Found]]:
    """The way to read a file, tried as far as opening it goes."""
    if path == "-":
        return lambda _, spec: ndjson_documents(sys.stdin.buffer, "standard input", spec)
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    packed = suffixes[-1:] == [".gz"]
    kind = (suffixes[:-1] if packed else suffixes)[-1:]
    name = kind[0] if kind else ""
    if name == ".parquet" and not packed:
        _try(path)
        parquet_rows(path)  # reads the footer, without which there is nothing
        return lambda where, _: parquet_documents(where)
    if name not in _TEXTS:
        known = ", ".join([*_TEXTS, ".parquet"])
        raise InputError(
            f"{path}: no reader for {''.join(suffixes) or 'a name without suffix'!r}",
            hint=f"name the file {known}, or a text one with .gz; or pipe NDJSON into `-`",
        )
    _try(path)
    return lambda where, spec: _text(where, _TEXTS[name], spec, packed)


def _try(path: str) -> None:
    try:
        with Path(path).open("rb") as file:
            file.read(1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", hint="check its name and permissions") from None


def _text(path: str, read: Reader, spec: Spec, packed: bool) -> Iterator[Found]:
    """Damage of a packed file shows only while reading: what came before it is good."""
    last: Found | None = None
    try:
        with _bytes_of(path, packed) as file:
            for found in read(file, path, spec):
                last = found
                yield found
    except (EOFError, gzip.BadGzipFile, zlib.error, OSError) as error:
        origin = last.origin if isinstance(last, Refused) else last[0] if last else None
        where = Origin(path, origin.number + 1, origin.unit) if origin else Origin(path, 1)
        yield Refused(where, "", f"the file is damaged from here on: {error}")


def _bytes_of(path: str, packed: bool) -> IO[bytes]:
    if packed:
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return Path(path).open("rb")


def ndjson_documents(file: IO[bytes], name: str, _: Spec) -> Iterator[Found]:
    """A document on every line that is not blank."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES):
        number += 1
        origin = Origin(name, number)
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield Refused(origin, "", f"the line is longer than {MAX_LINE_BYTES:,} bytes")
            continue
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if line.strip():
            yield _document(origin, line.rstrip())


def _document(origin: Origin, line: bytes) -> Found:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return Refused(origin, "", f"not JSON: {error.msg} at character {error.pos + 1}")
    if not isinstance(value, dict):
        return Refused(origin, "", f"it is {type(value).__name__}, not an object")
    return origin, value


def _json(file: IO[bytes], name: str, spec: Spec) -> Iterator[Found]:
    """An array by its elements; one object, or many on lines of their own, as NDJSON."""
    buffered = file if isinstance(file, io.BufferedReader) else io.BufferedReader(file)  # type: ignore[type-var]
    start = buffered.peek(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"["):
        return json_documents(buffered, name)
    first = start.split(b"\n", 1)[0].strip()
    if first and _is_json(first):
        return ndjson_documents(buffered, name, spec)
    return _whole(buffered.read(MAX_LINE_BYTES + 1), name)


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


def _whole(data: bytes, name: str) -> Iterator[Found]:
    if len(data) > MAX_LINE_BYTES:
        yield Refused(Origin(name, 1), "", "a single JSON value of this size cannot be read; write NDJSON")
    elif data.strip():
        yield _document(Origin(name, 1), data)


def _csv(file: IO[bytes], name: str, spec: Spec) -> Iterator[Found]:
    return csv_documents(file, name, spec, ",")


def _tsv(file: IO[bytes], name: str, spec: Spec) -> Iterator[Found]:
    return csv_documents(file, name, spec, "\t")


_TEXTS: Mapping[str, Reader] = {
    ".ndjson": ndjson_documents,
    ".jsonl": ndjson_documents,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
}
