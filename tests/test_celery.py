"""Celery as other services see it: our application run by its own command, our tasks by name, queues, beat."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import psutil
import pytest
import typer
from celery import Celery
from crew import Process, celery, running
from filling import films, held, made, one_engine, own_log, settled
from typer.testing import CliRunner

from knnex import cli_worker
from knnex.engines import Engine, Request, path_of
from knnex.errors import SettingsError
from knnex.ingest import Event, Mark, RedisLog, apply_events, open_log
from knnex.ingest.log import DRAINED
from knnex.ingest.positions import version_of
from knnex.mappings import Spec, create, load, load_spec
from knnex.settings import Settings
from knnex.workers import INGEST, INGEST_QUEUE, QUEUE, ROUTES, Worker, make_app, ring, wanted_workers
from knnex.workers.alive import Pulse, beat_name, lives
from knnex.workers.app import Bell
from knnex.workers.beat import tidy, verify, verify_all
from knnex.workers.config import kombu_url, read
from knnex.workers.intake import Intake
from knnex.workers.queues import kind_of, queues_of
from knnex.workers.scaling import rate_of, scale
from knnex.workers.shared import Signals
from knnex.workers.sweeper import rest_of
from knnex.workers.tasks import register

POOLS = ("solo", "threads", "prefork")


def plain(index: str, **more: Any) -> Spec:
    """An index without vectors: no model has to be loaded."""
    fields = {"title": {"type": "text"}, "rev": {"type": "long"}}
    return load_spec({"index": index, "fields": fields, **more})


@pytest.fixture
def log(redis_url: str, index_name: str) -> Iterator[RedisLog]:
    opened = own_log(redis_url, 3)
    yield opened
    opened.forget(index_name)
    opened.redis.delete(*[QUEUE, INGEST_QUEUE, "knnex.cpu", "knnex.gpu"])
    opened.close()


@pytest.fixture
def spec(engine: Engine, index_name: str) -> Spec:
    made_now = plain(index_name)
    engine.run(create(made_now, engine.dialect, {}))
    return made_now


def module(home: Path, name: str, text: str) -> str:
    """A module that the processes of the test can import."""
    (home / f"{name}.py").write_text(textwrap.dedent(text))
    return name


def sender(log: RedisLog, **settings: Any) -> Celery:
    """Somebody else's application: it knows nothing of knnex but the name of the task and of its queue."""
    app = Celery("theirs", broker=log.url, backend=log.url, set_as_current=False)
    app.conf.update(broker_connection_retry_on_startup=True, **settings)
    return app


