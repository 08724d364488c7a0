"""The event log in memory, with leases that end when the schedule says so, and answers that get lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from knnex.errors import LogUnavailable
from knnex.ingest import Backlog, Buried, Delivered, Event, Lane
from knnex.ingest.log import DRAINED, Mark
from knnex.ingest.positions import LANES, WRITES, lane_of, position_of, split, version_of

from .schedule import Schedule


class Entry:
    def __init__(self, event: Event, lane: Lane) -> None:
        self.event, self.lane = event, lane
        self.consumer: str | None = None
        self.deliveries = 0
        self.free = False  # handed back


class MemoryLog:
    """Keeps the promises of EventLog; `faults` is the chance that a call or its answer is lost."""

    address = "memory"

    def __init__(self, schedule: Schedule, index: str, faults: float) -> None:
        self.schedule, self.index, self.faults = schedule, index, faults
        self.entries: dict[str, Entry] = {}
        self.accepted: list[Event] = []
        self.given = 0
        self.graves: dict[str, Buried] = {}
        self.suspects: dict[str, int] = {}
        self.blamed: dict[str, list[str]] = {}
        self.clock = 1000
        self.reasons: dict[str, str] = {}
        self.notes: dict[str, str] = {}

    def _call(self, what: str) -> bool:
        """One call; True where its answer is to be lost after it was done."""
        self.schedule.pause(what)
        luck = self.schedule.chance.random()
        if luck < self.faults / 2:
            raise LogUnavailable("the connection was cut before")
        return luck < self.faults

    @staticmethod
    def _cut(lost: bool) -> None:
        if lost:
            raise LogUnavailable("the connection was cut after")

    def indexes(self) -> tuple[str, ...]:
        return (self.index,)

    def append(self, events: Sequence[Event], lane: Lane = "live", mark: Mark | None = None) -> list[str]:
        lost = self._call("append")
        positions = []
        for event in events:
            self.clock += self.schedule.chance.randrange(3)
            chosen = lane_of(event.op, lane)
            position = position_of(self.clock, self.given, chosen)
            self.given += 1
            self.entries[position] = Entry(replace(event, position=position), chosen)
            positions.append(position)
            if chosen in WRITES:
                self.accepted.append(self.entries[position].event)
        self._cut(lost)
        return positions

    def head(self, index: str) -> str | None:
        given = [at for event in self.accepted if (at := event.position)]
        return max(given, key=version_of, default=None)

    def take(
        self, index: str, consumer: str, count: int, lease: float, lanes: Sequence[Lane] = DRAINED
    ) -> list[Delivered]:
        lost = self._call("take")
        taken: list[tuple[str, Entry]] = []
        for lane in lanes:
            if lane == "updates":
                if taken := self._updates(count):
                    break
                continue
            if lane == "copies" and taken:
                break
            mine = [(at, one) for at, one in self.entries.items() if one.lane == lane and self._open(one)]
            taken += sorted(mine, key=lambda pair: (pair[1].consumer is None, version_of(pair[0])))[
                : count - len(taken)
            ]
        for _, entry in taken:
            entry.deliveries += 0 if entry.free else 1
            entry.deliveries = max(1, entry.deliveries)
            entry.consumer, entry.free = consumer, False
        self._cut(lost)
        return [Delivered(entry.event, at, entry.deliveries) for at, entry in taken]

    def _open(self, entry: Entry) -> bool:
        """New, handed back, or of a worker that is silent; a lease may also end although its worker lives."""
        if entry.consumer is None or entry.free:
            return True
        silent = entry.consumer in self.schedule.killed or entry.consumer in self.schedule.frozen
        return self.schedule.chance.random() < (0.5 if silent else 0.02)

    def _updates(self, count: int) -> list[tuple[str, Entry]]:
        mine = sorted(
            ((at, one) for at, one in self.entries.items() if one.lane == "updates"),
            key=lambda pair: version_of(pair[0]),
        )
        bound = self.bound()
        taken = []
        for at, entry in mine[:count]:
            if version_of(at) > bound or not self._open(entry):
                break
            taken.append((at, entry))
        return taken

    def bound(self) -> int:
        """The oldest of what is not settled in the other lanes."""
        others = [version_of(at) for at, one in self.entries.items() if one.lane not in ("updates", "copies")]
        return min(others, default=1 << 62)

    def heartbeat(self, index: str, consumer: str, positions: Sequence[str]) -> set[str]:
        return {at for at in positions if at in self.entries and self.entries[at].consumer == consumer}

    def release(self, index: str, consumer: str, delivered: Sequence[Delivered], lease: float, delay: float) -> None:
        lost = self._call("release")
        for one in delivered:
            entry = self.entries.get(one.position)
            if entry and entry.consumer == consumer:
                entry.free = True
                self.suspects.pop(one.position, None)
        self._cut(lost)

    def settle(
        self,
        index: str,
        positions: Sequence[str],
        buried: Sequence[Buried] = (),
        counts: Mapping[str, int] | None = None,
    ) -> None:
        lost = self._call("settle")
        for at in positions:
            self.entries.pop(at, None)
            self.suspects.pop(at, None)
        self.graves |= {one.position: one for one in buried}
        self._cut(lost)

    def backlog(self, index: str) -> Backlog:
        lanes: dict[Lane, list[str]] = {}
        for at, one in self.entries.items():
            lanes.setdefault(one.lane, []).append(at)
        return Backlog.over({lane: self._backlog(mine) for lane, mine in lanes.items()})

    def _backlog(self, mine: list[str]) -> Backlog:
        held = sum(self.entries[at].consumer is not None for at in mine)
        return Backlog(len(mine) - held, held, min(mine, key=version_of, default=None))

    def doubt(self, index: str, positions: Sequence[str]) -> None:
        self.schedule.pause("doubt")
        self.suspects |= {position: self.suspects.get(position, 0) for position in positions}

    def doubted(self, index: str, positions: Sequence[str]) -> set[str]:
        return set(positions) & self.suspects.keys()

    def blame(self, index: str, position: str) -> int:
        self.schedule.pause("blame")
        self.suspects[position] = self.suspects.get(position, 0) + 1
        self.blamed.setdefault(position, []).append(self.schedule.process)
        return self.suspects[position]

    def unlucky(self, position: str) -> bool:
        """Whether workers that tried this event alone were killed by the schedule, or three had it at a time, since the
        leases of two of them ended although they live."""
        tried = self.blamed.get(position, [])
        return sum(one in self.schedule.killed for one in tried) > 1 or len(set(tried)) > 2

    def acquit(self, index: str, positions: Sequence[str]) -> None:
        self.schedule.pause("acquit")
        for position in positions:
            self.suspects.pop(position, None)

    def pause(self, index: str, reason: str | None, lane: Lane | None = None) -> None:
        self.reasons.pop(lane or "", None)
        if reason is not None:
            self.reasons[lane or ""] = reason

    def paused(self, index: str, lane: Lane | None = None) -> str | None:
        return self.reasons.get(lane or "")

    def rest(self, index: str, reason: str, seconds: float) -> bool:
        return False

    def resting(self, index: str) -> str | None:
        return None

    def remember(self, index: str, name: str, value: str | None) -> None:
        self._call("remember")
        self.notes.pop(name, None)
        if value is not None:
            self.notes[name] = value

    def recall(self, index: str, name: str) -> str | None:
        self._call("recall")
        return self.notes.get(name)

    def workers(self) -> dict[str, dict[str, Any]]:
        return {name: {} for name in self.schedule.processes("worker")}

    def now(self) -> int:
        return self.clock

    def unsettled(self, index: str, lane: Lane, after: str | None, most: int) -> list[tuple[str, str]]:
        lost = self._call("unsettled")
        beyond = version_of(after) if after else 0
        mine = [(at, one.event.id) for at, one in self.entries.items() if one.lane == lane and version_of(at) > beyond]
        self._cut(lost)
        return sorted(mine, key=lambda one: version_of(one[0]))[:most]

    def burials(self, index: str) -> list[str]:
        self.schedule.pause("burials")
        return list(self.graves)

    def find_buried(self, index: str, positions: Sequence[str]) -> dict[str, Buried]:
        return {at: self.graves[at] for at in positions if at in self.graves}

    def drop_buried(self, index: str, positions: Sequence[str]) -> int:
        return sum(self.graves.pop(at, None) is not None for at in positions)

    def hold(self, name: str, owner: str, seconds: float) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the simulated log has no {name}")


__all__ = ["LANES", "MemoryLog", "split"]
