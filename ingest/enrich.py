"""Giving documents their vectors in place: where others wrote them straight into the index.

Only the embedding fields and `_knnex.vectors` are written, and only if the document is still the one that was read
(`if_seq_no`): a change made meanwhile comes by in the feed again, and a deleted document is not brought back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from ..encoders import input_hash
from ..engines import Engine, encode
from ..errors import EngineBusy, InputError
from ..mappings import PROVENANCE, write_alias
from .apply import BatchReport, prepare_safely
from .bulk import Line, Outcome, attempt, cut, stumbled
from .events import Event, mended
from .feed import Change, named, place_of
from .log import Buried
from .patience import Patience
from .prepare import Casualty, Target
from .render import text_of


@dataclass(frozen=True, slots=True)
class Work:
    """A document whose vectors have to be made, and those that have to go."""

    change: Change
    encode: tuple[str, ...]
    clear: tuple[str, ...] = ()
    # Why no vectors can be made, where that shows before a model is asked.
    reason: str = ""


@dataclass(frozen=True)
class Enriched:
    """What became of documents; those of `conflicts` were changed or deleted meanwhile."""

    enriched: int = 0
    conflicts: int = 0
    encoded: int = 0
    cached: int = 0
    buried: tuple[Buried, ...] = ()

    def __add__(self, other: Enriched) -> Enriched:
        return Enriched(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))


def needed(target: Target, changes: Sequence[Change]) -> list[Work]:
    """Those whose vectors do not belong to their text: all others are as knnex, or this, has left them."""
    return [work for change in changes if (work := _work(target, change))]


def _work(target: Target, change: Change) -> Work | None:
    document = mended(change.document)
    wanted: list[str] = []
    clear: list[str] = []
    reasons: list[str] = []
    for name, embedding in target.spec.embeddings.items():
        made, there = change.made.get(name), name in change.vectors
        try:
            text = text_of(embedding.source, document)
        except InputError as error:
            text = None
            reasons.append(str(error))
        if text is None:
            clear += [name] if made or there else []
        elif not (there and made and made_of(made, target.stored.resolved[name].fingerprint, input_hash(text))):
            wanted.append(name)
    if not (wanted or clear or reasons):
        return None
    return Work(replace(change, document=document), tuple(wanted), tuple(clear), "; ".join(reasons))


def made_of(made: Mapping[str, Any], fingerprint: str, hash_: str) -> bool:
    """Whether a vector is of this model and text, as knnex noted when it made it."""
    return made.get("fingerprint") == fingerprint and made.get("input_hash") == hash_


def enrich(
    engine: Engine,
    target: Target,
    works: Sequence[Work],
    *,
    patience: Patience | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> Enriched:
    """Encode and write; no two of one id.

    Raises EncoderError where the model fails on everything, EngineBusy where the engine took too little before patience
    was over or `sleep` was cut short: what is written then stays, and the rest can be tried again.
    """
    prepared = [prepare_safely(part, events) for part, events in groups(target, works)]
    bodies = {item.id: item.body for one in prepared for item in one.items}
    refused = {one.event.id: one.reason for part in prepared for one in part.refused}
    lines: list[Line] = []
    buried = {work.change.id: _grave(target, work.change, work.reason) for work in works if work.reason}
    for work in works:
        change = work.change
        if change.id in refused:
            buried[change.id] = _grave(target, change, refused[change.id])
        try:
            if doc := _partial(work, bodies.get(change.id, {})):
                lines.append(Line(change.id, encode({"update": _action(change)}), encode({"doc": doc})))
        except InputError as error:  # an id that has no JSON form
            buried[change.id] = _grave(target, change, str(error))
    # By the alias that means this very index: under the numbers read here, another one may hold other documents.
    outcomes = _write(engine, write_alias(target.stored.index), lines, patience or Patience(), sleep)
    held = {work.change.id: work.change for work in works}
    # The vectors of a former text are gone before their document is buried: that counts as burial alone.
    written = sum(one.status == "written" and one.id not in buried for one in outcomes)
    for one in outcomes:
        if one.status == "buried":
            buried[one.id] = _grave(target, held[one.id], one.reason)
        elif one.status == "stale":
            buried.pop(one.id, None)
    return Enriched(
        enriched=written,
        conflicts=sum(one.status == "stale" for one in outcomes),
        encoded=sum(one.encoded for one in prepared),
        cached=sum(one.cached for one in prepared),
        buried=tuple(buried.values()),
    )


def groups(target: Target, works: Sequence[Work]) -> list[tuple[Target, list[Event]]]:
    """Documents that need the same embeddings, with the target narrowed to these."""
    groups: dict[tuple[str, ...], list[Event]] = {}
    for work in works:
        if work.encode:
            change = work.change
            event = Event(target.alias, change.id, "upsert", change.document, 1, change.routing)
            groups.setdefault(work.encode, []).append(event)
    return [(_narrowed(target, names), events) for names, events in groups.items()]


def _narrowed(target: Target, names: Sequence[str]) -> Target:
    spec = target.spec
    chosen = spec.model_copy(update={"embeddings": {name: spec.embeddings[name] for name in names}})
    encoders = {name: target.encoders[name] for name in names}
    return replace(target, stored=replace(target.stored, spec=chosen), encoders=encoders)


def _action(change: Change) -> dict[str, Any]:
    action = {"_id": change.id, "if_seq_no": change.seq_no, "if_primary_term": change.primary_term}
    return action if change.routing is None else action | {"routing": change.routing}


def _partial(work: Work, body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields to write; empty where nothing was there and nothing was made. Null takes a vector out of the index."""
    made = body.get(PROVENANCE, {}).get("vectors", {})
    former = work.change.vectors | work.change.made.keys()
    names = [*work.clear, *(name for name in work.encode if name in body or name in former)]
    if not names:
        return {}
    vectors = {name: made.get(name) for name in names}
    return {name: body.get(name) for name in names} | {PROVENANCE: {"vectors": vectors}}


