"""Going on where an earlier run stopped: the log keeps, in one step with the events, how far each file was read.

A mark names the file's identity and what was done with it, when its reading began, and its path:
`DIGEST-OP-LANE MILLISECONDS PATH`. A file that changed has another digest and is read from its start.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .events import Op
from .log import EventLog
from .positions import MAX_SEQUENCE, Lane, position_of, split, version_of
from .sources import Files, Part
from .tally import Window

_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Reading:
    """The reading of one file: what its marks are called, how many documents are behind them, since when (ms)."""

    source: str
    count: int
    since: int


class Marks:
    """The marks of one run."""

    def __init__(self, log: EventLog, index: str, op: Op, lane: Lane, resume: bool) -> None:
        self.log, self.index, self.doing, self.resume = log, index, f"-{op}-{lane}", resume
        self.known = _parsed(log.marks(index))
        self.ours: list[Reading] = []

    def begin(self, part: Part) -> Reading | None:
        """Start reading a piece of the input, or go on with it; None where it cannot be continued."""
        identity = part.identity()
        if identity is None:
            return None
        key = identity.digest + self.doing
        reading = self.known.get((identity.path, key)) if self.resume else None
        # Left by another form of the file, or not wanted any more.
        for (path, other), old in self.known.items():
            if path == identity.path and other.endswith(self.doing) and old is not reading and old not in self.ours:
                self.log.unmark(self.index, old.source)
        if reading is None:
            since = self.log.now()
            reading = Reading(f"{key} {since} {identity.path}", 0, since)
        self.ours.append(reading)
        return reading

    def done(self) -> None:
        """All was read, settled and checked: forget how far."""
        for reading in self.ours:
            self.log.unmark(self.index, reading.source)


def half_read(
    log: EventLog, index: str, documents: Files, op: Op = "upsert", lane: Lane = "backfill"
) -> list[tuple[str, int]]:
    """The files of which earlier runs have sent a part, and how many documents of each. Raises LogUnavailable."""
    known = _parsed(log.marks(index))
    found = []
    for part in documents.parts() if known else ():
        identity = part.identity()
        reading = identity and known.get((identity.path, f"{identity.digest}-{op}-{lane}"))
        if reading:
            found.append((part.name, reading.count))
    return found


def _parsed(marks: dict[str, int]) -> dict[tuple[str, str], Reading]:
    found: dict[tuple[str, str], Reading] = {}
    for source, count in marks.items():
        digest, _, rest = source.partition(" ")
        since, _, path = rest.partition(" ")
        if since.isdigit():
            found[path, digest] = Reading(source, count, int(since))
    return found


class Earlier:
    """What earlier runs have sent: settled when all is that was in the lane before this one began."""

    def __init__(self, log: EventLog, index: str, lane: Lane, since: int) -> None:
        self.log, self.index, self.lane, self.since = log, index, lane, since
        self.last = position_of(log.now(), MAX_SEQUENCE - 1, lane)
        self._graves: dict[str, tuple[int, str]] | None = None

    def window(self, ids: Iterable[str]) -> Window:
        """Documents that have to be in the index, in whatever version."""
        window = Window({}, {}, {}, self.last, before_check=self.note_buried)
        for id_ in ids:
            window.versions[id_], window.positions[id_] = 1, ""
            window.times[id_] = window.times.get(id_, 0) + 1
        return window

    def note_buried(self, window: Window) -> None:
        """Of what was buried since, the index has to hold something newer."""
        graves = self._find()
        for id_ in window.versions:
            if id_ in graves:
                window.versions[id_], window.positions[id_] = graves[id_]

    def _find(self) -> dict[str, tuple[int, str]]:
        """By id the newest that was buried since the reading began: one more than its version, and its position."""
        if self._graves is None:
            self._graves = {}
            start = version_of(position_of(self.since, 0, self.lane))
            buried = [
                at for at in self.log.burials(self.index) if split(at)[2] == self.lane and version_of(at) >= start
            ]
            for place in range(0, len(buried), _AT_ONCE):
                for at, one in self.log.find_buried(self.index, buried[place : place + _AT_ONCE]).items():
                    if one.event and one.event.order >= self._graves.get(one.id, (0, ""))[0]:
                        self._graves[one.id] = one.event.order + 1, at
        return self._graves
