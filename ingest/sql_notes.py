"""What the log keeps beside the events, in a database: the buried, counters, pauses, and which workers live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import sqlalchemy as sa

from .log import Buried
from .positions import Lane
from .redis_notes import load_buried
from .sql_link import SqlLink, clock
from .sql_tables import buried, in_parts, insert, notes

# A lease and what a worker tells of itself belong to no index.
_NOBODY = ""
_FOREVER = 1 << 62


class SqlNotes(SqlLink):
    """One table of small things, and one of buried events."""

    def buried(self, index: str, after: str | None = None, limit: int = 100) -> list[Buried]:
        """Buried events in the order of their burial, from the one after the position `after`."""
        one = buried.c
        query = sa.select(one.position, one.body).where(one.index == index).order_by(one.first, one.number).limit(limit)
        with self.reading() as connection:
            if after:
                start = connection.execute(
                    sa.select(one.first, one.number).where(one.index == index, one.position == after)
                ).first()
                if start:
                    same = sa.and_(one.first == start.first, one.number > start.number)
                    query = query.where(sa.or_(one.first > start.first, same))
            return [load_buried(position, body) for position, body in connection.execute(query)]

    def find_buried(self, index: str, positions: Sequence[str]) -> dict[str, Buried]:
        """Those of the positions that are buried."""
        with self.reading() as connection:
            return find_buried(connection, index, positions)

    def burials(self, index: str) -> list[str]:
        """The positions of all that is buried, in the order of their burial."""
        one = buried.c
        with self.reading() as connection:
            query = sa.select(one.position).where(one.index == index).order_by(one.first, one.number)
            return list(connection.scalars(query))

    def drop_buried(self, index: str, positions: Sequence[str]) -> int:
        """Forget buried events; how many."""
        with self.writing() as connection:
            return unbury(connection, index, positions)

    def counts(self, index: str) -> dict[str, int]:
        """The counters of an index; the buried are counted as they lie there."""
        with self.reading() as connection:
            found = _numbers(connection, index, "count")
            lie = connection.scalar(sa.select(sa.func.count()).where(buried.c.index == index)) or 0
        return found | ({"buried": int(lie)} if lie else {})

    def doubt(self, index: str, positions: Sequence[str]) -> None:
        """Note that these events are being tried together; attempts at one alone stay counted."""
        with self.writing() as connection:
            for position in positions:
                add(connection, index, "suspect", position, 0)

    def doubted(self, index: str, positions: Sequence[str]) -> set[str]:
        """Those that were being tried."""
        if not positions:
            return set()
        with self.reading() as connection:
            return set(positions) & _numbers(connection, index, "suspect").keys()

    def blame(self, index: str, position: str) -> int:
        """Count one more attempt at an event alone."""
        with self.writing() as connection:
            add(connection, index, "suspect", position, 1)
            return _numbers(connection, index, "suspect", position)[position]

    def acquit(self, index: str, positions: Sequence[str]) -> None:
        """Forget the attempts at these events."""
        with self.writing() as connection:
            drop(connection, index, "suspect", positions)

    def pause(self, index: str, reason: str | None, lane: Lane | None = None) -> None:
        """Record why nothing is done about an index or one lane of it, or that it goes on."""
        self._keep(index, "pause", lane or "", reason)

    def paused(self, index: str, lane: Lane | None = None) -> str | None:
        """Why nothing is done about an index, or about one lane of it."""
        return self._text(index, "pause", lane or "")

    def rest(self, index: str, reason: str, seconds: float) -> bool:
        """Record for a while why an index has to wait; whether that is news."""
        with self.writing() as connection:
            now = clock(connection)
            before = connection.scalar(_alive(index, "rest", "", now))
            put(connection, index, "rest", "", text=reason, expires=_until(now, seconds))
        return before != reason

    def resting(self, index: str) -> str | None:
        """Why an index has to wait."""
        return self._text(index, "rest", "")

    def marks(self, index: str) -> dict[str, int]:
        """How far each source was read that was not read to its end."""
        with self.reading() as connection:
            return _numbers(connection, index, "mark")

    def unmark(self, index: str, source: str) -> None:
        """Forget how far a source was read."""
        with self.writing() as connection:
            drop(connection, index, "mark", [source])

    def remember(self, index: str, name: str, value: str | None) -> None:
        """Keep a small text about an index."""
        self._keep(index, "note", name, value)

    def recall(self, index: str, name: str) -> str | None:
        """What was kept under a name."""
        return self._text(index, "note", name)

    def hold(self, name: str, owner: str, seconds: float) -> bool:
        """A row that is the owner's until it expires; whether it is now."""
        one = notes.c
        with self.writing() as connection:
            now = clock(connection)
            row = {"index": _NOBODY, "kind": "held", "key": name, "text": owner, "expires": _until(now, seconds)}
            claim = insert(connection, notes).values(row)
            free = sa.or_(one.expires <= now, one.text == owner)
            connection.execute(
                claim.on_conflict_do_update(
                    index_elements=list(notes.primary_key),
                    set_={"text": claim.excluded.text, "expires": claim.excluded.expires},
                    where=free,
                )
            )
            return connection.scalar(_alive(_NOBODY, "held", name, now)) == owner

    def announce(self, worker: str, facts: Mapping[str, Any], ttl: float) -> None:
        """A row that expires for each worker."""
        with self.writing() as connection:
            until = _until(clock(connection), ttl)
            put(connection, _NOBODY, "worker", worker, text=orjson.dumps(facts).decode(), expires=until)

    def retire(self, worker: str) -> None:
        """A worker says that it is going."""
        with self.writing() as connection:
            drop(connection, _NOBODY, "worker", [worker])

    def workers(self) -> dict[str, dict[str, Any]]:
        """The workers alive, with their facts."""
        one = notes.c
        with self.reading() as connection:
            query = sa.select(one.key, one.text).where(
                one.index == _NOBODY, one.kind == "worker", one.expires > clock(connection)
            )
            return {name: orjson.loads(facts) for name, facts in sorted(connection.execute(query).all())}

    def _keep(self, index: str, kind: str, key: str, text: str | None) -> None:
        with self.writing() as connection:
            if text is None:
                drop(connection, index, kind, [key])
            else:
                put(connection, index, kind, key, text=text)

    def _text(self, index: str, kind: str, key: str) -> str | None:
        with self.reading() as connection:
            found: str | None = connection.scalar(_alive(index, kind, key, clock(connection)))
        return found


