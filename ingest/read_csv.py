"""CSV and TSV with a header: cells become what the spec's fields say they are."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from typing import IO, Any

import orjson

from ..mappings import NestedJoin, Spec
from .events import MAX_DOCUMENT_BYTES, Origin, Refused

Parse = Callable[[str], Any]

_INTEGERS = frozenset({"long", "integer", "short", "byte", "unsigned_long"})
_FLOATS = frozenset({"double", "float", "half_float", "scaled_float"})
_OBJECTS = frozenset({"object", "nested", "flattened", "flat_object", "geo_point", "geo_shape"})
_BOOLEANS = {"true": True, "false": False}


def csv_documents(
    file: IO[bytes], name: str, spec: Spec, delimiter: str
) -> Iterator[tuple[Origin, dict[str, Any]] | Refused]:
    """A document for each row; an empty cell is an absent field."""
    csv.field_size_limit(MAX_DOCUMENT_BYTES)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield from _documents(csv.reader(text, delimiter=delimiter, strict=True), name, spec)
    finally:
        text.detach()  # else it would close the file under its owner


def _documents(rows: Any, name: str, spec: Spec) -> Iterator[tuple[Origin, dict[str, Any]] | Refused]:
    try:
        header: list[str] = next(rows, [])
    except csv.Error as error:
        yield Refused(Origin(name, 1), "", f"the header cannot be read: {error}")
        return
    problem = _header_problem(header, spec)
    if problem:
        yield Refused(Origin(name, 1), "", problem)
        return
    parsers = [parser_of(spec, column) for column in header]
    while True:
        origin = Origin(name, rows.line_num + 1)
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            unclosed = "; a quote is opened here and never closed" if "end of data" in str(error) else ""
            yield Refused(origin, "", f"not CSV: {error}{unclosed}")
            continue
        if row:
            yield _document(origin, header, parsers, row)


def _header_problem(header: list[str], spec: Spec) -> str:
    if not header:
        return "the file is empty; the first line must name the columns"
    if any(not _is_utf8(column) for column in header):
        return "the header is not UTF-8: save the file with that encoding"
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        return f"the header names {', '.join(map(repr, twice))} more than once"
    if "" in header:
        return "the header has a column without a name"
    if spec.id not in header:
        return f"the header has no column {spec.id!r}, the id; it names {', '.join(map(repr, header))[:200]}"
    return ""


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # undecodable bytes were read as surrogates
        return False
    return True


def _document(
    origin: Origin, header: list[str], parsers: list[Parse], row: list[str]
) -> tuple[Origin, dict[str, Any]] | Refused:
    if len(row) != len(header):
        return Refused(origin, "", f"it has {len(row)} cells, the header {len(header)}")
    document = {}
    for column, parse, cell in zip(header, parsers, row, strict=True):
        if cell == "":
            continue
        if not _is_utf8(cell):
            return Refused(origin, "", f"column {column!r} is not UTF-8")
        try:
            document[column] = parse(cell)
        except ValueError as error:
            return Refused(origin, "", f"column {column!r}: {error}")
    return origin, document


def parser_of(spec: Spec, column: str) -> Parse:
    """What makes a value of a cell, by what the spec says of the field; it raises ValueError."""
    field = spec.fields.get(column)
    kind = field.type if field else ""
    joins = {join.field for join in spec.parents().values()}
    if column == spec.version or kind in _INTEGERS:
        return _integer
    if kind in _FLOATS:
        return _float
    if kind == "boolean":
        return _boolean
    if kind in _OBJECTS or column in joins or isinstance(spec.joins.get(column), NestedJoin):
        return object_of
    return str


def _integer(cell: str) -> int:
    try:
        return int(cell)
    except ValueError:
        raise ValueError(f"{cell[:40]!r} is no integer") from None


def _float(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise ValueError(f"{cell[:40]!r} is no number") from None


def _boolean(cell: str) -> bool:
    try:
        return _BOOLEANS[cell.strip().lower()]
    except KeyError:
        raise ValueError(f"{cell[:40]!r} is neither true nor false") from None


def object_of(cell: str) -> Any:
    """JSON where the cell starts like an object or an array, else the text as it is."""
    if not cell.lstrip().startswith(("{", "[")):
        return cell
    try:
        return orjson.loads(cell)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg}") from None
