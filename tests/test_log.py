"""The event log on a real Redis."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from filling import own_log

from knnex.engines.embedded import start_redis
from knnex.errors import LogUnavailable
from knnex.ingest import Backlog, Buried, Delivered, Event, RedisLog
from knnex.ingest.events import version_of

LEASE = 0.2


@pytest.fixture
def log(redis_url: str) -> Iterator[RedisLog]:
    opened = own_log(redis_url, 1)
    yield opened
    opened.close()


@pytest.fixture
def index(log: RedisLog) -> Iterator[str]:
    name = f"knnex-test-{uuid4().hex[:12]}"
    yield name
    log.forget(name)


def events(index: str, count: int) -> list[Event]:
    return [Event(index, str(number), "upsert", {"id": str(number), "title": "é"}) for number in range(count)]


def again(log: RedisLog, index: str, consumer: str, count: int = 10) -> list[Delivered]:
    """What another worker gets, once the lease is over."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if taken := log.take(index, consumer, count, LEASE):
            return taken
    return []


def test_events_come_in_order_once_and_leave_when_settled(log: RedisLog, index: str) -> None:
    positions = log.append(events(index, 5))
    versions = [version_of(position) for position in positions]
    assert versions == sorted(set(versions))
    assert log.backlog(index) == Backlog(5, 0, positions[0])
    first, rest = log.take(index, "a", 2, 60), log.take(index, "b", 10, 60)
    assert [one.position for one in (*first, *rest)] == positions
    assert [one.event for one in first] == [
        replace(event, position=at) for event, at in zip(events(index, 2), positions, strict=False)
    ]
    assert {one.deliveries for one in (*first, *rest)} == {1}
    assert log.take(index, "c", 10, 60) == []
    log.settle(index, [one.position for one in rest], counts={"written": 3})
    assert log.backlog(index) == Backlog(0, 2, positions[0])
    log.settle(index, positions[:2], counts={"written": 2, "stale": 0})
    assert log.backlog(index) == Backlog(0, 0, None)
    assert log.counts(index) == {"written": 5}
    assert index in log.indexes()


def test_two_indexes_do_not_see_each_other(log: RedisLog, index: str) -> None:
    other = f"{index}-other"
    positions = log.append([*events(index, 2), *events(other, 1)])
    assert [one.position for one in log.take(other, "a", 10, 60)] == positions[2:]
    assert [one.position for one in log.take(index, "a", 10, 60)] == positions[:2]
    log.forget(other)
    assert other not in log.indexes()
    assert log.backlog(other) == Backlog(0, 0, None)
    assert other not in log.indexes()


def test_the_events_of_a_silent_worker_go_to_another_and_are_counted(log: RedisLog, index: str) -> None:
    positions = log.append(events(index, 3))
    log.take(index, "dead", 3, LEASE)
    taken = again(log, index, "alive")
    assert [(one.position, one.deliveries) for one in taken] == [(position, 2) for position in positions]
    assert log.heartbeat(index, "dead", positions) == set()


def test_a_heartbeat_keeps_the_claim(log: RedisLog, index: str) -> None:
    positions = log.append(events(index, 3))
    log.take(index, "slow", 3, LEASE)
    deadline = time.monotonic() + 3 * LEASE
    while time.monotonic() < deadline:
        assert log.heartbeat(index, "slow", positions) == set(positions)
        assert log.take(index, "other", 3, LEASE) == []
    assert [one.deliveries for one in again(log, index, "other")] == [2, 2, 2]


