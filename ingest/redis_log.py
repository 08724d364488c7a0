"""The event log over Redis Streams: a stream and one consumer group for each index.

A read moves an entry to the group's pending list inside Redis, in one step, so that no death of a worker or cut of a
connection can lose it (https://redis.io/docs/latest/develop/data-types/streams/). Settled entries are deleted: what
the stream still holds is the backlog, and its first entry the low-water mark.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from ..errors import InputError, LogUnavailable
from .events import Event, dump, load
from .log import Backlog, Buried, Delivered
from .redis_link import key_of, text_in
from .redis_notes import RedisNotes, dump_buried

T = TypeVar("T")
log = logging.getLogger(__name__)

GROUP = "workers"
# Documents may have megabytes each: events are read so many at a time until a batch has that many bytes.
BATCH_BYTES = 32_000_000
_LOOK = 32

Entry = tuple[str, dict[bytes, bytes], int]
_INDEXES = "knnex:indexes"


class RedisLog(RedisNotes):
    """The log at a Redis URL (`redis://`, `rediss://` or `unix://`); connections are opened when they are needed."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._known: set[str] = set()

    def indexes(self) -> tuple[str, ...]:
        """The indexes that ever had an event, sorted."""
        with self.talking():
            return tuple(sorted(text_in(name) for name in self.redis.smembers(_INDEXES)))

    def append(self, events: Sequence[Event]) -> list[str]:
        """Append events, one transaction for each index; their positions in the order given."""
        places: dict[str, list[int]] = {}
        for place, event in enumerate(events):
            places.setdefault(event.index, []).append(place)
        positions = [""] * len(events)
        for index, mine in places.items():
            found = self._append(index, [dump(events[place]) for place in mine])
            for place, position in zip(mine, found, strict=True):
                positions[place] = position
        return positions

    def _append(self, index: str, payloads: Sequence[bytes]) -> list[str]:
        while True:
            self._ensure(index)
            with self.talking(), self.redis.pipeline(transaction=True) as pipeline:
                for payload in payloads:
                    # A stream made here would have no group, and no worker would know of it.
                    pipeline.xadd(key_of(index, "events"), {"event": payload}, nomkstream=True)
                found = pipeline.execute()
            if None not in found:
                return [text_in(position) for position in found]
            self._known.discard(index)  # somebody dropped the index since

    def take(self, index: str, consumer: str, count: int, lease: float) -> list[Delivered]:
        """Up to `count` events: those of silent workers first, then new ones."""
        ripe = self._with_group(index, lambda: self._ripe(index, count, lease))
        taken = _in_looks(len(ripe), lambda start, end: self._reclaim(index, consumer, ripe[start:end], lease))
        taken += self._with_group(
            index,
            lambda: _in_looks(
                count - len(taken), lambda start, end: self._read(index, consumer, end - start), _size(taken)
            ),
        )
        delivered = []
        for position, fields, times in taken:
            try:
                delivered.append(Delivered(load(fields[b"event"], position), position, times))
            except (InputError, KeyError) as error:
                self.settle(index, [position], [Buried(position, None, f"unreadable event: {error}", times)])
        return delivered

    def _read(self, index: str, consumer: str, count: int) -> list[Entry]:
        with self.talking():
            answer = self.redis.xreadgroup(GROUP, consumer, {key_of(index, "events"): ">"}, count=count)
        streams = answer.values() if isinstance(answer, dict) else [entries for _, entries in answer or ()]
        return [(text_in(position), fields, 1) for entries in streams for position, fields in entries]

    def _ripe(self, index: str, count: int, lease: float) -> list[tuple[str, int]]:
        """Events whose worker is silent, and how often they will have been delivered."""
        with self.talking():
            key, idle = key_of(index, "events"), int(lease * 1000)
            found = self.redis.xpending_range(key, GROUP, "-", "+", count, idle=idle)
        return [(text_in(one["message_id"]), int(one["times_delivered"]) + 1) for one in found]

    def _reclaim(self, index: str, consumer: str, ripe: Sequence[tuple[str, int]], lease: float) -> list[Entry]:
        times = dict(ripe)
        with self.talking():
            claimed = self.redis.xclaim(key_of(index, "events"), GROUP, consumer, int(lease * 1000), list(times))
            found = [(text_in(position), fields, times[text_in(position)]) for position, fields in claimed if position]
            if len(found) < len(times):
                self._note_lost(index, set(times) - {position for position, _, _ in found})
        return found

    def _note_lost(self, index: str, positions: set[str]) -> None:
        """Positions pending without an entry: somebody trimmed the stream; another worker's claim is no loss."""
        key = key_of(index, "events")
        for position in sorted(positions):
            if not self.redis.xrange(key, position, position) and self.redis.xack(key, GROUP, position):
                log.error(
                    "Event %s of %s is gone from the log: somebody trimmed it",
                    position,
                    index,
                    extra={"action": "event_lost", "index": index},
                )
                self.redis.hincrby(key_of(index, "counts"), "lost", 1)

    def heartbeat(self, index: str, consumer: str, positions: Sequence[str]) -> set[str]:
        """Renew the claim on those positions that are still this consumer's own."""
        owned = self._owned(index, consumer, positions)
        if owned:
            with self.talking():
                self.redis.xclaim(key_of(index, "events"), GROUP, consumer, 0, list(owned), justid=True)
        return set(owned)

    def release(self, index: str, consumer: str, delivered: Sequence[Delivered], lease: float, delay: float) -> None:
        """Hand events back as if they had been silent long enough, `delay` seconds from now."""
        owned = self._owned(index, consumer, [one.position for one in delivered])
        idle = max(0, int((lease - delay) * 1000))
        with self.talking(), self.redis.pipeline(transaction=True) as pipeline:
            for one in delivered:
                if one.position in owned:
                    times = one.deliveries - 1
                    args = {"idle": idle, "retrycount": times, "justid": True}
                    pipeline.xclaim(key_of(index, "events"), GROUP, consumer, 0, [one.position], **args)
                    pipeline.hdel(key_of(index, "suspects"), one.position)
            pipeline.execute()

    def _owned(self, index: str, consumer: str, positions: Sequence[str]) -> set[str]:
        if not positions:
            return set()
        wanted, key = set(positions), key_of(index, "events")
        low, high = min(positions, key=_order), max(positions, key=_order)
        with self.talking():
            # A consumer has two batches at a time, so that not many others of its own lie between.
            mine = self.redis.xpending_range(key, GROUP, low, high, 3 * len(wanted) + 1000, consumer)
        return {text_in(one["message_id"]) for one in mine} & wanted

    def settle(
        self,
        index: str,
        positions: Sequence[str],
        buried: Sequence[Buried] = (),
        counts: Mapping[str, int] | None = None,
    ) -> None:
        """One transaction; doing it twice changes nothing but the counters."""
        key = key_of(index, "events")
        with self.talking(), self.redis.pipeline(transaction=True) as pipeline:
            if positions:
                pipeline.xack(key, GROUP, *positions)
                pipeline.xdel(key, *positions)
                pipeline.hdel(key_of(index, "suspects"), *positions)
                pipeline.delete(key_of(index, "resting"))
            for one in buried:
                stamped = replace(one, buried_at=one.buried_at or time.time())
                pipeline.hset(key_of(index, "buried"), one.position, dump_buried(stamped))
                pipeline.zadd(key_of(index, "burials"), {one.position: stamped.buried_at}, nx=True)
            for name, more in (counts or {}).items():
                if more:
                    pipeline.hincrby(key_of(index, "counts"), name, more)
            pipeline.execute()

    def backlog(self, index: str) -> Backlog:
        """Counted from the stream itself: the group's own `lag` is absent or null on some servers."""
        key = key_of(index, "events")

        try:
            with self.talking(), self.redis.pipeline(transaction=True) as pipeline:
                pipeline.xlen(key).xpending(key, GROUP).xrange(key, count=1)
                length, pending, first = pipeline.execute()
        except LogUnavailable as error:
            if "NOGROUP" in str(error):  # nothing was ever appended
                return Backlog(0, 0, None)
            raise
        held = int(pending["pending"])
        low_water = text_in(first[0][0]) if first else None
        return Backlog(max(0, length - held), min(held, length), low_water)

    def wait(self, timeout: float) -> bool:
        """Block until an event is appended to any index, `timeout` seconds at most; whether one was."""
        streams = {key_of(index, "events"): "$" for index in self.indexes()}
        if not streams:
            time.sleep(timeout)
            return False
        with self.talking():
            return bool(self.redis.xread(streams, count=1, block=max(1, int(timeout * 1000))))

    def forget(self, index: str) -> None:
        """Drop all that the log holds of an index: for one that is gone."""
        names = ("events", "counts", "suspects", "buried", "burials", "paused", "resting")
        with self.talking():
            # In the order opposite to that of `_ensure`, so that no stream is left of which nobody knows.
            self.redis.srem(_INDEXES, index)
            self.redis.delete(*(key_of(index, name) for name in names))
        self._known.discard(index)

    def _ensure(self, index: str) -> None:
        if index in self._known:
            return
        from redis.exceptions import ResponseError

        with self.talking():
            try:
                self.redis.xgroup_create(key_of(index, "events"), GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise
            self.redis.sadd(_INDEXES, index)
        self._known.add(index)

    def _with_group(self, index: str, ask: Callable[[], list[T]]) -> list[T]:
        """Ask, and once more where somebody destroyed the group; of an index that was dropped there is nothing."""
        try:
            return ask()
        except LogUnavailable as error:
            if "NOGROUP" not in str(error):
                raise
        self._known.discard(index)
        with self.talking():
            if not self.redis.exists(key_of(index, "events")):
                return []
        self._ensure(index)
        return ask()


def _size(entries: Sequence[Entry]) -> int:
    return sum(len(value) for _, fields, _ in entries for value in fields.values())


def _in_looks(count: int, look: Callable[[int, int], list[Entry]], size: int = 0) -> list[Entry]:
    """Up to `count` entries, as long as they and `size` are below BATCH_BYTES; `look` is told where from and to."""
    taken: list[Entry] = []
    for start in range(0, count, _LOOK):
        found = look(start, min(start + _LOOK, count)) if size + _size(taken) < BATCH_BYTES else []
        taken += found
        if not found:
            break
    return taken


def _order(position: str) -> tuple[int, int]:
    milliseconds, sequence = position.split("-")
    return int(milliseconds), int(sequence)
