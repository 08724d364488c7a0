"""The connection to a database: opened when needed, checked for durability, its errors turned into ours."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from ..errors import LogUnavailable, LogUnreachable
from .sql_tables import SCHEMA, make_tables, tables

# Seconds for which one who writes waits for another.
_BUSY = 30
# For the connections to PostgreSQL: a network that goes dark is noticed in half a minute.
_CONNECT = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    # Poolers give each transaction another session, which does not know what was prepared in the last one.
    "prepare_threshold": None,
}
# Of one transaction: nobody is waited for without end, not even for one whose machine has vanished.
_LIMITS = (
    f"SELECT set_config('lock_timeout', '{_BUSY}s', true),"
    " set_config('idle_in_transaction_session_timeout', '60s', true)"
)
# Of SQLite's `synchronous`: an acknowledged transaction survives a power failure.
_FULL = 2
_LOOSE = sa.text(
    "SELECT relname FROM pg_class WHERE relname = ANY(:names) AND pg_table_is_visible(oid) AND relpersistence <> 'p'"
    " ORDER BY relname"
)
_CLOCK = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)"
_READING = "knnex_reading"


class SqlLink:
    """A database by its URL: `sqlite:////PATH/FILE` or `postgresql+psycopg://USER:PASSWORD@HOST/DATABASE`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._opening = threading.Lock()
        self._engine: sa.Engine | None = None
        self._pid = 0
        # Connections of the process that this one was forked from: never to be used, nor closed, here.
        self._inherited: list[sa.Engine] = []

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r})"

    @property
    def address(self) -> str:
        """Where it is, for messages: the URL without credentials."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def engine(self) -> sa.Engine:
        """The engine of SQLAlchemy, one for each process."""
        with self._opening:
            if self._engine is None or self._pid != os.getpid():
                if self._engine is not None:
                    self._inherited.append(self._engine)
                self._engine, self._pid = self._open(), os.getpid()
            return self._engine

    def _open(self) -> sa.Engine:
        try:
            return _opened(self.url)
        except (exc.ArgumentError, exc.NoSuchModuleError, ValueError) as error:
            raise LogUnavailable(
                f"{self.address!r} is no URL of a database: {self._told(error)}",
                hint="write sqlite:////PATH/log.sqlite or postgresql+psycopg://HOST/DATABASE in KNNEX_LOG_URL",
            ) from None
        except ImportError as error:
            raise LogUnavailable(
                f"the database {self.address} needs a package that is missing: {error.name or error}",
                hint="pip install 'knnex[sql]'",
            ) from None

    def close(self) -> None:
        """Close the connections."""
        with self._opening:
            if self._engine is not None and self._pid == os.getpid():
                self._engine.dispose()
                self._engine = None

    def now(self) -> int:
        """The clock of the database, in milliseconds; for a file, that of this machine."""
        with self.reading() as connection:
            return clock(connection)

    def check(self) -> tuple[str, ...]:
        """Refuse a database that takes no changes, or forgets those that it has acknowledged."""
        with self.writing() as connection:
            dangers = _dangers_of_sqlite if connection.dialect.name == "sqlite" else _dangers_of_postgresql
            found = list(dangers(connection))
        for reason, way_out in found:
            raise LogUnavailable(f"the database {self.address} {reason}", hint=way_out)
        return ()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that changes nothing and waits for nobody."""
        with self._connected() as connection, connection.execution_options(**{_READING: True}).begin():
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction: all of it is done and durable afterwards, or nothing."""
        with self._connected() as connection, connection.begin():
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql(_LIMITS)
            yield connection

    @contextmanager
    def _connected(self) -> Iterator[sa.Connection]:
        """A connection to a database that has the tables; asked once for each connection, as it may be a new one."""
        with self.talking(), self.engine.connect() as connection:
            if "knnex" not in connection.info:
                with connection.begin():
                    found = make_tables(connection)
                if found > SCHEMA:
                    raise LogUnavailable(
                        f"the log in {self.address} has schema {found}; this knnex knows {SCHEMA}",
                        hint="a newer knnex made it: update this one",
                    )
                connection.info["knnex"] = True
            yield connection

    @contextmanager
    def talking(self) -> Iterator[None]:
        """The gate through which errors of SQLAlchemy and of drivers become ours."""
        try:
            yield
        except (exc.SQLAlchemyError, sqlite3.Error) as error:  # the latter while a connection is prepared
            origin = getattr(error, "orig", None) or error
            told, state = self._told(origin), getattr(origin, "sqlstate", None) or ""
            found = next((found for known, *found in _KNOWN if any(one in told or one == state for one in known)), None)
            reason, way_out = found or ("{}: {told}", None)
            # What no row knows of a connection is that there is none: libpq names neither code nor kind.
            kind = LogUnavailable if found or not isinstance(error, exc.OperationalError) else LogUnreachable
            raise kind(reason.format(f"the database {self.address}", told=told), hint=way_out) from None

    def _told(self, error: BaseException) -> str:
        """What an error says, in one line and without the password."""
        text = " ".join(str(error).split())[:500]
        secret = urlsplit(self.url).password
        for word in {secret, unquote(secret)} if secret else ():
            text = text.replace(word, "***")
        return text


def clock(connection: sa.Connection) -> int:
    """The time in milliseconds: the server's, and of a file that of this machine."""
    if connection.dialect.name == "sqlite":
        return time.time_ns() // 1_000_000
    return int(connection.exec_driver_sql(_CLOCK).scalar_one())


