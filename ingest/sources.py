"""Where documents come from: files, directories of files, standard input, or anything that can be iterated over."""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

from ..errors import InputError
from ..mappings import Spec
from .directories import Inside, files_in, open_inside
from .events import Origin, Refused
from .read_packed import check_packed
from .read_parquet import parquet_rows
from .readers import KNOWN, Found, Kind, documents_in, kind_of, ndjson_documents

log = logging.getLogger(__name__)

# So much of a file's beginning tells it from another one.
_HEAD = 1 << 16
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Identity:
    """Which file it is, whatever its name: where a producer stops, it goes on only in the same file."""

    path: str
    digest: str


@dataclass(frozen=True)
class Part:
    """A piece of the input: `documents` opens it. Without an identity it can be read once, and not continued."""

    name: str
    documents: Callable[[], Iterator[Any]]
    identity: Callable[[], Identity | None] = lambda: None


@dataclass(frozen=True, slots=True)
class WholeFile(Origin):
    """A file of which nothing was read."""

    def __str__(self) -> str:
        return self.source


@dataclass(frozen=True)
class File:
    """A file to read; `root` is the directory it must not lead out of, and `path` then its place in there."""

    path: str
    kind: Kind
    root: str | None = None
    # Counts up where the same file is read again.
    turn: int = 0

    @property
    def whole(self) -> Path:
        """Its path from the root of all."""
        return Path(self.root or "", self.path).resolve()

    @property
    def name(self) -> str:
        """Its path, for messages."""
        return shown(self.path if self.root is None else str(Path(self.root, self.path)))

    def open(self) -> IO[bytes]:
        """The bytes of the file as they lie there. Raises OSError."""
        if self.root is not None:
            return os.fdopen(open_inside(self.root, self.path), "rb")
        return Path(self.path).open("rb")

    def documents(self, spec: Spec) -> Iterator[Found]:
        """Its documents, each with its origin."""
        try:
            file = self.open()
        except OSError as error:
            yield Refused(WholeFile(self.name, 0), "", f"cannot be read: {error.strerror or error}")
            return
        with file:
            yield from documents_in(file, self.kind, self.name, spec)

    def identity(self) -> Identity | None:
        """Path, size, time of change and beginning; None for what is no regular file, such as a pipe."""
        try:
            if not stat.S_ISREG(self.whole.stat().st_mode):
                return None
            with self.open() as file:
                found, head = os.fstat(file.fileno()), file.read(_HEAD)
        except OSError:  # told when it is read
            return None
        path = shown(str(self.whole))
        facts = (path, self.turn, found.st_size, found.st_mtime_ns, hashlib.sha256(head).hexdigest())
        return Identity(path, hashlib.sha256(repr(facts).encode()).hexdigest()[:16])


class Files:
    """The documents of files, in the order given; can be read again, but for pipes."""

    def __init__(self, entries: Sequence[File | Refused], spec: Spec, total: int | None) -> None:
        self.entries, self.spec, self.total = entries, spec, total

    def __iter__(self) -> Iterator[Found]:
        for part in self.parts():
            yield from part.documents()

    def parts(self) -> Iterator[Part]:
        """File by file."""
        for entry in self.entries:
            if isinstance(entry, Refused):
                yield Part("", partial(iter, [entry]))
            elif entry.path == "-":
                yield Part("", lambda: ndjson_documents(sys.stdin.buffer, "standard input", self.spec))
            else:
                yield Part(entry.name, partial(entry.documents, self.spec), entry.identity)


def parts_of(documents: Iterable[Any]) -> Iterable[Part]:
    """The pieces of an input: of files each file, of all else the whole."""
    return documents.parts() if isinstance(documents, Files) else [Part("", partial(iter, documents))]


def length_of(documents: Iterable[Any]) -> int | None:
    """How many documents there are, where that is known."""
    if isinstance(documents, Files):
        return documents.total
    return len(documents) if isinstance(documents, Sized) else None


def read_files(paths: Iterable[str | os.PathLike[str]], spec: Spec) -> Files:
    """The documents of files and directories, each with its origin, in the order given; `-` is NDJSON on stdin.

    Of a directory all files of a known kind are read, those of its directories too, sorted by name; hidden ones are
    left out, others named in a warning. What leads out of it, or is no file, is refused.

    Every file that is named is tried before the first document is read. Raises InputError for one that is missing,
    unreadable, or of an unknown kind.
    """
    entries: list[File | Refused] = []
    total: int | None = 0
    for path in (os.fspath(one) for one in paths):
        if Path(path).is_dir():
            entries += _directory(path)
            total = None
            continue
        entry = File(path, Kind(".ndjson") if path == "-" else _kind(path))
        rows = None if path == "-" else _try(entry)
        total = None if total is None or rows is None else total + rows
        entries.append(entry)
    return Files(list(_in_turn(entries)), spec, total)


def _in_turn(entries: Iterable[File | Refused]) -> Iterator[File | Refused]:
    """The same file, read again, is told from the first time."""
    turns: Counter[Path] = Counter()
    for entry in entries:
        if isinstance(entry, Refused):
            yield entry
        else:
            yield replace(entry, turn=turns[entry.whole])
            turns[entry.whole] += 1


def shown(path: str) -> str:
    """A path as text that a terminal obeys in nothing, and that has a form in UTF-8."""
    return path if path.isprintable() else "".join(one if one.isprintable() else ascii(one)[1:-1] for one in path)


def _kind(path: str) -> Kind:
    kind = kind_of(path)
    if kind is None:
        suffixes = "".join(Path(path).suffixes)
        raise InputError(
            f"{shown(path)}: no reader for {suffixes or 'a name without suffix'!r}",
            hint=f"name the file {KNOWN}, a text one also with .gz, .bz2, .xz or .zst; or pipe NDJSON into `-`",
        )
    return kind


def _try(entry: File) -> int | None:
    """Open a file as far as that goes; how many documents it has, where it says so."""
    check_packed(entry.name, entry.kind.packing)
    try:
        if not stat.S_ISREG(Path(entry.path).stat().st_mode):
            return None  # what is read of a pipe is gone
        with entry.open() as file:
            file.read(1)
            file.seek(0)
            return parquet_rows(file, entry.name) if entry.kind.name == ".parquet" else None
    except OSError as error:
        raise InputError(f"cannot read {entry.name}: {error.strerror}", hint="check its name and permissions") from None


def _directory(root: str) -> list[File | Refused]:
    entries: list[File | Refused] = []
    unknown: list[str] = []
    for found in files_in(root):
        kind = kind_of(found.path)
        if found.problem:
            entries.append(Refused(WholeFile(_name(root, found), 0), "", found.problem))
        elif kind is None:
            unknown.append(_name(root, found))
        else:
            check_packed(_name(root, found), kind.packing)
            entries.append(File(found.path, kind, root))
    if unknown:
        more = f" and {len(unknown) - _NAMED:,} more" if len(unknown) > _NAMED else ""
        log.warning(
            "Left out, of no known kind: %s%s", ", ".join(unknown[:_NAMED]), more, extra={"action": "files_left_out"}
        )
    if not any(isinstance(entry, File) for entry in entries):
        raise InputError(f"{shown(root)}: no file of a known kind in this directory", hint=f"there may be {KNOWN}")
    return entries


def _name(root: str, found: Inside) -> str:
    return shown(str(Path(root, found.path)))
