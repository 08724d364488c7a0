"""What every event log promises, on a real Redis, a SQLite file and a real PostgreSQL; and what is Redis's own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import postgres
import pytest
import sqlalchemy as sa
from filling import own_log

from knnex.engines.embedded import start_redis
from knnex.errors import LogUnavailable
from knnex.ingest import LANES, Backlog, Buried, Delivered, Event, EventLog, Lane, Mark, RedisLog, open_log
from knnex.ingest.events import version_of
from knnex.ingest.positions import split
from knnex.ingest.sql_log import SqlLog
from knnex.ingest.sql_tables import events as event_table

LEASE = 0.2


@pytest.fixture(params=["redis", "sqlite", "postgresql"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventLog]:
    opened: EventLog
    if request.param == "redis":
        opened = own_log(request.getfixturevalue("redis_url"), 1)
    else:
        opened = SqlLog(postgres.url() if request.param == "postgresql" else f"sqlite:///{tmp_path}/log.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def redis_log(redis_url: str) -> Iterator[RedisLog]:
    opened = own_log(redis_url, 1)
    yield opened
    opened.close()


@pytest.fixture
def index(request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"knnex-test-{uuid4().hex[:12]}"
    used: EventLog = request.getfixturevalue("redis_log" if "redis_log" in request.fixturenames else "log")
    yield name
    used.forget(name)


def same_log(log: EventLog) -> EventLog:
    """The log as another process sees it."""
    assert isinstance(log, (RedisLog, SqlLog))
    return open_log(log.url)


def put_in(log: EventLog, index: str, body: bytes) -> None:
    """Put something into the log that no knnex has written."""
    if isinstance(log, RedisLog):
        log.redis.xadd(f"knnex:{{{index}}}:events", {"event": body})
    elif isinstance(log, SqlLog):
        place = version_of(log.append(events(index, 1))[0])
        with log.writing() as connection:
            connection.execute(sa.update(event_table).where(event_table.c.place == place).values(body=body))


def take_away(log: EventLog, index: str, position: str) -> None:
    """Delete an event behind the log's back."""
    if isinstance(log, RedisLog):
        log.redis.xdel(f"knnex:{{{index}}}:events", position)
    elif isinstance(log, SqlLog):
        with log.writing() as connection:
            connection.execute(sa.delete(event_table).where(event_table.c.place == version_of(position)))


def positions_of(taken: Sequence[Delivered]) -> list[str]:
    return [one.position for one in taken]


def events(index: str, count: int) -> list[Event]:
    return [Event(index, str(number), "upsert", {"id": str(number), "title": "é"}) for number in range(count)]


