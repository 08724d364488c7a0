"""Workers: real Celery processes, ended by their id in the middle of things."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from crew import Process, running
from filling import films, held, made, one_engine, own_log, settled
from homes import open_home, until
from proxy import gate
from pydantic import SecretStr

from knnex.encoders import VectorCache
from knnex.engines import Engine
from knnex.engines.embedded import EmbeddedServer, start_redis
from knnex.engines.embedded.redis import free_port
from knnex.errors import EngineUnreachable, LogUnavailable, SettingsError
from knnex.ingest import Event, RedisLog, ingest
from knnex.mappings import create, load_spec
from knnex.settings import Settings
from knnex.workers import QUEUE, TASK, Worker, make_app, ring, run_worker
from knnex.workers.run import check_pool
from knnex.workers.sweeper import Sweeper
from knnex.workers.worker import drain_safely


class Silent:
    """A doorbell that nobody hears."""

    def press(self) -> None: ...

    def waiting(self, queue: str | None = None) -> int:
        return 0


@pytest.fixture
def log(redis_url: str, index_name: str) -> Iterator[RedisLog]:
    opened = own_log(redis_url, 3)
    yield opened
    opened.forget(index_name)
    opened.close()


@pytest.fixture
def cache(tmp_path: Path) -> VectorCache:
    return VectorCache(tmp_path / "vectors.sqlite")


@pytest.fixture(scope="module")
def shared_worker(engine_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One worker for the tests that leave it alive, with a log of its own."""
    log = own_log(redis_url, 4)
    with running(engine_url, log, tmp_path_factory.mktemp("worker")) as worker:
        yield worker
        code = worker.end(signal.SIGTERM)
        assert code == 0, worker.output.read_text()
    log.close()


@pytest.mark.feature("Celery workers")
def test_a_worker_writes_what_is_sent_and_is_seen_alive(
    engine: Engine, index_name: str, minilm: str, shared_worker: Process
) -> None:
    log, spec = shared_worker.log, films(index_name, minilm)
    target = made(engine, spec)
    app = make_app(Settings(redis_url=log.url))
    documents = [{"id": n, "title": f"film {n}"} for n in range(50)]
    report = ingest(engine, spec, documents, log, ring=ring(app))
    assert (report.in_index, report.encoded, report.complete) == (50, 50, True)
    assert ingest(engine, spec, documents, log).encoded == 0
    (vector,) = target.encoders["plot_vector"].encode_documents(["film 7."])
    assert held(engine, index_name)["7"]["plot_vector"] == pytest.approx(vector.tolist(), abs=1e-3)
    shared_worker.until(lambda: any(facts["model"] for facts in log.workers().values()))
    ((name, facts),) = log.workers().items()
    assert (facts["pid"], facts["device"], facts["model"]) == (shared_worker.process.pid, "cpu", minilm)
    assert name.endswith(f"-{shared_worker.process.pid}")
    log.forget(index_name)


def test_its_output_is_lines_a_person_reads(
    engine: Engine, index_name: str, minilm: str, shared_worker: Process
) -> None:
    spec = films(index_name, minilm)
    made(engine, spec)
    ingest(
        engine, spec, [{"id": 1, "title": "x"}, {"id": 2, "title": "y", "year": "bad"}, {"id": 3}], shared_worker.log
    )
    output = shared_worker.output.read_text()
    assert "waits for documents: " in output
    assert f"{index_name}: wrote 2 of 3 documents" in output
    assert f"Buried 2 of {index_name}: " in output
    assert f"Wrote 3 of {index_name} without vector: no plot_vector: title, plot are empty" in output
    assert "superuser" not in output
    assert "[tasks]" not in output
    shared_worker.log.forget(index_name)


def test_a_killed_worker_loses_nothing(
    engine: Engine, engine_url: str, index_name: str, minilm: str, log: RedisLog, tmp_path: Path
) -> None:
    spec = films(index_name, minilm)
    made(engine, spec)
    documents = [{"id": n, "title": f"film {n} " * 9} for n in range(150)]
    reports: list[Any] = []
    producer = threading.Thread(target=lambda: reports.append(ingest(engine, spec, documents, log, patience=100)))
    producer.start()
    settings = {"LEASE": 1, "BATCH": 10}
    with running(engine_url, log, tmp_path, **settings) as worker:
        worker.until(lambda: log.counts(index_name).get("written", 0) > 0 and log.backlog(index_name).pending > 0)
        assert worker.end(signal.SIGKILL) == -signal.SIGKILL
    assert not settled(log, index_name)
    with running(engine_url, log, tmp_path, **settings) as worker:
        worker.until(lambda: settled(log, index_name))
        producer.join()
    assert [(one.in_index, one.buried, one.complete) for one in reports] == [(150, (), True)]
    assert len(held(engine, index_name)) == 150