def _grave(target: Target, change: Change, reason: str) -> Buried:
    """A burial whose retry looks at the document again: an update that changes nothing.

    Its version is the lowest there is, so that whoever knows nothing of that and writes it is refused by the engine.
    """
    event = Event(target.alias, mended(change.id), "update", {}, 1, change.routing, change.position)
    return Buried(change.position, event, reason)


def _write(
    engine: Engine, alias: str, lines: Sequence[Line], patience: Patience, sleep: Callable[[float], object]
) -> list[Outcome]:
    left = {line.id: line for line in lines}
    done: list[Outcome] = []
    for delay in (*patience.delays(), None):
        found = [one for part in cut(list(left.values())) for one in engine.run(attempt(alias, part))]
        if delay is None:
            found = [stumbled(one) if one.status == "busy" else one for one in found]
        waiting = [one for one in found if one.status in ("busy", "blocked")]
        done += [one for one in found if one.status not in ("busy", "blocked")]
        left = {one.id: left[one.id] for one in waiting}
        if not left:
            break
        if delay is None or sleep(delay):
            raise EngineBusy(f"{len(left)} documents of {alias} still lack their vectors: {waiting[0].reason}")
    return done


def look_again(
    engine: Engine,
    target: Target,
    events: Sequence[Event],
    *,
    patience: Patience | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> BatchReport:
    """Retry what the feed buried (updates without any change): look at the documents, and give them their vectors.

    Raises what `enrich` raises.
    """
    asked = {place_of(event.id, event.routing): event for event in events}
    found = engine.run(named(target.stored.index, target.spec, [event.id for event in asked.values()]))
    left = needed(target, [change for change in found if change.position in asked])
    done = Enriched()
    while left:  # one id may lie under several routings
        batch = {work.change.id: work for work in left}
        left = [work for work in left if batch[work.change.id] is not work]
        done += enrich(engine, target, list(batch.values()), patience=patience, sleep=sleep)
    return BatchReport(
        written=done.enriched,
        # Of one document the same burial as before, under the position that it has now.
        buried=tuple(Casualty(asked[one.position], one.reason) for one in done.buried),
        stale=len(events) - done.enriched - len(done.buried),
        encoded=done.encoded,
        cached=done.cached,
    )
