"""One world: a log, an engine, producers and workers of the real code, faults between them, and the judgment at the end."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np

from knnex.encoders import Encoder
from knnex.engines import Engine
from knnex.errors import EngineBusy, EngineUnreachable, IndexMissing, LogUnavailable, SpecMismatch
from knnex.ingest import Event, EventLog, Patience, Target
from knnex.ingest.feed_follow import catch_up
from knnex.ingest.positions import split
from knnex.ingest.render import text_of
from knnex.mappings import Resolved, Spec, Stored, load_spec
from knnex.workers import drain

from .engine import MemoryEngine
from .fakes import Heartbeat, NoQuarantine, Stop, Writer
from .folding import folded
from .log import MemoryLog
from .resending import LeftOut, resend
from .schedule import Endless, Schedule

INDEX, FIRST, MODEL = "films", "films-000001", "f"
IDS, THEIRS = ("a", "b", "c"), ("x", "y", "z")


def spec(version: str | None = None) -> Spec:
    """One vector of one field."""
    embedding = {"source": ["title"], "encoder": "hash"}
    fields = {"title": {"type": "text"}, "year": {"type": "integer"}, "rev": {"type": "long"}}
    versioned = {"version": version} if version else {}
    return load_spec({"index": INDEX, "fields": fields, "embeddings": {"v": embedding}, **versioned})


SPECS = {None: spec(), "rev": spec("rev")}


def vector(text: str, model: str = MODEL) -> list[float]:
    """A vector that belongs to one text and one model alone."""
    return [1.0 + byte for byte in hashlib.md5((model + text).encode(), usedforsecurity=False).digest()[:4]]


class HashEncoder:
    """As little as an encoder can be."""

    name, revision, identity, dims, max_tokens = "hash", "1", "hash", 4, 100

    def __init__(self, model: str = MODEL) -> None:
        self.model = model

    def encode_documents(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        return np.array([vector(text, self.model) for text in texts], dtype=np.float32)


def opened(alias: str, stored: Stored) -> Target:
    """The target of an index, with the encoder that its fingerprint names."""
    encoders = {name: cast(Encoder, HashEncoder(one.fingerprint)) for name, one in stored.resolved.items()}
    return Target(alias, stored, encoders, None)


@dataclass
class Scenario:
    """How much of what happens in a world."""

    workers: int = 2
    events: int = 12
    again: int = 0  # documents that a third producer sends as they are
    versions: bool = False  # the producers', with duplicates and out of order
    foreign: int = 0  # writes by others, straight into the index
    pace: int = 1  # the most steps that a producer waits between two writes
    kills: float = 0.004
    freezes: float = 0.01
    longest: int = 120  # steps that a frozen process misses
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
        self.engine = MemoryEngine(self.schedule, FIRST, self.scenario.faults, INDEX)
        self.target = opened(INDEX, Stored(FIRST, self.spec, {"v": Resolved(4, MODEL)}))
        self.model = MODEL
        self.born = 0
        self.producing = self.passes = 0
        self.left_out: list[LeftOut] = []

    def get(self, _: str) -> Target:
        """What a worker opens: asked of the cluster, so that it takes a moment."""
        self.schedule.pause("opens the index")
        return self.target

    def targets(self) -> Any:
        """What a worker opens its targets by."""
        return self

    def play(self) -> list[str]:
        """What is wrong in the end, nothing where all is well."""
        try:
            self.run()
        except Endless as error:
            return [*self.engine.violations, str(error)]
        return self.judge()

    def run(self) -> None:
        """Run to quiescence."""
        for number in range(2):
            self._start(f"producer-{number}", self._write_foreign if self.scenario.foreign else self._produce)
        if self.scenario.again:
            self._start("resender", lambda _: self.left_out.extend(resend(self, IDS)))
        self._replace_dead()
        self.schedule.run(lambda: not self.producing, self._fate)
        self.log.faults = self.engine.faults = 0.0
        self.passes = 0
        self.schedule.run(lambda: self._quiet() and not self._busy(), self._replace_dead)

    def judge(self) -> list[str]:
        """What is wrong at the end."""
        known = self.engine.theirs.keys() | {event.id for event in self.log.accepted}
        invented = [f"invented {id_}" for id_ in self.engine.live.documents.keys() - known]
        return self.engine.violations + self._judge_foreign() + self._judge() + invented

    @property
    def followed(self) -> bool:
        """Whether the change feed gives vectors to what others write."""
        return bool(self.scenario.foreign)

    def _quiet(self) -> bool:
        """Whether all is settled, and the feed found nothing to do in passes begun since."""
        return not self.log.entries and (not self.followed or self.passes >= 4)

    def _start(self, name: str, work: Callable[[str], None]) -> None:
        def whole() -> None:
            try:
                work(name)
            finally:
                self.producing -= 1

        self.producing += 1
        self.schedule.start(name, whole)

    def mortal(self) -> list[str]:
        """The processes that may be killed and frozen."""
        return self.schedule.processes("worker")

    def _busy(self) -> bool:
        """Whether a frozen process still holds something it may write."""
        held = any(self.schedule.frozen.get(one, 0) > self.schedule.steps for one in self.mortal())
        return held or bool(self.schedule.processes("bulk"))

    def _worker(self) -> None:
        self.born += 1
        name = f"worker-{self.born}"
        self.schedule.start(
            name, (lambda: self._follow(self.get)) if self.scenario.foreign else (lambda: self._work(name))
        )

    def _follow(self, open_one: Callable[[str], Target]) -> None:
        """The change feed: two followers, since a lease may end although its holder lives."""
        while True:
            with suppress(LogUnavailable, EngineBusy, EngineUnreachable, SpecMismatch, IndexMissing):
                report = catch_up(
                    cast(Engine, self.engine),
                    cast(EventLog, self.log),
                    open_one,
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
            id_ = self.chance.choice(THEIRS)
            gone = self.chance.random() < 0.25
            source = None if gone else {"id": id_, "title": f"{name}{number}"}
            self.schedule.until(partial(self.engine.foreign, id_, source), "is refused")
            self._dawdle()

    def _judge_foreign(self) -> list[str]:
        """Every document of others is as they left it, with the vector of its text."""
        wrong = []
        for id_, source in self.engine.theirs.items():
            found = self.engine.live.documents.get(id_)
            if source is None:
                wrong += [f"zombie {id_}: {found['source']}"] if found else []
            elif found is None:
                wrong.append(f"lost {id_}")
            elif {key: value for key, value in found["source"].items() if key not in ("v", "_knnex")} != source:
                wrong.append(f"changed {id_}: {found['source']}, not {source}")
            elif self.followed and found["source"].get("v") != vector(source["title"], self.model):
                wrong.append(f"no vector of {source['title']} in {id_}")
        return wrong

    def _work(self, name: str) -> None:
        stop, targets = Stop(self.schedule), self.targets()
        while True:
            with suppress(LogUnavailable):
                drain(
                    cast(EventLog, self.log),
                    targets,
                    consumer=name,
                    batch=self.chance.randrange(1, 6),
                    stop=stop,
                    patience=Patience(attempts=2),
                    heartbeat=cast(Any, Heartbeat()),
                    writer=Writer(self.schedule, name),
                    quarantine=cast(Any, NoQuarantine()),
                    deadline=1.0,
                    look=0.0,
                )
            self.schedule.pause("waits for the doorbell")

    def _fate(self) -> None:
        """Between any two steps: a death, a stop, a restart."""
        luck, mine = self.chance.random(), self.scenario
        if luck < mine.kills + mine.freezes and (mortal := self.mortal()):
            if luck < mine.kills:
                self.schedule.kill(self.chance.choice(mortal))
            else:
                # What an engine was sent may lie there for a while too.
                victim = self.chance.choice(mortal + self.schedule.processes("bulk"))
                self.schedule.freeze(victim, self.chance.randrange(5, mine.longest))
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
            self._dawdle()

    def _dawdle(self) -> None:
        for _ in range(self.chance.randrange(self.scenario.pace)):
            self.schedule.pause("has time")

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
        lost = {at for at in self.log.graves if self.log.unlucky(at)}
        # Of the unlucky ones some were written before their workers died, and some were not.
        folds = folded(self.log.accepted, lost), folded(self.log.accepted, set())
        wrong = []
        for id_ in folds[1]:
            found = [self._unlike(id_, fold.get(id_)) for fold in folds]
            wrong += [found[0]] if all(found) else []
        wrong += [f"left out {one}" for one in self.left_out if one.wrong(self.log.accepted, lost)]
        return wrong + [
            f"buried {one.event}: {one.reason}"
            for at, one in self.log.graves.items()
            if "no document" not in one.reason and at not in lost
        ]

    def _unlike(self, id_: str, document: dict[str, Any] | None) -> str:
        """How a document differs from what it is to be."""
        found = self.engine.live.documents.get(id_)
        source = dict(found["source"]) if found else {}
        made = source.pop("_knnex", {"deleted": True})
        held = source.pop("v", None)
        if document is None:
            return "" if made["deleted"] else f"zombie {id_}: {source}"
        if found is None or made["deleted"]:
            return f"lost {id_}: {document}"
        if source != document:
            return f"stale {id_}: {source}, not {document}"
        if held is None and id_ in self._spared():
            return ""
        return "" if held == vector(text_of(["title"], document) or "", self.model) else f"wrong vector of {id_}"

    def _spared(self) -> set[str]:
        """Documents whose workers were killed each time they were to encode them for a new version."""
        graves = self.log.graves.items()
        return {one.id for at, one in graves if split(at)[2] == "copies" and self.log.unlucky(at)}
