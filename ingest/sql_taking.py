"""Taking events out of a lane in a database, and the rows in which it is written who has which.

Everything that workers do to the events of an index happens under a lock on its rows in `knnex_groups`, held for
milliseconds: what one of them has taken, no other sees as new.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from .positions import Lane
from .sql_link import clock
from .sql_notes import add
from .sql_tables import by_lane, events, groups, in_parts, number_of, of, pending, position_at

log = logging.getLogger(__name__)

# Documents may have megabytes each: a batch ends with the event that brings it to so many bytes.
BATCH_BYTES = 32_000_000
# The last of the lanes of producers.
_UPDATES = number_of("updates")


@dataclass(frozen=True, slots=True)
class Entry:
    """An event that can be taken."""

    lane: int
    place: int
    # Bytes, None where somebody has deleted the event.
    size: int | None
    # How often it was delivered before; None for one that never was.
    before: int | None


class Taking:
    """One taking of events by one worker, in one transaction that no other worker of the index is in."""

    def __init__(self, connection: sa.Connection, index: str, consumer: str, lease: float) -> None:
        self.connection, self.index, self.consumer = connection, index, consumer
        self.cursors = lock(connection, index)
        self.now = clock(connection)
        self.silent = self.now - int(lease * 1000)

    def take(self, chosen: Sequence[Lane], count: int) -> list[tuple[Entry, bytes]]:
        """The events of these lanes, which are the worker's afterwards."""
        taken: list[Entry] = []
        for lane in chosen:
            if number_of(lane) not in self.cursors:  # an older knnex made the index, which had fewer lanes
                continue
            if lane == "updates":
                if not taken and (taken := self._fitting([], self._updates(count))):
                    break
            elif lane != "copies" or not taken:
                taken += self._fitting(taken, self._there(number_of(lane), count - len(taken)))
        return self._claimed(taken)

    def _updates(self, count: int) -> list[Entry]:
        """Updates, if no other worker has any, as far as nothing older is unsettled in another lane."""
        busy = sa.select(pending.c.place).where(of(pending, self.index, _UPDATES), pending.c.seen > self.silent)
        if self.connection.scalar(busy.limit(1)) is not None:
            return []
        found = self._there(_UPDATES, count)
        # Asked after the updates: what is seen now is all that was appended before them, and perhaps more.
        for lane in range(_UPDATES) if found else ():
            oldest = self.connection.scalar(sa.select(sa.func.min(events.c.place)).where(of(events, self.index, lane)))
            found = [one for one in found if oldest is None or one.place < oldest]
        return found

    def _there(self, lane: int, count: int) -> list[Entry]:
        """Up to `count` events of a lane that can be taken, the silent workers' first."""
        if count <= 0:
            return []
        same = sa.and_(events.c.index == pending.c.index, events.c.lane == pending.c.lane)
        query = (
            sa.select(pending.c.place, events.c.size, pending.c.deliveries)
            .join(events, sa.and_(same, events.c.place == pending.c.place), isouter=True)
            .where(of(pending, self.index, lane), pending.c.seen <= self.silent)
            .order_by(pending.c.place)
            .limit(count)
        )
        ripe = [Entry(lane, *row) for row in self.connection.execute(query)]
        lost = [one.place for one in ripe if one.size is None]
        if lost:
            self._note_lost(lane, lost)
            ripe = [one for one in ripe if one.size is not None]
        beyond = (
            sa.select(events.c.place, events.c.size)
            .where(of(events, self.index, lane), events.c.place > self.cursors[lane])
            .order_by(events.c.place)
            .limit(count - len(ripe))
        )
        return ripe + [Entry(lane, *row, None) for row in self.connection.execute(beyond)]

    def _fitting(self, taken: Sequence[Entry], more: Sequence[Entry]) -> list[Entry]:
        """As many as come before the bytes of a batch are full."""
        size, fitting = sum(one.size or 0 for one in taken), []
        for one in more:
            if size >= BATCH_BYTES:
                break
            size += one.size or 0
            fitting.append(one)
        return fitting

    def _claimed(self, taken: Sequence[Entry]) -> list[tuple[Entry, bytes]]:
        new = [one for one in taken if one.before is None]
        if new:
            row = {"index": self.index, "consumer": self.consumer, "seen": self.now, "deliveries": 1}
            rows = [row | {"lane": one.lane, "place": one.place} for one in new]
            self.connection.execute(sa.insert(pending), rows)
        bodies: dict[int, bytes] = {}
        for lane in sorted({one.lane for one in taken}):
            mine = [one.place for one in new if one.lane == lane]
            if mine:
                moved = sa.update(groups).where(of(groups, self.index, lane)).values(taken=max(mine))
                self.connection.execute(moved)
            again = [one.place for one in taken if one.lane == lane and one.before is not None]
            change(
                self.connection,
                self.index,
                lane,
                again,
                consumer=self.consumer,
                seen=self.now,
                deliveries=pending.c.deliveries + 1,
            )
            for part in in_parts([one.place for one in taken if one.lane == lane]):
                query = sa.select(events.c.place, events.c.body).where(of(events, self.index, lane, part))
                bodies |= {row.place: row.body for row in self.connection.execute(query)}
        return [(one, bodies[one.place]) for one in taken]

    def _note_lost(self, lane: int, places: Sequence[int]) -> None:
        for place in places:
            log.error(
                "Event %s of %s is gone from the log: somebody deleted it",
                position_at(place),
                self.index,
                extra={"action": "event_lost", "index": self.index},
            )
        drop_events(self.connection, self.index, lane, places)
        _settled(self.connection, self.index, lane, len(places))
        add(self.connection, self.index, "count", "lost", len(places))


def lock(connection: sa.Connection, index: str) -> dict[int, int]:
    """Keep other workers from the events of an index until the end of the transaction; how far each lane is taken."""
    query = sa.select(groups.c.lane, groups.c.taken).where(of(groups, index)).order_by(groups.c.lane).with_for_update()
    return {row.lane: row.taken for row in connection.execute(query)}


def owned(
    connection: sa.Connection, index: str, consumer: str, positions: Sequence[str]
) -> Iterator[tuple[int, dict[int, str]]]:
    """Lane by lane those of the positions that are the consumer's."""
    for lane, wanted in by_lane(positions).items():
        mine: dict[int, str] = {}
        for part in in_parts(list(wanted)):
            query = sa.select(pending.c.place).where(of(pending, index, lane, part), pending.c.consumer == consumer)
            mine |= {place: wanted[place] for place in connection.scalars(query)}
        yield lane, mine


def change(connection: sa.Connection, index: str, lane: int, places: Sequence[int], **values: object) -> None:
    """Write of events who has them, when it was last heard of, or how often they were delivered."""
    for part in in_parts(places):
        connection.execute(sa.update(pending).where(of(pending, index, lane, part)).values(**values))


def drop_events(connection: sa.Connection, index: str, lane: int, places: Sequence[int]) -> None:
    """Delete events that are settled, or were not there any more."""
    for part in in_parts(places):
        connection.execute(sa.delete(pending).where(of(pending, index, lane, part)))
        gone = connection.execute(sa.delete(events).where(of(events, index, lane, part))).rowcount
        _settled(connection, index, lane, gone)


def _settled(connection: sa.Connection, index: str, lane: int, count: int) -> None:
    if count:
        more = sa.update(groups).where(of(groups, index, lane)).values(settled=groups.c.settled + count)
        connection.execute(more)
