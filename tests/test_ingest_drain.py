"""Draining the log without Celery: sharing, isolating, leaving alone, handing back."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from filling import draining, films, held, made, one_engine, own_log, settled

from knnex.encoders import Encoder, VectorCache
from knnex.encoders.base import Vectors
from knnex.engines import Engine, Request, path_of
from knnex.errors import IngestIncomplete, ModelUnavailable, SettingsError
from knnex.ingest import Event, Patience, RedisLog, Target, ingest
from knnex.mappings import Resolved, Spec, create, drop, load_spec
from knnex.workers import Targets, drain


@pytest.fixture
def log(redis_url: str, index_name: str) -> Iterator[RedisLog]:
    opened = own_log(redis_url, 6)
    yield opened
    opened.forget(index_name)
    opened.close()


@pytest.fixture
def cache(tmp_path: Path) -> VectorCache:
    return VectorCache(tmp_path / "vectors.sqlite")


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


class Interrupted(Encoder):
    """A model that is asked in parts; before it answers the second time, something urgent comes."""

    name, revision, identity, dims, max_tokens = "interrupted", "1", "interrupted", 4, 100

    def __init__(self, urgent: Callable[[], object]) -> None:
        self.urgent, self.asked = urgent, list[int]()

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        self.asked.append(len(texts))
        if len(self.asked) == 2:
            self.urgent()
        return np.ones((len(texts), 4), dtype=np.float32)

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        return self.encode_documents(texts)


@one_engine
def test_what_is_urgent_goes_in_while_a_backfill_is_encoded(
    engine: Engine, index_name: str, log: RedisLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys.modules["knnex.encoders.cached"], "_FIRST", 100)
    stored, _ = engine.run(create(plain(index_name), engine.dialect, {"v": Resolved(4, "f")}))

    def urgent() -> None:
        log.append([Event(index_name, id_, "upsert", {"id": id_, "title": f"new {id_}"}) for id_ in ("7", "x")])
        log.append([Event(index_name, "8", "delete", {})])

    encoder = Interrupted(urgent)
    target = Target(index_name, stored, {"v": encoder})
    targets = cast(Targets, SimpleNamespace(engine=engine, get=lambda _: target))
    log.append([Event(index_name, str(n), "upsert", {"id": n, "title": f"{n}"}) for n in range(400)], "backfill")
    with caplog.at_level("INFO", "knnex.workers"):
        done = drain(log, targets, consumer="a", batch=2048, seconds=60, look=0.0)
    wrote = [vars(one) for one in caplog.records if vars(one).get("action") == "bulk_written"]
    # Of the backfill, two are older than what came meanwhile.
    assert [(one["wrote"], one["deleted"], one["stale"]) for one in wrote] == [(2, 1, 0), (398, 0, 2)]
    assert encoder.asked == [100, 200, 2, 100]
    assert (done.taken, done.written, done.deleted, done.stale) == (403, 400, 1, 2)
    there = held(engine, index_name)
    assert (there["7"]["title"], there["x"]["title"]) == ("new 7", "new x")
    assert "8" not in there
    assert log.backlog(index_name).total == 0


@one_engine
@pytest.mark.parametrize(("seconds", "sizes"), [(1e9, [64, 256, 256, 100]), (0.0, [64] * 6 + [32])])
def test_a_backfill_is_taken_in_batches_that_the_model_does_in_some_seconds(
    engine: Engine,
    index_name: str,
    log: RedisLog,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    seconds: float,
    sizes: list[int],
) -> None:
    monkeypatch.setattr(sys.modules["knnex.workers.drain"], "BATCH_SECONDS", seconds)
    stored, _ = engine.run(create(plain(index_name), engine.dialect, {"v": Resolved(4, "f")}))
    target = Target(index_name, stored, {"v": Interrupted(lambda: None)})
    targets = cast(Targets, SimpleNamespace(engine=engine, get=lambda _: target))
    wanted = [Event(index_name, str(n), "upsert", {"id": n, "title": f"{n}"}) for n in range(sum(sizes))]
    log.append(wanted, "backfill")
    with caplog.at_level("INFO", "knnex.workers"):
        drain(log, targets, consumer="a", batch=256, seconds=60)
    wrote = [vars(one)["wrote"] for one in caplog.records if vars(one).get("action") == "bulk_written"]
    assert wrote == sizes


class Dies(BaseException):
    """What a SIGKILL looks like to those who outlive it: nothing is handed back."""


@one_engine
def test_a_document_is_innocent_of_a_death_that_came_while_it_was_written(
    engine: Engine, index_name: str, minilm: str, log: RedisLog, cache: VectorCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(engine, films(index_name, minilm), cache)
    targets = Targets(engine, cache)
    log.append([Event(index_name, "1", "upsert", {"id": 1, "title": "x"})])

    def die(*_: object, **__: object) -> None:
        raise Dies

    for _ in range(5):
        with monkeypatch.context() as patch:
            for name in ("drain", "suspects"):
                patch.setattr(sys.modules[f"knnex.workers.{name}"], "write_prepared", die)
            with pytest.raises(Dies):
                awaited(lambda: drain(log, targets, consumer="a", lease=0.2).taken and None)
    awaited(lambda: drain(log, targets, consumer="b", lease=0.2).written)
    assert log.buried(index_name) == []
    assert sorted(held(engine, index_name)) == ["1"]


class Wordless:
    """A real encoder whose device is broken: it encodes nothing."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode_documents(self, _: list[str]) -> Any:
        raise RuntimeError("no device")


