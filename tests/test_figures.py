"""The figures of a worker, and what a look at the log makes of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filling import draining, films, made, own_log, settled
from homes import until

from knnex.engines import Engine
from knnex.ingest import BatchReport, Event, RedisLog
from knnex.workers.figures import Figures, of_workers, quantiles, worker_rate
from knnex.workers.pauses import by_hand
from knnex.workers.watch import Watcher, feed_lag


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def log(redis_url: str, index_name: str) -> Iterator[RedisLog]:
    opened = own_log(redis_url, 12)
    for index in opened.indexes():  # of a test that was cut off
        opened.forget(index)
    yield opened
    opened.forget(index_name)
    opened.close()


def film(index: str, number: int) -> Event:
    return Event(index, str(number), "upsert", {"id": str(number), "title": "the cat", "plot": f"sat {number}"})


def test_rates_are_those_of_the_last_minute() -> None:
    clock = Clock()
    figures = Figures(clock)
    batch = BatchReport(written=80, deleted=20, encoded=60, cached=20)
    for _ in range(10):
        clock.now += 1.0
        figures.record("films", ["1000-0"] * 100, batch, encode_seconds=0.75, write_seconds=0.25, now=3_000)
    (told,) = figures.facts().values()
    assert told["documents"] == told["settled"] == 100.0
    assert (told["encode"], told["write"]) == (7.5, 2.5)
    assert (told["encoded"], told["cached"]) == (600, 200)
    assert told["fresh"] == {"live": [2.0, 2.0]}
    clock.now += 50
    assert figures.facts()["films"]["documents"] == pytest.approx(1000 / 60, abs=0.1)
    clock.now += 61
    assert figures.facts()["films"]["documents"] == 0
    assert figures.facts()["films"]["fresh"] == {"live": [2.0, 2.0]}


def test_freshness_is_of_the_last_thousand_events_of_a_lane() -> None:
    figures = Figures(Clock())
    old, new = [f"{ms}-0b" for ms in range(500)], [f"{100_000 - ms}-0" for ms in range(1_000)]
    figures.record("films", [*old, *new], BatchReport(), encode_seconds=0, write_seconds=0, now=100_000)
    figures.record("films", ["99000-0u"], BatchReport(), encode_seconds=0, write_seconds=0, now=98_000)
    fresh = figures.facts()["films"]["fresh"]
    assert fresh["live"] == [0.499, 0.949]
    assert fresh["backfill"][0] > 99
    assert fresh["updates"] == [0.0, 0.0]  # a clock that was set back makes nothing younger than new


@pytest.mark.parametrize(
    ("values", "found"),
    [([3.0], (3.0, 3.0)), ([2.0, 1.0], (1.0, 2.0)), (list(map(float, range(1, 101))), (50.0, 95.0))],
)
def test_quantiles_are_values_that_were_there(values: list[float], found: tuple[float, float]) -> None:
    assert quantiles(values) == found


def test_what_a_worker_tells_stays_small() -> None:
    clock = Clock()
    figures = Figures(clock)
    for number in range(50):
        clock.now += 0.1
        for lane in ("", "b", "u"):
            places = [f"{1795261064918 + step}-0{lane}" for step in range(2_000)]
            done = BatchReport(written=2_000)
            figures.record(f"index-{number}", places, done, encode_seconds=1, write_seconds=1, now=1795261099999)
        figures.retried(f"index-{number}", 7)
    facts = figures.facts()
    assert sorted(facts) == [f"index-{number}" for number in range(40, 50)]
    assert facts["index-49"]["retries"] == 7
    assert len(json.dumps(facts)) < 4_000


def test_figures_of_several_workers_are_added_up() -> None:
    one = {"documents": 10.0, "settled": 12.0, "encode": 1.0, "write": 1.0, "fresh": {"live": [0.1, 9.0]}}
    other = {
        "documents": 5.0,
        "settled": 5.0,
        "encode": 3.0,
        "cached": 2,
        "fresh": {"live": [0.5, 1.0], "backfill": [7, 8]},
    }
    workers: dict[str, Any] = {"a": {"figures": {"films": one}}, "b": {"figures": {"films": other}}, "c": {"rate": 4.5}}
    told = of_workers(workers, "films")
    assert (told["documents"], told["encode"], told["cached"]) == (15.0, 4.0, 2)
    assert told["fresh"] == {"live": (0.5, 9.0), "backfill": (7, 8)}
    assert of_workers(workers, "other") == {}
    assert [worker_rate(facts) for facts in workers.values()] == [10.0, 5.0, 4.5]


# A look at the log


def test_a_look_tells_what_waits_in_which_lane(log: RedisLog, index_name: str) -> None:
    log.append([film(index_name, number) for number in range(5)])
    log.append([film(index_name, number) for number in range(20, 30)], "backfill")
    log.append([Event(index_name, "1", "update", {"title": "x"})])
    log.take(index_name, "somebody", 3, 15.0)
    log.pause(index_name, by_hand(), "backfill")
    log.remember(index_name, "feed_lag", json.dumps({"behind": 3, "at": time.time() - 5}))
    (index,) = Watcher(log).look().indexes
    assert [(lane.lane, lane.waiting, lane.in_hand) for lane in index.lanes] == [
        ("live", 2, 3),
        ("backfill", 10, 0),
        ("updates", 1, 0),
        ("copies", 0, 0),
    ]
    assert all(0 <= lane.lag < 60 for lane in index.lanes)
    assert index.lanes[0].lag >= index.lanes[1].lag >= index.lanes[2].lag
    assert index.lanes[1].paused == by_hand()
    assert index.feed
    assert index.feed.behind == 3
    assert 5 <= index.feed.age < 65


@pytest.mark.parametrize("told", ["", "[]", "{}", '{"behind": "x", "at": 1}', '{"behind": 1}'])
def test_a_word_of_the_feed_that_cannot_be_read(log: RedisLog, index_name: str, told: str) -> None:
    log.append([film(index_name, 1)])
    log.remember(index_name, "feed_lag", told)
    assert feed_lag(log, index_name) is None


def test_who_keeps_looking_sees_how_fast_it_goes_and_when_it_is_done(log: RedisLog, index_name: str) -> None:
    clock = Clock()
    watcher = Watcher(log, index_name, clock)
    live = log.append([film(index_name, number) for number in range(30)])
    log.append([film(index_name, number) for number in range(100, 140)], "backfill")
    (index,) = watcher.look().indexes
    assert (index.documents_per_second, index.lanes[0].eta) == (0.0, None)
    log.take(index_name, "me", 20, 15.0)
    log.settle(index_name, live[:20], counts={"written": 16, "deleted": 2, "stale": 2})
    clock.now += 2.0
    (index,) = watcher.look().indexes
    assert index.documents_per_second == 9.0
    # Ten live events at ten events a second; the backfill waits for those.
    assert [lane.eta for lane in index.lanes] == [1.0, 5.0, None, None]
    log.pause(index_name, "the model is gone")
    clock.now += 1.0
    (index,) = watcher.look().indexes
    assert index.paused == "the model is gone"
    assert [lane.eta for lane in index.lanes] == [None, None, None, None]
    assert Watcher(log, "another").look().indexes == ()


def test_a_lane_that_is_paused_is_not_waited_for(log: RedisLog, index_name: str) -> None:
    log.append([film(index_name, 1)])
    log.append([film(index_name, 2)] * 10, "backfill")
    log.pause(index_name, by_hand(), "live")
    log.announce("a", {"figures": {index_name: {"documents": 5.0, "settled": 5.0, "fresh": {}}}}, 10)
    (index,) = Watcher(log).look().indexes
    log.retire("a")
    assert [lane.eta for lane in index.lanes] == [None, 2.0, None, None]


def test_a_worker_tells_its_figures(engine: Engine, log: RedisLog, index_name: str, tiny: Path) -> None:
    made(engine, films(index_name, str(tiny)))
    figures = Figures()
    log.append([film(index_name, number) for number in range(40)])
    log.append([film(index_name, number) for number in range(40)], "backfill")
    log.append([Event(index_name, "3", "update", {"year": 1999}), Event(index_name, "4", "upsert", {"year": "x"})])
    with draining(log, engine, figures=figures, batch=25):
        until(lambda: settled(log, index_name))
    told = figures.facts()[index_name]
    assert told["documents"] > 0
    assert told["encoded"] + told["cached"] > 0
    assert told["encode"] > 0
    assert told["write"] > 0
    assert told["buried"] == 1
    assert set(told["fresh"]) == {"live", "backfill", "updates"}
    assert all(0 < median <= late < 60 for median, late in told["fresh"].values())