def put(connection: sa.Connection, index: str, kind: str, key: str, **values: Any) -> None:
    """Write a note, or write it anew."""
    row = {"text": None, "number": None, "expires": _FOREVER} | values
    new = insert(connection, notes).values(row | {"index": index, "kind": kind, "key": key})
    connection.execute(new.on_conflict_do_update(index_elements=list(notes.primary_key), set_=row))


def add(connection: sa.Connection, index: str, kind: str, key: str, more: int) -> None:
    """Add to a counter."""
    new = insert(connection, notes).values(index=index, kind=kind, key=key, number=more, expires=_FOREVER)
    connection.execute(
        new.on_conflict_do_update(
            index_elements=list(notes.primary_key), set_={"number": notes.c.number + new.excluded.number}
        )
    )


def drop(connection: sa.Connection, index: str, kind: str, keys: Sequence[str]) -> None:
    """Forget notes."""
    one = notes.c
    for part in in_parts(keys):
        connection.execute(sa.delete(notes).where(one.index == index, one.kind == kind, one.key.in_(part)))


def find_buried(connection: sa.Connection, index: str, positions: Sequence[str]) -> dict[str, Buried]:
    """Those of the positions that are buried, in their order."""
    one = buried.c
    found: dict[str, Buried] = {}
    for part in in_parts(positions):
        query = sa.select(one.position, one.body).where(one.index == index, one.position.in_(part))
        found |= {at: load_buried(at, body) for at, body in connection.execute(query)}
    return {at: found[at] for at in positions if at in found}


def unbury(connection: sa.Connection, index: str, positions: Sequence[str]) -> int:
    """Drop buried events; how many there were."""
    one, dropped = buried.c, 0
    for part in in_parts(sorted(positions)):
        query = sa.delete(buried).where(one.index == index, one.position.in_(part))
        dropped += connection.execute(query).rowcount
    return dropped


def _numbers(connection: sa.Connection, index: str, kind: str, key: str | None = None) -> dict[str, int]:
    one = notes.c
    query = sa.select(one.key, one.number).where(one.index == index, one.kind == kind)
    if key is not None:
        query = query.where(one.key == key)
    return {name: int(number) for name, number in connection.execute(query)}


def _alive(index: str, kind: str, key: str, now: int) -> sa.Select[str]:
    """The text of a note that has not expired."""
    one = notes.c
    return sa.select(one.text).where(one.index == index, one.kind == kind, one.key == key, one.expires > now)


def expired(now: int) -> sa.ColumnElement[bool]:
    """The condition for notes whose time is over."""
    return notes.c.expires <= now


def _until(now: int, seconds: float) -> int:
    return now + max(1, int(seconds * 1000))
