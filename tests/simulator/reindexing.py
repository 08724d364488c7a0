"""A world in which the alias moves: the real coordinator, beside workers, the feed, and others who write."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, cast

from knnex.engines import Engine
from knnex.engines.elasticsearch import Elasticsearch
from knnex.errors import KnnexError
from knnex.ingest import EventLog, Patience, Target
from knnex.ingest.reindex import Coordinator, Options, abort, read_control
from knnex.mappings import Resolved, Spec, Stored, load
from knnex.mappings.compile import index_body
from knnex.workers.targets import Targets

from .shard import Shard
from .world import FIRST, INDEX, MODEL, SPECS, Scenario, World, opened, vector

DECOY = "strangers"
FORWARD, BACK = "forward", "back"


@dataclass
class Reindex(Scenario):
    """How the alias moves."""

    events: int = 24
    pace: int = 60
    own: bool = True
    coordinators: int = 1
    moves: tuple[str, ...] = (FORWARD,)
    hostile: int = 0  # how often somebody else moves the alias, while nobody writes
    block: bool | None = None
    followers: int = 0
    aborts: float = 0.0  # how often what was begun is given up, and begun anew
    kills: float = 0.002
    freezes: float = 0.005
    restarts: float = 0.002
    faults: float = 0.02


# Coordinators that are stopped for so long that others follow them.
FROZEN = Reindex(
    own=False, workers=0, foreign=20, coordinators=2, moves=(FORWARD, BACK), freezes=0.02, longest=800, aborts=0.05
)
# An engine that forgets deletes, and others who make documents again after the alias has moved.
TO_AND_FRO = Reindex(
    own=False, workers=0, foreign=60, moves=(FORWARD, BACK) * 4, pace=10, restarts=0.05, kills=0, freezes=0, faults=0
)


class Inline(Executor):
    """Copies where it is told to."""

    def submit(self, work: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(*args, **options))
        except Exception as error:
            future.set_exception(error)
        return future


class Short(float):
    """Seconds that are over when chance says so."""

    luck: Callable[[], bool]

    def __lt__(self, other: float) -> bool:
        return self.luck()


class Opened(Targets):
    """The worker's own, but for the models."""

    def _make(self, alias: str, stored: Stored, check: Any) -> Target:
        return opened(alias, stored)


@cache
def first_body(spec_version: str | None) -> dict[str, Any]:
    """The body of the index that is there first."""
    return index_body(SPECS[spec_version], Elasticsearch((9, 5, 0)), {"v": Resolved(4, MODEL)})


