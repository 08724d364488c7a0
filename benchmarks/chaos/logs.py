"""What happens to the log itself: full, crowded, trimmed, set back, wiped (rows 9, 10, 22, 23 and 24)."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from urllib.parse import urlsplit

from knnex.errors import LogUnavailable
from knnex.ingest import Event, Target
from knnex.ingest.redis_link import stream
from knnex.ingest.redis_streams import GROUP
from knnex.mappings import load_spec

from .audit import audit
from .crew import Crew
from .oracle import Oracle
from .outcome import Outcome
from .producer import Producer, ordered
from .recovery import held_by
from .stage import Stage, await_state

LEASE, RESUMED_WITHIN = 2.0, 30.0
Scenario = Callable[[Stage, int], Outcome]


def _target(stage: Stage, index: str) -> Target:
    fields = {
        "title": {"type": "text"},
        "plot": {"type": "text"},
        "genre": {"type": "keyword"},
        "year": {"type": "integer"},
    }
    return stage.make(load_spec({"index": index, "fields": fields}))


def _append(stage: Stage, oracle: Oracle, events: Iterator[Event] | list[Event]) -> None:
    batch = list(events)
    for start in range(0, len(batch), 100):
        part = batch[start : start + 100]
        for event, position in zip(part, stage.log.append(part), strict=True):
            oracle.accepted(event, position)


def full(stage: Stage, seed: int) -> Outcome:
    """Redis at its memory's limit: producers are told, workers go on, and what was accepted goes in."""
    outcome, oracle, index = Outcome(), Oracle(), "chaos-full"
    target = _target(stage, index)
    said, stuck = "", False
    with Crew(stage, ["solo"], lease=LEASE, batch=64) as crew:
        (worker,) = crew.members
        _append(stage, oracle, ordered(index, 3000, seed))
        await_state(lambda: bool(held_by(stage, index, worker.pid)), 60, "a worker at work", 0.005)
        crew.freeze(worker)
        stage.config("maxmemory", "1mb")
        try:
            said = _refused(stage, index)
            crew.thaw(worker)
            await_state(lambda: not stage.log.redis.xlen(stream(index, "live")), 60, "a log drained while full")
        except TimeoutError:
            stuck = True
        finally:
            stage.config("maxmemory", "0")
        resumed, before = time.monotonic(), stage.settled(index)
        await_state(lambda: stage.settled(index) > before or not stage.total(index), 120, "work")
        resumed = time.monotonic() - resumed
        stage.drained(index)
        outcome.figures |= {"exits": dict(crew.exits)}
    audit(stage, oracle, target, outcome.audit)
    outcome.figures |= {"told": said, "drains while full": not stuck, **outcome.audit.figures()}
    outcome.goal("full" in said, f"a full log said {said!r}")
    outcome.pace(resumed <= RESUMED_WITHIN, f"work resumed {resumed:.1f} s after there was room again")
    return outcome


def _refused(stage: Stage, index: str) -> str:
    """What a producer is told."""
    try:
        stage.log.append([Event(index, "refused", "upsert", {"id": "refused"})])
    except LogUnavailable as error:
        return str(error)
    return ""


def crowded(stage: Stage, seed: int) -> Outcome:
    """All connections of Redis are taken: whoever has none waits, and nothing is lost."""
    outcome, oracle, index = Outcome(), Oracle(), "chaos-crowded"
    target = _target(stage, index)
    address = urlsplit(stage.redis_url)
    with Crew(stage, ["solo"], lease=LEASE, batch=16) as crew:
        producer = Producer(stage, oracle, ordered(index, 4000, seed), allowed=lambda: float("inf"), most=20, seed=seed)
        producer.start()
        await_state(lambda: stage.settled(index) > 0, 60, "work")
        before = int(stage.log.redis.config_get("maxclients")["maxclients"])
        held: list[socket.socket] = []
        stage.config("maxclients", 40)
        # One of the worker's connections is cut, so that it has to ask for a new one and is refused.
        for _ in range(60):
            with suppress(OSError):
                held.append(socket.create_connection((str(address.hostname), int(address.port or 0)), 2))
        for one in stage.log.redis.client_list():
            if one["cmd"].lower() in ("xreadgroup", "xread", "brpop", "xinfo"):
                stage.log.redis.client_kill_filter(_id=one["id"])
        time.sleep(4)
        for one in held:
            one.close()
        stage.config("maxclients", before)
        producer.finish(60)
        stage.drained(index)
        outcome.figures |= {"exits": dict(crew.exits), "connections": len(held)}
    audit(stage, oracle, target, outcome.audit)
    outcome.figures |= outcome.audit.figures()
    return outcome


