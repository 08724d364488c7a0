"""One world: a log, an engine, producers and workers of the real code, faults between them, and the judgment at the end."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from knnex.encoders import Encoder
from knnex.engines import Engine
from knnex.errors import EngineBusy, EngineUnreachable, LogUnavailable
from knnex.ingest import Event, EventLog, Patience, Target
from knnex.ingest.feed_follow import catch_up
from knnex.ingest.render import text_of
from knnex.ingest.updates import merge
from knnex.mappings import Resolved, Spec, Stored, load_spec
from knnex.workers import drain

from .engine import MemoryEngine
from .fakes import Heartbeat, NoQuarantine, Stop, Writer
from .log import MemoryLog
from .schedule import Schedule

INDEX = "films"
IDS = ("a", "b", "c")


def spec(version: str | None = None) -> Spec:
    """One vector of one field."""
    embedding = {"source": ["title"], "encoder": "hash"}
    fields = {"title": {"type": "text"}, "year": {"type": "integer"}, "rev": {"type": "long"}}
    versioned = {"version": version} if version else {}
    return load_spec({"index": INDEX, "fields": fields, "embeddings": {"v": embedding}, **versioned})


SPECS = {None: spec(), "rev": spec("rev")}


def vector(text: str) -> list[float]:
    """A vector that belongs to one text alone."""
    return [1.0 + byte for byte in hashlib.md5(text.encode(), usedforsecurity=False).digest()[:4]]


class HashEncoder:
    """As little as an encoder can be."""

    name, revision, identity, dims, max_tokens = "hash", "1", "hash", 4, 100

    def encode_documents(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        return np.array([vector(text) for text in texts], dtype=np.float32)


@dataclass
class Scenario:
    """How much of what happens in a world."""

    workers: int = 2
    events: int = 12
    versions: bool = False  # the producers', with duplicates and out of order
    foreign: int = 0  # writes by others, straight into the index
    kills: float = 0.004
    freezes: float = 0.01
    restarts: float = 0.01
    faults: float = 0.05


@dataclass
class World:
    """A seeded run of a scenario."""

    seed: int
    scenario: Scenario = field(default_factory=Scenario)

    def __post_init__(self) -> None:
        self.schedule = Schedule(self.seed)
        self.chance = self.schedule.chance
        self.spec = SPECS["rev" if self.scenario.versions else None]
        self.log = MemoryLog(self.schedule, INDEX, self.scenario.faults)
        self.engine = MemoryEngine(self.schedule, f"{INDEX}-000001", self.scenario.faults)
        stored = Stored(self.engine.index, self.spec, {"v": Resolved(4, "f")})
        self.target = Target(INDEX, stored, {"v": cast(Encoder, HashEncoder())}, None)
        self.born = 0
        self.producing = self.passes = 0

    def get(self, _: str) -> Target:
        """What a worker opens: asked of the cluster, so that it takes a moment."""
        self.schedule.pause("opens the index")
        return self.target

    def play(self) -> list[str]:
        """Run to quiescence; what is wrong then, nothing where all is well."""
        for number in range(2):
            self._start(f"producer-{number}", self._write_foreign if self.scenario.foreign else self._produce)
        self._replace_dead()
        self.schedule.run(lambda: not self.producing, self._fate)
        self.log.faults = self.engine.faults = 0.0
        self.passes = 0
        self.schedule.run(lambda: self._quiet() and not self._busy(), self._replace_dead)
        return self.engine.violations + (self._judge_foreign() if self.scenario.foreign else self._judge())

    def _quiet(self) -> bool:
        """Whether all is settled, and the feed found nothing to do in passes begun since."""
        return not self.log.entries and (not self.scenario.foreign or self.passes >= 4)

    def _start(self, name: str, work: Callable[[str], None]) -> None:
        def whole() -> None:
            try:
                work(name)
            finally:
                self.producing -= 1

        self.producing += 1
        self.schedule.start(name, whole)

    def _busy(self) -> bool:
        """Whether a frozen worker still holds something it may write."""
        return any(self.schedule.frozen.get(one, 0) > self.schedule.steps for one in self.schedule.processes("worker"))

    def _worker(self) -> None:
        self.born += 1
        name = f"worker-{self.born}"
        self.schedule.start(name, (lambda: self._follow(name)) if self.scenario.foreign else (lambda: self._work(name)))

    def _follow(self, name: str) -> None:
        """The change feed: two followers, since a lease may end although its holder lives."""
        while True:
            with suppress(LogUnavailable, EngineBusy, EngineUnreachable):
                report = catch_up(
                    cast(Engine, self.engine),
                    cast(EventLog, self.log),
                    self.get,
                    INDEX,
                    page=self.chance.randrange(1, 5),
                    patience=Patience(attempts=2),
                    sleep=lambda _: self.schedule.pause("sleeps"),
                )
                self.passes = 0 if report.enriched or report.behind else self.passes + 1
            self.schedule.pause("waits a second")

    def _write_foreign(self, name: str) -> None:
        """Writes and deletes that know nothing of knnex, some of them taking their time."""
        for number in range(self.scenario.foreign):
            id_ = self.chance.choice(IDS)
            gone = self.chance.random() < 0.25
            self.engine.foreign(id_, None if gone else {"id": id_, "title": f"{name}{number}"})

    def _judge_foreign(self) -> list[str]:
        """Every document of others is as they left it, with the vector of its text."""
        wrong = []
        for id_, source in self.engine.theirs.items():
            found = self.engine.documents.get(id_)
            if source is None:
                wrong += [f"zombie {id_}: {found['source']}"] if found else []
            elif found is None:
                wrong.append(f"lost {id_}")
            elif {key: value for key, value in found["source"].items() if key not in ("v", "_knnex")} != source:
                wrong.append(f"changed {id_}: {found['source']}, not {source}")
            elif found["source"].get("v") != vector(source["title"]):
                wrong.append(f"no vector of {source['title']} in {id_}")
        return wrong + [f"invented {id_}" for id_ in self.engine.documents.keys() - self.engine.theirs.keys()]

    def _work(self, name: str) -> None:
        stop = Stop(self.schedule)
        while True:
            with suppress(LogUnavailable):
                drain(
                    cast(EventLog, self.log),
                    cast(Any, self),
                    consumer=name,
                    batch=self.chance.randrange(1, 6),
                    stop=stop,
                    patience=Patience(attempts=2),
                    heartbeat=cast(Any, Heartbeat()),
                    writer=Writer(self.schedule, name),
                    quarantine=cast(Any, NoQuarantine()),
                    deadline=1.0,
                )
            self.schedule.pause("waits for the doorbell")

    def _fate(self) -> None:
        """Between any two steps: a death, a stop, a restart."""
        luck, mine = self.chance.random(), self.scenario
        workers = self.schedule.processes("worker")
        if luck < mine.kills:
            self.schedule.kill(self.chance.choice(workers))
        elif luck < mine.kills + mine.freezes:
            self.schedule.freeze(self.chance.choice(workers), self.chance.randrange(5, 120))
        elif luck < mine.kills + mine.freezes + mine.restarts:
            self.engine.restart()
        self._replace_dead()

    def _replace_dead(self) -> None:
        while len(self.schedule.processes("worker")) < self.scenario.workers:
            self._worker()

    def _produce(self, name: str) -> None:
        """Events of a few ids; with versions of its own each event is sent in any order, some twice."""
        share = self.scenario.events // 2
        if self.scenario.versions:
            mine = [self._event(f"{name}{number}", 2 * number + int(name[-1]) + 1) for number in range(share)]
            mine += self.chance.sample(mine, share // 4)
            self.chance.shuffle(mine)
        else:
            mine = [self._event(f"{name}{number}", None) for number in range(share)]
        while mine:
            part = [mine.pop(0) for _ in range(min(len(mine), self.chance.randrange(1, 4)))]
            lane: Any = self.chance.choice(["live", "live", "backfill"])
            while True:
                try:
                    self.log.append(part, lane)
                    break
                except LogUnavailable:  # nobody knows whether they went in: they are sent again
                    continue

    def _event(self, title: str, version: int | None) -> Event:
        id_ = self.chance.choice(IDS)
        # Partial updates have no place where events come in any order.
        op: Any = self.chance.choice(["upsert", "upsert", "delete"] + (["update", "update"] if version is None else []))
        document: dict[str, Any] = {} if op == "delete" else {"id": id_, "title": title, "year": len(title)}
        if op == "update" and self.chance.random() < 0.5:
            document.pop("title")
        return Event(INDEX, id_, op, document | ({"rev": version} if version else {}), version)

    def _judge(self) -> list[str]:
        """Compare the index with what the accepted events make, one after the other."""
        want: dict[str, tuple[int, dict[str, Any] | None]] = {}
        lost = {at for at in self.log.graves if self.log.unlucky(at)}
        for event in sorted(self.log.accepted, key=lambda one: one.order):
            if event.position in lost:
                continue
            held = want.get(event.id, (0, None))[1]
            if event.op == "update":
                if held is not None:
                    want[event.id] = event.order, merge(held, event.document)
            else:
                want[event.id] = event.order, None if event.op == "delete" else dict(event.document)
        wrong = []
        for id_, (_, document) in want.items():
            found = self.engine.documents.get(id_)
            source = dict(found["source"]) if found else {}
            made = source.pop("_knnex", {"deleted": True})
            held = source.pop("v", None)
            if document is None:
                wrong += [] if made["deleted"] else [f"zombie {id_}: {source}"]
            elif found is None or made["deleted"]:
                wrong.append(f"lost {id_}: {document}")
            elif source != document:
                wrong.append(f"stale {id_}: {source}, not {document}")
            elif held != vector(text_of(["title"], document) or ""):
                wrong.append(f"wrong vector of {id_}")
        wrong += [f"invented {id_}" for id_ in self.engine.documents.keys() - want.keys()]
        wrong += [
            f"buried {one.event}: {one.reason}"
            for at, one in self.log.graves.items()
            if "no document" not in one.reason and at not in lost
        ]
        return wrong
