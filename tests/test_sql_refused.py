"""The event log in a database: where it is refused, and what is said of a database that cannot be used."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import postgres
import pytest
import sqlalchemy as sa

from knnex.errors import LogUnavailable
from knnex.ingest import Event, open_log
from knnex.ingest.sql_log import SqlLog
from knnex.ingest.sql_tables import notes

EVENT = Event("a", "1", "upsert", {"n": 1})


@pytest.fixture
def file(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/log.sqlite"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, file: str) -> str:
    return file if request.param == "sqlite" else postgres.url()


def test_a_log_without_a_file_is_refused() -> None:
    for url in ("sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"):
        with pytest.raises(LogUnavailable, match="in memory would lose its events") as caught:
            open_log(url).check()
        assert "sqlite:////PATH/log.sqlite" in str(caught.value.hint)


def test_a_file_that_is_not_synced_is_refused(file: str) -> None:
    log = SqlLog(file)
    assert log.check() == ()

    @sa.event.listens_for(log.engine, "connect")
    def hasty(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    log.engine.dispose()
    with pytest.raises(LogUnavailable, match="a power failure would lose events"):
        log.check()
    log.close()


def test_a_file_that_somebody_keeps_locked_is_told(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = SqlLog(file)
    log.append([EVENT])
    log.close()
    monkeypatch.setattr("knnex.ingest.sql_link._BUSY", 0.05)
    other = sqlite3.connect(tmp_path / "log.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LogUnavailable, match="was kept busy by somebody else"):
        log.append([EVENT])
    other.execute("ROLLBACK")
    other.close()
    log.append([EVENT])
    log.close()


def test_a_newer_schema_is_left_alone(url: str) -> None:
    log = SqlLog(url)
    log.check()
    query = sa.update(notes).where(notes.c.kind == "schema")
    with log.writing() as connection:
        connection.execute(query.values(number=2))
    other = SqlLog(url)
    with pytest.raises(LogUnavailable, match="has schema 2; this knnex knows 1"):
        other.now()
    with log.writing() as connection:
        connection.execute(query.values(number=1))
    assert other.now() > 1_700_000_000_000
    other.close()
    log.close()


def test_an_unsafe_postgresql_is_refused_with_the_fix(tmp_path: Path) -> None:
    with postgres.postgres(tmp_path, fsync="off") as url:
        log = SqlLog(url)
        with pytest.raises(LogUnavailable, match="has `fsync = off`") as caught:
            log.check()
        assert "fsync = on" in str(caught.value.hint)
        administrator = sa.create_engine(url, isolation_level="AUTOCOMMIT")
        with administrator.connect() as connection:
            connection.exec_driver_sql("ALTER SYSTEM SET fsync = on")
            connection.exec_driver_sql("SELECT pg_reload_conf()")
        administrator.dispose()
        log.close()


@pytest.mark.parametrize(
    ("change", "back", "reason"),
    [
        (
            "ALTER ROLE knnex SET synchronous_commit = off",
            "ALTER ROLE knnex RESET synchronous_commit",
            "has `synchronous_commit = off`",
        ),
        (
            "ALTER TABLE knnex_events SET UNLOGGED",
            "ALTER TABLE knnex_events SET LOGGED",
            r"tables that a crash empties: knnex_events \(UNLOGGED",
        ),
        (
            "ALTER ROLE knnex SET default_transaction_read_only = on",
            "ALTER ROLE knnex RESET default_transaction_read_only",
            "takes no changes",
        ),
    ],
)
def test_settings_that_could_lose_events_are_refused(change: str, back: str, reason: str) -> None:
    log = SqlLog(postgres.url())
    assert log.check() == ()
    administrator = sa.create_engine(postgres.url(), isolation_level="AUTOCOMMIT")
    with administrator.connect() as connection:
        connection.exec_driver_sql("SET default_transaction_read_only = off")
        connection.exec_driver_sql(change)
        log.close()
        try:
            with pytest.raises(LogUnavailable, match=reason):
                log.check()
        finally:
            log.close()
            connection.exec_driver_sql(back)
    administrator.dispose()
    assert log.check() == ()
    log.close()


def test_bad_credentials_are_told_without_showing_them() -> None:
    log = SqlLog(postgres.url().replace(postgres.PASSWORD, "other-%2Fword"))
    with pytest.raises(LogUnavailable, match="refused the credentials") as caught:
        log.check()
    told = f"{caught.value} {caught.value.hint} {log!r} {log.address}"
    assert "other-" not in told
    assert "/word" not in told
    log.close()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql+psycopg://nobody:secret-word@127.0.0.1:1/none", "no answer from the database"),
        ("postgresql+none://nobody:secret-word@127.0.0.1/none", "is no URL of a database"),
        ("postgresql://nobody:secret-word@127.0.0.1:port/none", "is no URL of a database"),
        ("sqlite:////nowhere/at/all/log.sqlite", "cannot be used: unable to open database file"),
    ],
)
def test_a_wrong_url_is_told(url: str, reason: str) -> None:
    log = SqlLog(url)
    with pytest.raises(LogUnavailable, match=reason) as caught:
        log.check()
    assert "KNNEX_LOG_URL" in str(caught.value.hint)
    assert "secret-word" not in f"{caught.value} {log!r}"
    log.close()


def test_a_database_that_is_not_there_is_told() -> None:
    log = SqlLog(f"{postgres.url()}-none")
    with pytest.raises(LogUnavailable, match='database "postgres-none" does not exist') as caught:
        log.check()
    assert "create the database" in str(caught.value.hint)
    log.close()


def test_a_file_of_something_else_is_told(tmp_path: Path) -> None:
    (tmp_path / "log.sqlite").write_text("this is no database " * 100)
    log = SqlLog(f"sqlite:///{tmp_path}/log.sqlite")
    with pytest.raises(LogUnavailable, match="cannot be read: file is not a database"):
        log.check()
    log.close()


def test_connections_that_were_cut_are_replaced() -> None:
    log = SqlLog(postgres.url())
    log.check()
    administrator = sa.create_engine(postgres.url())
    with administrator.begin() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
    administrator.dispose()
    assert log.now() > 0
    log.close()


@pytest.mark.parametrize(("missing", "url"), [("sqlalchemy", "sqlite:////x/y"), ("psycopg", "postgresql://h/d")])
def test_a_missing_package_is_told(missing: str, url: str) -> None:
    script = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from knnex.errors import LogUnavailable\n"
        "from knnex.ingest import open_log\n"
        "try:\n"
        f"    open_log({url!r}).check()\n"
        "except LogUnavailable as error:\n"
        "    print(error, error.hint)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert missing in done.stdout
    assert "pip install 'knnex[sql]'" in done.stdout