class Reindexing(World):
    """A seeded run of a scenario in which versions of the index follow each other."""

    scenario: Reindex

    def __post_init__(self) -> None:
        super().__post_init__()
        version = "rev" if self.scenario.versions else None
        self.engine.indexes.clear()
        self._grown(FIRST, first_body(version))
        self.engine.grown = self._check
        self.engine.indexes[DECOY] = Shard(self.schedule, DECOY, self.engine.violations)
        # Beside the model a field may be new, which is no reason to encode anything.
        self.newer: Spec = self.spec.model_copy(
            update={"fields": {**self.spec.fields, "more": self.spec.fields["rev"]}}
        )
        self.stage, self.former = 0, FIRST
        self.models = [self.chance.choice("fg") for _ in self.scenario.moves]
        self.moving = False

    def _grown(self, name: str, body: dict[str, Any]) -> None:
        self.engine.indexes[name] = Shard(self.schedule, name, self.engine.violations, body)
        self._check(self.engine.indexes[name])

    def _check(self, shard: Shard) -> None:
        """Every vector belongs to its text, and to the model of the index it lies in."""
        model = _model(shard)

        def check(id_: str, source: dict[str, Any]) -> str:
            held = source.get("v")
            if not held or held == vector(source.get("title", ""), model):
                return ""
            return f"a vector that is not {model}'s of {id_} {source.get('title')}"

        shard.check = check

    def targets(self) -> Any:
        """A process has its own."""
        return Opened(cast(Engine, self.engine))

    def mortal(self) -> list[str]:
        """Coordinators and the feed too."""
        return [one for kind in ("worker", "follower", "coordinator") for one in self.schedule.processes(kind)]

    def run(self) -> None:
        """Run until the alias has moved as often as it is to, and all is quiet."""
        mine = self.scenario
        if mine.foreign:
            self.engine.foreign("w", {"id": "w", "title": "there before"})
        for number in range(2):
            if mine.own:
                self._start(f"producer-{number}", self._produce)
            if mine.foreign:
                self._start(f"stranger-{number}", self._write_foreign)
        if mine.hostile:
            self.schedule.run(lambda: not self.producing and not self.log.entries, self._fate)
            self._start("mover", self._mislead)
        self.moving = True
        self.schedule.run(lambda: not self.producing and not self.under_way, self._fate)
        self.log.faults = self.engine.faults = 0.0
        self.passes = 0
        self.schedule.run(lambda: self._quiet() and not self._busy(), self._replace_dead)

    @property
    def under_way(self) -> bool:
        """Whether the alias is to move yet, or something was begun and not ended."""
        control = (self.engine.control or {}).get(INDEX)
        return self.stage < len(self.scenario.moves) or bool(control and control[0]["step"])

    def _quiet(self) -> bool:
        return super()._quiet() and not self.schedule.processes("coordinator")

    @property
    def followed(self) -> bool:
        """Where there are followers."""
        return bool(self.scenario.followers)

    def _fate(self) -> None:
        super()._fate()
        if len(self.engine.aliases[INDEX]) != 1 and not self.scenario.hostile:
            self.engine.violations.append(f"the alias points at {list(self.engine.aliases[INDEX])}")

    def _replace_dead(self) -> None:
        mine = self.scenario
        going = self.moving and self.under_way
        works = {"worker": self._work, "follower": self._followed, "coordinator": self._coordinate}
        counts = {"worker": mine.workers, "follower": mine.followers, "coordinator": mine.coordinators * going}
        for kind, count in counts.items():
            while len(self.schedule.processes(kind)) < count:
                self.born += 1
                name = f"{kind}-{self.born}"
                self.schedule.start(name, partial(works[kind], name))

    def _followed(self, _: str) -> None:
        self._follow(self.targets().get)

    def _coordinate(self, name: str) -> None:
        """As somebody who runs the command again until it succeeds."""
        for _ in range(self.chance.randrange(100)):
            self.schedule.pause("has time")
        while self.under_way:
            number = min(self.stage, len(self.scenario.moves) - 1)
            try:
                if self.chance.random() < self.scenario.aborts:
                    self._abort()
                    continue
                self._move(self.scenario.moves[number], self.models[number])
                self.stage = max(self.stage, number + 1)
            except KnnexError as error:
                self.schedule.pause(f"stopped: {error}")

    def _move(self, where: str, model: str) -> None:
        engine = cast(Engine, self.engine)
        control = engine.run(read_control(INDEX))
        # What is under way is gone on with as it was begun.
        back = self.former if where == BACK else ""
        if control.step:
            back = control.target if control.target in control.kept else ""
            model = _model(self.engine.indexes[control.target]) if control.target in self.engine.indexes else model
        elif back and engine.run(load(INDEX)).index == back:
            return
        stall = Short()
        stall.luck = lambda: self.chance.random() < 0.1
        coordinator = Coordinator(
            engine,
            cast(EventLog, self.log),
            INDEX,
            opened,
            wanted=None if back else lambda name: Stored(name, self.newer, {"v": Resolved(4, model)}),
            back=back,
            options=Options(
                page=self.chance.randrange(1, 4),
                block=self.scenario.block,
                stall=stall,
                headway=5.0,
                beats=False,
                patience=Patience(attempts=3),
            ),
            sleep=lambda _: self.schedule.pause("sleeps"),
            copying=Inline(),
        )
        report = coordinator.run()
        self.schedule.trace.append(f"{report.source} -> {report.target}")

    def _abort(self) -> None:
        options = Options(beats=False)
        abort(cast(Engine, self.engine), INDEX, options=options, sleep=lambda _: self.schedule.pause("sleeps"))

    def _mislead(self, _: str) -> None:
        """Somebody moves the alias to an index of theirs, or lets it point there too, and puts it back."""
        for _ in range(self.scenario.hostile):
            for _ in range(self.chance.randrange(40)):
                self.schedule.pause("has time")
            held = dict(self.engine.aliases[INDEX])
            both = self.chance.random() < 0.5
            self.engine.aliases[INDEX] = (held if both else {}) | {DECOY: {}}
            for _ in range(self.chance.randrange(1, 20)):
                self.schedule.pause("leads astray")
            if not both:
                self.engine.aliases[INDEX] |= held
            del self.engine.aliases[INDEX][DECOY]

    def judge(self) -> list[str]:
        """The same of what the alias points at, and that nothing is left over of the way there."""
        names = self.engine.aliases[INDEX]
        if len(names) != 1:
            return [*self.engine.violations, f"the alias points at {list(names)}"]
        live = self.engine.live
        self.model = _model(live)
        meta = live.mapping["_meta"]["knnex"]
        left = [f"{live.name} refuses writes"] if live.blocked else []
        left += [f"still written beside {live.name}: {meta['also']}"] if meta.get("also") else []
        control = (self.engine.control or {})[INDEX][0]
        left += [f"still at the step {control['step']}"] if control["step"] else []
        return left + super().judge()


def _model(shard: Shard) -> str:
    return str(shard.mapping["_meta"]["knnex"]["embeddings"]["v"]["fingerprint"])


def build(seed: int, scenario: Scenario) -> World:
    """The world of a scenario."""
    return (Reindexing if isinstance(scenario, Reindex) else World)(seed, scenario)