def test_what_is_handed_back_is_taken_at_once_and_not_held_against_it(log: RedisLog, index: str) -> None:
    log.append(events(index, 2))
    taken = log.take(index, "a", 2, 60)
    log.blame(index, taken[0].position)
    log.release(index, "a", taken, 60, 0)
    back = log.take(index, "b", 2, 60)
    assert back == taken
    assert log.blame(index, taken[0].position) == 1
    assert log.blame(index, taken[0].position) == 2
    log.acquit(index, taken[0].position)
    assert log.blame(index, taken[0].position) == 1
    log.release(index, "b", back, 60, 30)
    assert log.take(index, "c", 2, 60) == []
    log.release(index, "b", back, 60, 0)
    log.release(index, "a", back, 60, 0)  # no more its own: changes nothing
    assert log.take(index, "c", 2, 60) == taken


def test_the_buried_are_kept_listed_retried_and_dropped(log: RedisLog, index: str) -> None:
    positions = log.append(events(index, 3))
    taken = log.take(index, "a", 3, 60)
    for number, one in enumerate(taken):
        for _ in range(2):  # by a worker that was thought dead, too
            log.settle(index, [one.position], [Buried(one.position, one.event, f"reason {number}", 1)])
    found = log.buried(index)
    assert [(one.id, one.reason, one.attempts) for one in found] == [(str(n), f"reason {n}", 1) for n in range(3)]
    assert time.time() - 60 < found[0].buried_at <= time.time()
    assert [one.position for one in log.buried(index, after=positions[0], limit=1)] == [positions[1]]
    assert log.burials(index) == positions
    assert log.counts(index)["buried"] == 3
    assert log.find_buried(index, [positions[2], "9-9"]) == {positions[2]: found[2]}
    assert log.drop_buried(index, [positions[0]]) == 1
    assert log.retry_buried(index, [positions[1]]) == 1
    assert [one.id for one in log.buried(index)] == ["2"]
    retried = log.take(index, "a", 3, 60)
    # Under its old version: what was written meanwhile is newer.
    assert [(one.event.id, one.event.order) for one in retried] == [("1", version_of(positions[1]))]


def test_an_unreadable_event_is_buried_and_stops_no_other(log: RedisLog, index: str) -> None:
    log.append(events(index, 1))
    log.redis.xadd(f"knnex:{{{index}}}:events", {"event": b'{"schema": 99, "op": "upsert"}'})
    log.redis.xadd(f"knnex:{{{index}}}:events", {"other": b""})
    log.append(events(index, 1))
    assert len(log.take(index, "a", 10, 60)) == 2
    assert [one.reason.split(":")[0] for one in log.buried(index)] == ["unreadable event"] * 2
    assert log.backlog(index).total == 2


def test_an_event_trimmed_by_somebody_is_reported_as_lost(log: RedisLog, index: str) -> None:
    positions = log.append(events(index, 2))
    log.take(index, "a", 2, LEASE)
    log.redis.xdel(f"knnex:{{{index}}}:events", positions[0])
    assert [one.position for one in again(log, index, "b")] == positions[1:]
    assert log.counts(index) == {"lost": 1}


def test_a_log_that_was_wiped_starts_again(log: RedisLog, index: str) -> None:
    log.append(events(index, 1))
    log.redis.delete(f"knnex:{{{index}}}:events")
    assert log.take(index, "a", 1, 60) == []
    log.append(events(index, 1))
    assert len(log.take(index, "a", 1, 60)) == 1


def test_an_index_dropped_by_another_process_is_begun_anew(log: RedisLog, index: str) -> None:
    other = RedisLog(log.url)
    log.append(events(index, 1))
    other.forget(index)
    assert log.take(index, "a", 1, 60) == []
    assert index not in log.indexes()
    log.append(events(index, 2))
    # In a stream without a group, or of an index that is not listed, no worker would find them.
    assert index in other.indexes()
    assert log.backlog(index).total == 2
    assert len(other.take(index, "a", 9, 60)) == 2
    other.close()


