"""Vectors of a new version that must be made anew are made by workers, and nothing depends on these."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import sqlalchemy as sa
from crew import running
from feeding import Stranger, wrong
from filling import draining, films, held, made, one_engine, own_log
from homes import until
from tiny import tiny_model

from knnex.encoders import Encoder
from knnex.engines import Engine
from knnex.errors import ReindexStopped
from knnex.ingest import Event, EventLog, RedisLog, Target, apply_events, make_target, open_log
from knnex.ingest.log import unwritten
from knnex.ingest.positions import split
from knnex.ingest.reindex import Coordinator, Options, Report, abort, reindex
from knnex.ingest.reindex.fencing import bar_copies, copies_by, let_copy
from knnex.ingest.reindex.orders import Order
from knnex.ingest.sql_log import SqlLog
from knnex.ingest.sql_tables import groups, lanes, of
from knnex.mappings import Resolved, Spec, Stored, create, load, load_spec
from knnex.workers import QUEUE, drain
from knnex.workers.intake import Intake
from knnex.workers.sweeper import rest_of

FAST = Options(page=20, ttl=1.0, headway=60.0, ahead=40, stall=60.0)
COUNT = 70


@pytest.fixture
def log(redis_url: str, index_name: str) -> Iterator[RedisLog]:
    opened = own_log(redis_url, 15)
    for name in opened.workers():  # one that was killed is believed to live for some seconds
        opened.retire(name)
    yield opened
    opened.forget(index_name)
    opened.retire("thread")
    opened.close()


@pytest.fixture(scope="session")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("other"), seed=7))


@pytest.fixture
def target(engine: Engine, index_name: str, tiny: Path) -> Target:
    """An index of COUNT documents and one that was deleted."""
    target = made(engine, films(index_name, str(tiny)))
    events = [Event(index_name, str(one), "upsert", film(one), 10) for one in range(COUNT)]
    apply_events(engine, target, [*events, Event(index_name, "gone", "delete", {}, 10)])
    return target


@pytest.fixture
def newer(index_name: str, other_model: str) -> Spec:
    return films(index_name, other_model)


def film(number: int, **more: Any) -> dict[str, Any]:
    return {"id": str(number), "title": f"cat {number}", "plot": "the dog sat on the log", **more}


def now(engine: Engine, alias: str) -> Target:
    return make_target(alias, engine.run(load(alias)), None)


@contextmanager
def seen(log: EventLog, engine: Engine, **options: Any) -> Iterator[None]:
    """A thread that does what a worker does, and is announced as one."""
    log.announce("thread", {}, 300)
    with draining(log, engine, **options):
        yield


def check(engine: Engine, log: EventLog, done: Report, handed: int, newer: int = 0) -> None:
    """All vectors are those of the new model, and workers made them; of documents that are `newer` there, perhaps not."""
    alias = done.alias
    copied, counts = done.copied, log.counts(alias)
    assert (copied.handed, copied.encoded, copied.cached, done.compared.differences) == (handed, 0, 0, 0)
    assert counts.get("encoded", 0) + counts.get("cached", 0) >= handed - newer
    assert wrong(engine, now(engine, alias)) == {}
    assert (log.backlog(alias).total, log.burials(alias)) == (0, [])


@pytest.mark.feature("A new version of an index without a gap, and a way back")
@pytest.mark.parametrize("where", ["redis", "sqlite"])
def test_workers_make_the_vectors_of_the_new_version(
    engine: Engine, target: Target, newer: Spec, log: RedisLog, tmp_path: Path, where: str
) -> None:
    chosen: EventLog = log if where == "redis" else open_log(f"sqlite:///{tmp_path}/log.sqlite")
    before, told = held(engine, newer.index), []
    with seen(chosen, engine, batch=32):
        done = reindex(engine, chosen, newer, options=FAST, tell=lambda step: told.append(step.note))
    check(engine, chosen, done, COUNT)
    assert done.copied.copied == 1, "the one that was deleted has nothing to be encoded"
    assert "copying documents, encoded by 1 worker" in told
    after = held(engine, newer.index)
    assert after.keys() == before.keys()
    assert all(after[id_]["plot_vector"] != before[id_]["plot_vector"] for id_ in before)
    aliases = Stranger(engine, done.target).send("GET", "_alias")[done.target]["aliases"]
    assert not [name for name in aliases if "-by-" in name]
    chosen.close()


@one_engine
def test_vectors_that_stay_the_same_are_not_sent(engine: Engine, target: Target, log: RedisLog) -> None:
    Stranger(engine, target.alias).put("new", film(99))
    spec = target.spec.model_copy(update={"fields": {**target.spec.fields, "more": target.spec.fields["genre"]}})
    with seen(log, engine):
        done = reindex(engine, log, spec, options=FAST)
    assert (done.copied.reused, done.copied.handed) == (COUNT, 1)
    assert wrong(engine, now(engine, target.alias)) == {}


@one_engine
def test_one_worker_is_killed_in_the_middle_and_another_ends_its_work(
    engine: Engine, engine_url: str, target: Target, newer: Spec, log: RedisLog, tmp_path: Path
) -> None:
    settings = {"LEASE": 1, "BATCH": 8, "DEVICE": "cpu"}
    with ThreadPoolExecutor(1) as others, running(engine_url, log, tmp_path, **settings) as victim:
        report = others.submit(reindex, engine, log, newer, options=FAST)
        victim.until(lambda: log.counts(newer.index).get("written", 0) > 0)
        with running(engine_url, log, tmp_path, **settings) as heir:
            victim.end(signal.SIGKILL)
            heir.until(report.done)
            check(engine, log, report.result(), COUNT)


@one_engine
def test_where_no_worker_is_the_coordinator_encodes(
    engine: Engine, target: Target, newer: Spec, log: RedisLog, caplog: pytest.LogCaptureFixture
) -> None:
    insists = Options(page=20, ttl=1.0, headway=5.0, encode="workers")
    with pytest.raises(ReindexStopped, match="no worker is running") as stopped:
        reindex(engine, log, newer, options=insists)
    assert "--encode here" in str(stopped.value.hint)
    log.announce("thread", {}, 300)
    log.pause(newer.index, "not now", "copies")
    with pytest.raises(ReindexStopped, match="not now"):
        reindex(engine, log, newer, options=insists)
    log.pause(newer.index, None, "copies")

    # Somebody lives and does nothing: what it was given is taken back, and the next pages are not offered.
    idle = Options(page=20, ttl=1.0, headway=0.5, ahead=40)
    done = reindex(engine, log, newer, options=idle)
    copied = done.copied
    assert (copied.handed, copied.encoded + copied.cached, done.compared.differences) == (0, COUNT, 0)
    assert wrong(engine, now(engine, newer.index)) == {}
    assert log.backlog(newer.index).total == 0
    assert [one.action for one in caplog.records if hasattr(one, "action")].count("copies_taken_back") == 1


@one_engine
def test_with_here_no_worker_is_asked(engine: Engine, target: Target, newer: Spec, log: RedisLog) -> None:
    log.announce("thread", {}, 300)
    done = reindex(engine, log, newer, options=Options(page=20, ttl=1.0, encode="here"))
    assert (done.copied.handed, done.copied.encoded + done.copied.cached) == (0, COUNT)
    assert log.head(newer.index) is None


def test_what_is_written_meanwhile_wins_over_copies_of_the_same_documents(
    engine: Engine, target: Target, newer: Spec, log: RedisLog
) -> None:
    log.announce("thread", {}, 300)
    index, began, over = newer.index, threading.Event(), threading.Event()

    def write(step: Any) -> None:
        """When the copies of these documents are in the log, and nobody has taken one."""
        if step.name != "copy" or not step.done or began.is_set():
            return
        until(lambda: log.backlog(index).of("copies").undelivered == 20)
        log.append([Event(index, "1", "upsert", film(1, title="robot")), Event(index, "2", "delete", {})])
        log.append([Event(index, "3", "update", {"title": "human"})])
        log.append([Event(index, "4", "upsert", film(4, title="a mat"))], "backfill")
        began.set()

    def work() -> None:
        began.wait(60)
        with draining(log, engine):
            over.wait(120)

    with ThreadPoolExecutor(1) as worker:
        working = worker.submit(work)
        try:
            done = reindex(engine, log, newer, options=FAST, tell=write)
            until(lambda: log.backlog(index).total == 0)
        finally:
            began.set()
            over.set()
            working.result()
    check(engine, log, done, COUNT, newer=4)
    found = held(engine, index)
    assert [found[id_]["title"] for id_ in ("1", "3", "4")] == ["robot", "human", "a mat"]
    assert found.keys() == {str(one) for one in range(COUNT)} - {"2"}


def order(engine: Engine, alias: str, into: str, moves: int = 0) -> Order:
    epoch = 1
    Stranger(engine, into).send("PUT", "_alias", f"{into}-by-{epoch}")
    return Order(into, engine.run(let_copy(into, epoch)), moves)


def test_a_copy_that_comes_late_changes_nothing(engine: Engine, target: Target, newer: Spec, log: RedisLog) -> None:
    """After the copying, for another version, or of a document that is gone: it is done, and nobody hears of it."""
    index, into = newer.index, f"{newer.index}-000002"

    def stop(step: Any) -> None:
        if step.name == "compare":
            raise ReindexStopped("here")

    with pytest.raises(ReindexStopped, match="here"):
        reindex(engine, log, newer, options=FAST, tell=stop)
    given, stranger = order(engine, index, into), Stranger(engine, into)
    stranger.send("PUT", "_settings", body={"index.gc_deletes": "1ms"})
    stranger.delete("5")
    stranger.change("6", {"title": "newer"})
    log.append([given.event(index, (id_, None)) for id_ in ("5", "6", "nowhere", "gone")])
    with draining(log, engine):
        until(lambda: log.backlog(index).total == 0)
    Stranger(engine, into).send("POST", "_refresh")
    assert stranger.get("6")["_source"]["title"] == "newer"
    assert not stranger.get("nowhere")["found"]
    engine.run(bar_copies(into, 1))
    engine.run(bar_copies(into, 1))
    stranger.delete("7")
    log.append([given.event(index, ("7", None))])
    log.append([Order(f"{index}-000009", copies_by(f"{index}-000009", 1), 0).event(index, ("7", None))])
    log.append([Event(index, "7", "copy", {"into": into, "by": f"{into}-w", "moves": 0})])
    with draining(log, engine):
        until(lambda: log.backlog(index).total == 0)
    assert not stranger.get("7")["found"], "its name was taken away"
    assert (log.burials(index), log.paused(index), log.resting(index)) == ([], None, None)
    abort(engine, index, options=FAST)
    log.append([given.event(index, ("7", None))])
    with draining(log, engine):
        until(lambda: log.backlog(index).total == 0)
    assert held(engine, index).keys() == {str(one) for one in range(COUNT)}


KILLED_BY_ONE_TEXT = """
import os, signal, sys
import numpy as np
from knnex.engines import Access, open_engine
from knnex.ingest import RedisLog, Target
from knnex.workers import Targets, drain

