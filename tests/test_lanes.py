"""Lanes of the log: live before backfill, updates after all that came before them, and in one order over all."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filling import draining, films, held, made, own_log, settled
from homes import until

from knnex.encoders import VectorCache
from knnex.engines import Engine, Request, path_of
from knnex.ingest import Event, RedisLog
from knnex.ingest.positions import WRITES, split, version_of
from knnex.ingest.updates import merge
from knnex.workers import Targets, drain
from knnex.workers.pauses import BURY_ANYWAY, by_hand


@pytest.fixture
def log(redis_url: str, index_name: str) -> Iterator[RedisLog]:
    opened = own_log(redis_url, 6)
    yield opened
    opened.forget(index_name)
    opened.close()


def event(index: str, id_: str, op: Any = "upsert", **document: Any) -> Event:
    return Event(index, id_, op, {"id": id_, **document})


def test_positions_grow_over_all_lanes(log: RedisLog, index_name: str) -> None:
    positions = []
    for number in range(300):
        op = "update" if number % 3 == 0 else "upsert"
        positions += log.append([event(index_name, "1", op)], "backfill" if number % 3 == 1 else "live")
    versions = [version_of(position) for position in positions]
    assert versions == sorted(set(versions))
    assert {split(position)[2] for position in positions} == set(WRITES)


def test_a_clock_that_was_set_back_does_not_put_new_before_old(log: RedisLog, index_name: str) -> None:
    (first,) = log.append([event(index_name, "1")])
    ahead = split(first)[0] + 3_600_000
    log.redis.xadd(f"knnex:{{{index_name}}}:backfill", {"event": b"{}"}, id=f"{ahead}-16380")
    positions = [
        *log.append([event(index_name, str(number)) for number in range(5)]),
        *log.append([event(index_name, "1", "update")]),
        *log.append([event(index_name, str(number)) for number in range(10_000)], "backfill"),
        *log.append([event(index_name, "9")]),
    ]
    versions = [version_of(position) for position in positions]
    assert versions == sorted(set(versions))
    assert versions[0] > version_of(f"{ahead}-16380b")
    assert log.backlog(index_name).total == 1 + len(positions) + 1


def test_appenders_at_once_share_one_order(log: RedisLog, redis_url: str, index_name: str) -> None:
    found: list[list[str]] = [[] for _ in range(3)]

    def append(lane: Any, into: list[str]) -> None:
        mine = own_log(redis_url, 6)
        for _ in range(60):
            into += mine.append([event(index_name, "1", "update" if lane == "updates" else "upsert")] * 3, lane)
        mine.close()

    threads = [threading.Thread(target=append, args=one) for one in zip(WRITES, found, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    every = [version_of(position) for positions in found for position in positions]
    assert len(set(every)) == 540
    assert all(list(map(version_of, positions)) == sorted(map(version_of, positions)) for positions in found)
    assert log.backlog(index_name).total == 540


def test_live_events_go_before_a_backfill(log: RedisLog, index_name: str) -> None:
    log.append([event(index_name, f"b{number}") for number in range(5)], "backfill")
    log.append([event(index_name, f"l{number}") for number in range(3)])
    assert [one.event.id for one in log.take(index_name, "a", 4, 60)] == ["l0", "l1", "l2", "b0"]
    assert (log.backlog(index_name).of("live").pending, log.backlog(index_name).of("backfill").undelivered) == (3, 4)
    assert [one.event.id for one in log.take(index_name, "a", 9, 60, ("live",))] == []
    assert len(log.take(index_name, "a", 9, 60, ("backfill",))) == 4


def test_updates_wait_for_all_before_them_and_go_to_one_worker(log: RedisLog, index_name: str) -> None:
    (old,) = log.append([event(index_name, "1")], "backfill")
    log.append([event(index_name, "1", "update", title="u")])
    (newer,) = log.append([event(index_name, "2")])
    log.append([event(index_name, "2", "update", title=str(number)) for number in range(3)])
    assert [one.position for one in log.take(index_name, "a", 1, 60)] == [newer]
    assert [one.position for one in log.take(index_name, "a", 9, 60)] == [old]
    assert log.take(index_name, "b", 9, 60) == []
    log.settle(index_name, [old])
    first = log.take(index_name, "a", 1, 60)
    assert [one.event.document["title"] for one in first] == ["u"]
    log.settle(index_name, [newer])
    assert log.take(index_name, "b", 9, 60) == []
    log.settle(index_name, [one.position for one in first])
    rest = log.take(index_name, "b", 2, 60)
    assert [one.event.document["title"] for one in rest] == ["0", "1"]
    assert log.take(index_name, "a", 9, 60) == []
    log.release(index_name, "b", rest, 60, 0)
    again = log.take(index_name, "a", 9, 60)
    assert [(one.event.document["title"], one.deliveries) for one in again] == [("0", 1), ("1", 1), ("2", 1)]


def test_changes_are_merged_as_an_engine_merges_them() -> None:
    assert merge({"a": {"b": 1, "c": [1]}, "d": 1}, {"a": {"c": [2], "e": {}}, "d": None}) == {
        "a": {"b": 1, "c": [2], "e": {}},
        "d": None,
    }


@pytest.mark.feature("Partial updates, in order")
def test_updates_among_writes_and_deletes_end_as_if_done_one_by_one(
    engine: Engine, index_name: str, minilm: str, log: RedisLog, tmp_path: Path
) -> None:
    target = made(engine, films(index_name, minilm))
    chance, want = random.Random(7), dict[str, dict[str, Any] | None]()
    absent = 0
    with draining(log, engine, batch=7, cache=VectorCache(tmp_path / "one")), draining(log, engine, batch=5):
        for number in range(160):
            id_, op = str(chance.randrange(12)), chance.choice(["upsert", "update", "update", "delete"])
            change: dict[str, Any] = {chance.choice(["title", "plot"]): f"text {number}"}
            if op == "update":
                absent += want.get(id_) is None
                before = want.get(id_)
                want[id_] = None if before is None else before | change
            else:
                want[id_] = None if op == "delete" else {"id": id_, **change}
            log.append(
                [event(index_name, id_, op, **({} if op == "delete" else change))],
                "backfill" if chance.random() < 0.3 else "live",
            )
        until(lambda: settled(log, index_name))
    found = held(engine, index_name)
    alive = {id_: document for id_, document in want.items() if document}
    plain = {
        id_: {key: value for key, value in one.items() if key not in ("plot_vector", "_knnex")}
        for id_, one in found.items()
    }
    assert plain == alive
    graves = log.buried(index_name)
    # One that found nothing, and found something newer when its turn came, is stale like any other.
    assert 0 < len(graves) <= absent
    assert {one.reason.split("'")[0] for one in graves} == {"there is no document "}
    encoder = target.encoders["plot_vector"]
    for id_, document in alive.items():
        (vector,) = encoder.encode_documents([f"{document.get('title', '')}. {document.get('plot', '')}".strip()])
        assert found[id_]["plot_vector"] == pytest.approx(vector.tolist(), abs=1e-3), id_


def test_of_updates_that_fail_together_only_the_culprit_is_buried(
    engine: Engine, index_name: str, minilm: str, log: RedisLog
) -> None:
    made(engine, films(index_name, minilm))
    log.append([event(index_name, "1", title="a", year=1)])
    changes: list[dict[str, Any]] = [{"title": "b"}, {"year": "bad"}, {"plot": "c"}]
    log.append([event(index_name, "1", "update", **change) for change in changes])
    log.append([event(index_name, "2", "update", title="nobody")])
    drain(log, Targets(engine), consumer="a")
    assert settled(log, index_name)
    document = held(engine, index_name)["1"]
    assert (document["title"], document["year"], document["plot"]) == ("b", 1, "c")
    first, second = sorted(log.buried(index_name), key=lambda one: one.id)
    assert (first.event and first.event.document["year"], second.id) == ("bad", "2")
    assert log.counts(index_name)["written"] == 3


def test_a_lane_is_paused_by_itself(engine: Engine, index_name: str, minilm: str, log: RedisLog) -> None:
    made(engine, films(index_name, minilm))
    log.append([event(index_name, "b", title="x")], "backfill")
    log.append([event(index_name, "l", title="x")])
    log.pause(index_name, by_hand(), "backfill")
    drain(log, Targets(engine), consumer="a")
    assert (log.backlog(index_name).of("live").total, log.backlog(index_name).of("backfill").total) == (0, 1)
    log.pause(index_name, None, "backfill")
    log.pause(index_name, by_hand("ann"))
    drain(log, Targets(engine), consumer="a")
    assert log.paused(index_name) == "paused by hand by ann"
    assert log.backlog(index_name).total == 1
    log.pause(index_name, None)
    drain(log, Targets(engine), consumer="a")
    assert settled(log, index_name)


def test_a_storm_of_refusals_pauses_the_index_and_buries_nothing_more(
    engine: Engine, index_name: str, minilm: str, log: RedisLog
) -> None:
    made(engine, films(index_name, minilm))
    log.append([event(index_name, str(number), title="x", year="bad" if number % 2 else 1) for number in range(500)])
    drain(log, Targets(engine), consumer="a", batch=250)
    assert str(log.paused(index_name)).startswith("too many documents are refused: ")
    assert log.buried(index_name) == []
    assert drain(log, Targets(engine), consumer="b").taken == 0
    assert log.backlog(index_name).total == 250  # the good ones are in
    log.remember(index_name, BURY_ANYWAY, "yes")
    log.pause(index_name, None)
    until(lambda: bool(drain(log, Targets(engine), consumer="a", lease=0.1)) and settled(log, index_name))
    assert (len(log.buried(index_name, limit=1000)), log.counts(index_name)["written"]) == (250, 250)
    drain(log, Targets(engine), consumer="a")
    assert log.recall(index_name, BURY_ANYWAY) is None


@pytest.mark.parametrize("where", ["index", "batch"])
def test_two_documents_of_one_version_are_told(
    engine: Engine, index_name: str, minilm: str, log: RedisLog, where: str
) -> None:
    made(engine, films(index_name, minilm, version="rev"))
    first = Event(index_name, "1", "upsert", {"id": "1", "title": "a", "rev": 5}, 5)
    other = Event(index_name, "1", "upsert", {"id": "1", "title": "b", "rev": 5}, 5)
    for batch in ([first], [first], [other]) if where == "index" else ([first, first, other],):
        log.append(batch)
        drain(log, Targets(engine), consumer="a")
    assert held(engine, index_name)["1"]["title"] == "a"
    (grave,) = log.buried(index_name)
    assert grave.reason.startswith("another document was sent under the same version 5")
    counts = log.counts(index_name)
    assert (counts["written"], counts["stale"], counts["buried"]) == (1, 1, 1)


def test_what_is_read_for_an_update_holds_no_vector(
    engine: Engine, index_name: str, minilm: str, log: RedisLog
) -> None:
    target = made(engine, films(index_name, minilm))
    log.append([event(index_name, "1", title="x", year=1)])
    log.append([event(index_name, "1", "update", year=2)])
    drain(log, Targets(engine), consumer="a")

    def flow() -> Any:
        return (yield Request("GET", path_of(target.stored.index, "_doc", "1"))).body["_source"]

    assert engine.run(flow())["year"] == 2
    assert len(held(engine, index_name)["1"]["plot_vector"]) == 384
