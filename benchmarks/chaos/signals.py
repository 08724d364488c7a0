"""Workers frozen past their lease, and workers told to stop in the middle of a batch (rows 3 and 4)."""

from __future__ import annotations

from typing import Any

from .audit import audit
from .crew import Crew
from .oracle import Oracle
from .outcome import Outcome
from .producer import Producer, ordered
from .recovery import held_by
from .stage import Stage, await_state

SIZES: dict[str, dict[str, Any]] = {"full": {"times": 25}, "small": {"times": 3}, "slice": {"times": 1}}
PER_TURN = 1500


def signals(stage: Stage, seed: int, *, times: int, lease: float = 2.0) -> Outcome:
    """Each turn one worker is frozen until others have its events, and one is told to stop and has to hand back."""
    outcome, oracle, index = Outcome(), Oracle(), "chaos-signals"
    target = stage.films(index)
    codes, left = [], 0
    with Crew(stage, ["solo", "solo"], lease=lease, batch=64) as crew:
        allowed = [0.0]
        source = ordered(index, PER_TURN * 2 * times, seed)
        producer = Producer(stage, oracle, source, allowed=lambda: allowed[0], seed=seed)
        producer.start()
        for number in range(times):
            frozen, told = crew.members[number % 2], crew.members[1 - number % 2]
            allowed[0] += PER_TURN
            await_state(lambda one=frozen: bool(held_by(stage, index, one.pid)), 60, "a worker at work", 0.005)
            crew.halt(frozen, lease * 2.5)
            allowed[0] += PER_TURN
            await_state(lambda one=told: bool(held_by(stage, index, one.pid)), 60, "a worker at work", 0.005)
            pid = told.pid
            codes.append(crew.end(told))
            left += len(held_by(stage, index, pid, lease))
            crew.start(told)
            crew.ready(told)
        producer.finish(60)
        stage.drained(index)
        outcome.figures |= {"exits": dict(crew.exits)}
    audit(stage, oracle, target, outcome.audit)
    outcome.figures |= {
        "frozen": times,
        "told to stop": times,
        "exit codes": sorted(set(codes)),
        **outcome.audit.figures(),
    }
    outcome.goal(set(codes) <= {0}, f"SIGTERM ended workers with {codes}")
    outcome.goal(left == 0, f"workers told to stop kept events: {left} batches")
    return outcome
