"""Workers: real Celery processes, ended by their id in the middle of things."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from filling import draining, films, held, made, own_log, settled
from knnex.encoders import VectorCache
from knnex.engines import Engine, Request, path_of
from knnex.errors import EngineUnreachable, IngestIncomplete, LogUnavailable, SettingsError
from knnex.ingest import Event, Patience, RedisLog, ingest
from knnex.mappings import Resolved, Spec, create, drop, load_spec
from knnex.settings import Settings
from knnex.workers import QUEUE, TASK, Targets, Worker, drain, make_app, ring, run_worker
from knnex.workers.app import drain_safely
from knnex.workers.run import check_pool

WORKER = "import sys; from knnex.workers import run_worker; sys.exit(run_worker())"


class Process:
    """A worker as a process of its own."""

    def __init__(self, engine_url: str, log: RedisLog, home: Path, **settings: Any) -> None:
        self.log = log
        self.output = home / f"worker-{uuid4().hex[:6]}.log"
        environment = {"URL": engine_url, "REDIS_URL": log.url, "HOME": home, "CACHE_DIR": home, **settings}
        ours = {f"KNNEX_{key}": str(value) for key, value in environment.items()}
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-c", WORKER], env={**os.environ, **ours}, stdout=file, stderr=file
            )

    def ready(self) -> Process:
        self.until(lambda: any(facts["pid"] == self.process.pid for facts in self.log.workers().values()))
        return self

    def until(self, state: Callable[[], bool], seconds: float = 120) -> None:
        """Await a state of the world, as long as the worker lives."""
        deadline = time.monotonic() + seconds
        while not state():
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.01)

    def end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        return self.process.wait(60)


@contextmanager
def running(*args: Any, **settings: Any) -> Iterator[Process]:
    worker = Process(*args, **settings)
    try:
        yield worker.ready()
    finally:
        if worker.process.poll() is None:
            worker.end(signal.SIGKILL)


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
    assert log.workers() == {}
    assert len(held(engine, index_name)) == min(written, 1000)


DRAIN_ON_ONE_TEXT_IT_DIES = """
import os, signal, sys
import numpy as np
from knnex.engines import Access, open_engine
from knnex.ingest import RedisLog, Target
from knnex.mappings import load
from knnex.workers import drain

class Encoder:
    name, revision, identity, dims, max_tokens = "dying", "1", "dying", 4, 100
    def encode_documents(self, texts):
        if "KILL" in " ".join(texts):
            os.kill(os.getpid(), signal.SIGKILL)
        return np.ones((len(texts), 4), dtype=np.float32)

class Targets:
    def __init__(self, engine):
        self.engine = engine
    def get(self, alias):
        return Target(alias, self.engine.run(load(alias)), {"v": Encoder()}, None)

log = RedisLog(sys.argv[2])
engine = open_engine(sys.argv[1], Access())
while log.backlog(sys.argv[3]).total:
    drain(log, Targets(engine), consumer=str(os.getpid()), lease=0.5, batch=64)
