"""The event log in a database, SQLite or PostgreSQL: for those who have one, and no Redis.

A transaction that is committed is durable, so that an event is there until the transaction that settles it. The order
of positions comes about in sql_lanes.py; who has which event, in sql_taking.py.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..errors import InputError, LogUnavailable

try:
    import sqlalchemy as sa
except ImportError:
    raise LogUnavailable(
        "an event log in a database needs the package sqlalchemy, which is not installed",
        hint="pip install 'knnex[sql]'",
    ) from None

from .events import id_in, load
from .log import DRAINED, Backlog, Buried, Delivered
from .positions import LANES, Lane, version_of
from .redis_notes import dump_buried
from .sql_lanes import SqlLanes
from .sql_link import clock
from .sql_notes import add, drop, expired
from .sql_tables import buried as burials
from .sql_tables import by_lane, events, groups, insert, lanes, notes, number_of, of, pending, position_at
from .sql_taking import Taking, change, drop_events, lock, owned

# Seconds between two looks whether something was appended: at a file they cost least.
_LOOK = {"sqlite": 0.03, "postgresql": 0.1}


class SqlLog(SqlLanes):
    """The log at a URL of SQLAlchemy, `sqlite:////PATH/FILE` or `postgresql+psycopg://`; opened when it is needed."""

    def take(
        self, index: str, consumer: str, count: int, lease: float, lanes: Sequence[Lane] = DRAINED
    ) -> list[Delivered]:
        """Up to `count` events of these lanes: silent workers' first, then new ones; updates alone, and copies."""
        with self.reading() as connection:  # most often there is nothing, and nobody to be kept waiting for that
            if connection.scalar(sa.select(events.c.place).where(of(events, index)).limit(1)) is None:
                return []
        with self.writing() as connection:
            taken = Taking(connection, index, consumer, lease).take(lanes, count)
        delivered = []
        for entry, body in taken:
            position, times = position_at(entry.place), (entry.before or 0) + 1
            try:
                delivered.append(Delivered(load(body, position), position, times))
            except InputError as error:
                self.settle(index, [position], [Buried(position, None, f"unreadable event: {error}", times)])
        return delivered

    def heartbeat(self, index: str, consumer: str, positions: Sequence[str]) -> set[str]:
        """Renew the claim on those positions that are still this consumer's own."""
        mine: set[str] = set()
        if not positions:
            return mine
        with self.writing() as connection:
            lock(connection, index)
            now = clock(connection)
            for lane, there in owned(connection, index, consumer, positions):
                change(connection, index, lane, list(there), seen=now)
                mine |= set(there.values())
        return mine

    def release(self, index: str, consumer: str, delivered: Sequence[Delivered], lease: float, delay: float) -> None:
        """Hand events back as if they had been silent long enough, `delay` seconds from now."""
        times = {one.position: one.deliveries for one in delivered}
        if not times:
            return
        with self.writing() as connection:
            lock(connection, index)
            seen = clock(connection) - int((lease - delay) * 1000)
            for lane, mine in owned(connection, index, consumer, list(times)):
                for before in {times[at] - 1 for at in mine.values()}:
                    back = [place for place, at in mine.items() if times[at] - 1 == before]
                    change(connection, index, lane, back, seen=seen, deliveries=before)
                drop(connection, index, "suspect", list(mine.values()))

    def settle(
        self,
        index: str,
        positions: Sequence[str],
        buried: Sequence[Buried] = (),
        counts: Mapping[str, int] | None = None,
    ) -> None:
        """One transaction; doing it twice changes nothing but the counters."""
        with self.writing() as connection:
            lock(connection, index)
            for lane, mine in by_lane(positions).items():
                drop_events(connection, index, lane, list(mine))
            if positions:
                drop(connection, index, "suspect", positions)
                drop(connection, index, "rest", [""])
            for one in buried:
                _bury(connection, index, one)
            for name, more in sorted((counts or {}).items()):
                if more:
                    add(connection, index, "count", name, more)

    def backlog(self, index: str) -> Backlog:
        """Of what was appended, what is not settled; in one statement, so that all of it is of one moment."""
        held = sa.select(sa.func.count()).where(pending.c.index == lanes.c.index, pending.c.lane == lanes.c.lane)
        first = sa.select(sa.func.min(events.c.place)).where(
            events.c.index == lanes.c.index, events.c.lane == lanes.c.lane
        )
        query = (
            sa.select(
                lanes.c.lane,
                (lanes.c.appended - groups.c.settled).label("left"),
                held.scalar_subquery().label("held"),
                first.scalar_subquery().label("first"),
            )
            .join(groups, sa.and_(groups.c.index == lanes.c.index, groups.c.lane == lanes.c.lane))
            .where(of(lanes, index))
        )
        with self.reading() as connection:
            # Where no event is left, somebody may have deleted one that nobody had taken.
            rows = [row for row in connection.execute(query) if row.first is not None]
        return Backlog.over(
            {
                LANES[row.lane]: Backlog(
                    max(0, int(row.left) - int(row.held)), int(row.held), position_at(int(row.first))
                )
                for row in rows
            }
        )

    def unsettled(self, index: str, lane: Lane, after: str | None, most: int) -> list[tuple[str, str]]:
        """Events of one lane in their order; of unreadable ones, which will be buried, the id is empty."""
        beyond = version_of(after) if after else 0
        query = sa.select(events.c.place, events.c.body).where(
            of(events, index, number_of(lane)), events.c.place > beyond
        )
        with self.reading() as connection:
            rows = connection.execute(query.order_by(events.c.place).limit(most))
            return [(position_at(row.place), id_in(row.body)) for row in rows]

    def silent(self, index: str, seconds: float, lane: Lane | None = None) -> bool:
        """Whether a worker that has events was not heard of for so long; new ones handed back are nobody's."""
        with self.reading() as connection:
            mine = of(pending, index, None if lane is None else number_of(lane))
            unheard = pending.c.seen <= clock(connection) - int(seconds * 1000)
            query = sa.select(pending.c.place).where(mine, unheard, pending.c.deliveries > 0)
            return connection.scalar(query.limit(1)) is not None

    def wait(self, timeout: float) -> bool:
        """Look again and again whether an event was appended to any index, for `timeout` seconds at most."""
        until, before = time.monotonic() + timeout, self._appended()
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK[self.engine.dialect.name]))
            if any(last > before.get(one, 0) for one, last in self._appended().items()):
                return True
        return False

    def _appended(self) -> dict[tuple[str, int], int]:
        query = sa.select(lanes.c.index, lanes.c.lane, lanes.c.last).where(lanes.c.appended > 0)
        with self.reading() as connection:
            return {(index, lane): last for index, lane, last in connection.execute(query)}

    def tidy(self) -> int:
        """Drop what has expired: the names of workers that are gone and hold nothing; how many of these."""
        holding = sa.select(pending.c.consumer)
        with self.writing() as connection:
            connection.execute(sa.delete(notes).where(expired(clock(connection)), notes.c.kind.in_(["held", "rest"])))
            gone = sa.delete(notes).where(
                expired(clock(connection)), notes.c.kind == "worker", notes.c.key.not_in(holding)
            )
            return connection.execute(gone).rowcount


def _bury(connection: sa.Connection, index: str, one: Buried) -> None:
    stamped = replace(one, buried_at=one.buried_at or time.time())
    row = {"index": index, "position": one.position, "first": stamped.buried_at, "body": dump_buried(stamped)}
    new = insert(connection, burials).values(row)
    connection.execute(new.on_conflict_do_update(index_elements=["index", "position"], set_={"body": row["body"]}))
