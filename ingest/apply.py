"""Applying a batch of events to an index: every event ends written, stale, buried, or still to be done."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from ..encoders import PROBE
from ..engines import Engine
from ..errors import EncoderError
from ..telemetry import span
from .beside import write_beside
from .bulk import Outcome, write
from .conflicts import conflicting
from .events import Event
from .patience import Patience
from .prepare import Casualty, Prepared, Target, coalesce, prepare
from .updates import resolve_updates

log = logging.getLogger(__name__)

# So many documents that fail alike, and none that does not: it is the model that is broken, and no document.
_ENOUGH_TO_BLAME_THE_MODEL = 8


@dataclass(frozen=True)
class BatchReport:
    """What became of a batch. `failed` events could not be written for now, and remain to be done.

    The index holds those that a version index beside it refuses, or is `behind` with; the latter remain to be done, and
    are not counted until they are.
    """

    written: int = 0
    stale: int = 0
    deleted: int = 0
    encoded: int = 0
    cached: int = 0
    buried: tuple[Casualty, ...] = ()
    failed: tuple[Casualty, ...] = ()
    without_vector: tuple[Casualty, ...] = ()
    refused_beside: tuple[Casualty, ...] = ()
    behind: tuple[Casualty, ...] = ()

    def __add__(self, other: BatchReport) -> BatchReport:
        return BatchReport(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    @property
    def counts(self) -> dict[str, int]:
        """The figures that the log adds up."""
        plain = {name: getattr(self, name) for name in ("written", "stale", "deleted", "encoded", "cached")}
        return plain | {"without_vector": len(self.without_vector)}


def apply_events(
    engine: Engine,
    target: Target,
    events: Sequence[Event],
    *,
    patience: Patience | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> BatchReport:
    """Encode and write a batch. Raises EncoderError where the model fails on everything, IndexMissing, AccessDenied."""
    if target.stored.attached and (ours := [event for event in events if event.op != "update" or event.document]):
        reason = f"{target.alias} is filled by others, and knnex writes nothing there but vectors"
        looks = [event for event in events if event.op == "update" and not event.document]
        done = BatchReport(buried=tuple(Casualty(event, reason) for event in ours))
        return done + apply_events(engine, target, looks, patience=patience, sleep=sleep) if looks else done
    updates = [event for event in events if event.op == "update"]
    others = [event for event in events if event.op != "update"]
    done = BatchReport()
    if others or not updates:
        done += write_prepared(engine, target, prepare_all(target, others), patience=patience, sleep=sleep)
    return done + apply_updates(engine, target, updates, patience=patience, sleep=sleep) if updates else done


def apply_updates(
    engine: Engine,
    target: Target,
    events: Sequence[Event],
    *,
    patience: Patience | None = None,
    sleep: Callable[[float], object] = time.sleep,
    prepare: Callable[[Target, Sequence[Event]], Prepared] | None = None,
) -> BatchReport:
    """Apply partial updates to what the index holds now; of those of one document that fail together, each alone.

    `prepare` stands in for `prepare_all`.
    """
    if looks := [event for event in events if not event.document]:  # what the change feed had buried
        from .enrich import look_again

        seen = look_again(engine, target, looks, patience=patience, sleep=sleep)
        rest = [event for event in events if event.document]
        return (
            seen + apply_updates(engine, target, rest, patience=patience, sleep=sleep, prepare=prepare)
            if rest
            else seen
        )
    resolved = resolve_updates(engine, target, events, patience=patience, sleep=sleep)
    prepared = (prepare or prepare_all)(target, resolved.whole)
    done = write_prepared(engine, target, prepared, patience=patience, sleep=sleep)
    parts = resolved.parts
    blamed, waiting = {one.event.id for one in done.buried}, {one.event.id for one in done.failed}
    single = [replace(one, event=parts[one.event.id][0]) for one in done.buried if len(parts[one.event.id]) == 1]
    alone = replace(
        done,
        written=done.written + sum(len(several) - 1 for id_, several in parts.items() if id_ not in blamed | waiting),
        stale=done.stale + len(resolved.stale),
        buried=(*single, *resolved.absent),
        failed=tuple(Casualty(part, one.reason) for one in done.failed for part in parts[one.event.id]),
        # One of them is enough, since the index has them all.
        refused_beside=tuple(replace(one, event=parts[one.event.id][-1]) for one in done.refused_beside),
        behind=tuple(replace(one, event=parts[one.event.id][-1]) for one in done.behind),
    )
    for id_ in sorted(blamed):
        for part in parts[id_] if len(parts[id_]) > 1 else ():
            alone += apply_updates(engine, target, [part], patience=patience, sleep=sleep, prepare=prepare)
    return alone


def write_prepared(
    engine: Engine,
    target: Target,
    prepared: Prepared,
    *,
    patience: Patience | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> BatchReport:
    """Write what is prepared; older events of an id wait as the newest does, and go in where that is buried."""
    with span("knnex.bulk", kind="client", index=target.alias, documents=len(prepared.items)):
        outcomes = write(engine, target.address, prepared.items, patience=patience, sleep=sleep)
    buried, failed = list(prepared.refused), list[Casualty]()
    doubtful = list(prepared.covered)
    for outcome in outcomes:
        event = prepared.events[outcome.id]
        if outcome.status == "stale":
            doubtful.append(event)
        elif outcome.status != "written":
            (buried if outcome.status == "buried" else failed).append(Casualty(event, outcome.reason))
    waiting = {casualty.event.id for casualty in failed}
    reason = "a newer event of this document waits to be written"
    held = [Casualty(event, reason) for event in prepared.covered if event.id in waiting]
    fallen = {casualty.event.id for casualty in buried}
    conflicts = conflicting(engine, target, doubtful, prepared.events) if target.spec.version else []
    next_best = [event for event in prepared.covered if event.id in fallen]
    lost = {one.event.id for one in conflicts if one.event is prepared.events.get(one.event.id)}
    has = {id_: event for id_, event in prepared.events.items() if id_ not in waiting | fallen | lost}
    refused, behind = write_beside(engine, target, prepared, has, patience=patience, sleep=sleep)
    passed = len(prepared.covered) - len(held) - len(next_best) - (len(conflicts) - len(lost))
    report = BatchReport(
        **_counted(outcomes, {id_: event for id_, event in has.items() if id_ not in behind}, passed),
        encoded=prepared.encoded,
        cached=prepared.cached,
        buried=(*buried, *conflicts),
        failed=(*failed, *held),
        without_vector=tuple(one for one in prepared.without_vector if one.event.id in has.keys() - behind.keys()),
        refused_beside=tuple(Casualty(has[id_], reason) for id_, reason in refused.items()),
        behind=tuple(Casualty(has[id_], reason) for id_, reason in behind.items()),
    )
    return report + apply_events(engine, target, next_best, patience=patience, sleep=sleep) if next_best else report


def _counted(outcomes: Sequence[Outcome], done: Mapping[str, Event], passed: int) -> dict[str, int]:
    """How many of the events `done` were written, and deleted by that, and how many stale, `passed` ones included."""
    kinds = Counter((outcome.status, done[outcome.id].op == "delete") for outcome in outcomes if outcome.id in done)
    return {
        "written": kinds["written", False],
        "deleted": kinds["written", True],
        "stale": kinds["stale", False] + kinds["stale", True] + passed,
    }


def prepare_all(target: Target, events: Sequence[Event]) -> Prepared:
    """`prepare_safely`, and the same for all that is beside the target, whose failures are their own.

    Raises EncoderError as that does for the target itself.
    """
    prepared = prepare_safely(target, events)
    if not target.beside:
        return prepared
    return replace(prepared, beside=[_prepare_beside(other, events) for other in target.beside])


def _prepare_beside(other: Target, events: Sequence[Event]) -> Prepared:
    try:
        return prepare_safely(other, events)
    except EncoderError as error:
        return Prepared(unready=str(error))


def prepare_safely(target: Target, events: Sequence[Event]) -> Prepared:
    """`prepare`, in halves where a model fails, down to the document on which it does, which is then refused.

    Raises EncoderError where it fails on every single one of many documents, or on a plain word too.
    """
    with span("knnex.encode", index=target.alias, documents=len(events)):
        return _prepare_safely(target, events)


def _prepare_safely(target: Target, events: Sequence[Event]) -> Prepared:
    try:
        return prepare(target, events)
    except EncoderError as error:
        log.warning(
            "A batch of %d documents for %s could not be encoded, trying halves: %s",
            len(events),
            target.alias,
            error,
            extra={"action": "batch_split", "index": target.alias},
        )
    winners = coalesce(events)
    parts = _halves(target, list(winners.values()))
    merged = Prepared(
        items=[item for part in parts for item in part.items],
        events={id_: event for part in parts for id_, event in part.events.items()},
        covered=[event for event in events if winners[event.id] is not event],
        without_vector=[one for part in parts for one in part.without_vector],
        refused=[one for part in parts for one in part.refused],
        encoded=sum(part.encoded for part in parts),
        cached=sum(part.cached for part in parts),
    )
    if merged.encoded or merged.cached or not merged.refused:
        return merged
    if len(merged.refused) >= _ENOUGH_TO_BLAME_THE_MODEL or not _works(target):
        raise EncoderError(
            f"no document of {len(merged.refused)} could be encoded; the first: {merged.refused[0].reason}",
            hint="the model or its device is broken; nothing is lost, the documents wait",
        )
    return merged


def _works(target: Target) -> bool:
    """Whether the models encode anything at all."""
    try:
        for encoder in target.encoders.values():
            encoder.encode_documents([PROBE])
    except Exception as error:  # whatever a model raises
        log.warning("%s encodes not even a word: %s", target.alias, error, extra={"action": "model_failed"})
        return False
    return True


def _halves(target: Target, events: Sequence[Event]) -> list[Prepared]:
    if len(events) == 1:
        try:
            return [prepare(target, events)]
        except EncoderError as error:
            return [Prepared(refused=[Casualty(events[0], str(error))])]
    middle = len(events) // 2
    found: list[Prepared] = []
    for half in (events[:middle], events[middle:]):
        try:
            found.append(prepare(target, half))
        except EncoderError:
            found += _halves(target, half)
    return found
