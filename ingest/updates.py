"""Partial updates: read the document, change the fields that are named, write it whole under the update's version.

The log gives out an update only when all that was accepted before it is settled, so that what is read is what the
update was meant to change. What is written meanwhile by a later event has a higher version, and stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ..engines import Engine, Flow
from ..mappings import PROVENANCE, Spec
from .events import Event, Op
from .feed import object_in
from .patience import Patience, patiently
from .prepare import Casualty, Target
from .verify import documents, relations


@dataclass(frozen=True, slots=True)
class Current:
    """A document as the index holds it, without what knnex adds to it; `vectors` is what it notes of each."""

    document: Mapping[str, Any]
    version: int
    routing: str | None = None
    deleted: bool = False
    vectors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Resolved:
    """Updates as whole documents: one for each id, the events it is made of, and what came to nothing."""

    whole: Sequence[Event]
    parts: Mapping[str, Sequence[Event]]
    stale: Sequence[Event]
    absent: Sequence[Casualty]


def merge(document: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The document with the changes: objects are merged, all else is replaced, as `_update` of both engines does."""
    merged = dict(document)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def resolve_updates(
    engine: Engine,
    target: Target,
    events: Sequence[Event],
    *,
    patience: Patience | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> Resolved:
    """Read the documents that updates change, and make the whole documents. Raises EngineError.

    What an update came to that is made already goes on as it is held, where a version index beside may lack it.
    """
    flow = partial(current, target.stored.index, target.spec, events)
    found = patiently(engine, flow, patience, sleep)
    whole: dict[str, Event] = {}
    parts: dict[str, list[Event]] = {}
    stale: list[Event] = []
    absent: list[Casualty] = []
    for event in sorted(events, key=lambda one: one.order):
        held = found.get(event.id)
        if held and event.order <= held.version:
            stale.append(event)
        elif held is None or held.deleted:
            absent.append(Casualty(event, f"there is no document {event.id!r} to update"))
        else:
            before = whole[event.id].document if event.id in whole else held.document
            routing = event.routing or held.routing
            whole[event.id] = replace(
                event, op="upsert", document=merge(before, event.document), version=event.order, routing=routing
            )
            parts.setdefault(event.id, []).append(event)
    if not target.alone:
        made = {event.id: event for event in stale if event.id not in whole}
        stale = [event for event in stale if made.get(event.id) is not event]
        whole |= {id_: _as_held(event, found[id_]) for id_, event in made.items()}
        parts |= {id_: [event] for id_, event in made.items()}
    return Resolved(list(whole.values()), parts, stale, absent)


def _as_held(event: Event, held: Current) -> Event:
    op: Op = "delete" if held.deleted else "upsert"
    return replace(event, op=op, document=held.document, version=held.version, routing=event.routing or held.routing)


def current(index: str, spec: Spec, events: Sequence[Event]) -> Flow[dict[str, Current]]:
    """The documents of these events as they are now, refreshed or not; of deleted ones their tombstones."""
    routings = {event.id: event.routing for event in events}
    if spec.parents() and (unknown := [id_ for id_, routing in routings.items() if routing is None]):
        related = yield from relations(spec, unknown)
        routings |= {id_: one.get("_routing") for id_, one in related.items()}
    wanted = [{"_id": id_} | ({"routing": routing} if routing else {}) for id_, routing in routings.items()]
    params = {"_source_excludes": ",".join(spec.embeddings)} if spec.embeddings else {}
    found: dict[str, Current] = {}
    for one in (yield from documents(index, wanted, params)):
        document = dict(one["_source"])
        made = object_in(document.pop(PROVENANCE, None))
        # The engine's own version is the greater one where somebody else changed the document.
        version = max(int(made.get("version", 0)), int(one.get("_version", 0)))
        deleted = bool(made.get("deleted"))
        vectors = {name: object_in(note) for name, note in object_in(made.get("vectors")).items()}
        found[one["_id"]] = Current(document, version, one.get("_routing"), deleted, vectors)
    return found