class Encoder:
    name, revision, identity, dims, max_tokens = "dying", "1", "dying", 4, 100
    def encode_documents(self, texts):
        if "KILL" in " ".join(texts):
            os.kill(os.getpid(), signal.SIGKILL)
        return np.array([[len(text), 1, 2, 3] for text in texts], dtype=np.float32)

class Opened(Targets):
    def _make(self, alias, stored, check):
        return Target(alias, stored, {"v": Encoder()}, None)

log = RedisLog(sys.argv[2])
targets = Opened(open_engine(sys.argv[1], Access()))
while log.recall(sys.argv[3], "over") is None:
    if not drain(log, targets, consumer=str(os.getpid()), lease=0.5, batch=64).taken:
        log.wait(0.05)
"""


class Unused:
    """An encoder that is never to be asked here."""

    name, revision, identity, dims, max_tokens = "dying", "1", "dying", 4, 100

    def encode_documents(self, texts: Sequence[str]) -> Any:
        raise AssertionError(f"{texts} are encoded by the coordinator")


def test_a_document_that_kills_workers_is_copied_without_its_vector(
    engine: Engine, engine_url: str, index_name: str, log: RedisLog
) -> None:
    embedding = {"source": ["title"], "encoder": "dying"}
    spec = load_spec({"index": index_name, "fields": {"title": {"type": "text"}}, "embeddings": {"v": embedding}})
    engine.run(create(spec, engine.dialect, {"v": Resolved(4, "f")}))
    stranger = Stranger(engine, index_name)
    for number in range(30):
        stranger.put(str(number), {"title": "KILL" if number == 9 else "x" * (number + 1)})
    log.announce("thread", {}, 300)

    def opened(alias: str, stored: Stored) -> Target:
        return Target(alias, stored, {"v": cast(Encoder, Unused())}, None)

    def work() -> int:
        command, deaths = [sys.executable, "-c", KILLED_BY_ONE_TEXT, engine_url, log.url, index_name], 0
        while subprocess.run(command, timeout=120, check=False).returncode == -signal.SIGKILL:
            deaths += 1
        return deaths

    with ThreadPoolExecutor(1) as worker:
        deaths = worker.submit(work)
        try:
            wanted = lambda name: Stored(name, spec, {"v": Resolved(4, "g")})  # noqa: E731
            done = Coordinator(engine, log, index_name, opened, wanted=wanted, options=FAST).run()
        finally:
            log.remember(index_name, "over", "yes")
        assert deaths.result() == 3
    (grave,) = log.buried(index_name)
    assert (grave.id, split(grave.position)[2]) == ("9", "copies")
    assert done.copied.without == {"9": grave.reason}
    assert (done.copied.handed, done.compared.differences) == (29, 0)
    found = held(engine, index_name)
    assert len(found) == 30
    assert "v" not in found["9"]
    assert all(found[str(n)]["v"] == pytest.approx([n + 1, 1, 2, 3], abs=1e-2) for n in range(30) if n != 9)

    # What is kept of it gives the document its vector where that can be made by now.
    class Mended(Unused):
        def encode_documents(self, texts: Sequence[str]) -> Any:
            return np.ones((len(texts), 4), dtype=np.float32)

    class Mending:
        engine: Engine

        def get(self, alias: str) -> Target:
            return Target(alias, self.engine.run(load(alias)), {"v": cast(Encoder, Mended())}, None)

    targets = Mending()
    targets.engine = engine
    assert log.retry_buried(index_name, [grave.position]) == 1
    assert drain(log, targets, consumer="a").written == 1
    assert held(engine, index_name)["9"]["v"] == pytest.approx([1, 1, 1, 1], abs=1e-2)


@one_engine
def test_copies_have_a_lane_for_which_no_write_waits(log: RedisLog, index_name: str, tmp_path: Path) -> None:
    copy = Order("a-000002", "a-000002-by-1-copies", 0)
    sql = open_log(f"sqlite:///{tmp_path}/log.sqlite")
    for one in (log, sql):
        copies = one.append([copy.event(index_name, (str(number), "r")) for number in range(3)], "live")
        assert {split(at)[2] for at in copies} == {"copies"}
        (update,) = one.append([Event(index_name, "1", "update", {"a": 1})])
        assert unwritten(one, index_name).low_water == update
        assert one.backlog(index_name).low_water == copies[0]
        assert [item.position for item in one.take(index_name, "a", 9, 5.0)] == [update]
        (live,) = one.append([Event(index_name, "1", "upsert", {"a": 1})])
        assert [item.position for item in one.take(index_name, "a", 9, 5.0)] == [live], "copies come alone"
        assert rest_of(one) == [QUEUE]
        taken = one.take(index_name, "b", 9, 5.0)
        assert [(item.position, item.event.op, item.event.routing) for item in taken] == [
            (at, "copy", "r") for at in copies
        ]
        assert {Order.of(item.event) for item in taken} == {copy}
        one.settle(index_name, [update, live, *copies])
        assert one.backlog(index_name).total == 0
    sql.close()


@one_engine
def test_a_log_of_an_older_knnex_gets_the_lane(log: RedisLog, index_name: str, tmp_path: Path) -> None:
    sql = cast(SqlLog, open_log(f"sqlite:///{tmp_path}/log.sqlite"))
    live = Event(index_name, "1", "upsert", {})
    for one in (log, sql):
        one.append([live])
    with sql.writing() as connection:
        for table in (lanes, groups):
            connection.execute(sa.delete(table).where(of(table, index_name, 3)))
    log.redis.delete(f"knnex:{{{index_name}}}:copies")
    again: list[EventLog] = [RedisLog(log.url), open_log(f"sqlite:///{tmp_path}/log.sqlite")]
    for one in again:
        assert (one.backlog(index_name).total, one.silent(index_name, 1.0)) == (1, False)
        assert one.take(index_name, "a", 9, 5.0, ("copies",)) == []
        one.append([Event(index_name, "2", "copy", {})])
        assert len(one.take(index_name, "a", 9, 5.0, ("copies",))) == 1
        assert len(one.take(index_name, "a", 9, 5.0)) == 1
        one.close()
    sql.close()


@one_engine
def test_nobody_sends_copies(engine: Engine, target: Target, log: RedisLog) -> None:
    index = target.alias
    taken = Intake(engine, log).take(index, [film(1)], op="copy")
    assert (taken.accepted, len(taken.refused)) == (0, 1)
    assert "op" in taken.refused[0]["reason"]
    taken = Intake(engine, log).take(index, [film(1)], lane="copies")
    assert (taken.accepted, log.head(index)) == (0, None)
