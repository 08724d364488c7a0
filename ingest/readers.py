"""Reading files of documents: a line that cannot be read is named, and stops no other.

NDJSON (`.ndjson`, `.jsonl`), CSV and TSV, JSON (`.json`: an array, one object, or NDJSON), each also packed, with
`.gz`, `.bz2`, `.xz` or `.zst` behind it; and Parquet. sources.py finds the files.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import IO, Any

import orjson

from ..errors import InputError
from ..mappings import Spec
from .events import Origin, Refused
from .read_csv import csv_documents
from .read_json import json_documents
from .read_packed import PACKED, unpacked
from .read_parquet import parquet_documents

Found = tuple[Origin, dict[str, Any]] | Refused
Reader = Callable[[IO[bytes], str, Spec], Iterator[Found]]

MAX_LINE_BYTES = 64_000_000


@dataclass(frozen=True, slots=True)
class Kind:
    """What a file holds, and how it is packed, both as suffixes."""

    name: str
    packing: str = ""


def kind_of(path: str) -> Kind | None:
    """The kind of a file by its name, None where there is no reader for it."""
    suffixes = [suffix.lower() for suffix in PurePath(path).suffixes]
    packing = suffixes.pop() if suffixes and suffixes[-1] in PACKED else ""
    name = suffixes[-1] if suffixes else ""
    if name in _TEXTS or (name == ".parquet" and not packing):
        return Kind(name, packing)
    return None


def documents_in(file: IO[bytes], kind: Kind, name: str, spec: Spec) -> Iterator[Found]:
    """The documents of an open file. Damage shows only while reading: what came before it is good."""
    last: Found | None = None
    try:
        for found in _documents(file, kind, name, spec):
            last = found
            yield found
    except (OSError, InputError) as error:
        origin = last.origin if isinstance(last, Refused) else last[0] if last else None
        where = Origin(name, origin.number + 1, origin.unit) if origin else Origin(name, 1)
        yield Refused(where, "", f"the file is damaged from here on: {error}")


def _documents(file: IO[bytes], kind: Kind, name: str, spec: Spec) -> Iterator[Found]:
    if kind.name == ".parquet":
        yield from parquet_documents(file, name)
    elif kind.packing:
        with unpacked(file, kind.packing) as stream:
            yield from _TEXTS[kind.name](stream, name, spec)
    else:
        yield from _TEXTS[kind.name](file, name, spec)


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

#: The suffixes of all kinds there are, for messages.
KNOWN = ", ".join([*_TEXTS, ".parquet"])
