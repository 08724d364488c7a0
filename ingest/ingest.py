"""The producer's side: accept documents in windows, hand them on, wait, and check the outcome against the index."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from ..engines import Engine
from ..errors import IngestIncomplete, KnnexError
from ..mappings import Spec
from .apply import apply_events
from .bulk import Patience
from .events import Event, Op
from .log import EventLog
from .prepare import Target
from .report import Report
from .tally import OnProgress, Tally, Window
from .verify import relations
from .wait import Waiting, passed

log = logging.getLogger(__name__)

WINDOW = 500
WINDOW_BYTES = 8_000_000
# Windows asked for in the index at once: each asking needs a refresh.
CHECK_AT_ONCE = 20
MOST_WAITING = 20_000
MOST_WAITING_BYTES = 256_000_000


def ingest(
    engine: Engine,
    spec: Spec,
    documents: Iterable[Any],
    log: EventLog,
    progress: OnProgress | None = None,
    *,
    ring: Callable[[], object] | None = None,
    op: Op = "upsert",
    patience: float = 15.0,
    most_waiting: int = MOST_WAITING,
) -> Report:
    """Send documents through the log, wait until workers have written them, and check that against the index.

    `documents` are dicts, or what `read_files` yields. `ring` wakes a worker; it may fail, workers also look by
    themselves. At most `most_waiting` events, or 256 MB, wait in the log before the reading pauses. Memory stays
    bounded. A log or an engine that is started again meanwhile is waited for, four times `patience` at most.

    Raises LogUnavailable, EngineError, and IngestIncomplete when for `patience` seconds nothing moves and no worker
    lives (what was accepted then stays in the log, and goes in when one runs), or when documents are not in the index
    in the end.
    """
    log.check()
    tally = Tally(engine, spec, progress, _length(documents))
    waiting = Waiting(log, spec.index, tally, patience)
    unchecked: list[Window] = []
    for events in cut(tally.accept(documents, op), WINDOW, WINDOW_BYTES):
        positions = waiting.steadily(partial(log.append, events))
        stamped = [replace(event, position=at) for event, at in zip(events, positions, strict=True)]
        unchecked.append(Window.of(stamped, sum(_weight(event.document) for event in events)))
        _ring(ring)
        backlog = waiting.until(
            lambda backlog: (
                backlog.total <= most_waiting and _waiting_bytes(unchecked, backlog.low_water) <= MOST_WAITING_BYTES
            )
        )
        waiting.steadily(partial(_check_passed, log, tally, unchecked, backlog.low_water, CHECK_AT_ONCE))
    if unchecked:
        last = unchecked[-1].last
        waiting.until(lambda backlog: passed(last, backlog.low_water))
        waiting.steadily(partial(_check_passed, log, tally, unchecked, None, 1))
    tally.show()
    return tally.report()


def _waiting_bytes(windows: Sequence[Window], low_water: str | None) -> int:
    return sum(window.size for window in windows if not passed(window.last, low_water))


def _check_passed(log: EventLog, tally: Tally, unchecked: list[Window], low_water: str | None, at_least: int) -> None:
    """Check the windows that are settled, when there are enough of them, and take them off the list."""
    index = tally.spec.index
    settled = [window for window in unchecked if passed(window.last, low_water)]
    if len(settled) >= at_least:
        tally.check(settled, lambda found: {at: one.reason for at, one in log.find_buried(index, found).items()})
        del unchecked[: len(settled)]


def ingest_inline(
    engine: Engine,
    target: Target,
    documents: Iterable[Any],
    progress: OnProgress | None = None,
    *,
    op: Op = "upsert",
    patience: Patience | None = None,
) -> Report:
    """Encode and write in this process, without log and workers; the same documents end the same way.

    Raises IngestIncomplete where the engine stays busy, EncoderError where the model fails on everything.
    """
    tally = Tally(engine, target.spec, progress, _length(documents))
    clock = Clock()
    windows: list[Window] = []
    buried: dict[str, str] = {}

    def reasons(_: Sequence[str]) -> dict[str, str]:
        return buried

    for events in cut(tally.accept(documents, op), WINDOW, WINDOW_BYTES):
        stamped = [event if event.version else replace(event, version=clock.next()) for event in events]
        done = apply_events(engine, target, stamped, patience=patience)
        if done.failed:
            raise IngestIncomplete(
                f"{len(done.failed)} documents could not be written to {target.alias!r}: {done.failed[0].reason}",
                hint="the engine is overloaded or blocked: `knnex doctor`; then send the documents again",
            )
        tally.encoded += done.encoded
        tally.cached += done.cached
        buried.update({casualty.event.id: casualty.reason for casualty in done.buried})
        windows.append(Window.of(stamped))
        if len(windows) >= CHECK_AT_ONCE:
            tally.check(windows, reasons)
            windows = []
            buried.clear()
        tally.show()
    tally.check(windows, reasons)
    tally.show()
    return tally.report()


def delete(
    engine: Engine,
    spec: Spec,
    ids: Iterable[Any],
    log: EventLog,
    progress: OnProgress | None = None,
    *,
    ring: Callable[[], object] | None = None,
) -> Report:
    """Delete documents through the log: ids, or dicts with the id and what else the spec asks for.

    Where producers give the version, a delete needs one too. A child whose parent is not told is looked up.
    """
    return ingest(engine, spec, _tombstones(engine, spec, ids), log, progress, ring=ring, op="delete")


def delete_inline(engine: Engine, target: Target, ids: Iterable[Any], progress: OnProgress | None = None) -> Report:
    """`delete` without log and workers."""
    return ingest_inline(engine, target, _tombstones(engine, target.spec, ids), progress, op="delete")


class Clock:
    """Versions where no log gives any: milliseconds << 20, and in any case more than the last."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        """The next version."""
        self._last = max(self._last + 1, time.time_ns() // 1_000_000 << 20)
        return self._last


def cut(events: Iterable[Event], most: int, most_bytes: int) -> Iterator[list[Event]]:
    """Windows of at most `most` events, and about `most_bytes` of documents."""
    part: list[Event] = []
    size = 0
    for event in events:
        part.append(event)
        size += _weight(event.document)
        if len(part) >= most or size >= most_bytes:
            yield part
            part, size = [], 0
    if part:
        yield part


def _weight(value: Any) -> int:
    """Roughly the bytes of a document, without writing it out: its strings."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_weight, value.values()))
    return sum(map(_weight, value)) if isinstance(value, list) else 8


def _length(documents: Iterable[Any]) -> int | None:
    return len(documents) if isinstance(documents, Sized) else None


def _ring(ring: Callable[[], object] | None) -> None:
    if ring is None:
        return
    try:
        ring()
    except (KnnexError, OSError) as error:
        log.debug("Nobody heard the doorbell: %s", error, extra={"action": "doorbell_failed"})


def _tombstones(engine: Engine, spec: Spec, ids: Iterable[Any]) -> Iterator[Any]:
    def document(given: Any) -> Any:
        return given if isinstance(given, Mapping) else {spec.id: given, **known.get(str(given), {})}

    known: Mapping[str, Mapping[str, Any]] = {}
    source = iter(ids)
    while part := list(islice(source, WINDOW)):
        plain = [str(given) for given in part if not isinstance(given, Mapping)]
        if plain and spec.parents():
            known = engine.run(relations(spec, plain))
        yield from map(document, part)
