"""An engine that takes nothing for a while: a tripped breaker, a full write queue, a full disk (G9)."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

from knnex.engines import Access, open_engine
from knnex.errors import EngineError
from knnex.ingest import Event
from knnex.mappings import load_spec

from .audit import audit
from .crew import Crew
from .oracle import Oracle
from .outcome import Outcome
from .producer import Producer
from .stage import Stage, await_state

How = Literal["breaker", "queue", "flood"]
RESUMED_WITHIN, FLAT = 20.0, 50 << 20


@dataclass(frozen=True)
class Load:
    """So many events, of so many ids, wait while the engine takes nothing for so many seconds."""

    events: int
    ids: int
    seconds: float


SIZES = {
    "full": Load(1_000_000, 200_000, 300.0),
    "small": Load(20_000, 5_000, 30.0),
    "slice": Load(2_000, 1_000, 5.0),
}


def overload(stage: Stage, how: How, load: Load, seed: int, told: Callable[[str], None] = lambda _: None) -> Outcome:
    """The log fills while the engine refuses; nothing is buried or lost, memory stays flat, and work resumes."""
    if how == "queue":
        with stage.engine_settings(thread_pool__write__queue_size="1"):
            return _overload(stage, how, load, seed, told)
    return _overload(stage, how, load, seed, told)


def _overload(stage: Stage, how: How, load: Load, seed: int, told: Callable[[str], None]) -> Outcome:
    outcome, oracle, index = Outcome(), Oracle(), f"chaos-{how}"
    fields = {"title": {"type": "text"}, "year": {"type": "integer"}}
    # Without a vector: so many documents have to be written afterwards.
    target = stage.make(load_spec({"index": index, "fields": fields}))
    with Crew(stage, ["solo", "solo"], lease=15.0, batch=512) as crew:
        source = _plain(index, load, seed)
        first = [next(source) for _ in range(1000)]
        for event, position in zip(first, stage.log.append(first), strict=True):
            oracle.accepted(event, position)
        stage.drained(index)
        warm = [member.rss() for member in crew.members]
        memory: list[int] = []
        producer = Producer(stage, oracle, source, allowed=lambda: float("inf"), most=1000, most_waiting=load.events)
        with refusing(stage, how, target.stored.index):
            refused = 0 if how == "flood" else _refusals(stage, how, target.stored.index)
            producer.start()
            started, waiting = time.monotonic(), 0
            while time.monotonic() - started < load.seconds or producer.is_alive():
                time.sleep(1)
                memory.append(max(member.rss() for member in crew.members))
                waiting = max(waiting, stage.total(index))
            producer.finish(600)
            told(f"{waiting} events waited; {stage.log.resting(index)}")
            before, refused = stage.settled(index), _refusals(stage, how, target.stored.index) - refused
        released = time.monotonic()
        await_state(lambda: stage.settled(index) > before, 120, lambda: f"work again\n{crew.written()[-2000:]}", 0.02)
        resumed = time.monotonic() - released
        drained = stage.drained(index, patience=120 + load.events / 200)
        memory.append(max(member.rss() for member in crew.members))
        outcome.figures |= {"exits": dict(crew.exits)}
    audit(stage, oracle, target, outcome.audit)
    growth = max(memory) - max(warm)
    outcome.figures |= {
        "events": oracle.events, "waiting at most": waiting, "refusals": refused, "resumed after s": round(resumed, 1),
        "drained after s": round(drained, 1), "rss MB": [max(warm) >> 20, max(memory) >> 20], **outcome.audit.figures(),
    }  # fmt: skip
    outcome.goal(refused > 0, "the engine refused nothing")
    outcome.pace(resumed <= RESUMED_WITHIN, f"work resumed {resumed:.1f} s after release, not {RESUMED_WITHIN:g}")
    outcome.goal(growth <= FLAT, f"memory grew by {growth >> 20} MB")
    return outcome


def _plain(index: str, load: Load, seed: int) -> Iterator[Event]:
    chance = random.Random(f"{seed} overload")
    for number in range(load.events):
        id_ = str(chance.randrange(load.ids))
        if chance.random() < 0.1:
            yield Event(index, id_, "delete", {})
        else:
            yield Event(index, id_, "upsert", {"id": id_, "title": f"film {number} " * 4, "year": number % 3000})


def _refusals(stage: Stage, how: How, index: str) -> int:
    """How often the engine has refused, as it counts itself."""
    nodes = stage.ask("GET", "/_nodes/stats/breaker,thread_pool,indexing_pressure")["nodes"].values()
    if how == "breaker" and stage.name == "elasticsearch":
        return sum(int(one["indexing_pressure"]["memory"]["total"]["coordinating_rejections"]) for one in nodes)
    if how == "breaker":
        return sum(int(one["breakers"]["in_flight_requests"]["tripped"]) for one in nodes)
    if how == "queue":
        return sum(int(one["thread_pool"]["write"]["rejected"]) for one in nodes)
    return int(_blocked(stage, index))


@contextmanager
def refusing(stage: Stage, how: How, index: str) -> Iterator[None]:
    """While it lasts, the engine refuses writes; it takes them again when this returns."""
    with {"breaker": _breaker, "queue": _queue, "flood": _flood}[how](stage, index):
        yield


@contextmanager
def _breaker(stage: Stage, _: str) -> Iterator[None]:
    """Whole requests are answered 429: by the breaker for requests in flight, which one engine no longer asks."""
    if stage.name == "elasticsearch":
        with stage.engine_settings(indexing_pressure__memory__limit="1kb"):
            yield
        return
    stage.cluster(network__breaker__inflight_requests__limit="2kb")
    try:
        yield
    finally:
        stage.cluster(network__breaker__inflight_requests__limit=None)


@contextmanager
def _flood(stage: Stage, index: str) -> Iterator[None]:
    """Items are answered 429: too little room on the disk, says the engine."""
    watermarks = {
        f"cluster__routing__allocation__disk__watermark__{name}": "900000gb" for name in ("low", "high", "flood_stage")
    }
    enabled = {
        "cluster__routing__allocation__disk__threshold_enabled": "true",
        "cluster__info__update__interval": "10s",
    }
    stage.cluster(**watermarks, **enabled)
    await_state(lambda: _blocked(stage, index), 90, "the flood block")
    try:
        yield
    finally:
        stage.cluster(**dict.fromkeys(watermarks), **dict.fromkeys(enabled))
        # One engine lifts its blocks by itself, the other only while it looks at the disk.
        if stage.name == "opensearch":
            stage.cluster(cluster__blocks__create_index=None)
        stage.ask("PUT", f"/{index}/_settings", {"index.blocks.read_only_allow_delete": None})
        await_state(lambda: not _blocked(stage, index), 30, "the end of the flood block")


def _blocked(stage: Stage, index: str) -> bool:
    settings = stage.ask("GET", f"/{index}/_settings", None, {"flat_settings": "true"})[index]["settings"]
    return settings.get("index.blocks.read_only_allow_delete") == "true"


@contextmanager
def _queue(stage: Stage, _: str) -> Iterator[None]:
    """Items are answered 429: others write to so many shards that the queue, of one place here, is always full."""
    over = threading.Event()
    stage.ask("PUT", "/chaos-hog", {"settings": {"number_of_shards": 12, "number_of_replicas": 0}})
    line: Any = tuple(
        part for n in range(240) for part in (b'{"index":{}}', b'{"words":"%s"}' % (b"word %d " % n * 200))
    )

    def hog() -> None:
        engine = open_engine(stage.url, Access())
        while not over.is_set():
            with suppress(EngineError):
                stage.ask("POST", "/chaos-hog/_bulk", line)
        engine.close()

    hogs = [threading.Thread(target=hog, daemon=True) for _ in range(3)]
    for one in hogs:
        one.start()
    try:
        yield
    finally:
        over.set()
        for one in hogs:
            one.join()
        stage.ask("DELETE", "/chaos-hog")
