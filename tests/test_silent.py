"""Workers that fall silent with events in their hands: others make ready for these in good time, one of them for all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import postgres
import pytest
from filling import films, held, made, one_engine, own_log

from knnex.engines import Engine
from knnex.ingest import Delivered, Event, EventLog, RedisLog, open_log
from knnex.settings import Settings
from knnex.workers import Worker

LEASE, LONG = 4.0, 600.0


@pytest.fixture
def log(redis_url: str, index_name: str) -> Iterator[RedisLog]:
    opened = own_log(redis_url, 14)
    opened.redis.flushdb()
    yield opened
    opened.forget(index_name)
    opened.close()


@pytest.fixture
def worker(engine_url: str, log: RedisLog, tmp_path: Path) -> Iterator[Worker]:
    settings = Settings(url=engine_url, redis_url=log.url, home=tmp_path, cache_dir=tmp_path, lease=LEASE)
    made = Worker(settings)
    yield made
    made.quarantine.close()


def awaited(state: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not state():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def put(log: EventLog, index: str, *ids: str) -> None:
    log.append([Event(index, id_, "upsert", {"id": id_, "title": f"film {id_}"}) for id_ in ids])


@pytest.mark.parametrize("kind", ["redis", "sqlite", "postgresql"])
def test_a_worker_is_silent_until_it_is_heard_of_and_not_where_it_handed_back(
    kind: str, redis_url: str, tmp_path: Path
) -> None:
    urls = {"redis": own_log(redis_url, 14).url, "sqlite": f"sqlite:///{tmp_path}/log.sqlite"}
    log, index = open_log(urls.get(kind) or postgres.url()), f"knnex-test-{uuid4().hex[:12]}"
    assert not log.silent(index, 0)
    put(log, index, "1", "2")
    assert not log.silent(index, 0)
    taken = log.take(index, "a", 2, 60)
    assert not log.silent(index, 30)
    awaited(lambda: log.silent(index, 0.05))
    assert log.silent(index, 0.05, "live")
    assert not log.silent(index, 0.05, "backfill")
    log.heartbeat(index, "a", [one.position for one in taken])
    assert not log.silent(index, 30)
    log.release(index, "a", taken, 60, 0.0)
    assert not log.silent(index, 0)
    log.forget(index)
    log.close()


@one_engine
def test_what_a_silent_worker_had_is_tried_as_soon_as_its_lease_is_over(
    engine: Engine, index_name: str, minilm: str, log: RedisLog, worker: Worker
) -> None:
    made(engine, films(index_name, minilm))
    put(log, index_name, "1", "2", "3")
    worker.targets.get(index_name)
    assert len(log.take(index_name, "dead", 3, LEASE)) == 3
    assert worker.silent() == []
    awaited(lambda: worker.silent() == [index_name])
    worker.drain()
    assert worker.quarantine.pid, "no process was started before the lease was over"
    assert log.backlog(index_name).pending == 3
    awaited(lambda: worker.drain() or not log.backlog(index_name).total)
    assert set(held(engine, index_name)) == {"1", "2", "3"}


@one_engine
def test_a_process_that_was_started_serves_whoever_opened_the_same_index(
    engine: Engine, index_name: str, minilm: str, worker: Worker
) -> None:
    made(engine, films(index_name, minilm))
    first = worker.targets.get(index_name)
    worker.quarantine.warm(first)
    started = worker.quarantine.pid
    awaited(lambda: worker.quarantine.open(replace(first), 1.0) == "ready")
    assert worker.quarantine.pid == started


@one_engine
def test_where_another_process_makes_ready_this_one_leaves_it_the_events_but_not_new_ones(
    engine: Engine, index_name: str, minilm: str, log: RedisLog, worker: Worker
) -> None:
    made(engine, films(index_name, minilm))
    put(log, index_name, "1")
    log.take(index_name, "dead", 1, LEASE)
    log.hold(f"suspects:{index_name}", "another", 60)
    awaited(lambda: log.silent(index_name, LEASE))
    worker.drain()
    assert worker.quarantine.pid is None
    assert log.backlog(index_name).pending == 1
    put(log, index_name, "2")
    awaited(lambda: worker.drain() or not log.backlog(index_name).total)
    assert set(held(engine, index_name)) == {"1", "2"}


def silenced(log: EventLog, index: str, taken: list[Delivered], seconds: float) -> None:
    """As if the worker that took these had not been heard of for so long."""
    log.release(index, "dead", [replace(one, deliveries=2) for one in taken], LONG, LONG - seconds)


@one_engine
@pytest.mark.parametrize("kind", ["redis", "sqlite"])
def test_who_is_ready_for_the_events_of_a_silent_worker_comes_first_and_then_anybody(
    engine: Engine, engine_url: str, kind: str, index_name: str, minilm: str, log: RedisLog, tmp_path: Path
) -> None:
    made(engine, films(index_name, minilm))
    url = {"redis": log.url, "sqlite": f"sqlite:///{tmp_path}/log.sqlite"}[kind]
    worker = Worker(Settings(url=engine_url, log_url=url, home=tmp_path, cache_dir=tmp_path, lease=LONG))
    theirs = worker.log
    put(theirs, index_name, "1")
    taken = theirs.take(index_name, "dead", 1, LONG)
    silenced(theirs, index_name, taken, 1.2 * LONG)
    theirs.hold(f"suspects:{index_name}", "another", 10 * LONG)
    put(theirs, index_name, "2")
    worker.drain()
    assert set(held(engine, index_name)) == {"2"}
    assert worker.quarantine.pid is None
    silenced(theirs, index_name, taken, 1.6 * LONG)
    awaited(lambda: worker.drain() or not theirs.backlog(index_name).total)
    assert set(held(engine, index_name)) == {"1", "2"}
    worker.quarantine.close()
    theirs.close()


@one_engine
def test_an_index_that_is_left_alone_is_not_listened_to(index_name: str, log: RedisLog, worker: Worker) -> None:
    put(log, index_name, "1")
    log.take(index_name, "dead", 1, LEASE)
    awaited(lambda: log.silent(index_name, LEASE / 2))
    assert worker.silent() == [index_name]
    log.pause(index_name, "by hand", "live")
    assert worker.silent() == []
    log.pause(index_name, None, "live")
    log.pause(index_name, "by hand")
    assert worker.silent() == []
