"""Kills without end: workers, their pools' processes, the engine and Redis, while events flow (G1, G3, G16)."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import psutil

from .audit import audit
from .crew import Crew, Member
from .oracle import Oracle
from .outcome import Outcome
from .producer import Producer, mixed, ordered, versioned
from .recovery import Recovery, held_by
from .stage import Stage, await_state

VERSIONED, ORDERED = "chaos-versioned", "chaos-ordered"
DRAINED_WITHIN, GROWTH = 60.0, 1.10


@dataclass(frozen=True)
class Plan:
    """So many events, and what is done to whom meanwhile, an action every `gap` seconds on average."""

    events: int
    gap: float
    children: int = 0
    mains: int = 0
    engines: int = 0
    redises: int = 0
    halts: int = 0
    terms: int = 0
    lease: float = 15.0
    batch: int = 128
    pools: Sequence[str] = ("prefork", "prefork", "solo", "solo")

    def actions(self, chance: random.Random) -> list[str]:
        """All of them in an order of their own; servers evenly between."""
        small = ["child"] * self.children + ["main"] * self.mains + ["halt"] * self.halts + ["term"] * self.terms
        chance.shuffle(small)
        servers = ["engine"] * self.engines + ["redis"] * self.redises
        chance.shuffle(servers)
        every = len(small) / (len(servers) + 1)
        for place, name in reversed(list(enumerate(servers, 1))):
            small.insert(round(place * every), name)
        return small


SOAK = {
    "full": Plan(100_000, 3.0, children=100, mains=100, engines=3, redises=3),
    "small": Plan(6_000, 2.0, children=5, mains=5, engines=1, redises=1, lease=5.0),
    "slice": Plan(1_500, 1.0, children=3, mains=3, engines=0, redises=1, lease=3.0, pools=("prefork", "solo")),
}
ENDURANCE = {
    "full": Plan(150_000, 6.0, children=60, mains=50, engines=4, redises=10, halts=40, terms=36, lease=5.0),
    "small": Plan(6_000, 3.0, children=3, mains=3, engines=1, redises=2, halts=3, terms=2, lease=5.0),
}


REDELIVERY: dict[str, dict[str, Any]] = {
    "full": {"kills": 20, "lease": 15.0, "within": 20.0},
    "small": {"kills": 4, "lease": 15.0, "within": 20.0},
    "slice": {"kills": 2, "lease": 3.0, "within": 90.0, "events": 1500},
}


class Soak:
    """One run."""

    def __init__(self, stage: Stage, crew: Crew, plan: Plan, seed: int) -> None:
        self.stage, self.crew, self.plan = stage, crew, plan
        self.chance = random.Random(f"{seed} soak")
        self.done: Counter[str] = Counter()
        self.recovery = Recovery(stage)
        self.actions = plan.actions(self.chance)
        # Never touched, so that its memory tells.
        self.witness = crew.members[-1] if plan.halts or plan.terms else None

    def allowed(self) -> float:
        """How many events may have been sent by now: the last ones after the last action."""
        return self.plan.events * (sum(self.done.values()) + 1) / (len(self.actions) + 1)

    def act(self, name: str) -> None:
        """One action."""
        {
            "child": self.child, "main": self.main, "halt": self.halt, "term": self.term,
            "engine": lambda: self.server(self.stage.name), "redis": lambda: self.server("redis"),
        }[name]()  # fmt: skip
        self.done[name] += 1

    def someone(self) -> Member:
        """A worker at its work, of those that may be touched."""
        able: list[Member] = []

        def found() -> bool:
            able[:] = [one for one in self.crew.members if one is not self.witness and one.code() is None]
            return bool(able)

        await_state(found, 120, "a worker that runs")
        return self.chance.choice(able)

    def child(self) -> None:
        pids: list[int] = []

        def found() -> bool:
            # Asked once: a pool that had processes a moment ago may have none, as its main process was just replaced.
            nonlocal pids
            pools = [(one, one.children()) for one in self.crew.members if one is not self.witness]
            able = [children for one, children in pools if children and one.code() is None]
            pids = self.chance.choice(able) if able else []
            return bool(pids)

        await_state(found, 120, "a pool with processes")
        busy = [pid for pid in pids if self._held(pid)]
        pid = self.chance.choice(busy or pids)
        held = self._held(pid)
        self.crew.kill_child(pid)
        self.recovery.watch(held)

    def main(self) -> None:
        member = self.someone()
        # Of a solo worker; the processes of a pool outlive their main process, and finish what they are at.
        held = self._held(member.pid)
        self.crew.kill(member)
        self.recovery.watch(held)

    def halt(self) -> None:
        self.crew.halt(self.someone(), self.plan.lease + self.chance.uniform(0.5, 2))

    def term(self) -> None:
        member = self.someone()
        code = self.crew.end(member)
        if code:
            self.crew.exits[f"SIGTERM answered by {code}"] += 1
        self.crew.start(member)

    def server(self, name: str) -> None:
        self.stage.kill(name)
        time.sleep(self.chance.uniform(0.1, 1.0))
        self.stage.revive()

    def _held(self, pid: int) -> dict[str, list[str]]:
        return held_by(self.stage, VERSIONED, pid) | held_by(self.stage, ORDERED, pid)


def soak(stage: Stage, plan: Plan, seed: int, told: Callable[[str], None] = lambda _: None) -> Outcome:
    """Events flow while workers and servers are killed; then everything is compared."""
    outcome, oracle = Outcome(), Oracle()
    targets = [stage.films(VERSIONED, version="rev"), stage.films(ORDERED)]
    half = plan.events // 2
    events = mixed(versioned(VERSIONED, half, seed), ordered(ORDERED, plan.events - half, seed))
    started = time.monotonic()
    with Crew(stage, plan.pools, lease=plan.lease, batch=plan.batch) as crew, ExitStack() as watching:
        run = Soak(stage, crew, plan, seed)
        producer = Producer(stage, oracle, events, allowed=run.allowed, seed=seed)
        watching.enter_context(run.recovery)
        producer.start()
        memory = []
        for number, action in enumerate(run.actions):
            time.sleep(run.chance.uniform(0.5, 1.5) * plan.gap)
            if number % 10 == 0 or action in (stage.name, "redis", "engine"):
                told(f"{time.monotonic() - started:6.1f} s  {producer.sent:>7} events  {number:>4} actions  {action}")
            run.act(action)
            if run.witness:
                memory.append(run.witness.rss())
        last = time.monotonic()
        producer.finish(patience=240)
        drained = stage.drained(VERSIONED, ORDERED, patience=900) and time.monotonic() - last
        await_state(lambda: run.recovery.waiting == 0, 60, "the events of the killed")
        outcome.figures |= {"exits": dict(crew.exits), "crashes told": crew.written().count("Traceback")}
    for target in targets:
        audit(stage, oracle, target, outcome.audit)
    outcome.figures |= {
        "events": oracle.events, "refused and sent again": producer.refused,
        **{name: times for name, times in run.done.items() if times},
        "seconds": round(time.monotonic() - started), "drained after the last kill": round(drained, 1),
        "redelivery": run.recovery.figures(), **outcome.audit.figures(),
    }  # fmt: skip
    outcome.pace(drained <= DRAINED_WITHIN, f"drained {drained:.1f} s after the last kill, not {DRAINED_WITHIN:g}")
    if run.witness:
        _flat(outcome, memory)
    return outcome


def _flat(outcome: Outcome, memory: Sequence[int]) -> None:
    """Memory of the worker that nobody touched, from when it had warmed up to the end."""
    early, late = memory[len(memory) // 4], memory[-1]
    outcome.figures |= {"rss MB": [early >> 20, late >> 20], "rss growth": round(late / early, 3)}
    outcome.goal(late <= early * GROWTH, f"memory grew from {early >> 20} to {late >> 20} MB")


def redelivery(
    stage: Stage, seed: int, *, kills: int, lease: float, within: float, events: int = 4000,
    told: Callable[[str], None] = lambda _: None,
) -> Outcome:  # fmt: skip
    """Kills of workers that have events in their hands, and how long those take: `within` seconds at most."""
    outcome, oracle, index = Outcome(), Oracle(), "chaos-redelivery"
    target = stage.films(index)
    with Crew(stage, ["solo", "prefork"], lease=lease, batch=64, concurrency=1) as crew, Recovery(stage) as watch:
        source = ordered(index, events * kills, seed)
        allowed = [0.0]
        producer = Producer(stage, oracle, source, allowed=lambda: allowed[0], seed=seed)
        producer.start()
        for number in range(kills):
            allowed[0] += events
            member = crew.members[number % 2]
            held: dict[str, list[str]] = {}

            def busy(member: Member = member) -> bool:
                nonlocal held
                held = held_by(stage, index, pid) if (pid := _worker_of(member)) else {}
                return bool(held)

            await_state(busy, 120, "a worker with events in its hands", every=0.01)
            if member.pool == "prefork":
                crew.kill_child(_worker_of(member))
            else:
                crew.kill(member)
            watch.watch(held)
            await_state(lambda: watch.waiting == 0, lease * 4 + 60, lambda: f"their events\n{crew.written()[-3000:]}")
            told(f"{number + 1:>4} of {kills}: {member.pool}, {watch.seconds[-1]:.1f} s" if watch.seconds else "")
        producer.finish(60)
        stage.drained(index)
    audit(stage, oracle, target, outcome.audit)
    outcome.figures |= {"lease": lease, "redelivery": watch.figures(), **outcome.audit.figures()}
    p95 = watch.at(0.95)
    outcome.pace(p95 <= within, f"redelivery takes {p95:.1f} s under a lease of {lease:g} s, not {within:g}")
    return outcome


def _worker_of(member: Member) -> int:
    """The process that works: the pool's, or the main one."""
    if member.pool == "prefork":
        children = [pid for pid in member.children() if psutil.pid_exists(pid)]
        return children[0] if children else 0
    return member.pid
