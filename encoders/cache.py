"""Vectors kept on disk by the content they stand for, shared by every process of the machine.

SQLite in WAL mode: readers never wait, writers of several processes take turns, a killed process loses at most its own
last batch. 10 000 vectors of 384 floats, two cores: 17 us to put and 4 us to get one, LMDB 35 and 1; encoding costs
thousands. A cache may lose vectors but never change one, so each is stored with a checksum.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from ..errors import SettingsError
from .base import Vectors
from .caching import Width, pack, unpack

log = logging.getLogger("knnex.encoders")

T = TypeVar("T")

_APPLICATION = 0x6B6E6E78  # "knnx": tells our files from foreign ones
_VERSION = 1
_MAGIC = b"SQLite format 3\0"
_KEYS_PER_QUERY = 500
# A vector's last use is noted to the hour, so that reading seldom writes.
_TOUCH_AFTER = 3600
_WAIT = 30.0
# SQLite's codes for a file that is damaged or is no database.
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_SCHEMA = f"""
CREATE TABLE vectors (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, used INTEGER NOT NULL, vector BLOB NOT NULL);
CREATE INDEX vectors_by_use ON vectors (used, id);
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
"""
# Connections that a forked child got from its parent: closing one there would break the parent's locks.
_inherited: list[sqlite3.Connection] = []


class VectorCache:
    """A content-addressed store of vectors; safe for several threads and processes, and bounded in size.

    Beyond `max_bytes` those go that were not used for longest. A damaged or foreign file is put aside under another
    name and a new one begun. With `dtype` float16 new vectors take half the room; what is read is float32 always, and
    a file may hold both. Raises SettingsError for a path at which no file can be made.
    """

    def __init__(self, path: Path | str, *, max_bytes: int = 4 << 30, dtype: Width = "float32") -> None:
        self.path = Path(path)
        self.max_bytes, self.dtype = max_bytes, dtype
        self.hits = 0
        self.misses = 0
        self._lock = threading.RLock()
        self._open: tuple[int, sqlite3.Connection] | None = None
        self._run(lambda connection: connection.execute("SELECT 1"))

    def __repr__(self) -> str:
        return f"VectorCache({str(self.path)!r}, hits={self.hits}, misses={self.misses})"

    def __reduce__(self) -> tuple[object, ...]:
        return partial(VectorCache, max_bytes=self.max_bytes, dtype=self.dtype), (self.path,)

    def __enter__(self) -> VectorCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return int(self._run(lambda connection: connection.execute("SELECT count(*) FROM vectors").fetchone()[0]) or 0)

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Vectors]:
        """The vectors there are among these keys, each `(dims,) float32` and read-only; never raises for a bad file."""
        with self._lock:
            found = self._run(lambda connection: _read(connection, keys)) or {}
            self.hits += len(found)
            self.misses += len(keys) - len(found)
            return found

    def put_many(self, vectors: Mapping[bytes, Vectors]) -> None:
        """Keep these vectors, each `(dims,) float32`; a disk that is full or too busy is logged, not raised."""
        now = int(time.time())
        rows = [(key, now, pack(key, vector, self.dtype)) for key, vector in vectors.items()]
        with self._lock:
            if rows:
                self._run(lambda connection: _write(connection, rows, self.max_bytes))

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            if self._open and self._open[0] == os.getpid():
                self._open[1].close()
            self._open = None

    def _run(self, action: Callable[[sqlite3.Connection], T]) -> T | None:
        """What the action gives, on a new file when this one proves damaged; None when the file cannot be used now."""
        with self._lock:
            for _ in range(2):
                try:
                    return action(self._connection())
                except sqlite3.DatabaseError as error:
                    if not _is_damage(error):
                        log.warning("The vector cache %s is not used this time: %s", self.path, error)
                        return None
                    self.close()
                    self._put_aside(str(error))
            return None

    def _connection(self) -> sqlite3.Connection:
        if self._open and self._open[0] != os.getpid():
            _inherited.append(self._open[1])
            self._open = None
        if self._open is None:
            self._open = os.getpid(), _connect(self.path)
        return self._open[1]

    def _put_aside(self, reason: str) -> None:
        """Rename the damaged file, unless another process already did."""
        with _exclusive(self.path):
            try:
                _connect(self.path, check=True).close()
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    log.warning("The vector cache %s cannot be checked now: %s", self.path, error)
                    return
                aside = self.path.with_name(f"{self.path.name}.damaged-{time.time_ns()}")
                for suffix in ("-wal", "-shm"):
                    self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
                self.path.rename(aside)
                log.warning(
                    "The vector cache %s cannot be read (%s): kept as %s, begun anew", self.path, reason, aside.name
                )


class _Unusable(sqlite3.DatabaseError):
    """A database, but damaged inside or not a vector cache."""


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    # The extended codes have the primary one in their low byte.
    return isinstance(error, _Unusable) or (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF in _DAMAGED


def _connect(path: Path, *, check: bool = False) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=_WAIT, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.OperationalError) as error:
        raise SettingsError(f"no vector cache can be kept at {path}: {error}", hint="set KNNEX_CACHE_DIR") from error
    try:
        _prepare(connection, path)
        if check and (found := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise _Unusable(found)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make sure that the file is a cache of ours, new or old."""
    with path.open("rb") as file:
        # SQLite takes a foreign file shorter than a page for an empty one, and would write over it.
        if (head := file.read(len(_MAGIC))) not in (b"", _MAGIC):
            raise _Unusable(f"it begins with {head!r}")
    connection.execute("PRAGMA page_size = 8192")
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    if owner != _APPLICATION and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
        with _exclusive(path):
            # Another process may have come first.
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript("BEGIN IMMEDIATE;" + _SCHEMA + "COMMIT;")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if (connection.execute("PRAGMA application_id").fetchone()[0], version) != (_APPLICATION, _VERSION):
        raise _Unusable(f"it is no vector cache of version {_VERSION}")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA journal_size_limit = 67108864")


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """One process at a time makes or replaces the file."""
    with path.with_name(path.name + ".lock").open("a") as file:
        with suppress(ImportError):  # where there is no flock, SQLite's own locks remain
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read(connection: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, Vectors]:
    now = int(time.time())
    found: dict[bytes, Vectors] = {}
    stale, broken = [], []
    for start in range(0, len(keys), _KEYS_PER_QUERY):
        some = keys[start : start + _KEYS_PER_QUERY]
        marks = ",".join("?" * len(some))
        for row, key, used, stored in connection.execute(
            f"SELECT id, key, used, vector FROM vectors WHERE key IN ({marks})",  # noqa: S608 - question marks only
            some,
        ):
            vector = unpack(key, stored)
            if vector is None:
                broken.append((row,))
                continue
            found[key] = vector
            if used < now - _TOUCH_AFTER:
                stale.append((now, row))
    _tidy(connection, stale, broken)
    return found


