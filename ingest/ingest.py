"""The producer's side: accept documents in windows, hand them on, wait, and check the outcome against the index."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from ..engines import Engine
from ..errors import KnnexError
from ..mappings import Spec
from .events import Event, Op
from .log import Backlog, EventLog, Mark
from .positions import Lane, version_of
from .report import Report
from .resume import Earlier, Marks, Reading
from .sources import Files, Part, length_of, parts_of
from .tally import OnProgress, Tally, Window
from .traced import append_traced
from .wait import Waiting, passed
from .windows import CHECK_AT_ONCE, WINDOW, WINDOW_BYTES, cut, tombstones, weight

log = logging.getLogger(__name__)

MOST_WAITING = 20_000
MOST_WAITING_BYTES = 256_000_000
# Windows of what earlier runs have sent, that wait for being settled before they are checked.
EARLIER_AT_ONCE = 200


def ingest(
    engine: Engine,
    spec: Spec,
    documents: Iterable[Any],
    log: EventLog,
    progress: OnProgress | None = None,
    *,
    ring: Callable[[], object] | None = None,
    op: Op = "upsert",
    lane: Lane = "backfill",
    resume: bool = True,
    changed: Callable[[Sequence[Event]], Sequence[Event]] | None = None,
    patience: float = 15.0,
    most_waiting: int = MOST_WAITING,
    sleep: Callable[[float], object] = time.sleep,
) -> Report:
    """Send documents through the log, wait until workers have written them, and check that against the index.

    `documents` are dicts, or what `read_files` gives; of op `delete` they may be ids, of op `update` they hold the
    fields to change. Live events go before those of the lane `backfill`; updates wait for all that came before them,
    whatever lane is said. `ring` wakes a worker; it may fail, workers also look by themselves.

    Files of which an earlier run was killed are read on where it stopped, unless `resume` is False; what it sent is
    checked too. What `changed` leaves out of a window is taken to be in the index. At most `most_waiting` events, or
    256 MB, wait in the lane before the reading pauses, and at most KNNEX_MAX_WAITING of the whole index. Memory stays
    bounded. A log or an engine that is started again meanwhile is waited for, four times `patience` at most; `sleep`
    may raise, to break off.

    Raises LogUnavailable, EngineError, and IngestIncomplete when for `patience` seconds nothing moves and no worker
    lives (what was accepted then stays in the log, and goes in when one runs), or when documents are not in the index
    in the end.
    """
    log.check()
    tally = Tally(engine, spec, progress, length_of(documents))
    waiting = Waiting(log, spec.index, tally, patience, "updates" if op == "update" else lane, sleep)
    marks = Marks(log, spec.index, op, waiting.lane, resume)
    run = _Run(log, tally, waiting, op, most_waiting, ring, marks, changed or (lambda events: events))
    if op == "delete" and not isinstance(documents, Files):
        documents = tombstones(engine, spec, documents)
    waiting.for_room(lambda _: True)
    for part in parts_of(documents):
        run.send(part)
    return run.finish()


class _Run:
    """One run of a producer."""

    def __init__(
        self,
        log: EventLog,
        tally: Tally,
        waiting: Waiting,
        op: Op,
        most_waiting: int,
        ring: Callable[[], object] | None,
        marks: Marks,
        changed: Callable[[Sequence[Event]], Sequence[Event]],
    ) -> None:
        self.log, self.tally, self.waiting, self.op, self.most_waiting = log, tally, waiting, op, most_waiting
        self.ring, self.marks, self.changed = ring, marks, changed
        self.unchecked: list[Window] = []

    def send(self, part: Part) -> None:
        """Read a piece of the input and append it, window by window."""
        reading = self.waiting.steadily(partial(self.marks.begin, part))
        documents = _Counted(part.documents())
        if reading and reading.count:
            self._pass(part, documents, reading)
        for events in cut(self.tally.accept(documents, self.op), WINDOW, WINDOW_BYTES):
            new = self.waiting.steadily(partial(self.changed, events))
            self.tally.note_unchanged(len(events) - len(new))
            if new:
                self._append(new, Mark(reading.source, documents.count) if reading else None)

    def _pass(self, part: Part, documents: Iterator[Any], reading: Reading) -> None:
        """Read what an earlier run has sent, to check it."""
        log.info(
            "Continuing after %d documents of %s",
            reading.count,
            part.name,
            extra={"action": "ingest_continued", "index": self.marks.index},
        )
        index, lane = self.marks.index, self.waiting.lane
        earlier = self.waiting.steadily(lambda: Earlier(self.log, index, lane, reading.since))
        before = self.tally.read
        for events in cut(self.tally.accept(islice(documents, reading.count), self.op), WINDOW, WINDOW_BYTES):
            self.unchecked.append(earlier.window(event.id for event in events))
            if len(self.unchecked) > EARLIER_AT_ONCE:
                self._settle()
        self.tally.skipped += self.tally.read - before

    def _append(self, events: Sequence[Event], mark: Mark | None) -> None:
        positions = self.waiting.steadily(partial(append_traced, self.log, events, self.waiting.lane, mark))
        stamped = [replace(event, position=at) for event, at in zip(events, positions, strict=True)]
        self._note(stamped, sum(weight(event.document) for event in events))
        _ring(self.ring)
        backlog = self.waiting.for_room(
            lambda backlog: (
                backlog.total <= self.most_waiting
                and _waiting_bytes(self.unchecked, backlog.low_water) <= MOST_WAITING_BYTES
            )
        )
        self.waiting.steadily(partial(self._check_passed, backlog.low_water, CHECK_AT_ONCE))

    def _note(self, stamped: Sequence[Event], size: int) -> None:
        """Keep what is to be checked; small windows, as of many small files, together."""
        last = self.unchecked[-1] if self.unchecked else None
        if last and not last.before_check and sum(last.times.values()) + len(stamped) <= WINDOW:
            last.add(stamped, size)
        else:
            self.unchecked.append(Window.of(stamped, size))

    def _settle(self) -> None:
        """Wait until all that was sent is settled, and check it."""
        last = max((window.last for window in self.unchecked if window.last), key=version_of, default=None)

        def done(mine: Backlog, _: Backlog) -> bool:
            # What is settled is checked while workers are at the rest.
            self.waiting.steadily(partial(self._check_passed, mine.low_water, CHECK_AT_ONCE))
            return passed(last, mine.low_water)

        self.waiting.until(done)
        self.waiting.steadily(partial(self._check_passed, None, 1))

    def _check_passed(self, low_water: str | None, at_least: int) -> None:
        """Check the windows that are settled, when there are enough of them, and take them off the list."""
        settled = [window for window in self.unchecked if passed(window.last, low_water)]
        if len(settled) >= at_least:
            for window in settled:
                if window.before_check:
                    window.before_check(window)
            self.tally.check(settled, self._reasons)
            self.unchecked = [window for window in self.unchecked if not passed(window.last, low_water)]

    def _reasons(self, positions: Sequence[str]) -> dict[str, str]:
        return {at: one.reason for at, one in self.log.find_buried(self.marks.index, positions).items()}

    def finish(self) -> Report:
        """Wait for what is still on its way, check it, and forget how far the files were read."""
        self.tally.total = self.tally.read
        if self.unchecked:
            self._settle()
        self.waiting.steadily(self.marks.done)
        return self.tally.report()


class _Counted(Iterator[Any]):
    """Documents, and how many of them were taken."""

    def __init__(self, documents: Iterator[Any]) -> None:
        self._documents, self.count = documents, 0

    def __next__(self) -> Any:
        found = next(self._documents)
        self.count += 1
        return found


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
    return ingest(engine, spec, ids, log, progress, ring=ring, op="delete", lane="live")


def _waiting_bytes(windows: Sequence[Window], low_water: str | None) -> int:
    return sum(window.size for window in windows if not passed(window.last, low_water))


def _ring(ring: Callable[[], object] | None) -> None:
    if ring is None:
        return
    try:
        ring()
    except (KnnexError, OSError) as error:
        log.debug("Nobody heard the doorbell: %s", error, extra={"action": "doorbell_failed"})
