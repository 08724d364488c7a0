"""The tables of the event log in a database, and how an event's place in them is written.

A place is the version of a position, one number for milliseconds, sequence and lane: events sorted by it are in the
order in which they were accepted, over all lanes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from .positions import LANES, Lane, position_of, version_of

T = TypeVar("T")

#: What the tables below are called; a log whose number is greater was made by a newer knnex.
SCHEMA = 1
# Some databases take no more than 999 values in one statement.
_PART = 900


class Text(sa.types.TypeDecorator[str]):
    """Text that every database keeps: PostgreSQL refuses NUL, and no encoding has lone surrogates."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:  # noqa: ARG002
        """What is sent of a text."""
        return value if value is None else value.replace("\0", "\ufffd").encode(errors="replace").decode()


tables = sa.MetaData()

#: What was appended to a lane: the last place given, and how many. A row without index keeps what forgotten ones had.
lanes = sa.Table(
    "knnex_lanes",
    tables,
    sa.Column("index", Text, primary_key=True),
    sa.Column("lane", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("last", sa.BigInteger, nullable=False),
    sa.Column("appended", sa.BigInteger, nullable=False),
)
#: What became of it: how far the lane was given to workers, and how many events were settled.
groups = sa.Table(
    "knnex_groups",
    tables,
    sa.Column("index", Text, primary_key=True),
    sa.Column("lane", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("taken", sa.BigInteger, nullable=False),
    sa.Column("settled", sa.BigInteger, nullable=False),
)
events = sa.Table(
    "knnex_events",
    tables,
    sa.Column("index", Text, primary_key=True),
    sa.Column("lane", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("place", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
)
#: Events that a worker has; `seen` is when it was last heard of, in milliseconds. Apart from the events, so that a
#: heartbeat does not write documents again.
pending = sa.Table(
    "knnex_pending",
    tables,
    sa.Column("index", Text, primary_key=True),
    sa.Column("lane", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("place", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("consumer", Text, nullable=False),
    sa.Column("seen", sa.BigInteger, nullable=False),
    sa.Column("deliveries", sa.Integer, nullable=False),
)
buried = sa.Table(
    "knnex_buried",
    tables,
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
    sa.Column("index", Text, nullable=False),
    sa.Column("position", Text, nullable=False),
    sa.Column("first", sa.Double, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("index", "position"),
    sa.Index("knnex_burials", "index", "first", "number"),
)
#: Small things about an index, or about none: counters, pauses, marks, leases, workers; `expires` in milliseconds.
notes = sa.Table(
    "knnex_notes",
    tables,
    sa.Column("index", Text, primary_key=True),
    sa.Column("kind", Text, primary_key=True),
    sa.Column("key", Text, primary_key=True),
    sa.Column("text", Text),
    sa.Column("number", sa.BigInteger),
    sa.Column("expires", sa.BigInteger),
)


def insert(connection: sa.Connection, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that can say what to do where the row is there already."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


def in_parts(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """No more at a time than one statement takes."""
    return (values[start : start + _PART] for start in range(0, len(values), _PART))


def make_tables(connection: sa.Connection) -> int:
    """The schema of the tables, which are made where they are not there; of several processes one does."""
    if not sa.inspect(connection).has_table(notes.name):
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('knnex_tables'))"))
        tables.create_all(connection)
        row = {"index": "", "kind": "schema", "key": "", "number": SCHEMA}
        connection.execute(insert(connection, notes).values(row).on_conflict_do_nothing())
    found = connection.scalar(sa.select(notes.c.number).where(notes.c.index == "", notes.c.kind == "schema"))
    return int(found or 0)


def number_of(lane: Lane) -> int:
    """The number by which a lane goes in the tables."""
    return LANES.index(lane)


def place_at(ordinal: int, lane: int) -> int:
    """The place of the event that has that ordinal: `ms << 14 | sequence`, one for every event of an index."""
    return ordinal << 6 | lane << 4


def ordinal_of(place: int) -> int:
    """The inverse of `place_at`."""
    return place >> 6


def position_at(place: int) -> str:
    """The position whose version a place is."""
    return position_of(place >> 20, place >> 6 & 0x3FFF, LANES[place >> 4 & 3])


def by_lane(positions: Sequence[str]) -> dict[int, dict[int, str]]:
    """Of each lane the places, with their positions, in their order. Raises InputError for what is no position."""
    found: dict[int, dict[int, str]] = {}
    for place, position in sorted((version_of(position), position) for position in positions):
        found.setdefault(place >> 4 & 3, {})[place] = position
    return found


def of(table: sa.Table, index: str, lane: int | None = None, places: Sequence[int] | None = None) -> Any:
    """The condition for the rows of an index, of one of its lanes, of these places in it."""
    wanted = [table.c.index == index]
    if lane is not None:
        wanted.append(table.c.lane == lane)
    if places is not None:
        wanted.append(table.c.place.in_(places))
    return sa.and_(*wanted)
