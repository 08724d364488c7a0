"""The code of workers, feed and re-index in thousands of worlds in which everything fails that can; the same seed is the same world."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import orjson
import pytest
from simulator.bugs import BUGS as REINDEX_BUGS
from simulator.reindexing import BACK, FORWARD, FROZEN, TO_AND_FRO, Reindex, build
from simulator.world import Scenario, World

from knnex.ingest import Unchanged, apply, bulk

# 100,000 in all by `make simulate`.
SCHEDULES = int(os.environ.get("KNNEX_TEST_SCHEDULES", "400"))

SCENARIOS = {
    "log": Scenario(),
    "producers": Scenario(versions=True),
    "three": Scenario(workers=3, events=20),
    "feed": Scenario(foreign=10, kills=0.02),
    "again": Scenario(again=12, pace=6, restarts=0.002, faults=0.01),
    "calm": Scenario(kills=0, freezes=0.002, restarts=0, faults=0.01, events=30),
    "reindex": Reindex(),
    "reindex and again": Reindex(again=12),
    "reindex versions": Reindex(versions=True),
    "reindex beside strangers": Reindex(foreign=8),
    "reindex there and back": Reindex(foreign=8, moves=(FORWARD, BACK)),
    "reindex of strangers": Reindex(
        own=False, workers=0, foreign=20, restarts=0.01, coordinators=2, moves=(FORWARD, FORWARD, BACK)
    ),
    "reindex to and fro": TO_AND_FRO,
    "reindex frozen": FROZEN,
    "reindex by two": Reindex(coordinators=2, moves=(FORWARD, BACK), aborts=0.05),
    "reindex and feed": Reindex(own=False, workers=0, foreign=14, followers=1),
    "reindex misled": Reindex(hostile=12, pace=1, events=10),
}


# Worlds in which something was lost before the protocol was mended, or is where the mending is taken out.
BROKEN_BEFORE = {
    "reindex of strangers": (1306, 2279, 2649, 2938, 3385),
    "reindex to and fro": (40, 66, 135, 137),
    "reindex frozen": (3, 8, 40, 76, 81, 91),
}


def cost(scenario: Scenario) -> int:
    """How many schedules of the plainest kind take the time of one of this."""
    return 10 if isinstance(scenario, Reindex) else 1


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("knnex")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


def first_failure(scenario: Scenario, seeds: range) -> tuple[int, list[str], World] | None:
    for seed in seeds:
        world = build(seed, scenario)
        if wrong := world.play():
            return seed, wrong, world
    return None


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", SCENARIOS)
def test_no_schedule_breaks_the_protocol(name: str) -> None:
    failed = first_failure(SCENARIOS[name], range(-(-SCHEDULES // cost(SCENARIOS[name]))))
    if failed:
        seed, wrong, world = failed
        pytest.fail(f"{name}, seed {seed}: {wrong}\n" + "\n".join(world.schedule.trace))


@pytest.mark.parametrize("name", BROKEN_BEFORE)
def test_what_was_broken_stays_mended(name: str) -> None:
    found = {seed: wrong for seed in BROKEN_BEFORE[name] if (wrong := build(seed, SCENARIOS[name]).play())}
    assert found == {}


def test_a_seed_is_a_world() -> None:
    one, other = World(7), World(7)
    one.play()
    other.play()
    assert one.schedule.trace == other.schedule.trace
    assert len(one.schedule.trace) > 40


def hard_deletes(patch: pytest.MonkeyPatch) -> Scenario:
    """Deletes are deletes, and no tombstones: a late event revives the document once the engine has forgotten them."""
    lines = bulk._lines

    def harder(items: Any) -> Any:
        made, outcomes = lines(items)
        deleted = {item.id for item in items if item.body["_knnex"]["deleted"]}
        return {id_: DeleteLine(**fields(line)) if id_ in deleted else line for id_, line in made.items()}, outcomes

    patch.setattr(bulk, "_lines", harder)
    attempt = bulk.attempt

    def without_source(alias: str, sent: Any) -> Any:
        flow = attempt(alias, sent)
        request = next(flow)
        while True:
            lines_ = [
                part
                for one in sent
                for part in ((delete(one.action),) if isinstance(one, DeleteLine) else (one.action, one.source))
            ]
            response = yield replace(request, body=tuple(lines_))
            for item in response.body["items"]:
                if "delete" in item:
                    item["index"] = item.pop("delete")
            try:
                request = flow.send(response)
            except StopIteration as done:
                return done.value

    patch.setattr(bulk, "attempt", without_source)
    return Scenario(versions=True, restarts=0.05)


class DeleteLine(bulk.Line):
    """The line of a hard delete."""


def fields(line: bulk.Line) -> dict[str, Any]:
    return {"id": line.id, "action": line.action, "source": line.source}


def delete(action: bytes) -> bytes:
    return orjson.dumps({"delete": orjson.loads(action)["index"]})


def no_barrier(patch: pytest.MonkeyPatch) -> Scenario:
    """An update is given out although something older is still in other hands."""
    from simulator.log import MemoryLog

    patch.setattr(MemoryLog, "bound", lambda _: 1 << 62)
    return Scenario()


def own_versions(patch: pytest.MonkeyPatch) -> Scenario:
    """The engine counts, instead of comparing: what is written last wins."""
    from simulator.shard import Shard

    index = Shard._index

    def counting(self: Any, id_: str, action: Any, source: Any) -> Any:
        held = self.documents.get(id_)
        return index(self, id_, action | {"version": held["version"] + 1 if held else 1}, source)

    patch.setattr(Shard, "_index", counting)
    return Scenario()


def settled_first(patch: pytest.MonkeyPatch) -> Scenario:
    """An event leaves the log before it is written."""
    from simulator.world import MemoryLog

    take = MemoryLog.take

    def taking(self: Any, *args: Any, **options: Any) -> Any:
        taken = take(self, *args, **options)
        for one in taken:
            self.entries.pop(one.position, None)
        return taken

    patch.setattr(MemoryLog, "take", taking)
    return Scenario(kills=0.02)


def blind_retry(patch: pytest.MonkeyPatch) -> Scenario:
    """Of several events of one document in a batch the last one taken wins, not the newest."""
    patch.setattr(apply, "coalesce", lambda events: {event.id: event for event in events})
    from knnex.ingest import prepare

    patch.setattr(prepare, "coalesce", lambda events: {event.id: event for event in events})
    return Scenario(versions=True, kills=0)


def max_seen(patch: pytest.MonkeyPatch) -> Scenario:
    """The feed goes on from the highest number that was seen, over writes that were begun earlier and are not done."""
    from simulator.shard import Shard

    patch.setattr(Shard, "checkpoint", property(lambda self: self.next_seq_no - 1))
    return Scenario(foreign=10)


def upsert_enrichment(patch: pytest.MonkeyPatch) -> Scenario:
    """A vector is written whether its document is there or not."""
    from simulator.shard import Shard

    update = Shard._update

    def upserting(self: Any, id_: str, action: Any, body: Any) -> Any:
        return update(self, id_, {"_id": id_}, body | {"doc_as_upsert": True})

    patch.setattr(Shard, "_update", upserting)
    return Scenario(foreign=10)


def left_out_unseen(patch: pytest.MonkeyPatch) -> Scenario:
    """What the index holds is not sent again, whatever is on its way."""
    patch.setattr(Unchanged, "_look", lambda _: True)
    return SCENARIOS["again"]


def looked_at_too_late(patch: pytest.MonkeyPatch) -> Scenario:
    """What is on its way is looked for after the index was asked: what was accepted in between counts as written."""
    send, look = Unchanged._send, Unchanged._look

    def sending(self: Unchanged, events: Any) -> Any:
        left = send(self, events)
        look(self)
        return [event for event in events if event in left or event.id in self._touched]

    patch.setattr(Unchanged, "_look", lambda _: True)
    patch.setattr(Unchanged, "_send", sending)
    return SCENARIOS["again"]


BUGS: list[Callable[[pytest.MonkeyPatch], Scenario]] = [
    hard_deletes,
    no_barrier,
    own_versions,
    settled_first,
    blind_retry,
    max_seen,
    upsert_enrichment,
    left_out_unseen,
    looked_at_too_late,
    *REINDEX_BUGS,
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_broken_protocol_is_found(
    bug: Callable[[pytest.MonkeyPatch], Scenario], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert first_failure(bug(monkeypatch), range(1000)) is not None
