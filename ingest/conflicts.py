"""Two documents under one version: the engine keeps the first it sees, so that the second would vanish unsaid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..engines import Engine
from .events import Event
from .prepare import Casualty, Target
from .updates import current

_REASON = "another document was sent under the same version {version}: a producer has to count it up with each change"


def conflicting(
    engine: Engine, target: Target, doubtful: Sequence[Event], winners: Mapping[str, Event]
) -> list[Casualty]:
    """Those of the events not written that are as new as what is held, and not the same.

    `doubtful` lost against an event of the same batch (`winners`, by id) or against the index. Raises EngineError.
    """
    lost: list[Event] = []
    asked: list[Event] = []
    for event in doubtful:
        winner = winners.get(event.id)
        if winner is None or winner is event:
            asked.append(event)
        elif winner.order == event.order and not _same(winner, event):
            lost.append(event)
    held = engine.run(current(target.stored.index, target.spec, asked)) if asked else {}
    for event in asked:
        there = held.get(event.id)
        if there and there.version == event.order:
            kept = Event(event.index, event.id, "delete" if there.deleted else "upsert", there.document)
            lost += [] if _same(kept, event) else [event]
    return [Casualty(event, _REASON.format(version=event.order)) for event in lost]


def _same(one: Event, other: Event) -> bool:
    return one.op == other.op and (one.op == "delete" or one.document == other.document)