def test_a_batch_of_large_documents_ends_at_its_bytes(
    log: RedisLog, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("knnex.ingest.redis_log.BATCH_BYTES", 500_000)
    positions = log.append([Event(index, str(n), "upsert", {"title": "x" * 10_000}) for n in range(100)])
    taken = log.take(index, "a", 512, 60)
    assert [one.position for one in taken] == positions[:64]
    assert [one.position for one in log.take(index, "b", 512, 60)] == positions[64:]
    log.release(index, "a", taken, 60, 0)
    assert [one.position for one in log.take(index, "c", 512, 60)] == positions[:64]


def test_why_an_index_rests_is_told_until_something_of_it_is_settled(log: RedisLog, index: str) -> None:
    (position,) = log.append(events(index, 1))
    assert [log.rest(index, reason, 60) for reason in ("full", "full", "gone")] == [True, False, True]
    assert log.resting(index) == "gone"
    log.settle(index, [])
    assert log.resting(index) == "gone"
    log.settle(index, [position])
    assert log.resting(index) is None
    log.rest(index, "full", 0.001)
    while log.resting(index):
        pass


def test_pauses_and_workers_are_seen_by_others(log: RedisLog, index: str) -> None:
    name = f"worker-{index}"
    assert log.paused(index) is None
    log.pause(index, "wrong model")
    assert log.paused(index) == "wrong model"
    log.pause(index, None)
    assert log.paused(index) is None
    log.announce(name, {"device": "cpu"}, 60)
    assert log.workers()[name] == {"device": "cpu"}
    log.announce(name, {"device": "cpu"}, 0.001)
    while name in log.workers():
        pass
    log.announce(name, {}, 60)
    log.retire(name)
    assert name not in log.workers()


def test_waiting_ends_with_the_next_event(log: RedisLog, index: str) -> None:
    log.append(events(index, 1))
    assert not log.wait(0.01)
    woken = threading.Event()

    def append() -> None:
        while not woken.is_set():
            log.append(events(index, 1))

    thread = threading.Thread(target=append)
    thread.start()
    try:
        assert log.wait(8)
    finally:
        woken.set()
        thread.join()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://127.0.0.1:1/0", "no answer from Redis at redis://127.0.0.1:1/0"),
        ("http://127.0.0.1:6379", "is no URL of a Redis"),
        ("redis://127.0.0.1:6379/zero", "is no URL of a Redis"),
    ],
)
def test_a_wrong_url_is_told(url: str, reason: str) -> None:
    with pytest.raises(LogUnavailable, match=reason) as caught:
        RedisLog(url).check()
    assert "KNNEX_REDIS_URL" in str(caught.value.hint)


def test_bad_credentials_are_told_without_showing_them(redis_url: str) -> None:
    log = RedisLog(redis_url.replace("redis://", "redis://somebody:secret-word@"))
    with pytest.raises(LogUnavailable, match="refused the credentials") as caught:
        log.check()
    assert "secret-word" not in f"{caught.value} {log!r}"


def test_an_unsafe_redis_is_refused_with_the_fix(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with start_redis(home=tmp_path) as server:
        log = RedisLog(server.url)
        assert log.check() == ()
        log.redis.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(LogUnavailable, match=r"throws keys away .*allkeys-lru") as caught:
            log.check()
        assert "noeviction" in str(caught.value.hint)
        log.redis.config_set("maxmemory-policy", "noeviction")
        log.redis.config_set("appendonly", "no")
        with pytest.raises(LogUnavailable, match="in memory only") as caught:
            log.check()
        assert "appendonly yes" in str(caught.value.hint)
        log.redis.execute_command("ACL", "SETUSER", "shy", "on", ">word", "~*", "+@all", "-config")
        shy = RedisLog(server.url.replace("redis://", "redis://shy:word@"))
        (warning,) = shy.check()
        assert "does not let us read its settings" in warning
        assert caplog.messages == [warning]
        log.redis.config_set("maxmemory", "1mb")
        with pytest.raises(LogUnavailable, match="is full"):
            log.append([Event("full", "1", "upsert", {"title": "x" * 100_000})] * 30)
        shy.close()
        log.close()