def _tidy(connection: sqlite3.Connection, stale: list[tuple[int, int]], broken: list[tuple[int]]) -> None:
    """Note what was used and drop what has a wrong checksum; left for next time while somebody else writes."""
    if broken:
        log.warning("Dropped %d vectors with a wrong checksum from the vector cache", len(broken))
    if stale or broken:
        with suppress(sqlite3.OperationalError), _transaction(connection):
            connection.executemany("UPDATE vectors SET used = ? WHERE id = ?", stale)
            connection.executemany("DELETE FROM vectors WHERE id = ?", broken)


def _write(connection: sqlite3.Connection, rows: list[tuple[bytes, int, bytes]], max_bytes: int) -> None:
    with _transaction(connection):
        connection.executemany(
            "INSERT INTO vectors (key, used, vector) VALUES (?, ?, ?)"
            " ON CONFLICT (key) DO UPDATE SET used = excluded.used, vector = excluded.vector",
            rows,
        )
        _evict(connection, max_bytes)


def _evict(connection: sqlite3.Connection, max_bytes: int) -> None:
    """Drop what was not used for longest until nine tenths of the bound remain."""
    if _bytes_used(connection) <= max_bytes:
        return
    total = connection.execute("SELECT count(*) FROM vectors").fetchone()[0]
    step = max(1, total // 20)
    while _bytes_used(connection) > max_bytes * 9 // 10:
        dropped = connection.execute(
            "DELETE FROM vectors WHERE id IN (SELECT id FROM vectors ORDER BY used, id LIMIT ?)", (step,)
        ).rowcount
        if not dropped:
            break


def _bytes_used(connection: sqlite3.Connection) -> int:
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # a full disk has rolled it back already
            connection.execute("ROLLBACK")
        raise
