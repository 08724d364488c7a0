"""Partial updates without a log: read, merge, and write under the version after the one that was read.

An engine takes a version only if it is greater than the one it holds. So the write succeeds if nobody has written the
document since it was read, and else it is read again: a compare-and-swap, with the versions that all writers use.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from ..engines import Engine
from .apply import BatchReport, prepare_all
from .beside import write_beside
from .bulk import write
from .events import MAX_VERSION, Event
from .patience import Patience, patiently
from .prepare import Casualty, Target
from .updates import Current, current, merge

# So often a document may change under our hands, with pauses of some seconds in all.
_ATTEMPTS = 20
_PAUSE = 0.02


@dataclass
class _Done:
    report: BatchReport = field(default_factory=BatchReport)
    stamped: list[Event] = field(default_factory=list)
    left: list[Event] = field(default_factory=list)

    def bury(self, events: Sequence[Event], reason: str) -> None:
        """These cannot be written."""
        self.report += BatchReport(buried=tuple(Casualty(event, reason) for event in events))
        # Nothing that the index may hold is as new as what did not go in.
        self.stamped += [replace(event, version=MAX_VERSION) for event in events]


def update_events(
    engine: Engine,
    target: Target,
    events: Sequence[Event],
    *,
    patience: Patience | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> tuple[BatchReport, list[Event]]:
    """Apply updates to what the index holds; the events come back with the versions they were written under."""
    chosen = patience or Patience()
    done = BatchReport()
    stamped: list[Event] = []
    left = list(events)
    for attempt in range(_ATTEMPTS):
        found = _read(engine, target, left, chosen, sleep)
        one = _apply(engine, target, left, found, chosen, sleep)
        done, stamped, left = done + one.report, stamped + one.stamped, one.left
        if not left or sleep(_PAUSE * attempt):
            break
    reason = "the document changes all the time, and each time before this update of it could be written"
    return done + BatchReport(failed=tuple(Casualty(event, reason) for event in left)), stamped


def _read(
    engine: Engine, target: Target, events: Sequence[Event], patience: Patience, sleep: Callable[[float], object]
) -> dict[str, Current]:
    """The documents as they are now; deleted ones are not there."""
    flow = partial(current, target.stored.index, target.spec, events)
    found = patiently(engine, flow, patience, sleep)
    return {id_: one for id_, one in found.items() if not one.deleted}


def _apply(
    engine: Engine,
    target: Target,
    events: Sequence[Event],
    found: Mapping[str, Current],
    patience: Patience,
    sleep: Callable[[float], object],
) -> _Done:
    """Write each document once with all its changes; `left` are those of documents that others wrote meanwhile."""
    parts: dict[str, list[Event]] = {}
    for event in events:
        parts.setdefault(event.id, []).append(event)
    whole = {id_: _merged(parts[id_], held) for id_, held in found.items()}
    prepared = prepare_all(target, list(whole.values()))
    reasons = {one.event.id: one.reason for one in prepared.refused}
    done = _Done(BatchReport(encoded=prepared.encoded, cached=prepared.cached))
    written: set[str] = set()
    for outcome in write(engine, target.alias, prepared.items, patience=patience, sleep=sleep):
        mine = parts[outcome.id]
        if outcome.status == "written":
            written.add(outcome.id)
            done.report += BatchReport(written=len(mine))
            done.stamped += [replace(event, version=whole[outcome.id].order) for event in mine]
        elif outcome.status == "stale":
            done.left += mine
        elif outcome.status == "buried":
            reasons[outcome.id] = outcome.reason
        else:
            done.report += BatchReport(failed=tuple(Casualty(event, outcome.reason) for event in mine))
    refused, behind = write_beside(engine, target, prepared, written, patience=patience, sleep=sleep)
    done.report += BatchReport(
        refused_beside=tuple(Casualty(parts[id_][-1], reason) for id_, reason in refused.items()),
        behind=tuple(Casualty(parts[id_][-1], reason) for id_, reason in behind.items()),
    )
    for id_, reason in reasons.items():
        _one_by_one(engine, target, parts[id_], reason, patience, sleep, done)
    for id_ in [one for one in parts if one not in found]:
        done.bury(parts[id_], f"there is no document {id_!r} to update")
    return done


def _one_by_one(
    engine: Engine,
    target: Target,
    parts: Sequence[Event],
    reason: str,
    patience: Patience,
    sleep: Callable[[float], object],
    done: _Done,
) -> None:
    """Of changes that cannot be written together, each alone."""
    if len(parts) == 1:
        done.bury(parts, reason)
        return
    for part in parts:
        report, stamped = update_events(engine, target, [part], patience=patience, sleep=sleep)
        done.report += report
        done.stamped += stamped


def _merged(parts: Sequence[Event], held: Current) -> Event:
    document = held.document
    for part in parts:
        document = merge(document, part.document)
    routing = next((part.routing for part in reversed(parts) if part.routing), held.routing)
    return replace(parts[-1], op="upsert", document=document, version=held.version + 1, routing=routing)
