"""Connections that break at the worst moment: after the server has done what it was asked, before we know (G2)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from proxy import Wire

from .audit import audit
from .crew import Crew
from .oracle import Oracle
from .outcome import Outcome
from .producer import Producer, ordered
from .stage import Stage, await_state

SIZES: dict[str, dict[str, Any]] = {
    "full": {"cuts": 50, "holes": 20, "bulks": 10},
    "small": {"cuts": 6, "holes": 4, "bulks": 3},
    "slice": {"cuts": 4, "holes": 1, "bulks": 1},
}
BACK_WITHIN = 15.0
# The doorbell, as Celery waits for it, and the events.
MOMENTS = (b"XREADGROUP", b"BRPOP")
PER_FAULT = 150


def through(wire: Wire, url: str) -> str:
    """The URL of the same server, by the wire."""
    return urlunsplit(urlsplit(url)._replace(netloc=f"127.0.0.1:{wire.port}"))


def wire_to(url: str) -> Wire:
    """A wire before a server."""
    parts = urlsplit(url)
    return Wire(str(parts.hostname), int(parts.port or 0))


def links(
    stage: Stage, seed: int, *, cuts: int, holes: int, bulks: int, told: Callable[[str], None] = lambda _: None
) -> Outcome:
    """One worker, whose replies from Redis and from the engine get lost; how long until it works again."""
    outcome, oracle, index = Outcome(), Oracle(), "chaos-links"
    target = stage.films(index)
    redis, engine = wire_to(stage.redis_url), wire_to(stage.url)
    faults = [(MOMENTS[n % 2], True) for n in range(cuts)] + [(MOMENTS[n % 2], False) for n in range(holes)]
    faults += [(b"/_BULK", n % 3 != 2) for n in range(bulks)]
    backs: dict[str, list[float]] = {}
    with Crew(
        stage, ["solo"], lease=4.0, batch=32, redis_url=through(redis, stage.redis_url),
        url=through(engine, stage.url), timeout=10,
    ) as crew:  # fmt: skip
        allowed = [float(PER_FAULT)]
        source = ordered(index, PER_FAULT * (len(faults) + 1), seed)
        producer = Producer(stage, oracle, source, allowed=lambda: allowed[0], seed=seed, most=20)
        producer.start()
        stage.drained(index)
        for number, (moment, close) in enumerate(faults):
            fault = (engine if moment.startswith(b"/") else redis).lose(moment, close=close)
            allowed[0] += PER_FAULT / 2
            name = f"{'cut' if close else 'hole'} at {moment.decode().strip('/_')}"
            await_state(fault.happened.is_set, 60, lambda name=name: f"{name}\n{crew.written()[-2000:]}", 0.005)
            broke, before = time.monotonic(), stage.settled(index)
            allowed[0] += PER_FAULT / 2  # so that there is work afterwards
            await_state(
                lambda before=before: stage.settled(index) > before,
                120,
                lambda: f"work again\n{crew.written()[-2000:]}",
            )
            backs.setdefault(name, []).append(time.monotonic() - broke)
            told(f"{number + 1:>4} of {len(faults)}: {name}, back after {backs[name][-1]:.1f} s")
            stage.drained(index)
        producer.finish(60)
        stage.drained(index)
        outcome.figures |= {"exits": dict(crew.exits), "crashes told": crew.written().count("Traceback")}
    redis.close()
    engine.close()
    audit(stage, oracle, target, outcome.audit)
    outcome.figures |= {
        "back, most s": {name: round(max(each), 1) for name, each in backs.items()},
        **outcome.audit.figures(),
    }
    for name, each in backs.items():
        outcome.pace(max(each) <= BACK_WITHIN, f"{name}: back after {max(each):.1f} s, not {BACK_WITHIN:g}")
    return outcome