@one_engine
def test_models_are_loaded_before_they_are_needed_and_a_redis_killed_in_the_middle_loses_nothing(
    engine: Engine, engine_url: str, index_name: str, minilm: str, tmp_path: Path
) -> None:
    spec = films(index_name, minilm)
    made(engine, spec)
    with open_home() as home:
        redis = start_redis(home=home, port=(port := free_port()), keep="redis")
        log = RedisLog(redis.url)
        log.settle(index_name, log.append([Event(index_name, "0", "upsert", {"id": 0})]))
        reports: list[Any] = []

        def documents() -> Iterator[dict[str, Any]]:
            for number in range(300):
                yield {"id": number, "title": f"film {number}"}
                sent.set() if number == 150 else None
                go.wait() if number == 150 else None

        sent, go = threading.Event(), threading.Event()
        producer = threading.Thread(target=lambda: reports.append(ingest(engine, spec, documents(), log, patience=100)))
        with running(engine_url, log, tmp_path, LEASE=1, BATCH=10) as worker:
            worker.until(lambda: any(facts["model"] == minilm for facts in log.workers().values()))
            producer.start()
            sent.wait()
            kill(redis)
            go.set()
            redis = start_redis(home=home, port=port, keep="redis")
            worker.until(lambda: bool(reports))
            producer.join()
            kill(redis)
            assert worker.end(signal.SIGTERM) == 0
            assert "Traceback" not in worker.output.read_text()
        log.close()
    assert [(one.in_index, one.buried, one.complete) for one in reports] == [(300, (), True)]
    assert len(held(engine, index_name)) == 300


def kill(server: EmbeddedServer) -> None:
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: not server.alive())


@one_engine
def test_an_index_that_cannot_be_opened_stops_no_preloading(
    engine: Engine, engine_url: str, index_name: str, minilm: str, log: RedisLog, tmp_path: Path
) -> None:
    absent = f"{index_name}-absent"
    made(engine, films(f"{index_name}", minilm))
    try:
        log.append([Event(name, "1", "upsert", {"id": 1}) for name in (absent, index_name)])
        worker = Worker(Settings(redis_url=log.url, url=engine_url, cache_dir=tmp_path))
        worker.preload()
        assert worker.facts()["model"] == minilm
        assert log.paused(absent) is None
    finally:
        log.forget(absent)


