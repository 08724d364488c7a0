"""The figures of one run of a producer, and the checking of its windows against the index."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..engines import Engine
from ..errors import IngestIncomplete
from ..mappings import Spec
from .events import Event, Op, Origin, Refused, accept
from .prepare import nothing_to_encode
from .render import text_of
from .report import Names, Progress, Report
from .verify import lacking

MOST_MISSING = 20

OnProgress = Callable[[Progress], None]


@dataclass
class Window:
    """Accepted events until the index was seen to hold them: by id the newest version, how many, and the position.

    `size` is roughly their bytes; `before_check` completes what an earlier run has sent.
    """

    versions: dict[str, int]
    times: dict[str, int]
    positions: dict[str, str]
    last: str | None
    size: int = 0
    before_check: Callable[[Window], None] | None = None

    @classmethod
    def of(cls, events: Sequence[Event], size: int = 0) -> Window:
        """The window of events that have a version or a position."""
        window = cls({}, {}, {}, None)
        window.add(events, size)
        return window

    def add(self, events: Sequence[Event], size: int = 0) -> None:
        """Further events, accepted later."""
        self.last, self.size = events[-1].position, self.size + size
        for event in events:
            self.times[event.id] = self.times.get(event.id, 0) + 1
            if event.order > self.versions.get(event.id, 0):
                self.versions[event.id] = event.order
                self.positions[event.id] = event.position or ""


class Tally:
    """The figures of one run, and the windows that are still to be checked."""

    def __init__(self, engine: Engine, spec: Spec, progress: OnProgress | None, total: int | None) -> None:
        self.engine, self.spec, self.progress, self.total = engine, spec, progress, total
        self.started = time.monotonic()
        self.read = self.accepted = self.skipped = self.unchanged = self.in_index = self.encoded = self.cached = 0
        self.refused, self.buried, self.without = Names(), Names(), Names()
        self.missing: list[str] = []
        self.missing_count = 0
        # As it was told last.
        self.waiting = 0

    def show(self, waiting: int = 0) -> None:
        """Tell the caller how far we are; `waiting` accepted events are not settled yet."""
        self.waiting = waiting
        if self.progress:
            done = self.read - min(waiting, self.accepted)
            self.progress(Progress(done, self.total, self.encoded, self.cached))

    def accept(self, documents: Iterable[Any], op: Op) -> Iterator[Event]:
        """The events of documents; what is none is noted."""
        for number, given in enumerate(documents, start=1):
            self.read += 1
            origin, document = _unpack(given, number)
            found = given if isinstance(given, Refused) else accept(self.spec, document, origin, op=op)
            if isinstance(found, Refused):
                self.refused.add(found.origin, found.id, found.reason)
                continue
            self.accepted += 1
            if op == "upsert":
                self._note_empty(found, origin)
            yield found

    def note_unchanged(self, count: int) -> None:
        """So many documents were not sent, as the index holds them already."""
        if count:
            self.unchanged += count
            self.in_index += count
            self.show(self.waiting)

    def _note_empty(self, event: Event, origin: Origin) -> None:
        for name, embedding in self.spec.embeddings.items():
            if text_of(embedding.source, event.document) is None:
                self.without.add(origin, event.id, nothing_to_encode(name, embedding))

    def check(self, windows: Sequence[Window], buried: Callable[[Sequence[str]], Mapping[str, str]]) -> None:
        """Compare windows with the index; `buried` gives the reasons for the positions that are buried."""
        if not windows:
            return
        found = self.engine.run(lacking(self.spec.index, [window.versions for window in windows]))
        # Everything is asked before anything is counted: the asking may fail, and is then done again.
        graves = [
            buried([window.positions[id_] for id_ in absent]) if absent else {}
            for window, absent in zip(windows, found, strict=True)
        ]
        for window, absent, reasons in zip(windows, found, graves, strict=True):
            self.in_index += sum(times for id_, times in window.times.items() if id_ not in absent)
            for id_ in sorted(absent):
                reason = reasons.get(window.positions[id_] or id_)
                if reason is None:
                    self.missing_count += window.times[id_]
                    self.missing = [*self.missing, id_][:MOST_MISSING]
                else:
                    self.buried.add(None, id_, reason)

    def report(self) -> Report:
        """The figures as they stand. Raises IngestIncomplete where documents vanished without a reason."""
        self.show()
        report = Report(
            read=self.read,
            accepted=self.accepted,
            skipped=self.skipped,
            unchanged=self.unchanged,
            in_index=self.in_index,
            refused=tuple(self.refused.kept),
            buried=tuple(self.buried.kept),
            without_vector=tuple(self.without.kept),
            missing=tuple(self.missing),
            refused_count=self.refused.count,
            buried_count=self.buried.count,
            without_vector_count=self.without.count,
            missing_count=self.missing_count,
            encoded=self.encoded,
            cached=self.cached,
            seconds=time.monotonic() - self.started,
            checked=True,
        )
        if self.missing_count:
            names = ", ".join(self.missing)
            raise IngestIncomplete(
                f"{self.missing_count} of {self.accepted} accepted documents are not in {self.spec.index!r}, "
                f"and nobody said why: {names}",
                hint="was the index replaced meanwhile? Send these documents again",
            )
        return report


def _unpack(given: Any, number: int) -> tuple[Origin, Any]:
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], Origin):
        return given[0], given[1]
    return Origin("", number, "document"), given