def awaited(state: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not state():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


@one_engine
@pytest.mark.parametrize("pool", POOLS)
def test_celerys_own_command_runs_a_worker_that_finishes_its_batch_when_told_to_stop(
    engine_url: str, engine: Engine, spec: Spec, log: RedisLog, tmp_path: Path, pool: str
) -> None:
    log.append([Event(spec.index, str(n), "upsert", {"id": n, "title": "x"}) for n in range(5000)])
    command = celery("worker", "--pool", pool, "--concurrency", "2", "--loglevel", "INFO")
    with running(engine_url, log, tmp_path, command=command, BATCH=1, DEVICE="cpu") as worker:
        worker.until(lambda: log.counts(spec.index).get("written", 0) > 0)
        worker.until(lambda: lives(Settings(cache_dir=tmp_path)))
        loaded = any("libtorch" in one.path for one in psutil.Process(worker.process.pid).memory_maps())
        assert worker.end(signal.SIGTERM) == 0
        said = worker.output.read_text()
    assert "Traceback" not in said
    # No index here needs a model; who is forked later has the libraries all the same.
    assert loaded == (pool == "prefork")
    left, written = log.backlog(spec.index), log.counts(spec.index)["written"]
    assert (left.pending, left.undelivered) == (0, 5000 - written)
    assert written < 5000
    assert not log.workers()
    assert not lives(Settings(cache_dir=tmp_path))


@pytest.mark.feature("Documents by Celery task")
def test_another_service_sends_documents_by_the_name_of_a_task(
    engine_url: str, engine: Engine, spec: Spec, log: RedisLog, tmp_path: Path
) -> None:
    config = module(tmp_path, "theirconfig", f"CELERY_RESULT_BACKEND = {log.url!r}\nCELERY_TASK_TIME_LIMIT = 99")
    canary = tmp_path / "canary"
    app = sender(log)
    with running(engine_url, log, tmp_path, command=celery("worker", "-P", "solo"), CELERY_CONFIG=config) as worker:
        documents = [{"id": 1, "title": "a"}, {"title": "no id"}, {"id": 2, "title": "b", "_knnex": 1}, {"id": 3}]
        sent = app.send_task(INGEST, kwargs={"index": spec.index, "documents": documents}, queue=INGEST_QUEUE)
        told = sent.get(timeout=60)
        assert (told["accepted"], len(told["positions"])) == (2, 2)
        assert [(one["number"], one["id"]) for one in told["refused"]] == [("1", ""), ("2", "2")]
        assert "id field 'id' is missing" in told["refused"][0]["reason"]
        worker.until(lambda: settled(log, spec.index))
        assert held(engine, spec.index).keys() == {"1", "3"}
        gone = app.send_task(INGEST, args=(spec.index, [{"id": 1}], "delete"), queue=INGEST_QUEUE).get(timeout=60)
        assert gone["accepted"] == 1
        worker.until(lambda: settled(log, spec.index))
        assert held(engine, spec.index).keys() == {"3"}
        for wrong, reason in (
            ({"index": "knnex-absent", "documents": [{"id": 1}]}, "there is no index 'knnex-absent'"),
            ({"index": "a*", "documents": [{"id": 1}]}, "is no name of an index"),
            ({"index": spec.index, "documents": {"id": 1}}, "documents are a list"),
            ({"index": spec.index, "documents": [{"id": 1}], "op": "erase"}, "there is no op 'erase'"),
            ({"index": spec.index, "documents": [{"id": 1}], "lane": "updates"}, "there is no lane 'updates'"),
        ):
            told = app.send_task(INGEST, kwargs=wrong, queue=INGEST_QUEUE).get(timeout=60)
            assert (told["accepted"], len(told["refused"])) == (0, 1)
            assert reason in told["refused"][0]["reason"]
        push_pickle(app, canary)
        app.send_task(INGEST, args=(spec.index, [{"id": 4}]), queue=INGEST_QUEUE).get(timeout=60)
        assert worker.end(signal.SIGTERM) == 0
    assert not canary.exists()
    assert "Refusing to deserialize" in worker.output.read_text()
    assert log.marks(spec.index) == {}


class Explosive:
    """What a pickle can do to who reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mknod, (str(self.path),)


def push_pickle(app: Celery, canary: Path) -> None:
    with app.connection_for_write() as connection:
        connection.SimpleQueue(INGEST_QUEUE).put(
            pickle.dumps(((), {"index": Explosive(canary)}, {})),
            headers={"task": INGEST, "id": uuid4().hex, "lang": "py"},
            content_type="application/x-python-serialize",
            content_encoding="binary",
        )


@one_engine
def test_documents_do_not_wait_behind_a_long_drain(engine_url: str, spec: Spec, log: RedisLog, tmp_path: Path) -> None:
    log.append([Event(spec.index, str(n), "upsert", {"id": n, "title": "x"}) for n in range(9000)])
    config = module(tmp_path, "theirconfig", f"result_backend = {log.url!r}")
    with running(
        engine_url, log, tmp_path, command=celery("worker", "-P", "solo"), CELERY_CONFIG=config, BATCH=1
    ) as worker:
        worker.until(lambda: log.counts(spec.index).get("written", 0) > 10)
        sent = sender(log).send_task(INGEST, args=(spec.index, [{"id": "late"}]), queue=INGEST_QUEUE)
        assert sent.get(timeout=60)["accepted"] == 1
        before = log.counts(spec.index)["written"]
        assert log.backlog(spec.index).undelivered > 0
        # It goes on draining by itself.
        worker.until(lambda: log.counts(spec.index)["written"] > before + 20)


def test_a_message_whose_worker_died_appends_nothing_twice(engine: Engine, spec: Spec, log: RedisLog) -> None:
    intake = Intake(engine, log)
    documents = [{"id": n} for n in range(5)]
    first = intake.take(spec.index, documents, message="m1")
    assert (first.accepted, len(first.positions), log.marks(spec.index)) == (5, 5, {})
    # As a worker leaves it that dies after the appending.
    log.append([Event(spec.index, str(n), "upsert", {"id": n}) for n in range(5)], mark=Mark("message m2", 5))
    second = intake.take(spec.index, documents, message="m2", again=True)
    assert (second.accepted, second.before, second.positions) == (5, 5, ())
    assert (log.backlog(spec.index).total, log.marks(spec.index)) == (10, {})


@one_engine
def test_a_killed_workers_message_comes_again(engine_url: str, spec: Spec, log: RedisLog, tmp_path: Path) -> None:
    options = 'broker_transport_options = {"visibility_timeout": 2, "unacked_restore_interval": 1}'
    config = module(tmp_path, "theirconfig", options)
    # A worker that takes documents and drains nothing.
    command = celery("worker", "-P", "solo", "-Q", INGEST_QUEUE)
    documents = [{"id": n, "title": "x" * 50} for n in range(9000)]
    sender(log).send_task(INGEST, args=(spec.index, documents), queue=INGEST_QUEUE)
    first = Process(engine_url, log, tmp_path, command=command, CELERY_CONFIG=config)
    awaited(lambda: log.redis.hlen("unacked"))
    first.end(signal.SIGKILL)
    assert spec.index not in log.indexes()
    second = Process(engine_url, log, tmp_path, command=command, CELERY_CONFIG=config)
    try:
        second.until(lambda: log.backlog(spec.index).total == 9000)
        second.until(lambda: not log.redis.hlen("unacked"))
    finally:
        second.end(signal.SIGTERM)
    assert log.backlog(spec.index).total == 9000


@one_engine
@pytest.mark.parametrize("pool", POOLS[1:])
def test_without_a_broker_each_worker_rings_itself(
    engine_url: str, engine: Engine, spec: Spec, log: RedisLog, tmp_path: Path, pool: str
) -> None:
    command = celery("worker", "--pool", pool, "--concurrency", "1")
    with running(engine_url, log, tmp_path, command=command, BROKER_URL="memory://", DEVICE="cpu") as worker:
        for n in range(3):
            log.append([Event(spec.index, str(n), "upsert", {"id": n})])
            worker.until(lambda: settled(log, spec.index))
        assert worker.end(signal.SIGTERM) == 0
    assert len(held(engine, spec.index)) == 3
    assert not log.redis.exists(QUEUE)
    ring(make_app(Settings(redis_url=log.url, broker_url="memory://")))()  # reaches nobody, and fails nobody


@one_engine
def test_a_log_in_a_database_needs_no_redis_at_all(engine_url: str, engine: Engine, spec: Spec, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'log.sqlite'}"
    log = open_log(url)
    worker = Process(engine_url, log, tmp_path, LOG_URL=url, BATCH=1, REDIS_URL="redis://127.0.0.1:1/0")
    try:
        worker.ready()
        log.append([Event(spec.index, str(n), "upsert", {"id": n}) for n in range(500)])
        worker.until(lambda: log.counts(spec.index).get("written", 0) > 0)
        assert worker.end(signal.SIGTERM) == 0
        left = log.backlog(spec.index)
        assert (left.pending, left.undelivered) == (0, 500 - log.counts(spec.index)["written"])
        assert not log.workers()
    finally:
        worker.end(signal.SIGKILL)
        log.close()


@one_engine
def test_another_application_runs_our_tasks_in_its_own_workers(
    engine_url: str, engine: Engine, spec: Spec, log: RedisLog, tmp_path: Path
) -> None:
    module(
        tmp_path,
        "theirs",
        f"""
        from celery import Celery
        app = Celery("theirs", broker={log.url!r}, backend={log.url!r})
        app.conf.broker_connection_retry_on_startup = True
        app.autodiscover_tasks(["knnex.workers"])

        @app.task
        def hello():
            from knnex.workers.tasks import ingest
            return ingest.apply_async(args=({spec.index!r}, [{{"id": 1}}]), queue="knnex.ingest").id
        """,
    )
    command = celery("worker", "-P", "threads", "-c", "2", "-Q", "celery,knnex,knnex.ingest", app="theirs")
    with running(engine_url, log, tmp_path, command=command) as worker:
        sender(log).send_task("theirs.hello").get(timeout=60)
        worker.until(lambda: bool(held(engine, spec.index)))
        assert worker.end(signal.SIGTERM) == 0
    assert not log.workers()
    alone = Process(engine_url, log, tmp_path, command=celery("worker", "-P", "solo", "-Q", "celery", app="theirs"))
    try:
        sender(log).send_task("theirs.hello").get(timeout=60)
        assert not log.workers()
    finally:
        alone.end(signal.SIGTERM)


def test_an_application_sends_by_name_into_our_queues_once_it_knows_them() -> None:
    app = Celery("theirs", broker="memory://", set_as_current=False)
    app.conf.task_routes = {"theirs.*": {"queue": "slow"}}
    register(app)
    assert app.amqp.router.route({}, INGEST)["queue"].name == INGEST_QUEUE
    assert app.amqp.router.route({}, "knnex.drain")["queue"].name == QUEUE
    assert app.amqp.router.route({}, "theirs.thing")["queue"].name == "slow"
    assert {"knnex.drain", *ROUTES} <= app.tasks.keys()
    app.send_task(INGEST, args=("films", []))
    assert Bell(app).waiting(INGEST_QUEUE) == 1
    assert Bell(app).waiting("knnex.nobody") == 0


def test_settings_of_celery_can_be_changed_but_for_what_is_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = module(
        tmp_path,
        f"config_{uuid4().hex}",
        """
        CELERY_TASK_TIME_LIMIT = 7
        CELERY_ACCEPT_CONTENT = ["pickle"]
        CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 9}
        task_serializer = "pickle"
        task_always_eager = True
        task_acks_late = True
        task_routes = [{"theirs.*": "slow"}]
        worker_max_tasks_per_child = 50
        something_else = 1
        """,
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("KNNEX_CELERY_CONFIG", name)
    app = make_app(Settings(redis_url="redis://localhost:1/0"))
    conf = app.conf
    assert (conf.task_time_limit, conf.worker_max_tasks_per_child) == (7, 50)
    assert (conf.accept_content, conf.task_serializer, conf.task_always_eager) == (["json"], "json", False)
    assert (conf.broker_transport_options["visibility_timeout"], conf.broker_transport_options["socket_timeout"]) == (
        9,
        5,
    )
    assert conf.task_routes[0][INGEST] == {"queue": INGEST_QUEUE}
    assert {"theirs.*": "slow"} in conf.task_routes
    assert (app.tasks["knnex.drain"].acks_late, app.tasks[INGEST].acks_late) == (False, True)
    assert app.tasks["knnex.drain"].ignore_result
    with pytest.raises(SettingsError, match=r"KNNEX_CELERY_CONFIG: 'no\.such\.module' cannot be imported"):
        read("no.such.module")


@pytest.mark.parametrize(
    ("url", "theirs"),
    [
        ("redis://h:1/2", "redis://h:1/2"),
        ("unix:///run/redis.sock?db=3", "redis+socket:///run/redis.sock?virtual_host=3"),
        ("unix://:pw@/run/redis.sock", "redis+socket://:pw@/run/redis.sock?virtual_host=0"),
    ],
)
def test_a_sockets_url_is_written_as_celery_has_it(url: str, theirs: str) -> None:
    assert kombu_url(url) == theirs


def test_a_worker_listens_to_the_queue_of_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert queues_of(Settings(device="cuda:1")) == ("knnex", "knnex.gpu", "knnex.ingest")
    assert queues_of(Settings(device="cpu")) == ("knnex", "knnex.cpu", "knnex.ingest")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert kind_of(Settings(device="mps")) == "gpu"
    app = make_app(Settings(redis_url="redis://localhost:1/0", device="cuda"))
    assert [queue.name for queue in app.conf.task_queues] == list(queues_of(Settings(device="cuda")))


def test_the_backfill_is_left_to_workers_with_a_gpu_while_one_lives(
    engine_url: str, engine: Engine, spec: Spec, log: RedisLog, tmp_path: Path
) -> None:
    worker = Worker(Settings(redis_url=log.url, url=engine_url, cache_dir=tmp_path, device="cpu"))
    log.append([Event(spec.index, "live", "upsert", {"id": "live"})])
    log.append([Event(spec.index, "back", "upsert", {"id": "back"})], lane="backfill")
    assert rest_of(log) == ["knnex"]
    log.announce("other", {"kind": "gpu"}, ttl=60)
    try:
        assert rest_of(log) == ["knnex", "knnex.gpu"]
        worker.drain()
        assert held(engine, spec.index).keys() == {"live"}
        assert worker.lanes() == ("updates", "live")
        worker.settings = worker.settings.model_copy(update={"backfill": "any"})
        assert worker.lanes() == DRAINED
    finally:
        log.retire("other")
    assert worker.lanes() == DRAINED
    worker.drain()
    assert held(engine, spec.index).keys() == {"live", "back"}
    assert worker.facts()["rate"] > 0
    worker.log.close()


@pytest.mark.feature("Celery workers")
def test_three_workers_apply_every_event_once_and_in_order(
    engine_url: str, engine: Engine, spec: Spec, log: RedisLog, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        crew = [
            stack.enter_context(
                running(engine_url, log, tmp_path, command=celery("worker", "-P", "solo"), BATCH=40, CACHE_DIR=home)
            )
            for home in (tmp_path / str(number) for number in range(3))
        ]
        press = ring(make_app(Settings(redis_url=log.url)))
        truth: dict[str, int | None] = {}
        revision = 0
        # Until two of them have worked at least, which they say every three seconds.
        while revision < 120 or sum(bool(one.facts()["rate"]) for one in crew) < 2:
            revision += 1
            events = []
            for n in range(10):
                key = str((revision * 7 + n) % 40)
                gone = (revision + n) % 5 == 0
                truth[key] = None if gone else revision
                body = {} if gone else {"id": key, "rev": revision}
                events.append(Event(spec.index, key, "delete" if gone else "upsert", body))
            log.append(events, lane="live" if revision % 3 else "backfill")
            press()
        crew[0].until(lambda: settled(log, spec.index))
        for one in crew:
            assert one.end(signal.SIGTERM) == 0
    assert {key: one["rev"] for key, one in held(engine, spec.index).items()} == {
        key: revision for key, revision in truth.items() if revision
    }
    assert tombstones(engine, spec.index) == {key for key, revision in truth.items() if not revision}
    counts = log.counts(spec.index)
    # Each event was written, or found older than what was there; none was lost, and none settled twice.
    assert counts.get("written", 0) + counts.get("deleted", 0) + counts.get("stale", 0) == 10 * revision
    assert not counts.get("buried")
    assert not counts.get("lost")


@one_engine
def test_beat_rings_and_tidies(engine_url: str, engine: Engine, spec: Spec, log: RedisLog, tmp_path: Path) -> None:
    config = module(
        tmp_path,
        "theirconfig",
        """
        beat_schedule = {
            name: {"task": name, "schedule": 0.5, "options": {"expires": 5}}
            for name in ("knnex.sweep", "knnex.tidy", "knnex.verify")
        }
        """,
    )
    log.append([Event(spec.index, "1", "upsert", {"id": "1"})])
    with running(engine_url, log, tmp_path, arguments="beat=True", CELERY_CONFIG=config) as worker:
        worker.until(lambda: f"{spec.index}: 1 of 1 documents are sound" in worker.output.read_text())
        assert worker.end(signal.SIGTERM) == 0
    assert "Traceback" not in worker.output.read_text()
    apart = Process(engine_url, log, tmp_path, command=celery("beat", "-s", str(tmp_path / "s")), CELERY_CONFIG=config)
    try:
        apart.until(lambda: Bell(make_app(Settings(redis_url=log.url))).waiting() > 2)
        apart.until(lambda: lives(Settings(cache_dir=tmp_path), beat_name()))
    finally:
        apart.end(signal.SIGTERM)
    # Named for the next test: whoever holds the name of a job does it.
    log.redis.delete("knnex:held:tidy", "knnex:held:verify")


def tombstones(engine: Engine, index: str) -> set[str]:
    def flow() -> Any:
        stored = yield from load(index)
        yield Request("POST", path_of(stored.index, "_refresh"))
        query = {"query": {"term": {"_knnex.deleted": True}}, "size": 100}
        return (yield Request("POST", path_of(stored.index, "_search"), {}, query)).body["hits"]["hits"]

    return {hit["_id"] for hit in engine.run(flow())}


@pytest.mark.feature("Upkeep")
def test_old_tombstones_are_collected_and_nothing_revives(engine: Engine, spec: Spec, log: RedisLog) -> None:
    target = made(engine, spec)
    old, young = log.now() - 8 * 86_400_000, log.now()

    def events(first: int, at: int, *ids: str) -> list[Event]:
        return [Event(spec.index, one, "delete", {}, position=f"{at}-{place}") for place, one in enumerate(ids, first)]

    apply_events(engine, target, [*events(0, old, "a", "b", "c"), *events(0, young, "d")])
    apply_events(engine, target, [Event(spec.index, "e", "upsert", {"id": "e"}, position=f"{old}-9")])
    assert tombstones(engine, spec.index) == {"a", "b", "c", "d"}
    log.append([Event(spec.index, "x", "upsert", {"id": "x"})])
    (waiting,) = log.take(spec.index, "t", 1, 60)
    done = tidy(engine, log, owner="one")
    assert done
    assert (done.tombstones, done.kept) == ({spec.index: 3}, ())
    assert tombstones(engine, spec.index) == {"d"}
    assert held(engine, spec.index).keys() == {"e"}
    assert tidy(engine, log, owner="two") is None  # another is at it
    log.redis.delete("knnex:held:tidy")
    # What is younger than the oldest event in the log stays, however many days are asked for.
    apply_events(
        engine, target, [Event(spec.index, "f", "delete", {}, position=f"{version_of(waiting.position) >> 20}-900")]
    )
    assert tombstones(engine, spec.index) == {"d", "f"}
    done = tidy(engine, log, owner="two", days=-1)
    assert done
    assert done.tombstones == {spec.index: 1}
    assert tombstones(engine, spec.index) == {"f"}
    log.redis.delete("knnex:held:tidy")


def test_tombstones_under_a_producers_versions_are_kept(engine: Engine, index_name: str, log: RedisLog) -> None:
    spec = plain(index_name, version="rev")
    engine.run(create(spec, engine.dialect, {}))
    apply_events(engine, made(engine, spec), [Event(index_name, "a", "delete", {}, version=7)])
    log.settle(index_name, log.append([Event(index_name, "1", "upsert", {"id": 1}, version=1)]))
    done = tidy(engine, log, owner="one")
    log.redis.delete("knnex:held:tidy")
    assert done
    assert (done.tombstones, done.kept) == ({}, (index_name,))
    assert tombstones(engine, index_name) == {"a"}


@pytest.mark.feature("Upkeep")
def test_a_sample_shows_what_is_wrong_with_vectors(engine: Engine, index_name: str, minilm: str, log: RedisLog) -> None:
    target = made(engine, films(index_name, minilm))
    log.settle(index_name, log.append([Event(index_name, "0", "upsert", {"id": 0})]))
    documents = [{"id": n, "title": f"film {n}"} for n in range(5)] + [{"id": "silent"}]
    events = [Event(index_name, str(one["id"]), "upsert", one, version=1) for one in documents]
    apply_events(engine, target, [*events, Event(index_name, "gone", "delete", {}, version=1)])

    def change(id_: str, **fields: Any) -> Any:
        yield Request("POST", path_of(target.stored.index, "_update", id_), {"refresh": "true"}, {"doc": fields})

    held(engine, index_name)
    assert verify(engine, target.stored).sound
    engine.run(change("1", title="another text"))
    engine.run(change("2", _knnex={"vectors": {"plot_vector": {"fingerprint": "foreign"}}}))
    engine.run(change("silent", title="no longer"))
    (found,) = verify_all(engine, log, owner="one") or []
    log.redis.delete("knnex:held:verify")
    assert (found.documents, found.looked_at, found.missing, found.stale) == (6, 6, ("silent",), ("1",))
    ours = target.stored.resolved["plot_vector"].fingerprint
    assert found.mixed == {"plot_vector": {ours: 4, "foreign": 1}}
    assert orjson.loads(orjson.dumps(found.to_dict()))["sound"] is False


@pytest.mark.parametrize(
    ("backlog", "rate", "seconds", "wanted"),
    [(0, 100, 60, 0), (1, 100, 60, 1), (6000, 100, 60, 1), (6001, 100, 60, 2), (10**9, 100, 60, 64), (500, 0, 60, 1)],
)
def test_as_many_workers_as_the_backlog_wants(backlog: int, rate: float, seconds: float, wanted: int) -> None:
    assert wanted_workers(backlog, rate, seconds) == wanted


def test_the_scale_is_what_log_and_workers_tell(index_name: str, log: RedisLog) -> None:
    log.append([Event(index_name, str(n), "upsert", {"id": n}) for n in range(200)])
    for name, rate in (("a", 1.0), ("b", 3.0), ("new", 0)):
        log.announce(name, {"rate": rate}, ttl=60)
    try:
        found = scale(log, 10)
    finally:
        for name in ("a", "b", "new"):
            log.retire(name)
    assert (found.workers, found.backlog, found.rate, found.wanted) == (3, 200, 2.0, 10)
    assert rate_of({}) == 0
    log.pause(index_name, "broken")
    assert scale(log).wanted == 0


def test_workers_are_shown_and_probed_on_the_command_line(log: RedisLog, fresh_settings: pytest.MonkeyPatch) -> None:
    app = typer.Typer()
    cli_worker.register(app)
    fresh_settings.setenv("KNNEX_LOG_URL", log.url)
    name = f"{socket.gethostname()}-1"
    log.announce(name, {"kind": "gpu", "rate": 1234.5, "since": "today"}, ttl=60)
    try:
        told = CliRunner().invoke(app, ["workers", "--json"])
        found = orjson.loads(told.output)
        assert (found["workers"], found["wanted"], found["alive"][name]["kind"]) == (1, 0, "gpu")
        assert "1,234.5 documents/s" in CliRunner().invoke(app, ["workers"]).output
        assert CliRunner().invoke(app, ["alive", "--announced"]).exit_code == 0
    finally:
        log.retire(name)
    assert CliRunner().invoke(app, ["alive", "--announced"]).exit_code == 1
    assert CliRunner().invoke(app, ["alive", "nobody"]).exit_code == 1


@one_engine
def test_options_of_celery_are_passed_on(engine_url: str, redis_url: str, tmp_path: Path) -> None:
    wrong = Process(engine_url, own_log(redis_url, 5), tmp_path, arguments="celery=['--no-such-option']")
    assert wrong.process.wait(60) == 1
    assert "SettingsError: celery worker: No such option" in wrong.output.read_text()


def test_a_probe_asks_this_machine(tmp_path: Path) -> None:
    here = Settings(cache_dir=tmp_path)
    assert not lives(here, "a/b")
    pulse = Pulse(here, "a/b")
    pulse.beat()
    assert lives(here, "a/b")
    assert not lives(here, "another")
    (file,) = (tmp_path / "alive").iterdir()
    os.utime(file, (0, time.time() - 100))
    assert not lives(here, "a/b")
    os.utime(file, (0, 0))
    Pulse(here, "new").beat()
    assert [one.name for one in (tmp_path / "alive").iterdir()] == ["new"]  # the old one was a killed worker's
    pulse.end()


def test_children_see_what_the_main_process_says() -> None:
    said = Signals()
    said.give_way(True)
    assert (said.is_set(), said.stopping, said.wait(0)) == (True, False, False)
    child = os.fork()
    if not child:
        said.note_rate(3, 12.5)
        os._exit(0 if said.wait(30) and said.is_set() else 1)
    awaited(lambda: said.rate == 12.5)
    said.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