def test_a_broken_model_buries_no_suspect(
    engine: Engine, index_name: str, minilm: str, log: RedisLog, cache: VectorCache
) -> None:
    target = made(engine, films(index_name, minilm), None)
    broken = Target(
        target.alias, target.stored, {"plot_vector": cast(Encoder, Wordless(target.encoders["plot_vector"]))}
    )
    log.append([Event(index_name, str(n), "upsert", {"id": n, "title": "x"}) for n in range(3)])
    log.take(index_name, "dead", 3, 0.2)
    awaited(lambda: drain(log, Opened(engine, broken), consumer="a", lease=0.2).taken)
    assert log.buried(index_name) == []
    assert log.backlog(index_name).total == 3
    assert "no device" in str(log.paused(index_name))


class Opened:
    """One target, opened already; its opening takes as long as `meanwhile`."""

    def __init__(self, engine: Engine, target: Target, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.engine, self.target, self.meanwhile = engine, target, meanwhile

    def get(self, _: str) -> Target:
        self.meanwhile()
        return self.target


@one_engine
def test_events_are_kept_while_a_model_is_loaded(
    engine: Engine, index_name: str, minilm: str, log: RedisLog, cache: VectorCache
) -> None:
    target = made(engine, films(index_name, minilm), cache)
    log.append([Event(index_name, "1", "upsert", {"id": 1, "title": "x"})])
    stolen: list[Any] = []

    def meanwhile() -> None:
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            stolen.extend(log.take(index_name, "other", 1, 2.0))

    report = drain(log, Opened(engine, target, meanwhile), consumer="a", lease=2.0)
    assert (stolen, report.written) == ([], 1)


class Picky(Targets):
    """Fails to open one index by an error that is not the engine's."""

    error: Exception
    alias: str

    def get(self, alias: str) -> Target:
        if alias == self.alias:
            raise self.error
        return super().get(alias)


@pytest.mark.parametrize("error", [SettingsError("device 'cuda' cannot be used"), ValueError("a newer spec")], ids=type)
def test_an_index_that_cannot_be_opened_keeps_no_other_waiting(
    engine: Engine, index_name: str, log: RedisLog, error: Exception
) -> None:
    other = f"{index_name}-other"
    spec = load_spec({"index": other, "fields": {"title": {"type": "text"}}})
    engine.run(create(spec, engine.dialect, {}))
    targets = Picky(engine)
    targets.alias, targets.error = index_name, error
    try:
        log.append([Event(name, "1", "upsert", {"id": 1, "title": "x"}) for name in (index_name, other)])
        report = drain(log, targets, consumer="a")
        assert (report.written, report.handed_back) == (1, 1)
        assert str(error) in str(log.paused(index_name))
        assert log.backlog(index_name).total == 1
    finally:
        engine.run(drop(other))
        log.forget(other)


def test_a_model_that_cannot_be_loaded_is_not_tried_every_time(
    engine: Engine, index_name: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(engine, films(index_name, str(tiny)))
    monkeypatch.setattr("knnex.encoders.registry._loaded", {})
    away = tiny.rename(tiny.with_name("away"))
    targets = Targets(engine)
    with pytest.raises(ModelUnavailable) as first:
        targets.get(index_name)
    away.rename(tiny)
    with pytest.raises(ModelUnavailable) as second:
        targets.get(index_name)
    assert second.value is first.value
    monkeypatch.setattr("knnex.workers.targets.TRY_AGAIN", 0.0)
    assert targets.get(index_name).encoders


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
        deadline = time.monotonic() + 120
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
    for _ in range(2):
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
    deadline = time.monotonic() + 120
    while not (found := state()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found