def again(log: EventLog, index: str, consumer: str, count: int = 10) -> list[Delivered]:
    """What another worker gets, once the lease is over."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if taken := log.take(index, consumer, count, LEASE):
            return taken
    return []


def test_events_come_in_order_once_and_leave_when_settled(log: EventLog, index: str) -> None:
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


def test_two_indexes_do_not_see_each_other(log: EventLog, index: str) -> None:
    other = f"{index}-other"
    positions = log.append([*events(index, 2), *events(other, 1)])
    assert [one.position for one in log.take(other, "a", 10, 60)] == positions[2:]
    assert [one.position for one in log.take(index, "a", 10, 60)] == positions[:2]
    log.forget(other)
    assert other not in log.indexes()
    assert log.backlog(other) == Backlog(0, 0, None)
    assert other not in log.indexes()


def test_the_events_of_a_silent_worker_go_to_another_and_are_counted(log: EventLog, index: str) -> None:
    positions = log.append(events(index, 3))
    log.take(index, "dead", 3, LEASE)
    taken = again(log, index, "alive")
    assert [(one.position, one.deliveries) for one in taken] == [(position, 2) for position in positions]
    assert log.heartbeat(index, "dead", positions) == set()


def test_a_heartbeat_keeps_the_claim(log: EventLog, index: str) -> None:
    positions = log.append(events(index, 3))
    lease = 5 * LEASE  # longer than a busy machine stands still
    log.take(index, "slow", 3, lease)
    deadline = time.monotonic() + 3 * lease
    while time.monotonic() < deadline:
        assert log.heartbeat(index, "slow", positions) == set(positions)
        assert log.take(index, "other", 3, lease) == []
    assert [one.deliveries for one in again(log, index, "other")] == [2, 2, 2]


def test_what_is_handed_back_is_taken_at_once_and_not_held_against_it(log: EventLog, index: str) -> None:
    log.append(events(index, 2))
    taken = log.take(index, "a", 2, 60)
    log.blame(index, taken[0].position)
    log.release(index, "a", taken, 60, 0)
    back = log.take(index, "b", 2, 60)
    assert back == taken
    assert log.blame(index, taken[0].position) == 1
    assert log.blame(index, taken[0].position) == 2
    log.acquit(index, [taken[0].position])
    assert log.blame(index, taken[0].position) == 1
    assert log.doubted(index, []) == set()
    log.release(index, "b", back, 60, 30)
    assert log.take(index, "c", 2, 60) == []
    log.release(index, "b", back, 60, 0)
    log.release(index, "a", back, 60, 0)  # no more its own: changes nothing
    assert log.take(index, "c", 2, 60) == taken


def test_the_buried_are_kept_listed_retried_and_dropped(log: EventLog, index: str) -> None:
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


def test_an_unreadable_event_is_buried_and_stops_no_other(log: EventLog, index: str) -> None:
    log.append(events(index, 1))
    put_in(log, index, b'{"schema": 99, "op": "upsert"}')
    put_in(log, index, b"")
    log.append(events(index, 1))
    assert len(log.take(index, "a", 10, 60)) == 2
    assert [one.reason.split(":")[0] for one in log.buried(index)] == ["unreadable event"] * 2
    assert log.backlog(index).total == 2


def test_an_event_trimmed_by_somebody_is_reported_as_lost(log: EventLog, index: str) -> None:
    positions = log.append(events(index, 2))
    log.take(index, "a", 2, LEASE)
    take_away(log, index, positions[0])
    assert [one.position for one in again(log, index, "b")] == positions[1:]
    assert log.counts(index) == {"lost": 1}
    log.settle(index, positions)
    assert log.backlog(index) == Backlog(0, 0, None)


def test_a_log_that_was_wiped_starts_again(redis_log: RedisLog, index: str) -> None:
    redis_log.append(events(index, 1))
    redis_log.redis.delete(f"knnex:{{{index}}}:events")
    assert redis_log.take(index, "a", 1, 60) == []
    redis_log.append(events(index, 1))
    assert len(redis_log.take(index, "a", 1, 60)) == 1


def test_an_index_dropped_by_another_process_is_begun_anew(log: EventLog, index: str) -> None:
    other = same_log(log)
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
    log: EventLog, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, batch = ("redis_log", 64) if isinstance(log, RedisLog) else ("sql_taking", 50)
    monkeypatch.setattr(f"knnex.ingest.{where}.BATCH_BYTES", 500_000)
    positions = log.append([Event(index, str(n), "upsert", {"title": "x" * 10_000}) for n in range(100)])
    taken = log.take(index, "a", 512, 60)
    assert positions_of(taken) == positions[:batch]
    assert positions_of(log.take(index, "b", 512, 60)) == positions[batch : 2 * batch]
    log.release(index, "a", taken, 60, 0)
    assert positions_of(log.take(index, "c", 512, 60)) == positions[:batch]


def test_why_an_index_rests_is_told_until_something_of_it_is_settled(log: EventLog, index: str) -> None:
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


def test_pauses_and_workers_are_seen_by_others(log: EventLog, index: str) -> None:
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


def waited(log: EventLog, append: Callable[[], object], pause: float = 0.0) -> bool:
    """What waiting says while another thread appends, again and again."""
    woken = threading.Event()

    def again() -> None:
        while not woken.is_set():
            append()
            woken.wait(pause)

    thread = threading.Thread(target=again)
    thread.start()
    try:
        return log.wait(8)
    finally:
        woken.set()
        thread.join()


def test_waiting_ends_with_the_next_event(log: EventLog, index: str) -> None:
    log.append(events(index, 1))
    assert not log.wait(0.01)
    assert waited(log, lambda: log.append(events(index, 1)))


def test_waiting_ends_with_the_first_event_of_an_index_that_was_not_known(log: EventLog, index: str) -> None:
    log.append(events(index, 1))
    names = [index]

    def append() -> None:
        names.append(f"{index}-{len(names)}")
        log.append(events(names[-1], 1))

    try:
        assert waited(log, append, 0.1)
    finally:
        for name in names:
            log.forget(name)


def test_lanes_have_one_order_and_live_events_go_first(log: EventLog, index: str) -> None:
    (early,) = log.append(events(index, 1), lane="backfill")
    live = log.append(events(index, 2))
    (late,) = log.append(events(index, 1), lane="backfill")
    versions = [version_of(position) for position in (early, *live, late)]
    assert versions == sorted(set(versions))
    assert [split(position)[2] for position in (early, *live, late)] == ["backfill", "live", "live", "backfill"]
    assert log.backlog(index) == Backlog(4, 0, early)
    assert log.backlog(index).of("live") == Backlog(2, 0, live[0])
    assert log.backlog(index).of("updates") == Backlog(0, 0, None)
    assert positions_of(log.take(index, "a", 3, 60)) == [*live, early]
    assert log.backlog(index).of("backfill") == Backlog(1, 1, early)
    assert log.take(index, "a", 3, 60, lanes=["live"]) == []
    assert positions_of(log.take(index, "a", 3, 60, lanes=["live", "backfill"])) == [late]
    log.settle(index, [early, *live])
    assert log.backlog(index) == Backlog(0, 1, late)


def test_the_head_is_beyond_all_that_was_given_and_before_all_that_comes(log: EventLog, index: str) -> None:
    assert log.head(index) is None
    given: list[str] = []
    lanes: tuple[Lane, ...] = ("backfill", "live", "updates", "live", "backfill")
    for lane in lanes:
        given += log.append(change(index, 2) if lane == "updates" else events(index, 2), lane=lane)
        assert log.head(index) == given[-1]
    log.settle(index, given)
    with closing(same_log(log)) as another:
        assert another.head(index) == given[-1]
    (later,) = log.append(events(index, 1), lane="backfill")
    assert version_of(later) > version_of(given[-1])
    assert log.head(index) == later
    log.forget(index)
    assert log.head(index) is None


def change(index: str, count: int) -> list[Event]:
    return [Event(index, str(number), "update", {"title": "new"}) for number in range(count)]


def test_updates_wait_for_all_before_them_and_come_alone(log: EventLog, index: str) -> None:
    (early,) = log.append(events(index, 1), lane="backfill")
    updates = log.append(change(index, 3), lane="backfill")  # whatever is said
    assert {split(position)[2] for position in updates} == {"updates"}
    (late,) = log.append(events(index, 1))
    assert log.take(index, "a", 10, 60, lanes=["updates"]) == []
    assert positions_of(log.take(index, "a", 10, 60)) == [late, early]
    assert log.take(index, "b", 10, 60) == []
    log.settle(index, [early])
    # What is newer, and still with a worker, keeps nobody waiting.
    taken = log.take(index, "b", 2, 60)
    assert positions_of(taken) == updates[:2]
    assert log.take(index, "c", 10, 60) == []
    log.settle(index, [updates[0]])
    assert log.take(index, "c", 10, 60) == []
    log.release(index, "b", taken[1:], 60, 0)
    assert [(one.position, one.deliveries) for one in log.take(index, "c", 1, 60)] == [(updates[1], 1)]
    assert log.take(index, "b", 10, 60) == []
    log.settle(index, [updates[1]])
    assert positions_of(log.take(index, "b", 10, 60)) == updates[2:]


def test_an_update_does_not_overtake_what_came_between_it_and_the_one_before(log: EventLog, index: str) -> None:
    sent = [*change(index, 2), *events(index, 1), *change(index, 1)]
    positions = [log.append([event])[0] for event in sent]
    for expected in (positions[:2], positions[2:3], positions[3:]):
        assert positions_of(log.take(index, "a", 10, 60)) == expected
        log.settle(index, expected)


def test_what_is_appended_at_once_keeps_its_order_over_lanes(log: EventLog, index: str) -> None:
    sent = [*events(index, 1), *change(index, 1), *events(index, 2)]
    versions = [version_of(position) for position in log.append(sent)]
    assert versions == sorted(set(versions))


def test_updates_of_a_silent_worker_go_to_another_in_their_order(log: EventLog, index: str) -> None:
    updates = log.append(change(index, 3))
    log.take(index, "dead", 2, LEASE)
    assert [(one.position, one.deliveries) for one in again(log, index, "alive")] == [
        (updates[0], 2),
        (updates[1], 2),
        (updates[2], 1),
    ]


def test_a_mark_is_kept_with_the_events_until_it_is_dropped(log: EventLog, index: str) -> None:
    assert log.marks(index) == {}
    log.append(events(index, 2), lane="backfill", mark=Mark("a file.csv", 2))
    log.append([*events(index, 1), *events(f"{index}-other", 1)], lane="backfill", mark=Mark("a file.csv", 3))
    log.append(events(index, 1), lane="backfill", mark=Mark("é.json", 1))
    assert log.marks(index) == {"a file.csv": 3, "é.json": 1}
    assert log.marks(f"{index}-other") == {}
    log.forget(f"{index}-other")
    log.unmark(index, "é.json")
    log.unmark(index, "none")
    assert log.marks(index) == {"a file.csv": 3}


def test_small_texts_are_remembered(log: EventLog, index: str) -> None:
    assert log.recall(index, "cursor") is None
    log.remember(index, "cursor", "é-1")
    log.remember(index, "cursor", "é-2")
    other = same_log(log)
    assert other.recall(index, "cursor") == "é-2"
    other.close()
    log.remember(index, "cursor", None)
    assert log.recall(index, "cursor") is None


def test_one_lane_is_paused_by_itself(log: EventLog, index: str) -> None:
    log.pause(index, "full", "backfill")
    assert [log.paused(index), log.paused(index, "backfill"), log.paused(index, "live")] == [None, "full", None]
    log.pause(index, "gone")
    log.pause(index, None, "backfill")
    assert [log.paused(index), log.paused(index, "backfill")] == ["gone", None]


def test_a_name_has_one_holder_at_a_time(log: EventLog, index: str) -> None:
    assert log.hold(index, "a", 60)
    assert not log.hold(index, "b", 60)
    assert log.hold(index, "a", 0.05)
    until = time.monotonic() + 10
    while not log.hold(index, "b", 60) and time.monotonic() < until:
        pass
    assert not log.hold(index, "a", 60)
    log.hold(index, "b", 0)


def test_of_many_who_want_a_name_one_gets_it(log: EventLog, index: str) -> None:
    others = [same_log(log) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        held = list(pool.map(lambda one: one[1].hold(index, str(one[0]), 60), enumerate(others)))
    assert sum(held) == 1
    log.hold(index, str(held.index(True)), 0)
    for other in others:
        other.close()


def test_settling_twice_changes_nothing_but_the_counters(log: EventLog, index: str) -> None:
    positions = log.append(events(index, 3))
    log.take(index, "a", 2, 60)
    for _ in range(2):
        log.settle(index, positions[:1], counts={"written": 1})
    log.settle(index, positions[2:])  # one that nobody has taken
    assert log.backlog(index) == Backlog(0, 1, positions[1])
    assert log.counts(index) == {"written": 2}
    log.settle(index, [])


def test_that_events_are_being_tried_is_noted_until_they_did_no_harm_or_are_handed_back(
    log: EventLog, index: str
) -> None:
    positions = log.append(events(index, 5))
    taken = log.take(index, "a", 5, 60)
    assert log.doubted(index, positions) == set()
    log.blame(index, positions[0])
    log.doubt(index, positions[:4])
    assert log.doubted(index, positions[1:]) == set(positions[1:4])
    assert log.blame(index, positions[0]) == 2, "what is counted of it alone stays"
    log.acquit(index, positions[:2])
    log.settle(index, positions[2:3])
    log.release(index, "a", taken[3:4], 60, 0)
    assert log.doubted(index, positions) == set()
    assert log.blame(index, positions[0]) == 1


def test_all_that_is_known_of_an_index_can_be_forgotten(log: EventLog, index: str) -> None:
    positions = log.append([*events(index, 2), *change(index, 1)], mark=Mark("file", 2))
    taken = log.take(index, "a", 1, 60)
    log.blame(index, positions[0])
    log.settle(index, positions[:1], [Buried(positions[0], taken[0].event, "bad")], {"written": 1})
    log.pause(index, "gone")
    log.rest(index, "full", 60)
    log.remember(index, "cursor", "1")
    log.forget(index)
    assert index not in log.indexes()
    assert log.backlog(index) == Backlog(0, 0, None)
    assert [log.counts(index), log.marks(index), log.buried(index), log.burials(index)] == [{}, {}, [], []]
    assert [log.paused(index), log.resting(index), log.recall(index, "cursor")] == [None, None, None]
    assert log.take(index, "a", 1, 60) == []
    assert log.heartbeat(index, "a", positions) == set()
    assert log.blame(index, positions[0]) == 1


def test_from_many_appenders_every_event_comes_once_and_in_its_order(log: EventLog, index: str) -> None:
    appenders, batches = 4, 12
    logs = [same_log(log) for _ in range(appenders)]

    def append(number: int) -> list[str]:
        mine: list[str] = []
        for batch in range(batches):
            lane: Lane = "backfill" if batch % 3 == 1 else "live"
            sent = change(index, 2) if batch % 3 == 2 else events(index, 5)
            mine += logs[number].append(sent, lane)
        return mine

    taken: list[str] = []
    with ThreadPoolExecutor(appenders) as pool:
        sending = [pool.submit(append, number) for number in range(appenders)]
        while not all(one.done() for one in sending) or log.backlog(index).total:
            batch = log.take(index, "a", 7, 60)
            if batch and batch[0].event.op == "update":
                # Whatever came before them is settled by now, and nothing comes later that has to be before them.
                low = [log.backlog(index).of(lane).low_water for lane in LANES if lane != "updates"]
                newest = max(version_of(one.position) for one in batch)
                assert all(version_of(position) > newest for position in low if position)
            taken += positions_of(batch)
            log.settle(index, positions_of(batch))
    sent = [one.result() for one in sending]
    for mine in sent:
        assert [version_of(position) for position in mine] == sorted(version_of(position) for position in mine)
    assert len(taken) == len(set(taken))
    assert set(taken) == {position for mine in sent for position in mine}
    for lane in LANES:
        there = [version_of(position) for position in taken if split(position)[2] == lane]
        assert there == sorted(there)
    for one in logs:
        one.close()


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
