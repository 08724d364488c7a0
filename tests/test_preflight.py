"""Eight settings under which documents would be lost or spoilt: each is refused, and the message says how to mend it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filling import films, made, own_log
from homes import open_home, until
from tiny import tiny_model

from knnex.encoders import resolve
from knnex.engines import Engine, Request, path_of
from knnex.engines.embedded import start_redis
from knnex.errors import IndexMissing, KnnexError, LogUnavailable, ModelMismatch, ModelUnavailable, SpecMismatch
from knnex.ingest import Event, EventLog, RedisLog, Target, apply_events, make_target
from knnex.mappings import ALIVE, create, drop
from knnex.workers import Targets, drain
from knnex.workers.doctor import examine
from knnex.workers.preflight import check_target, find_target


@pytest.fixture
def log(redis_url: str, index_name: str) -> Iterator[RedisLog]:
    opened = own_log(redis_url, 12)
    yield opened
    opened.forget(index_name)
    opened.close()


@pytest.fixture(scope="module")
def own_redis() -> Iterator[RedisLog]:
    """A Redis whose settings a test may spoil."""
    with open_home() as home, start_redis(home=home) as server:
        yield RedisLog(str(server.url))


def ask(engine: Engine, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    def flow() -> Any:
        return (yield Request(method, path, {}, body)).body

    return engine.run(flow())


def do(engine: Engine, hint: str) -> None:
    """Do what a hint says: the request in it, word for word."""
    found = re.search(r"(POST|PUT) (/\S+) (\{.*\})", hint)
    assert found, hint
    body = json.JSONDecoder().raw_decode(found[3])[0]
    ask(engine, found[1], found[2], body)


def opened(engine: Engine, log: EventLog, alias: str) -> Target:
    """An index as a worker opens it."""
    log.check()
    stored = engine.run(find_target(alias))
    check_target(engine, log, stored)
    return make_target(alias, stored)


def refused(engine: Engine, log: EventLog, alias: str, kind: type[KnnexError]) -> KnnexError:
    with pytest.raises(kind) as caught:
        opened(engine, log, alias)
    assert caught.value.hint
    return caught.value


def alias_actions(engine: Engine, *actions: dict[str, Any]) -> None:
    ask(engine, "POST", "/_aliases", {"actions": list(actions)})


def test_a_safe_index_is_opened(engine: Engine, log: RedisLog, index_name: str, tiny: Path) -> None:
    target = made(engine, films(index_name, str(tiny)))
    assert opened(engine, log, index_name).stored == target.stored


@pytest.mark.parametrize(
    ("setting", "unsafe", "safe"), [("appendonly", "no", "yes"), ("maxmemory-policy", "allkeys-lru", "noeviction")]
)
def test_a_log_that_forgets(
    engine: Engine, own_redis: RedisLog, index_name: str, tiny: Path, setting: str, unsafe: str, safe: str
) -> None:
    made(engine, films(index_name, str(tiny)))
    own_redis.redis.config_set(setting, unsafe)
    error = refused(engine, own_redis, index_name, LogUnavailable)
    assert f"{setting} {safe}" in str(error.hint)
    own_redis.redis.config_set(setting, safe)
    opened(engine, own_redis, index_name)


@pytest.mark.parametrize("by", ["spec", "somebody"])
def test_a_translog_that_forgets(engine: Engine, log: RedisLog, index_name: str, tiny: Path, by: str) -> None:
    settings = {"index.translog.durability": "async"}
    target = made(engine, films(index_name, str(tiny), settings=settings if by == "spec" else {}))
    if by == "somebody":
        ask(engine, "PUT", path_of(target.stored.index, "_settings"), settings)
    error = refused(engine, log, index_name, SpecMismatch)
    assert "async" in str(error)
    do(engine, str(error.hint))
    opened(engine, log, index_name)


def test_an_alias_that_is_gone(engine: Engine, log: RedisLog, index_name: str, tiny: Path) -> None:
    stored = made(engine, films(index_name, str(tiny))).stored
    alias_actions(engine, {"remove": {"index": stored.index, "alias": index_name}})
    error = refused(engine, log, index_name, IndexMissing)
    assert stored.index in str(error)
    do(engine, str(error.hint))
    opened(engine, log, index_name)


def test_an_index_in_the_place_of_the_alias(engine: Engine, log: RedisLog, index_name: str, tiny: Path) -> None:
    stored = made(engine, films(index_name, str(tiny))).stored
    alias_actions(engine, {"remove": {"index": stored.index, "alias": index_name}})
    # What a bulk without require_alias does, where the cluster creates indexes by itself.
    ask(engine, "POST", path_of(index_name, "_doc"), {"title": "Heat"})
    error = refused(engine, log, index_name, SpecMismatch)
    assert "no alias" in str(error)
    do(engine, str(error.hint))
    assert opened(engine, log, index_name).stored.index == stored.index


def test_an_index_that_has_the_spec_and_no_alias(engine: Engine, log: RedisLog, index_name: str, tiny: Path) -> None:
    """As a restored snapshot or a copy may be."""
    stored = made(engine, films(index_name, str(tiny))).stored
    mapping = ask(engine, "GET", path_of(stored.index, "_mapping"))[stored.index]["mappings"]
    settings = engine.dialect.index_settings()
    ask(engine, "DELETE", path_of(stored.index))
    ask(engine, "PUT", path_of(index_name), {"mappings": mapping, "settings": settings})
    try:
        error = refused(engine, log, index_name, SpecMismatch)
        assert "another name" in str(error.hint)
    finally:
        ask(engine, "DELETE", path_of(index_name))


def test_an_alias_of_two_indexes(engine: Engine, log: RedisLog, index_name: str, tiny: Path) -> None:
    stored = made(engine, films(index_name, str(tiny))).stored
    other = f"{index_name}-000002"
    ask(engine, "PUT", path_of(other))
    try:
        alias_actions(engine, {"add": {"index": other, "alias": index_name}})
        error = refused(engine, log, index_name, SpecMismatch)
        assert other in str(error)
        do(engine, str(error.hint))
        assert opened(engine, log, index_name).stored.index == stored.index
    finally:
        ask(engine, "DELETE", path_of(other))


def test_an_alias_that_takes_no_writes(engine: Engine, log: RedisLog, index_name: str, tiny: Path) -> None:
    stored = made(engine, films(index_name, str(tiny))).stored
    closed = {"index": stored.index, "alias": index_name, "is_write_index": False, "filter": ALIVE}
    alias_actions(engine, {"add": closed})
    do(engine, str(refused(engine, log, index_name, SpecMismatch).hint))
    opened(engine, log, index_name)


def test_another_model(
    engine: Engine, log: RedisLog, index_name: str, tmp_path: Path, fresh_settings: pytest.MonkeyPatch
) -> None:
    """The name in the spec means other weights on this machine than on the one that filled the index."""
    first, second = (tiny_model(tmp_path / str(seed), seed=seed) for seed in (0, 1))
    spec = films(index_name, "acme/films")
    fresh_settings.setenv("KNNEX_MODELS", json.dumps({"acme/films": str(first)}))
    foreign = {name: replace(one, fingerprint="0" * 32) for name, one in resolve(spec).items()}
    engine.run(create(spec, engine.dialect, foreign))
    error = refused(engine, log, index_name, ModelMismatch)
    assert "0" * 32 in str(error)
    assert "KNNEX_MODELS" in str(error.hint)
    assert second != first


def test_a_log_behind_the_index(engine: Engine, log: RedisLog, index_name: str, tiny: Path) -> None:
    """A log that was wiped, on a machine whose clock was set back by an hour, as seen from the index."""
    target = made(engine, films(index_name, str(tiny)))
    later = log.now() + 3_600_000
    document = {"id": "1", "title": "the cat", "plot": "sat"}
    apply_events(engine, target, [Event(index_name, "1", "upsert", document, version=later << 20)])
    ask(engine, "POST", path_of(index_name, "_refresh"))
    error = refused(engine, log, index_name, SpecMismatch)
    assert "dropped" in str(error)
    assert "clock" in str(error.hint)
    # A log that goes on beyond all versions was not wiped, whatever its clock says.
    sent = log.append([Event(index_name, "2", "upsert", document | {"id": "2"})])
    log.redis.xadd(f"knnex:{{{index_name}}}:events", {"event": b"{}"}, id=f"{later + 1}-0")
    refused(engine, log, index_name, SpecMismatch)
    log.settle(index_name, sent)
    opened(engine, log, index_name)


def test_versions_of_the_producer_are_not_compared(engine: Engine, log: RedisLog, index_name: str, tiny: Path) -> None:
    target = made(engine, films(index_name, str(tiny), version="rev"))
    document = {"id": "1", "title": "the cat", "rev": 1 << 62}
    apply_events(engine, target, [Event(index_name, "1", "upsert", document, version=1 << 62)])
    ask(engine, "POST", path_of(index_name, "_refresh"))
    opened(engine, log, index_name)


def _program(model: Path) -> None:
    (model / "modeling.py").write_text("raise SystemExit('it ran')")


def _pickle(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")


def _own_class(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling.Evil"}}))


@pytest.mark.parametrize("spoil", [_program, _pickle, _own_class])
def test_an_unsafe_model(
    engine: Engine, log: RedisLog, index_name: str, tiny: Path, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    """The same index elsewhere, where somebody put something beside the model that would run."""
    spoilt = tmp_path / "spoilt"
    shutil.copytree(tiny, spoilt)
    found = resolve(films(index_name, str(tiny)))
    spoil(spoilt)
    engine.run(create(films(index_name, str(spoilt)), engine.dialect, found))
    assert "not loaded" in str(refused(engine, log, index_name, ModelUnavailable))


def test_only_the_unsafe_index_waits(engine: Engine, log: RedisLog, index_name: str, tiny: Path) -> None:
    """A worker writes to the others, says how to mend this one, and goes on with it once that is done."""
    other = f"{index_name}-safe"
    target = made(engine, films(index_name, str(tiny), settings={"index.translog.durability": "async"}))
    made(engine, films(other, str(tiny)))
    try:
        for index in (index_name, other):
            log.append([Event(index, "1", "upsert", {"id": "1", "title": "the cat"})])
        assert drain(log, Targets(engine, log=log), consumer="me", lease=0.5).written == 1
        reason = log.paused(index_name) or ""
        assert target.stored.index in reason
        assert log.paused(other) is None
        do(engine, reason)
        until(lambda: drain(log, Targets(engine, log=log), consumer="me", lease=0.5).written == 1)
        assert log.paused(index_name) is None
    finally:
        log.forget(other)
        engine.run(drop(other))


def test_the_doctor_says_it_too(engine: Engine, log: RedisLog, index_name: str, tiny: Path) -> None:
    target = made(engine, films(index_name, str(tiny)))
    found = {one.name: one for one in examine(lambda: engine, lambda: log, index_name) if one.part == index_name}
    assert {found[name].verdict for name in ("alias", "durability", "versions")} == {"ok"}
    ask(engine, "PUT", path_of(target.stored.index, "_settings"), {"index.translog.durability": "async"})
    found = {one.name: one for one in examine(lambda: engine, lambda: log, index_name) if one.part == index_name}
    assert found["durability"].verdict == "wrong"
    assert "request" in found["durability"].hint


def test_the_doctor_names_what_waits(engine: Engine, log: RedisLog, index_name: str, tiny: Path) -> None:
    made(engine, films(index_name, str(tiny)))
    document = {"id": "1", "title": "the cat"}
    log.append([Event(index_name, "1", "upsert", document)])
    log.append([Event(index_name, "2", "upsert", document)] * 2, "backfill")
    log.pause(index_name, "paused by hand", "backfill")
    log.remember(index_name, "feed_lag", json.dumps({"behind": 3, "at": log.now() / 1000}))
    told = {one.name: one for one in examine(lambda: engine, lambda: log, index_name) if one.part == index_name}
    assert "1 live" in told["events"].detail
    assert "2 backfill" in told["events"].detail
    assert "knnex resume" in told["paused backfill"].hint
    assert "3 documents" in told["change feed"].detail


def test_a_missing_join_module_has_a_hint(engine: Engine, log: RedisLog) -> None:
    found = {one.name: one for one in examine(lambda: engine, lambda: log) if one.part == "engine"}
    assert found["parent join"].verdict == "ok" or "nested" in found["parent join"].hint