"""


def plain(index: str) -> Spec:
    embedding = {"source": ["title"], "encoder": "dying"}
    return load_spec({"index": index, "fields": {"title": {"type": "text"}}, "embeddings": {"v": embedding}})


def test_a_document_that_kills_its_worker_is_buried_and_no_other(
    engine: Engine, engine_url: str, index_name: str, log: RedisLog
) -> None:
    engine.run(create(plain(index_name), engine.dialect, {"v": Resolved(4, "f")}))
    log.append([Event(index_name, str(n), "upsert", {"id": n, "title": "KILL" if n == 30 else "x"}) for n in range(64)])
    deaths = 0
    command = [sys.executable, "-c", DRAIN_ON_ONE_TEXT_IT_DIES, engine_url, log.url, index_name]
    while (code := subprocess.run(command, timeout=100, check=False).returncode) == -signal.SIGKILL:
        deaths += 1
    assert (code, deaths) == (0, 3)
    (buried,) = log.buried(index_name)
    assert (buried.id, buried.reason) == ("30", "the worker died 2 times while it worked on this document alone")
    assert sorted(map(int, held(engine, index_name))) == [n for n in range(64) if n != 30]


def test_two_workers_share_the_work(
    engine: Engine, index_name: str, minilm: str, log: RedisLog, cache: VectorCache
) -> None:
    spec = films(index_name, minilm)
    made(engine, spec)
    log.append([Event(index_name, str(n), "upsert", {"id": n, "title": f"film {n % 3}"}) for n in range(400)])
    done: list[Any] = []

    def work(name: str) -> None:
        done.append(drain(log, Targets(engine, cache), consumer=name, batch=20))

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(one.taken for one in done) == 400
    assert log.counts(index_name)["written"] == 400
    assert settled(log, index_name)


def test_an_index_filled_by_another_model_is_left_alone_and_others_are_not(
    engine: Engine, index_name: str, minilm: str, log: RedisLog, cache: VectorCache
) -> None:
    spec = films(index_name, minilm)
    other = replace_index(spec, f"{index_name}-other")
    engine.run(create(spec, engine.dialect, {"plot_vector": Resolved(384, "another")}))
    made(engine, other, cache)
    targets = Targets(engine, cache)
    try:
        log.append([Event(name, "1", "upsert", {"id": 1, "title": "x"}) for name in (index_name, other.index)])
        report = drain(log, targets, consumer="a")
        assert (report.taken, report.written, report.handed_back) == (2, 1, 1)
        reason = str(log.paused(index_name))
        assert f"{index_name}.plot_vector was filled under fingerprint another" in reason
        assert log.paused(other.index) is None
        assert log.backlog(index_name).total == 1
        with pytest.raises(IngestIncomplete, match="fingerprint another"):
            ingest(engine, spec, [{"id": 2, "title": "y"}], log, patience=0.1)
        assert held(engine, index_name) == {}
    finally:
        engine.run(drop(other.index))
        log.forget(other.index)


def replace_index(spec: Spec, name: str) -> Spec:
    return spec.model_copy(update={"index": name})


def test_events_for_an_index_that_is_not_there_wait_until_it_is(
    engine: Engine, index_name: str, minilm: str, log: RedisLog, cache: VectorCache
) -> None:
    targets = Targets(engine, cache)
    log.append([Event(index_name, "1", "upsert", {"id": 1, "title": "x"})])
    assert drain(log, targets, consumer="a").handed_back == 1
    assert f"there is no index '{index_name}'" in str(log.paused(index_name))
    assert drain(log, targets, consumer="a").taken == 0
    made(engine, films(index_name, minilm))
    with draining(log, engine, cache=cache, lease=1.0):
        deadline = time.monotonic() + 60
        while not settled(log, index_name):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert log.paused(index_name) is None
    assert sorted(held(engine, index_name)) == ["1"]


def test_an_index_made_anew_is_opened_anew(engine: Engine, index_name: str, minilm: str, cache: VectorCache) -> None:
    targets = Targets(engine, cache)
    made(engine, films(index_name, minilm), cache)
    first = targets.get(index_name)
    assert targets.get(index_name) is first
    engine.run(drop(index_name))
    made(engine, films(index_name, minilm, embedding={"source": ["plot"]}), cache)
    again = targets.get(index_name)
    assert again.spec.embeddings["plot_vector"].source == ("plot",)
    assert targets.facts() == {"device": "cpu", "model": minilm}


def test_a_blocked_engine_buries_nothing_and_counts_against_no_event(
    engine: Engine, index_name: str, minilm: str, log: RedisLog, cache: VectorCache
) -> None:
    target = made(engine, films(index_name, minilm), cache)
    targets = Targets(engine, cache)

    def put(path: str, body: Any = None) -> Any:
        yield Request("PUT", path, {}, body)

    engine.run(put(path_of(target.stored.index, "_block", "write")))
    log.append([Event(index_name, str(n), "upsert", {"id": n, "title": "x"}) for n in range(3)])
    for _ in range(4):
        # Each time after the pause of a busy engine.
        awaited(lambda: drain(log, targets, consumer="a", lease=0.5, patience=Patience(attempts=1)).handed_back == 3)
    assert log.buried(index_name) == []
    assert log.backlog(index_name).total == 3
    engine.run(put(path_of(target.stored.index, "_settings"), {"index.blocks.write": None}))
    taken = awaited(lambda: log.take(index_name, "look", 10, 0.5))
    assert [one.deliveries for one in taken] == [1, 1, 1]
    log.release(index_name, "look", taken, 0.5, 0)
    assert drain(log, targets, consumer="a", lease=0.5).written == 3
    assert settled(log, index_name)
    assert len(held(engine, index_name)) == 3
    assert log.counts(index_name)["written"] == 3


def awaited(state: Callable[[], Any]) -> Any:
    """The first true answer."""
    deadline = time.monotonic() + 60
    while not (found := state()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


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


def test_a_worker_does_not_start_without_its_servers(redis_url: str) -> None:
    with pytest.raises(LogUnavailable, match="no answer from Redis"):
        run_worker("http://127.0.0.1:1", "redis://127.0.0.1:1/0")
    with pytest.raises(EngineUnreachable, match=r"no answer from http://127\.0\.0\.1:1"):
        run_worker("http://127.0.0.1:1", redis_url)


def test_a_pool_that_cannot_work_is_refused() -> None:
    with pytest.raises(SettingsError, match="there is no pool 'gevent'"):
        check_pool("gevent", Settings())
    with pytest.raises(SettingsError, match="CUDA does not survive the fork"):
        check_pool("prefork", Settings(device="cuda:0"))
    check_pool("prefork", Settings(device="cpu"))
    check_pool("threads", Settings(device="cuda"))
