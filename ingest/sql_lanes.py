"""Appending to the lanes of an index in a database, in one order over all of them.

The rows of an index in `knnex_lanes` are locked while events are appended to it, until these are committed: they become
visible in the order of their places, and who reads up to one of them has seen all before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from .events import Event, dump
from .log import Mark
from .positions import LANES, Lane, lane_of
from .sql_link import clock
from .sql_notes import SqlNotes, find_buried, put, unbury
from .sql_tables import (
    buried,
    events,
    groups,
    insert,
    lanes,
    notes,
    number_of,
    of,
    ordinal_of,
    pending,
    place_at,
    position_at,
)

# Where the last places of forgotten indexes are kept: one that begins anew must not give them again.
_FORGOTTEN = ""


class SqlLanes(SqlNotes):
    """The lanes of a database's indexes, and the appending to them."""

    def indexes(self) -> tuple[str, ...]:
        """The indexes that ever had an event, sorted."""
        with self.reading() as connection:
            names = connection.scalars(sa.select(lanes.c.index).where(lanes.c.index != _FORGOTTEN).distinct())
            return tuple(sorted(names))

    def append(self, events: Sequence[Event], lane: Lane = "live", mark: Mark | None = None) -> list[str]:
        """Append events, one transaction for each index; their positions in the order given."""
        mine: dict[str, list[int]] = {}
        for number, event in enumerate(events):
            mine.setdefault(event.index, []).append(number)
        positions = [""] * len(events)
        for index, numbers in mine.items():
            with self.writing() as connection:
                found = _append(connection, index, [events[number] for number in numbers], lane)
                if mark and index == events[0].index:
                    put(connection, index, "mark", mark.source, number=mark.count)
            for number, position in zip(numbers, found, strict=True):
                positions[number] = position
        return positions

    def head(self, index: str) -> str | None:
        """The greatest position ever given."""
        with self.reading() as connection:
            last = connection.scalar(sa.select(sa.func.max(lanes.c.last)).where(of(lanes, index)))
        return position_at(last) if last else None

    def retry_buried(self, index: str, positions: Sequence[str]) -> int:
        """Append buried events again, under the version they had; how many."""
        with self.writing() as connection:
            _locked(connection, index)  # of two who want the same, one is first
            found = find_buried(connection, index, positions)
            again = {at: one.event for at, one in found.items() if one.event}
            if again:
                _append(connection, index, [replace(one, version=one.order) for one in again.values()], "live")
                unbury(connection, index, list(again))
        return len(again)

    def forget(self, index: str) -> None:
        """Drop all that the log holds of an index: for one that is gone."""
        with self.writing() as connection:
            last = _locked(connection, index)
            connection.execute(
                sa.select(groups.c.lane).where(of(groups, index)).order_by(groups.c.lane).with_for_update()
            )
            for table in (pending, events, buried, notes, groups, lanes):
                connection.execute(sa.delete(table).where(of(table, index)))
            if last:
                row = {"index": _FORGOTTEN, "lane": 0, "last": max(last), "appended": 0}
                new = insert(connection, lanes).values(row)
                connection.execute(
                    new.on_conflict_do_update(
                        index_elements=list(lanes.primary_key),
                        set_={"last": new.excluded.last},
                        where=lanes.c.last < new.excluded.last,
                    )
                )


def _locked(connection: sa.Connection, index: str) -> list[int]:
    """Let nobody else append to an index until the end of the transaction; the last place given in each lane."""
    query = sa.select(lanes.c.last).where(of(lanes, index)).order_by(lanes.c.lane).with_for_update()
    return list(connection.scalars(query))


def _begin(connection: sa.Connection, index: str) -> int:
    """Make the rows of an index, where they are not there, and lock them; the last place given."""
    while len(last := _locked(connection, index)) < len(LANES):
        for table, values in ((lanes, {"last": 0, "appended": 0}), (groups, {"taken": 0, "settled": 0})):
            rows = [{"index": index, "lane": number, **values} for number in range(len(LANES))]
            connection.execute(insert(connection, table).values(rows).on_conflict_do_nothing())
    # Asked after the lock: whoever forgot the index a moment ago has written it by now.
    return max(last) or connection.scalar(sa.select(lanes.c.last).where(of(lanes, _FORGOTTEN))) or 0


def _append(connection: sa.Connection, index: str, new: Sequence[Event], lane: Lane) -> list[str]:
    last = _begin(connection, index)
    # A clock that was set back changes nothing, and from 2^14 events on a millisecond lends of the next.
    start = max(clock(connection) << 14, ordinal_of(last) + 1)
    rows: list[dict[str, Any]] = []
    for number, event in enumerate(new):
        chosen, body = number_of(lane_of(event.op, lane)), dump(event)
        place = place_at(start + number, chosen)
        rows.append({"index": index, "lane": chosen, "place": place, "size": len(body), "body": body})
    connection.execute(sa.insert(events), rows)
    for chosen in sorted({row["lane"] for row in rows}):
        mine = [row["place"] for row in rows if row["lane"] == chosen]
        connection.execute(
            sa.update(lanes)
            .where(of(lanes, index, chosen))
            .values(last=mine[-1], appended=lanes.c.appended + len(mine))
        )
    return [position_at(row["place"]) for row in rows]
