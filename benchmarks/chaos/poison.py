"""Documents that kill whichever process encodes them, among documents that do no harm (G7)."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from knnex.ingest import Event

from .audit import audit
from .crew import Crew
from .oracle import Oracle
from .outcome import Outcome
from .producer import Producer, document
from .stage import Stage, await_state

SIZES: dict[str, dict[str, Any]] = {
    "full": {"events": 10_000, "killers": 10},
    "small": {"events": 2_000, "killers": 3},
    "slice": {"events": 200, "killers": 2, "pools": ("prefork",), "hangs": False, "within": 150.0, "crashes": 4},
}
CRASHES, SHARE = 3, 0.9
# Seconds until a model that hangs is given up.
DEADLINE = 5.0


def poison(
    stage: Stage, seed: int, *, events: int, killers: int, pools: tuple[str, ...] = ("prefork", "solo"),
    hangs: bool = True, within: float = 60.0, crashes: int = CRASHES, told: Callable[[str], None] = lambda _: None,
) -> Outcome:  # fmt: skip
    """Each killer is buried after three deaths at most, nothing else is, and the others go in meanwhile."""
    outcome, oracle, index = Outcome(), Oracle(), "chaos-poison"
    target = stage.films(index)
    chance = random.Random(f"{seed} poison")
    kinds = ("KILL", "CRASH", "HANG") if hangs else ("KILL", "CRASH")
    fatal = {f"deadly-{number}": f"{kinds[number % len(kinds)]}{number}" for number in range(killers)}
    deaths = stage.home / f"deaths-{seed}.txt"
    environment = {"PYTHONPATH": str(Path(__file__).parent / "killing"), "CHAOS_DEATHS": str(deaths)}
    with Crew(
        stage, list(pools), how="command", lease=3.0, batch=128, deadline=DEADLINE, environment=environment
    ) as crew:
        before = _rate(stage, oracle, index, chance, events // 2, "before")
        started = time.monotonic()
        source = _with_killers(index, events, chance, fatal)
        producer = _Poisoner(stage, oracle, source, allowed=lambda: float("inf"), seed=seed)
        producer.start()
        producer.finish(120)
        written = _until(stage, index, started, round(events * SHARE) + events // 2)
        told(f"{SHARE:.0%} of the others were in after {written:.1f} s")
        stage.drained(index, patience=300)
        drained = time.monotonic() - started
        after = _rate(stage, oracle, index, chance, events // 2, "after")
        outcome.figures |= {"exits": dict(crew.exits)}
    died = Counter(line.split()[0] for line in deaths.read_text().splitlines())
    audit(stage, oracle, target, outcome.audit)
    outcome.figures |= {
        "killers": killers, "crashes": dict(died), f"{SHARE:.0%} of the others, s": round(written, 1),
        "drained, s": round(drained, 1), "rate before": round(before), "rate after": round(after),
        **outcome.audit.figures(),
    }  # fmt: skip
    outcome.goal(max(died.values()) <= crashes, f"a document killed {max(died.values())} times")
    outcome.pace(written <= within, f"{SHARE:.0%} of the others were in after {written:.1f} s, not {within:g}")
    outcome.pace(after >= before * SHARE * 0.8, f"{after:.0f} a second afterwards, {before:.0f} before")
    return outcome


class _Poisoner(Producer):
    """Tells the oracle that what kills has to be buried."""

    def note(self, event: Event, position: str) -> None:
        if event.id.startswith("deadly-"):
            self.oracle.doomed(event)
        else:
            super().note(event, position)


def _with_killers(index: str, count: int, chance: random.Random, fatal: dict[str, str]) -> Iterator[Event]:
    places = dict(zip(chance.sample(range(count), len(fatal)), fatal, strict=True))
    for number in range(count):
        id_ = places.get(number, f"among-{number}")
        body = document(chance, id_, number)
        yield Event(index, id_, "upsert", body | ({"title": f"robot {fatal[id_]}"} if id_ in fatal else {}))


def _rate(stage: Stage, oracle: Oracle, index: str, chance: random.Random, count: int, name: str) -> float:
    """Harmless documents a second."""
    source = (Event(index, f"{name}-{n}", "upsert", document(chance, f"{name}-{n}", n)) for n in range(count))
    # Models are loaded first, which is not what is asked here.
    first = next(source)
    oracle.accepted(first, stage.log.append([first])[0])
    stage.drained(index)
    started = time.monotonic()
    producer = Producer(stage, oracle, source, allowed=lambda: float("inf"))
    producer.start()
    producer.finish(120)
    stage.drained(index)
    return count / (time.monotonic() - started)


def _until(stage: Stage, index: str, started: float, count: int) -> float:
    """Seconds until so many are written."""
    await_state(lambda: stage.log.counts(index).get("written", 0) >= count, 300, lambda: f"{stage.log.counts(index)}")
    return time.monotonic() - started
