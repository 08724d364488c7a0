"""The event log in a database: its order, what it survives, and a worker that drains it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import postgres
import pytest
import sqlalchemy as sa
from filling import draining, films, held, made, settled

from knnex.engines import Engine
from knnex.ingest import Backlog, Buried, Event, open_log
from knnex.ingest.positions import MAX_SEQUENCE, split, version_of
from knnex.ingest.sql_log import SqlLog
from knnex.ingest.sql_tables import lanes, notes, of, pending, tables

FAR = 4_000_000_000_000  # milliseconds: the year 2096


@pytest.fixture
def file(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/log.sqlite"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, file: str) -> str:
    return file if request.param == "sqlite" else postgres.url()


@pytest.fixture
def log(url: str) -> Iterator[SqlLog]:
    opened = open_log(url)
    assert isinstance(opened, SqlLog)
    yield opened
    opened.close()


@pytest.fixture
def index(log: SqlLog) -> Iterator[str]:
    name = f"knnex-test-{uuid4().hex[:12]}"
    yield name
    log.forget(name)


def events(index: str, count: int, op: str = "upsert") -> list[Event]:
    return [Event(index, str(number), "update" if op == "update" else "upsert", {"n": 1}) for number in range(count)]


def move_on(log: SqlLog, index: str, milliseconds: int) -> None:
    """Leave the lane of backfills where it would be, had the clock said so when something was appended to it."""
    with log.writing() as connection:
        connection.execute(sa.update(lanes).where(of(lanes, index, 1)).values(last=milliseconds << 20))


def test_positions_grow_though_the_clock_was_set_back(log: SqlLog, index: str) -> None:
    log.append(events(index, 1))
    move_on(log, index, FAR)
    log.close()  # as a process that starts anew
    positions = [*log.append(events(index, 2)), *log.append(events(index, 1, "update")), *log.append(events(index, 1))]
    assert positions == [f"{FAR}-1", f"{FAR}-2", f"{FAR}-3u", f"{FAR}-4"]


def test_a_millisecond_has_no_more_events_than_have_a_version(log: SqlLog, index: str) -> None:
    log.append(events(index, 1))
    move_on(log, index, FAR)
    positions = [at for _ in range(2) for at in log.append(events(index, 10_000))]
    assert max(split(position)[1] for position in positions) == MAX_SEQUENCE - 1
    assert split(positions[-1])[0] == FAR + 1
    versions = [version_of(position) for position in positions]
    assert versions == sorted(set(versions))


def test_an_index_begun_anew_gives_no_position_again(log: SqlLog, index: str) -> None:
    log.append(events(index, 1))
    move_on(log, index, FAR)
    (before,) = log.append(events(index, 1))
    log.forget(index)
    (after,) = log.append(events(index, 1))
    log.settle(index, [before])  # by a worker that heard of nothing
    assert version_of(after) > version_of(before)
    assert log.backlog(index) == Backlog(1, 0, after)
    with log.writing() as connection:
        connection.execute(sa.delete(lanes).where(lanes.c.index == ""))


def test_nothing_of_an_append_that_fails_is_there(log: SqlLog, index: str) -> None:
    log.append(events(index, 1))
    bad = Event(index, "x", "upsert", {"n": object()})
    with pytest.raises(TypeError):
        log.append([*events(index, 3), bad])
    assert log.backlog(index).total == 1


def test_events_are_handed_back_for_longer_than_a_lease(log: SqlLog, index: str) -> None:
    log.append(events(index, 1))
    log.release(index, "a", log.take(index, "a", 1, 0.01), 0.01, 60)
    until = time.monotonic() + 0.1
    while time.monotonic() < until:
        assert log.take(index, "b", 1, 0.01) == []


def test_names_of_workers_that_are_gone_are_tidied_away(log: SqlLog, index: str) -> None:
    log.append(events(index, 1))
    log.take(index, f"{index}-holds", 1, 60)
    for name in ("gone", "holds", "lives"):
        log.announce(f"{index}-{name}", {}, 60 if name == "lives" else 0.001)
    while len([name for name in log.workers() if name.startswith(index)]) > 1:
        pass
    assert log.tidy() == 1
    assert log.tidy() == 0
    with log.reading() as connection:
        names = connection.scalars(
            sa.select(notes.c.key).where(notes.c.kind == "worker", notes.c.key.startswith(index))
        )
        assert sorted(names) == [f"{index}-holds", f"{index}-lives"]
    log.settle(index, log_positions(log, index))
    assert log.tidy() == 1
    log.retire(f"{index}-lives")


def log_positions(log: SqlLog, index: str) -> list[str]:
    low = log.backlog(index).low_water
    return [low] if low else []


def test_texts_that_a_database_refuses_are_mended(log: SqlLog, index: str) -> None:
    log.pause(index, "a\0b \udc80 é")
    assert log.paused(index) == "a\ufffdb ? é"
    (position,) = log.append([Event(index, "a\0b", "upsert", {"t": "x\0y"})])
    log.settle(index, [position], [Buried(position, log.take(index, "a", 1, 60)[0].event, "why\0")])
    (one,) = log.buried(index)
    assert (one.reason, one.event and one.event.document) == ("why\0", {"t": "x\0y"})


def test_many_positions_at_once_fit_into_statements(log: SqlLog, index: str) -> None:
    positions = log.append(events(index, 4000))
    taken = log.take(index, "a", 4000, 60)
    assert log.heartbeat(index, "a", positions) == set(positions)
    log.release(index, "a", taken, 60, 0)
    assert log.take(index, "b", 4000, 60) == taken
    log.settle(index, positions, [Buried(one.position, one.event, "bad") for one in taken[:2000]])
    assert len(log.find_buried(index, positions)) == 2000
    assert log.retry_buried(index, positions) == 2000
    assert log.backlog(index).total == 2000


TAKER = """
import sys, time
from knnex.ingest import open_log
log, index, consumer = open_log(sys.argv[1]), sys.argv[2], sys.argv[3]
while True:
    for one in log.take(index, consumer, 7, 0.3):
        print(one.position, flush=True)
        if one.deliveries == 2 and not int(one.event.id) % 5:
            log.settle(index, [one.position], counts={"written": 1})
