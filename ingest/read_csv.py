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
    problem = _header_problem(header)
    if problem:
        yield Refused(Origin(name, 1), "", problem)
        return
    parsers = [_parser(spec, column) for column in header]
    while True:
        origin = Origin(name, rows.line_num + 1)
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield Refused(origin, "", f"not CSV: {error}")
            continue
        if row:
            yield _document(origin, header, parsers, row)


def _header_problem(header: list[str]) -> str:
    if not header:
        return "the file is empty; the first line must name the columns"
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        return f"the header names {', '.join(map(repr, twice))} more than once"
    return "the header has a column without a name" if "" in header else ""


def _document(
    origin: Origin, header: list[str], parsers: list[Parse], row: list[str]
) -> tuple[Origin, dict[str, Any]] | Refused:
    if len(row) != len(header):
        return Refused(origin, "", f"it has {len(row)} cells, the header {len(header)}")
    document = {}
    for column, parse, cell in zip(header, parsers, row, strict=True):
        if cell == "":
            continue
        try:
            cell.encode()
            document[column] = parse(cell)
        except UnicodeEncodeError:
            return Refused(origin, "", f"column {column!r} is not UTF-8")
        except ValueError as error:
            return Refused(origin, "", f"column {column!r}: {error}")
    return origin, document


def _parser(spec: Spec, column: str) -> Parse:
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
        return _object
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


def _object(cell: str) -> Any:
    """JSON where the cell starts like an object or an array, else the text as it is."""
    if not cell.lstrip().startswith(("{", "[")):
        return cell
    try:
        return orjson.loads(cell)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg}") from None
