"""Reading judgments: which documents are right for which queries, and how right.

Two forms are read, packed with gzip or not: a table with a header (`query_id`, `query`, `doc_id`, `grade`, in any
order, divided by tabs, or by commas in a .csv), and TREC's qrels (`query_id 0 doc_id grade`) beside a table of the
queries (`query_id`, tab, `query`).
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path

from ..errors import InputError

# What each column may be called.
_NAMES = {
    "query_id": ("query_id", "qid", "query-id", "topic"),
    "query": ("query", "text", "query_text"),
    "doc_id": ("doc_id", "docid", "document_id", "corpus-id", "id"),
    "grade": ("grade", "relevance", "rating", "score", "label"),
}
_FORMS = "a header with query, doc_id and grade, or TREC's `query_id 0 doc_id grade`"


@dataclass(frozen=True)
class Judgments:
    """Queries by id, and the grades of documents for each; only queries for which some document is right."""

    queries: Mapping[str, str]
    grades: Mapping[str, Mapping[str, float]]
    # What people call them: the name of the file.
    name: str = field(default="judgments", compare=False)

    def __len__(self) -> int:
        return len(self.queries)

    def limited(self, count: int) -> Judgments:
        """At most so many queries, evenly from first to last: the same ones each time."""
        names = list(self.queries)
        if len(names) <= count:
            return self
        chosen = [names[place * len(names) // count] for place in range(count)]
        return replace(
            self, queries={one: self.queries[one] for one in chosen}, grades={one: self.grades[one] for one in chosen}
        )


def read_judgments(path: str | Path, queries: str | Path | None = None) -> Judgments:
    """Read a file of judgments; `queries` is the table of queries beside TREC's qrels.

    Raises InputError, which names file and line, for what cannot be read and where no document is right for any query.
    """
    path = Path(path)
    texts = _texts(Path(queries)) if queries else {}
    grades: dict[str, dict[str, float]] = {}
    for line, row in _judged(path, bool(queries)):
        name = row.get("query_id") or row["query"]
        text = row.get("query") or texts.get(name)
        if not text:
            reason = f"query {name!r} has no text"
            hint = "give the table of queries too" if not queries else f"{queries} has none of that id"
            raise InputError(f"{path}:{line}: {reason}", hint=hint)
        if texts.setdefault(name, text) != text:
            raise InputError(f"{path}:{line}: query {name!r} is {text!r:.60} here and {texts[name]!r:.60} before")
        if not row["doc_id"]:
            raise InputError(f"{path}:{line}: there is no doc_id")
        grades.setdefault(name, {})[row["doc_id"]] = _grade(row["grade"], path, line)
    useful = {name: held for name, held in grades.items() if any(grade > 0 for grade in held.values())}
    if not useful:
        raise InputError(f"{path}: no document has a grade above 0", hint=f"judgments are {_FORMS}")
    return Judgments({name: texts[name] for name in useful}, useful, path.name)


def _grade(given: str, path: Path, line: int) -> float:
    try:
        grade = float(given)
    except ValueError:
        grade = float("nan")
    if not isfinite(grade):
        raise InputError(f"{path}:{line}: grade {given!r:.40} is no number", hint="0 is wrong, more is better")
    return grade


def _judged(path: Path, trec: bool) -> Iterator[tuple[int, dict[str, str]]]:
    lines = _lines(path)
    first = next(lines, None)
    if first is None:
        raise InputError(f"{path} is empty", hint=f"judgments are {_FORMS}")
    divider = "," if ".csv" in path.suffixes else "\t"
    header = _header(next(csv.reader([first[1]], delimiter=divider)))
    if {"doc_id", "grade"} <= header.keys() and header.keys() & {"query", "query_id"}:
        rows = csv.reader((text for _, text in lines), delimiter=divider)
        for number, row in enumerate(rows, first[0] + 1):
            if row:
                yield number, _row(row, header, path, number)
        return
    if not trec and len(first[1].split()) != 4:
        raise InputError(f"{path}:{first[0]}: this is no header and no judgment", hint=f"judgments are {_FORMS}")
    yield first[0], _trec(first[1], path, first[0])
    for number, text in lines:
        yield number, _trec(text, path, number)


def _header(names: Sequence[str]) -> dict[str, int]:
    """The place of each column."""
    known = {called: column for column, every in _NAMES.items() for called in every}
    return {known[name]: place for place, given in enumerate(names) if (name := given.strip().lower()) in known}


def _row(row: Sequence[str], header: Mapping[str, int], path: Path, line: int) -> dict[str, str]:
    if len(row) <= max(header.values()):
        raise InputError(f"{path}:{line}: it has {len(row)} columns; the header has {max(header.values()) + 1}")
    return {column: row[place].strip() for column, place in header.items()}


def _trec(text: str, path: Path, line: int) -> dict[str, str]:
    parts = text.split()
    if len(parts) != 4:
        raise InputError(f"{path}:{line}: it has {len(parts)} columns, not 4", hint=f"judgments are {_FORMS}")
    return {"query_id": parts[0], "doc_id": parts[2], "grade": parts[3]}


def _texts(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for line, text in _lines(path):
        name, _, query = text.partition("\t")
        if not query.strip():
            raise InputError(f"{path}:{line}: this is no `query_id`, tab, `query`")
        found[name.strip()] = query.strip()
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, by number."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with (gzip.open if packed else open)(path, "rt", encoding="utf-8-sig", newline="") as text:
            for number, line in enumerate(text, 1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path} cannot be read: {reason}") from None