def trimmed(stage: Stage, seed: int) -> Outcome:
    """Somebody trims the stream while events are in a worker's hands: the loss is told, not passed over."""
    outcome, oracle, index = Outcome(), Oracle(), "chaos-trimmed"
    target = _target(stage, index)
    doomed = [Event(index, f"trimmed-{n}", "upsert", {"id": f"trimmed-{n}", "title": "x"}) for n in range(20)]
    stage.log.append(doomed)
    taken = stage.log.take(index, "dead", 20, LEASE)
    stage.log.redis.xtrim(stream(index, "live"), maxlen=0, approximate=False)
    time.sleep(LEASE)  # what is lost shows when it is taken over
    _append(stage, oracle, ordered(index, 500, seed))
    with Crew(stage, ["solo"], lease=LEASE, batch=64) as crew:
        await_state(
            lambda: stage.log.counts(index).get("lost", 0) == len(taken), 60, lambda: f"{stage.log.counts(index)}"
        )
        stage.drained(index)
        told = crew.written().count("is gone from the log")
    pending = int(stage.log.redis.xpending(stream(index, "live"), GROUP)["pending"])
    audit(stage, oracle, target, outcome.audit)
    lost = outcome.audit.faults.pop("trimmed", 0)
    outcome.figures |= {"trimmed": lost, "told in the log": told, "pending": pending} | outcome.audit.figures()
    outcome.goal(
        (lost, told, pending) == (20, 20, 0), f"20 trimmed: counted {lost}, told {told}, still pending {pending}"
    )
    return outcome


def clock(stage: Stage, seed: int) -> Outcome:
    """The clock of Redis was an hour ahead and is set back: what comes later still has the greater version."""
    outcome, oracle, index = Outcome(), Oracle(), "chaos-clock"
    target = _target(stage, index)
    chance = random.Random(f"{seed} clock")
    with Crew(stage, ["solo"], lease=LEASE, batch=64):
        _append(stage, oracle, ordered(index, 600, seed))
        for hours, lane in enumerate(chance.sample(("live", "updates"), 2), 1):
            ahead = (stage.log.now() + 3_600_000 * hours, 5)
            key = stream(index, lane)
            stage.log.redis.xadd(key, {"event": b""}, id=f"{ahead[0]}-{ahead[1]}")
            stage.log.redis.xdel(key, f"{ahead[0]}-{ahead[1]}")
            _append(stage, oracle, ordered(index, 600, seed + ahead[0] % 1000))
        _append(stage, oracle, ordered(index, 600, seed + 1))
        stage.drained(index)
    audit(stage, oracle, target, outcome.audit)
    outcome.figures |= {"events": oracle.events, **outcome.audit.figures()}
    return outcome


def wiped(stage: Stage, seed: int) -> Outcome:
    """Redis comes back empty, its clock behind the versions in the index: what is accepted then wins, or is refused."""
    outcome, oracle, index = Outcome(), Oracle(), "chaos-wiped"
    target = _target(stage, index)
    with Crew(stage, ["solo"], lease=LEASE, batch=64) as crew:
        (worker,) = crew.members
        _append(stage, oracle, ordered(index, 600, seed))
        ahead = stage.log.now() + 3_600_000
        stage.log.redis.xadd(stream(index, "live"), {"event": b""}, id=f"{ahead}-0")
        stage.log.redis.xdel(stream(index, "live"), f"{ahead}-0")
        _append(stage, oracle, ordered(index, 600, seed + 1))
        stage.drained(index)
        crew.end(worker)
        stage.log.redis.flushall()
        stage.log.forget(index)
        after = Oracle()
        after.indexes = {index: dict(oracle.of(index))}
        try:
            _append(stage, after, ordered(index, 100, seed + 2))
            behind = after.disorders > 0
        except LogUnavailable as error:
            outcome.figures["told to the producer"] = str(error)
            behind = True
        crew.start(worker)
        with suppress(TimeoutError):
            await_state(lambda: bool(stage.log.paused(index)) or not stage.total(index), 60, "a word about it")
        paused = stage.log.paused(index)
        outcome.figures |= {"exits": dict(crew.exits), "paused": paused, "counts": stage.log.counts(index)}
    refused = bool(paused) or "told to the producer" in outcome.figures
    outcome.figures |= {"versions behind the index": behind}
    if not refused:
        after.disorders = 0
        audit(stage, after, target, outcome.audit)
        outcome.goal(
            not behind, "events accepted after the wipe have older versions than the index, and nobody is told"
        )
    outcome.figures |= outcome.audit.figures()
    stage.log.forget(index)
    return outcome
