"""A producer that sends again what there is: what it leaves out must have been what was accepted last while it looked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from knnex.engines import Engine
from knnex.errors import EngineBusy, EngineUnreachable, IndexMissing, LogUnavailable
from knnex.ingest import Event, EventLog, Unchanged

from .folding import folded

if TYPE_CHECKING:
    from .world import World


@dataclass(frozen=True)
class LeftOut:
    """What was not sent, and how many events were accepted before it was looked at, and by the end of that."""

    id: str
    document: dict[str, Any]
    before: int
    after: int

    def wrong(self, accepted: Sequence[Event], lost: set[str]) -> bool:
        """Whether it never was what the events make of it, whatever became of those that are lost."""
        moments = range(self.before, self.after + 1)
        return not any(
            folded(accepted[:count], without).get(self.id) == self.document
            for count in moments
            for without in (lost, set[str]())
        )


def resend(world: World, ids: Sequence[str]) -> list[LeftOut]:
    """Documents as they are, or were, sent once more, as often as the scenario says; those that were left out."""
    chance, log, found = world.chance, world.log, list[LeftOut]()
    looking = _looking(world)
    for _ in range(world.scenario.again):
        id_ = chance.choice(ids)
        former = [event.document for event in log.accepted if event.id == id_ and event.op == "upsert"]
        known = [*former[-2:], folded(log.accepted, set()).get(id_)]
        document = dict(chance.choice(known) or {"id": id_, "title": "again"})
        if chance.random() < 0.5:
            looking = _looking(world)
        before = len(log.accepted)
        with suppress(LogUnavailable, EngineBusy, EngineUnreachable, IndexMissing):
            if left := looking.changed([Event("films", id_, "upsert", document)]):
                log.append(left, "backfill")
            else:
                found.append(LeftOut(id_, document, before, len(log.accepted)))
        for _ in range(chance.randrange(12)):
            world.schedule.pause("has time")
    return found


def _looking(world: World) -> Unchanged:
    return Unchanged(cast(Engine, world.engine), world.target.stored, cast(EventLog, world.log))