"""

APPENDER = """
import sys
from knnex.ingest import Event, open_log
log, index, name = open_log(sys.argv[1]), sys.argv[2], sys.argv[3]
for batch in range(30):
    sent = [Event(index, f"{name}-{batch}-{n}", "upsert" if batch % 3 else "update", {"n": n}) for n in range(10)]
    print(*log.append(sent, "backfill" if batch % 2 else "live"), flush=True)
log.close()
"""


def run(script: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)


def test_no_event_is_lost_with_processes_that_are_killed_while_they_take(log: SqlLog, index: str) -> None:
    positions = log.append(events(index, 60))
    for round_ in range(3):
        takers = [run(TAKER, log.url, index, f"{round_}-{number}") for number in range(2)]
        for taker in takers:
            assert taker.stdout
            for _ in range(5):
                taker.stdout.readline()
        for taker in takers:
            taker.send_signal(signal.SIGKILL)
            taker.communicate()
    # A database ends what a dead client has begun as soon as it notices.
    done = log.counts(index).get("written", 0)
    assert log.backlog(index).total == len(positions) - done
    left, until = log.backlog(index).total, time.monotonic() + 60
    found: set[str] = set()
    while len(found) < left and time.monotonic() < until:
        taken = log.take(index, "last", 100, 0.3)
        found |= {one.position for one in taken}
        log.settle(index, [one.position for one in taken])
    assert len(found) == left
    assert log.backlog(index) == Backlog(0, 0, None)
    with log.reading() as connection:
        assert connection.scalar(sa.select(sa.func.count()).where(of(pending, index))) == 0


def drop_tables(url: str) -> None:
    if url.startswith("postgresql"):
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            tables.drop_all(connection)
        engine.dispose()


def test_of_many_who_begin_at_once_one_makes_the_tables(url: str) -> None:
    for round_ in range(10):
        drop_tables(url)
        place = url if url.startswith("postgresql") else f"{url}-{round_}"
        logs, barrier = [SqlLog(place) for _ in range(6)], threading.Barrier(6)

        def begin(one: SqlLog, barrier: threading.Barrier = barrier) -> tuple[str, ...]:
            barrier.wait()
            return one.indexes()

        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(begin, logs)) == [()] * 6
        for one in logs:
            one.close()


def test_processes_that_begin_at_once_share_one_order(url: str) -> None:
    """A reader meanwhile gets every event once, each lane in its order."""
    log, index = open_log(url), f"knnex-test-{uuid4().hex[:12]}"
    drop_tables(url)
    appenders = [run(APPENDER, url, index, str(number)) for number in range(3)]
    taken: list[str] = []
    until = time.monotonic() + 60
    while time.monotonic() < until and len(taken) < 900:
        batch = [one.position for one in log.take(index, "a", 16, 60)]
        taken += batch
        log.settle(index, batch)
    assert len(taken) == len(set(taken)) == 900
    for appender in appenders:
        out, _ = appender.communicate()
        assert appender.returncode == 0
        mine = out.split()
        assert len(mine) == 300
        assert mine == sorted(mine, key=version_of)
        assert set(mine) <= set(taken)
    for lane in ("live", "backfill", "updates"):
        there = [version_of(position) for position in taken if split(position)[2] == lane]
        assert there == sorted(there)
    log.forget(index)
    log.close()


def test_one_log_serves_many_threads(log: SqlLog, index: str) -> None:
    given: list[str] = []

    def work(number: int) -> None:
        for _ in range(10):
            given.extend(log.append(events(index, 2)))
            taken = [one.position for one in log.take(index, str(number), 3, 60)]
            assert log.heartbeat(index, str(number), taken) == set(taken)
            log.settle(index, taken, counts={"written": len(taken)})

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    left = log.take(index, "last", 200, 0)
    assert len(set(given)) == 160
    assert log.counts(index)["written"] + len(left) == 160


def test_a_forked_process_has_connections_of_its_own(log: SqlLog, index: str) -> None:
    log.append(events(index, 1))
    before = log.engine
    child = os.fork()
    if not child:
        code = 1
        try:
            log.append(events(index, 2))
            code = int(log.engine is before)
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    log.append(events(index, 1))
    assert log.engine is before
    assert log.backlog(index).undelivered == 4


def test_a_worker_drains_a_log_in_a_database(engine: Engine, index_name: str, tiny: Path, log: SqlLog) -> None:
    made(engine, films(index_name, str(tiny)))
    with draining(log, engine):
        sent = [Event(index_name, str(n), "upsert", {"title": f"Film {n}", "plot": "words"}) for n in range(40)]
        log.append(sent, "backfill")
        log.append([Event(index_name, "7", "update", {"title": "Seven"}), Event(index_name, "8", "delete", {})])
        until = time.monotonic() + 60
        while not settled(log, index_name) and time.monotonic() < until:
            log.wait(0.05)
    found = held(engine, index_name)
    assert found["7"]["title"] == "Seven"
    assert len(found["7"]["plot_vector"]) == len(found["9"]["plot_vector"]) > 0
    assert log.burials(index_name) == []
    assert {name for name in found if "title" in found[name]} == {str(n) for n in range(40)} - {"8"}
    log.forget(index_name)


def test_a_file_that_was_replaced_is_not_written_to_any_more(file: str, tmp_path: Path) -> None:
    log = SqlLog(file)
    log.append(events("a", 1))
    for path in tmp_path.glob("log.sqlite*"):
        path.unlink()
    log.append(events("b", 1))
    other = SqlLog(file)
    assert other.indexes() == ("b",)
    log.close()
    other.close()
