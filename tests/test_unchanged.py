"""What the index holds already is not sent again, and whatever might have to be is."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from feeding import Stranger
from filling import draining, films, held, made, own_log, settled
from homes import until

from knnex.encoders import VectorCache
from knnex.engines import Engine
from knnex.ingest import Buried, Event, EventLog, Lane, Report, Target, Unchanged, accept, ingest, open_log
from knnex.ingest import unchanged as module

FILMS: list[dict[str, Any]] = [
    {"id": "1", "title": "Solaris", "plot": "A planet that thinks.", "year": 1971, "unknown": {"a": [1, None, 1.5]}},
    {"id": "2", "title": "Stalker", "plot": "A room that grants wishes.", "year": 1979},
    {"id": "3", "title": None, "year": 1975},
]


@dataclass
class Scene:
    """An index with films, written through a log that no worker drains any more."""

    engine: Engine
    log: EventLog
    target: Target

    def events(self, *documents: dict[str, Any]) -> list[Event]:
        """The events of documents, by default of the films as they are in the index."""
        found = [accept(self.target.spec, one) for one in documents or FILMS]
        assert all(isinstance(one, Event) for one in found)
        return found  # type: ignore[return-value]

    def changed(self, *documents: dict[str, Any], **stored: Any) -> list[str]:
        """The ids of what would be sent of these."""
        looking = Unchanged(self.engine, replace(self.target.stored, **stored), self.log)
        return [event.id for event in looking.changed(self.events(*documents))]


@pytest.fixture(params=["redis", "sqlite"])
def log(request: pytest.FixtureRequest, redis_url: str, index_name: str, tmp_path: Path) -> Iterator[EventLog]:
    opened: EventLog = (
        own_log(redis_url, 10) if request.param == "redis" else open_log(f"sqlite:///{tmp_path}/log.sqlite")
    )
    yield opened
    opened.forget(index_name)
    opened.close()


@pytest.fixture
def scene(engine: Engine, index_name: str, minilm: str, log: EventLog, tmp_path: Path) -> Scene:
    found = Scene(engine, log, made(engine, films(index_name, minilm)))
    with draining(log, engine, cache=VectorCache(tmp_path / "vectors.sqlite")):
        assert ingest(engine, found.target.spec, FILMS, log).complete
    return found


@pytest.mark.feature("Unchanged documents are not sent again")
def test_what_is_sent_again_is_only_what_changed(scene: Scene) -> None:
    head, log, spec = scene.log.head(scene.target.alias), scene.log, scene.target.spec
    before = held(scene.engine, scene.target.alias)

    def send(documents: Sequence[dict[str, Any]]) -> Report:
        looking = Unchanged(scene.engine, scene.target.stored, log)
        return ingest(scene.engine, spec, documents, log, changed=looking.changed)

    report = send(FILMS)
    assert (report.read, report.accepted, report.unchanged, report.in_index) == (3, 3, 3, 3)
    assert (report.complete, report.without_vector_count, report.encoded) == (True, 1, 0)
    assert log.head(scene.target.alias) == head, "something was appended"
    with draining(log, scene.engine):
        report = send([FILMS[0] | {"plot": "An ocean that thinks."}, *FILMS[1:], {"id": "4", "title": "Mirror"}])
    assert (report.unchanged, report.in_index, report.encoded + report.cached, report.complete) == (2, 4, 2, True)
    after = held(scene.engine, scene.target.alias)
    assert after["1"]["plot"] == "An ocean that thinks."
    assert {id_: after[id_] for id_ in "23"} == {id_: before[id_] for id_ in "23"}


def _append(lane: Lane, op: Any = "upsert") -> Callable[[Scene], object]:
    return lambda scene: scene.log.append([Event(scene.target.alias, "1", op, {"id": "1", "title": "Other"})], lane)


def _bury(scene: Scene) -> None:
    event = Event(scene.target.alias, "1", "upsert", {"id": "1", "title": "Other"})
    (position,) = scene.log.append([event])
    (taken,) = scene.log.take(scene.target.alias, "somebody", 1, 60.0)
    scene.log.settle(scene.target.alias, [position], [Buried(position, taken.event, "it does not fit")])


def _stranger(act: Callable[[Stranger], object]) -> Callable[[Scene], object]:
    return lambda scene: act(Stranger(scene.engine, scene.target.alias))


def _delete(scene: Scene) -> None:
    with draining(scene.log, scene.engine):
        ingest(scene.engine, scene.target.spec, ["1"], scene.log, op="delete", lane="live")


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(_append("live"), id="a live event is on its way"),
        pytest.param(_append("backfill"), id="one of a backfill is"),
        pytest.param(_append("live", "update"), id="an update is"),
        pytest.param(_bury, id="one is buried, and may be tried again"),
        pytest.param(_delete, id="it was deleted"),
        pytest.param(_stranger(lambda them: them.delete("1")), id="somebody else deleted it"),
        pytest.param(_stranger(lambda them: them.put("1", FILMS[0])), id="somebody else wrote it, without vectors"),
        pytest.param(_stranger(lambda them: them.change("1", {"year": 1972})), id="somebody else changed it"),
        pytest.param(_stranger(lambda them: them.change("1", {"_knnex": None})), id="somebody else took the note"),
    ],
)
def test_what_might_not_be_there_in_the_end_is_sent(scene: Scene, before: Callable[[Scene], object]) -> None:
    assert scene.changed() == []
    before(scene)
    assert scene.changed() == ["1"]


@pytest.mark.parametrize(
    "change",
    [
        {"year": 1972},
        {"unknown": {"a": [True, None, 1.5]}},
        {"unknown": {"a": [1, None]}},
        {"title": ""},
        {"rev": None},
    ],
)
def test_the_least_difference_is_one(scene: Scene, change: dict[str, Any]) -> None:
    assert scene.changed(FILMS[0] | change, FILMS[1]) == ["1"]


def test_the_order_of_keys_is_none(scene: Scene) -> None:
    assert scene.changed(dict(reversed(FILMS[0].items()))) == []


def test_vectors_of_another_model_are_made_anew(scene: Scene) -> None:
    (resolved,) = scene.target.stored.resolved.values()
    assert scene.changed(resolved={"plot_vector": replace(resolved, fingerprint="another")}) == ["1", "2"]


def test_a_document_that_comes_twice_is_sent_as_often(scene: Scene) -> None:
    other = FILMS[0] | {"year": 1972}
    assert scene.changed(other, FILMS[0], FILMS[1]) == ["1", "1"]
    assert scene.changed(FILMS[0], other, FILMS[1]) == ["1", "1"]


def test_what_this_run_has_sent_before_is_not_forgotten(scene: Scene) -> None:
    looking = Unchanged(scene.engine, scene.target.stored, scene.log)
    other = scene.events(FILMS[0] | {"year": 1972})
    assert looking.changed([*scene.events()[1:], *other]) == other
    scene.log.append(other, "backfill")
    assert [event.id for event in looking.changed(scene.events())] == ["1"]


def test_where_more_is_on_its_way_than_can_be_looked_at_all_is_sent(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.log.append([Event(scene.target.alias, f"new {number}", "upsert", {}) for number in range(3)], "backfill")
    assert scene.changed() == []
    monkeypatch.setattr(module, "_MOST_NEW", 3)
    assert scene.changed() == ["1", "2", "3"]
    monkeypatch.undo()
    monkeypatch.setattr(module, "_MOST_BURIED", 0)
    _bury(scene)
    assert scene.changed() == ["1", "2", "3"]


def test_versions_of_producers_are_always_sent(engine: Engine, index_name: str, minilm: str, log: EventLog) -> None:
    spec = films(index_name, minilm, version="rev")
    scene, mine = Scene(engine, log, made(engine, spec)), [one | {"rev": 7} for one in FILMS]
    with draining(log, engine):
        assert ingest(engine, spec, mine, log).complete
    assert scene.changed(*mine) == ["1", "2", "3"]


def test_where_nothing_is_unchanged_it_is_looked_for_less_and_less(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    looking, look = Unchanged(scene.engine, scene.target.stored, scene.log), Unchanged._look
    monkeypatch.setattr(Unchanged, "_look", lambda self: looks.append(number) or look(self))
    for number in range(40):
        assert len(looking.changed(scene.events({"id": f"new {number}", "title": "new"}))) == 1
    assert looks == [0, 2, 6, 14, 30]
    for number in range(40, 60):
        assert looking.changed(scene.events()) == ([] if number >= 46 else scene.events())
    assert looks[5:] == [*range(46, 60)]


@dataclass(frozen=True)
class Sent:
    """That a document is so was accepted between two moments."""

    id: str
    title: str | None
    began: float
    ended: float


@pytest.mark.parametrize("seed", range(3))
def test_what_is_left_out_is_what_was_accepted_last(
    engine: Engine, index_name: str, minilm: str, redis_url: str, tmp_path: Path, seed: int
) -> None:
    """While others write the same documents: of what is left out there was a moment at which the log said just that."""
    target, ids, titles = made(engine, films(index_name, minilm)), [str(number) for number in range(8)], ["cat", "dog"]
    log, cache, chance = own_log(redis_url, 10), VectorCache(tmp_path / "vectors.sqlite"), random.Random(seed)
    sent: list[Sent] = []
    left_out: list[Sent] = []
    over = threading.Event()

    def write(lane: Lane, mine: random.Random) -> None:
        while not over.is_set():
            id_, title = mine.choice(ids), mine.choice([*titles, None])
            document = {"id": id_, "title": title} if title else {"id": id_}
            began = time.monotonic()
            log.append([Event(index_name, id_, "upsert" if title else "delete", document)], lane)
            sent.append(Sent(id_, title, began, time.monotonic()))
            time.sleep(mine.random() * 0.2)

    with ExitStack() as working:
        for _ in range(2):
            working.enter_context(draining(log, engine, cache=cache))
        writers = [threading.Thread(target=write, args=(lane, random.Random(seed))) for lane in ("live", "backfill")]
        for one in writers:
            one.start()
        for _ in range(150):
            looking = Unchanged(engine, target.stored, log)
            events = [Event(index_name, id_, "upsert", {"id": id_, "title": chance.choice(titles)}) for id_ in ids]
            began = time.monotonic()
            must = {event.id for event in looking.changed(events)}
            ended = time.monotonic()
            gone = [event for event in events if event.id not in must]
            left_out += [Sent(one.id, one.document["title"], began, ended) for one in gone]
        over.set()
        for one in writers:
            one.join()
        until(lambda: settled(log, index_name))
    log.forget(index_name)
    log.close()
    assert len(left_out) > 20, "hardly anything was left out"
    for one in left_out:
        mine = [other for other in sent if other.id == one.id]
        holds = [
            other
            for other in mine
            if other.title == one.title
            and other.began < one.ended
            and not any(later.began > other.ended and later.ended < one.began for later in mine)
        ]
        assert holds, f"seed {seed}: {one} was left out, and had been overwritten"