def test_the_sweeper_outlives_an_error_nobody_foresaw(
    index_name: str, log: RedisLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(Settings(redis_url=log.url), name=index_name)
    facts, failures = worker.facts, [RuntimeError("dictionary changed size during iteration")]

    def failing() -> dict[str, Any]:
        if failures:
            raise failures.pop()
        return facts()

    monkeypatch.setattr(worker, "facts", failing)
    sweeper = Sweeper(worker, Silent())
    sweeper.start()
    deadline = time.monotonic() + 60
    while index_name not in log.workers():
        assert sweeper.is_alive()
        assert time.monotonic() < deadline
    worker.stop.set()
    sweeper.join()
    assert "dictionary changed size" in caplog.text
    log.retire(index_name)


@one_engine
def test_a_worker_told_to_stop_finishes_its_batch(
    engine: Engine, engine_url: str, index_name: str, log: RedisLog, tmp_path: Path
) -> None:
    spec = load_spec({"index": index_name, "fields": {"title": {"type": "text"}}})
    engine.run(create(spec, engine.dialect, {}))
    log.append([Event(index_name, str(n), "upsert", {"id": n, "title": "x"}) for n in range(5000)])
    with running(engine_url, log, tmp_path, BATCH=1) as worker:
        worker.until(lambda: log.counts(index_name).get("written", 0) > 0)
        assert worker.end(signal.SIGTERM) == 0
        assert "has stopped" in worker.output.read_text()
    left, written = log.backlog(index_name), log.counts(index_name)["written"]
    assert (left.pending, left.undelivered) == (0, 5000 - written)
    assert worker.process.pid not in {facts["pid"] for facts in log.workers().values()}
    assert len(held(engine, index_name)) == min(written, 1000)


class Fails:
    """An index whose opening brings about an error that nobody foresaw."""

    def __init__(self, engine: Engine, error: Exception) -> None:
        self.engine, self.error = engine, error

    def get(self, _: str) -> Any:
        raise self.error


@pytest.mark.parametrize("error", [MemoryError("no more"), RuntimeError("a bug"), LogUnavailable("gone")], ids=type)
def test_no_error_ends_the_process_and_the_events_stay(
    engine: Engine, index_name: str, log: RedisLog, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    log.append([Event(index_name, "1", "upsert", {"id": 1})])
    worker = Worker(Settings(redis_url=log.url))
    worker.__dict__["targets"] = Fails(engine, error)
    drain_safely(worker)
    assert str(error) in caplog.text
    assert log.backlog(index_name).pending == 1
    drain_safely(worker)  # the lock is free again


def test_a_doorbell_says_nothing(redis_url: str) -> None:
    log = own_log(redis_url, 5)
    ring(make_app(Settings(redis_url=log.url)))()
    (message,) = log.redis.lrange(QUEUE, 0, -1)
    log.redis.delete(QUEUE)
    log.close()
    body = orjson.loads(message)
    assert body["headers"]["task"] == TASK
    assert (body["content-type"], body["headers"]["argsrepr"], body["headers"]["kwargsrepr"]) == (
        "application/json",
        "()",
        "{}",
    )
    assert body["headers"]["ignore_result"] is True


def test_a_doorbell_that_nobody_hears_says_so() -> None:
    with pytest.raises(LogUnavailable, match="no doorbell"):
        ring(make_app(Settings(redis_url="redis://127.0.0.1:1/0")))()


def test_a_worker_does_not_start_without_its_servers(redis_url: str, fresh_settings: pytest.MonkeyPatch) -> None:
    fresh_settings.setenv("KNNEX_START_WAIT", "0")
    with pytest.raises(LogUnavailable, match="no answer from Redis"):
        run_worker("http://127.0.0.1:1", "redis://127.0.0.1:1/0")
    with pytest.raises(EngineUnreachable, match=r"no answer from http://127\.0\.0\.1:1"):
        run_worker("http://127.0.0.1:1", redis_url)


def test_a_worker_that_starts_before_its_servers_waits_for_them(
    engine_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As all of a machine's services start at once, and the engine is the slowest."""
    redis_port, engine_port = free_port(), free_port()
    ours = Settings(
        url=f"http://127.0.0.1:{engine_port}", redis_url=f"redis://127.0.0.1:{redis_port}/0", start_wait=300
    )
    worker = Worker(ours)
    began = threading.Thread(target=worker.begin, daemon=True)
    began.start()
    until(lambda: "no answer from Redis" in caplog.text)
    with open_home() as home, start_redis(home=home, port=redis_port):
        until(lambda: f"no answer from {ours.url}" in caplog.text)
        with gate(engine_url, port=engine_port):
            began.join(60)
            assert not began.is_alive()
            assert worker.engine.dialect
    waits = [record for record in caplog.records if getattr(record, "action", "") == "start_waits"]
    assert len(waits) == 2, "each is told once"
    assert all("asked again for" in record.message for record in waits)


def test_a_worker_that_waits_for_its_servers_can_be_stopped(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    worker, ended = Worker(Settings(url="http://127.0.0.1:1", redis_url=redis_url, start_wait=300)), threading.Event()

    def begin() -> None:
        with pytest.raises(EngineUnreachable):
            worker.begin()
        ended.set()

    threading.Thread(target=begin, daemon=True).start()
    until(lambda: "asked again for" in caplog.text)
    worker.stop.set()
    assert ended.wait(30)


def test_a_log_that_could_lose_events_is_not_waited_for() -> None:
    worker = Worker(Settings(log_url=SecretStr("sqlite:///:memory:"), start_wait=300))
    with pytest.raises(LogUnavailable, match="would lose its events"):
        worker.begin()


def test_a_pool_that_cannot_work_is_refused() -> None:
    with pytest.raises(SettingsError, match="there is no pool 'gevent'"):
        check_pool("gevent", Settings())
    with pytest.raises(SettingsError, match="CUDA does not survive the fork"):
        check_pool("prefork", Settings(device="cuda:0"))
    check_pool("prefork", Settings(device="cpu"))
    check_pool("threads", Settings(device="cuda"))
