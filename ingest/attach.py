"""From an index that others fill to one with vectors: look at it, propose a spec, add the fields, fill them in."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..encoders import Encoder, load_encoder, resolve
from ..engines import Engine
from ..errors import InputError, SpecMismatch
from ..mappings import Embedding, Spec, Stored, load
from ..mappings.attach import attach as add_fields
from ..mappings.attach import attached, check_same
from ..mappings.attach import detach as take_off
from ..mappings.attach_fields import named, texts
from ..mappings.attach_find import Existing, look
from ..mappings.attach_refuse import check_attachable, why_not_in_place
from ..mappings.attach_spec import (
    DEFAULT_ENCODER,
    OWN_ID,
    Lengths,
    Proposal,
    as_named,
    choose,
    nothing_found,
    propose,
    renamed,
    source_of,
)
from .attach_sample import Sample, draw, id_field, judge
from .feed_follow import LEASE, tend
from .feed_state import FeedReport
from .log import EventLog
from .prepare import Target
from .render import text_of
from .report import Progress
from .target import make_target

# What a proposal for a copy is called.
_COPY = "{name}-knnex"
# Seconds between two looks whether another follower has ended.
_POLL = 0.25


@dataclass(frozen=True)
class Prospect:
    """An index as it can be attached: what it is, the spec for it, and why it must be copied first, if so."""

    existing: Existing
    proposal: Proposal
    documents: int
    # The spec is that of an earlier attach, or was given: nothing was proposed.
    given: bool = False
    must_copy: str = ""


def examine(
    engine: Engine,
    name: str,
    *,
    spec: Spec | None = None,
    fields: Sequence[str] = (),
    encoder: str = DEFAULT_ENCODER,
) -> Prospect:
    """What `attach` would do with an index; nothing is changed.

    Without a spec one is proposed from the mapping and a sample of the documents, of these `fields` if they are named.
    An index that is attached already keeps the spec it has.

    Raises IndexMissing, SpecMismatch, UnsupportedByEngine, EngineBusy, ModelUnavailable.
    """
    before = engine.run(attached(name))
    existing = engine.run(look(name))
    check_attachable(existing)
    if before:
        return _again(engine, existing, before, spec, fields)
    must_copy = why_not_in_place(existing, engine.dialect)
    sample = engine.run(draw(existing, 0 if spec else 200))
    if spec:
        return Prospect(existing, Proposal(spec), sample.total, given=True, must_copy=must_copy)
    proposal = _proposed(existing, sample, tuple(fields), encoder)
    if must_copy:
        proposal = renamed(proposal, _COPY.format(name=existing.index))
    return Prospect(existing, proposal, sample.total, must_copy=must_copy)


def _again(engine: Engine, existing: Existing, before: Stored, spec: Spec | None, fields: Sequence[str]) -> Prospect:
    if spec:
        check_same(Stored(before.index, spec, resolve(spec), attached=True), before)
    held = {name for one in before.spec.embeddings.values() for name in one.source_fields}
    if fields and set(fields) != held:
        raise SpecMismatch(
            f"{existing.name!r} is attached already, with vectors of {', '.join(sorted(held))}",
            hint=f"`knnex detach {existing.name}` first, or leave --embed out to go on with these",
        )
    total = engine.run(draw(existing, 0)).total
    return Prospect(existing, Proposal(before.spec), total, given=True)


def _proposed(existing: Existing, sample: Sample, fields: tuple[str, ...], encoder: str) -> Proposal:
    candidates = texts(existing)
    measured = judge(sample, candidates)
    if fields:
        leaves = named(existing, fields)
        chosen = as_named(leaves, {one.path: one for one in judge(sample, leaves)})
    else:
        chosen = choose(measured)
    if not chosen:
        raise nothing_found(existing, measured)
    rest = [one for one in measured if one.path not in {kept.path for kept in chosen}]
    lengths = _lengths(sample, source_of(chosen), encoder)
    own = id_field(existing, sample)
    return propose(
        existing, chosen, rest, lengths, encoder=encoder, id_field=own or OWN_ID, notes=_notes(existing, sample)
    )


def _notes(existing: Existing, sample: Sample) -> list[str]:
    what = existing.index if existing.index == existing.name else f"{existing.name}, which is {existing.index}"
    notes = [f"Proposed for {what}: {sample.total:,} documents, {len(sample.documents):,} of them looked at."]
    if sample.versions_are_given:
        notes.append(
            "CAUTION: writers seem to give the versions of documents themselves; each vector counts them up by one."
        )
    filters = [name for name, one in existing.aliases.items() if name == existing.name and one.get("filter")]
    if filters:
        notes.append(f"The alias {filters[0]} has a filter; documents it hides are given vectors too.")
    return notes


def _lengths(sample: Sample, source: Any, encoder: str) -> Lengths:
    loaded: Encoder = load_encoder(Embedding(source=source, encoder=encoder))
    rendered = (_text(source, document) for document in sample.documents)
    return Lengths.of([loaded.count_tokens(text) for text in rendered if text], loaded.max_tokens)


def _text(source: Any, document: Any) -> str | None:
    try:
        return text_of(source, document)
    except InputError:
        return None


def attach(engine: Engine, name: str, spec: Spec) -> Stored:
    """Add the fields of a spec's vectors to an index that others made. Once more changes nothing.

    Raises IndexMissing, SpecMismatch, UnsupportedByEngine, EngineBusy, ModelUnavailable.
    """
    stored, _ = engine.run(add_fields(name, spec, resolve(spec), engine.dialect))
    return stored


def fill(
    engine: Engine,
    log: EventLog,
    name: str,
    *,
    total: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    lease: float = LEASE,
) -> FeedReport | None:
    """Give the documents of an attached index their vectors, by a pass of its change feed.

    A pass that was killed is gone on with, once its lease (seconds) is over. None where a follower is at it for longer
    than that. Raises what `tend` raises.
    """
    done = FeedReport()

    def tell(passed: FeedReport) -> None:
        nonlocal done
        done += passed
        if progress:
            seen = done.seen if total is None else min(done.seen, total)
            progress(Progress(seen, total, done.encoded, done.cached))

    target: list[Target] = []

    def target_of(alias: str) -> Target:
        stored = engine.run(load(alias))
        if not target or target[0].stored != stored:
            target[:] = [make_target(alias, stored)]
        return target[0]

    until = time.monotonic() + lease + _POLL
    while (passed := tend(engine, log, target_of, name, lease=lease, tell=tell)) is None and time.monotonic() < until:
        time.sleep(_POLL)
    return passed


def detach(engine: Engine, log: EventLog, name: str) -> Stored:
    """Leave an attached index alone from now on; fields and vectors stay, what the log knows of it goes.

    Raises IndexMissing, SpecMismatch, LogUnavailable.
    """
    stored = engine.run(take_off(name))
    log.forget(name)
    return stored