def _opened(text: str) -> sa.Engine:
    url = make_url(text)
    if url.get_backend_name() == "sqlite":
        return _sqlite(url)
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    arguments = {name: value for name, value in _CONNECT.items() if name not in url.query}
    # Whoever waited for a lock has to see what its holder did.
    return sa.create_engine(
        url, connect_args=arguments, pool_pre_ping=True, max_overflow=20, isolation_level="READ COMMITTED"
    )


def _sqlite(url: sa.URL) -> sa.Engine:
    if not url.database or url.database.startswith((":", "file:")):
        raise LogUnavailable(
            "a SQLite log needs a file; one in memory would lose its events",
            hint="write sqlite:////PATH/log.sqlite in KNNEX_LOG_URL",
        )
    path = Path(url.database)
    engine = sa.create_engine(url, connect_args={"timeout": _BUSY}, poolclass=sa.QueuePool, max_overflow=20)

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, record: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # transactions begin below
        _write_ahead(connection)
        connection.execute("PRAGMA synchronous = FULL")
        record.info["file"] = _identity(path)

    @event.listens_for(engine, "checkout")
    def _same_file(_connection: DBAPIConnection, record: ConnectionPoolEntry, _proxy: Any) -> None:
        # What is written to a file that was deleted or replaced is acknowledged, and lost.
        if record.info["file"] != _identity(path):
            raise exc.DisconnectionError

    @event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # One who reads first and writes then would be refused where somebody else wrote in between.
        reads = connection.get_execution_options().get(_READING)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Let readers and a writer work at once; where two ask for it in one moment, SQLite refuses one at once."""
    until = time.monotonic() + _BUSY
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.01)


def _dangers_of_sqlite(connection: sa.Connection) -> Iterator[tuple[str, str]]:
    mode = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
    if mode in ("off", "memory"):
        yield f"has journal_mode {mode}, and a crash would lose events", "use a file on a disk of this machine"
    level = int(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())
    if level < _FULL:
        yield f"has synchronous {level}, and a power failure would lose events", "leave `PRAGMA synchronous` at FULL"


def _dangers_of_postgresql(connection: sa.Connection) -> Iterator[tuple[str, str]]:
    def show(name: str) -> str:
        return str(connection.exec_driver_sql(f"SHOW {name}").scalar_one())

    if show("transaction_read_only") == "on":
        yield "takes no changes", "name the primary server, and a role that may write, in KNNEX_LOG_URL"
    for name in ("fsync", "synchronous_commit"):
        if show(name) == "off":
            yield f"has `{name} = off`, and a crash would lose events", f"set `{name} = on`, in postgresql.conf"
    loose = connection.execute(_LOOSE, {"names": list(tables.tables)}).scalars().all()
    if loose:
        yield (
            f"has tables that a crash empties: {', '.join(loose)} (UNLOGGED or TEMPORARY)",
            f"ALTER TABLE {loose[0]} SET LOGGED",
        )


# Words or SQLSTATEs of an error, what is said of it, and the way out.
_KNOWN: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (
        ("password authentication failed", "no password supplied", "no pg_hba.conf entry", "28P01", "28000"),
        "{} refused the credentials: {told}",
        "put them into KNNEX_LOG_URL: postgresql+psycopg://USER:PASSWORD@HOST/DATABASE",
    ),
    (
        ("3D000", '" does not exist'),
        "{} is not there: {told}",
        "create the database and the role, or correct KNNEX_LOG_URL",
    ),
    (
        ("unable to open database file", "readonly database", "permission denied", "42501"),
        "{} cannot be used: {told}",
        "its directory must be there, and yours to write; see KNNEX_LOG_URL",
    ),
    (
        ("database is locked", "55P03", "lock timeout"),
        f"{{}} was kept busy by somebody else for {_BUSY} s: {{told}}",
        "see who holds a transaction open",
    ),
    (("disk is full", "53100"), "{} is full: {told}", "make room on its disk"),
    (("not a database", "malformed"), "{} cannot be read: {told}", "correct KNNEX_LOG_URL, or restore the file"),
    (
        ("25006", "57P03"),
        "{} does not take changes now: {told}",
        "name the primary server in KNNEX_LOG_URL",
    ),
    (
        ("connection", "timeout", "server closed", "08006", "08001", "57P01"),
        "no answer from {}: {told}",
        "check KNNEX_LOG_URL and that the server runs",
    ),
)
