"""The event log over Redis Streams: a stream with one consumer group for each lane of each index.

A read moves an entry to the group's pending list inside Redis, in one step, so that no death of a worker or cut of a
connection can lose it (https://redis.io/docs/latest/develop/data-types/streams/). Settled entries are deleted: what
the stream still holds is the backlog, and its first entry the low-water mark.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from ..errors import InputError, LogUnavailable
from .events import Event, load
from .log import DRAINED, Backlog, Buried, Delivered
from .positions import LANES, WRITES, Lane, version_of
from .redis_link import key_of, stream, text_in
from .redis_notes import dump_buried
from .redis_streams import GROUP, RedisStreams, by_lane, numbers, placed

T = TypeVar("T")
log = logging.getLogger(__name__)

# Documents may have megabytes each: events are read so many at a time until a batch has that many bytes.
BATCH_BYTES = 32_000_000
_LOOK = 32

# Position, fields, and how often it has been delivered.
Entry = tuple[str, dict[bytes, bytes], int]
# Milliseconds.
_FORGOTTEN_AFTER = 3_600_000
# So many that were handed back may lie before one whose worker is silent.
_HANDED_BACK = 1000


class RedisLog(RedisStreams):
    """The log at a Redis URL (`redis://`, `rediss://` or `unix://`); connections are opened when they are needed."""

    def take(
        self, index: str, consumer: str, count: int, lease: float, lanes: Sequence[Lane] = DRAINED
    ) -> list[Delivered]:
        """Up to `count` events of these lanes: silent workers' first, then new ones; updates alone, and copies."""
        taken: list[Entry] = []
        for lane in lanes:
            if lane == "updates":
                if not taken and (taken := self._take_updates(index, consumer, count, lease)):
                    break
            elif lane != "copies" or not taken:
                taken += self._take(index, lane, consumer, count - len(taken), lease, _size(taken))
        return self._read_events(index, taken)

    def _take_updates(self, index: str, consumer: str, count: int, lease: float) -> list[Entry]:
        """Updates, as far as nothing older is unsettled in another lane, and no other worker has one before them."""
        first = self._low_water(index, "updates")
        if first is None:
            return []
        pending = self._with_group(index, lambda: self._first_pending(index))
        if pending and pending[0]["time_since_delivered"] < lease * 1000:
            return []
        if self._older(index, version_of(first)):
            return []
        taken = sorted(self._take(index, "updates", consumer, count, lease, 0), key=lambda one: version_of(one[0]))
        oldest = self._low_water(index, "updates")
        if taken and oldest and version_of(taken[0][0]) > version_of(oldest):
            # Another worker took the ones before in the same moment: these have to wait for those.
            go: list[Entry] = []
        else:
            # Asked after the taking: all that was appended before one of these is seen by now.
            bound = self._oldest_other(index)
            go = [one for one in taken if bound is None or version_of(one[0]) < bound]
        back = [Delivered(Event(index, "", "update", {}), at, times) for at, _, times in taken[len(go) :]]
        if back:
            self.release(index, consumer, back, lease, 0.0)
        return go

    def _first_pending(self, index: str) -> list[Any]:
        with self.talking():
            return list(self.redis.xpending_range(stream(index, "updates"), GROUP, "-", "+", 1))

    def _older(self, index: str, version: int) -> bool:
        oldest = self._oldest_other(index)
        return oldest is not None and oldest < version

    def _oldest_other(self, index: str) -> int | None:
        """The version of the oldest event of a producer that is unsettled in a lane other than that of updates."""
        found = (self._low_water(index, lane) for lane in WRITES if lane != "updates")
        return min((version_of(at) for at in found if at), default=None)

    def _read_events(self, index: str, taken: Sequence[Entry]) -> list[Delivered]:
        delivered = []
        for position, fields, times in taken:
            try:
                delivered.append(Delivered(load(fields[b"event"], position), position, times))
            except (InputError, KeyError) as error:
                self.settle(index, [position], [Buried(position, None, f"unreadable event: {error}", times)])
        return delivered

    def _take(self, index: str, lane: Lane, consumer: str, count: int, lease: float, size: int) -> list[Entry]:
        ripe = self._with_group(index, lambda: self._ripe(index, lane, count, lease))
        taken = _in_looks(
            len(ripe), lambda start, end: self._reclaim(index, lane, consumer, ripe[start:end], lease), size
        )
        return taken + self._with_group(
            index,
            lambda: _in_looks(
                count - len(taken),
                lambda start, end: self._read(index, lane, consumer, end - start),
                size + _size(taken),
            ),
        )

    def _low_water(self, index: str, lane: Lane) -> str | None:
        with self.talking():
            first = self.redis.xrange(stream(index, lane), count=1)
        return placed(first[0][0], lane) if first else None

    def _read(self, index: str, lane: Lane, consumer: str, count: int) -> list[Entry]:
        with self.talking():
            answer = self.redis.xreadgroup(GROUP, consumer, {stream(index, lane): ">"}, count=count)
        streams = answer.values() if isinstance(answer, dict) else [entries for _, entries in answer or ()]
        return [(placed(at, lane), fields, 1) for entries in streams for at, fields in entries]

    def _ripe(self, index: str, lane: Lane, count: int, lease: float) -> list[tuple[str, int]]:
        """Entries whose worker is silent, and how often they will have been delivered."""
        with self.talking():
            found = self.redis.xpending_range(stream(index, lane), GROUP, "-", "+", count, idle=int(lease * 1000))
        return [(text_in(one["message_id"]), int(one["times_delivered"]) + 1) for one in found]

    def _reclaim(
        self, index: str, lane: Lane, consumer: str, ripe: Sequence[tuple[str, int]], lease: float
    ) -> list[Entry]:
        times = dict(ripe)
        with self.talking():
            claimed = self.redis.xclaim(stream(index, lane), GROUP, consumer, int(lease * 1000), list(times))
            found = {text_in(at): fields for at, fields in claimed if at}
            if len(found) < len(times):
                self._note_lost(index, lane, times.keys() - found.keys())
        return [(placed(at, lane), fields, times[at]) for at, fields in found.items()]

    def _note_lost(self, index: str, lane: Lane, ids: Set[str]) -> None:
        """Entries pending that are not in the stream: somebody trimmed it; another worker's claim is no loss."""
        key = stream(index, lane)
        for one in sorted(ids):
            if not self.redis.xrange(key, one, one) and self.redis.xack(key, GROUP, one):
                log.error(
                    "Event %s of %s is gone from the log: somebody trimmed it",
                    one,
                    index,
                    extra={"action": "event_lost", "index": index},
                )
                self.redis.hincrby(key_of(index, "counts"), "lost", 1)

    def heartbeat(self, index: str, consumer: str, positions: Sequence[str]) -> set[str]:
        """Renew the claim on those positions that are still this consumer's own."""
        owned = self._owned(index, consumer, positions)
        with self.talking():
            for lane, ids in by_lane(sorted(owned)).items():
                self.redis.xclaim(stream(index, lane), GROUP, consumer, 0, list(ids), justid=True)
        return owned

    def release(self, index: str, consumer: str, delivered: Sequence[Delivered], lease: float, delay: float) -> None:
        """Hand events back as if they had been silent long enough, `delay` seconds from now."""
        owned = self._owned(index, consumer, [one.position for one in delivered])
        idle = max(0, int((lease - delay) * 1000))
        with self.talking(), self.redis.pipeline(transaction=True) as pipeline:
            for one in delivered:
                if one.position in owned:
                    args = {"idle": idle, "retrycount": one.deliveries - 1, "justid": True}
                    for lane, ids in by_lane([one.position]).items():
                        pipeline.xclaim(stream(index, lane), GROUP, consumer, 0, list(ids), **args)
                    pipeline.hdel(key_of(index, "suspects"), one.position)
            pipeline.execute()

    def _owned(self, index: str, consumer: str, positions: Sequence[str]) -> set[str]:
        mine: set[str] = set()
        for lane, ids in by_lane(positions).items():
            pending = self._with_group(index, partial(self._held, index, lane, consumer, list(ids)))
            mine |= {ids[at] for one in pending if (at := text_in(one["message_id"])) in ids}
        return mine

    def _held(self, index: str, lane: Lane, consumer: str, ids: Sequence[str]) -> list[Any]:
        low, high = min(ids, key=numbers), max(ids, key=numbers)
        with self.talking():
            # A consumer has two batches at a time, so that not many others of its own lie between.
            return list(
                self.redis.xpending_range(
                    stream(index, lane), GROUP, low, high, max(1000, 2 * len(ids)), consumername=consumer
                )
            )

    def settle(
        self,
        index: str,
        positions: Sequence[str],
        buried: Sequence[Buried] = (),
        counts: Mapping[str, int] | None = None,
    ) -> None:
        """One transaction; doing it twice changes nothing but the counters.

        A full Redis takes no transaction at all, but lets go of single entries, which makes it less full: the counters
        then miss what these were.
        """
        from redis.exceptions import OutOfMemoryError

        with self.talking():
            try:
                self._settle(index, positions, buried, counts or {})
            except OutOfMemoryError:
                graves = {one.position for one in buried}
                for lane, ids in by_lane([position for position in positions if position not in graves]).items():
                    self.redis.xack(stream(index, lane), GROUP, *ids)
                    self.redis.xdel(stream(index, lane), *ids)
                if graves:
                    self._settle(index, [position for position in positions if position in graves], buried, {})

    def _settle(
        self, index: str, positions: Sequence[str], buried: Sequence[Buried], counts: Mapping[str, int]
    ) -> None:
        with self.redis.pipeline(transaction=True) as pipeline:
            for lane, ids in by_lane(positions).items():
                pipeline.xack(stream(index, lane), GROUP, *ids)
                pipeline.xdel(stream(index, lane), *ids)
            if positions:
                pipeline.hdel(key_of(index, "suspects"), *positions)
                pipeline.delete(key_of(index, "resting"))
            for one in buried:
                stamped = replace(one, buried_at=one.buried_at or time.time())
                pipeline.hset(key_of(index, "buried"), one.position, dump_buried(stamped))
                pipeline.zadd(key_of(index, "burials"), {one.position: stamped.buried_at}, nx=True)
            for name, more in counts.items():
                if more:
                    pipeline.hincrby(key_of(index, "counts"), name, more)
            pipeline.execute()

    def backlog(self, index: str) -> Backlog:
        """Counted from the streams themselves: the group's own `lag` is absent or null on some servers."""
        answers = self._with_group(index, lambda: self._lengths(index))
        lanes: dict[Lane, Backlog] = {}
        for place, lane in enumerate(LANES if answers else ()):
            length, pending, oldest = answers[3 * place : 3 * place + 3]
            # More than there are where somebody trimmed the stream: whoever takes next notes that.
            held = int(pending["pending"])
            first = placed(oldest[0][0], lane) if oldest else None
            lanes[lane] = Backlog(max(0, length - held), held, first)
        return Backlog.over(lanes)

    def _lengths(self, index: str) -> list[Any]:
        # No transaction: a full Redis takes none.
        with self.talking(), self.redis.pipeline(transaction=False) as pipeline:
            for one in LANES:
                key = stream(index, one)
                pipeline.xlen(key).xpending(key, GROUP).xrange(key, count=1)
            return list(pipeline.execute())

    def silent(self, index: str, seconds: float, lane: Lane | None = None) -> bool:
        """Whether a worker that has events was not heard of for so long; new ones handed back are nobody's."""
        lanes = (lane,) if lane else LANES
        found = self._with_group(index, lambda: self._unheard(index, lanes, int(seconds * 1000)))
        return any(entry["times_delivered"] for entries in found for entry in entries)

    def _unheard(self, index: str, lanes: Sequence[Lane], idle: int) -> list[Any]:
        with self.talking(), self.redis.pipeline(transaction=False) as pipeline:
            for one in lanes:
                pipeline.xpending_range(stream(index, one), GROUP, "-", "+", _HANDED_BACK, idle=idle)
            return list(pipeline.execute())

    def tidy(self) -> int:
        """Drop the names of consumers that hold nothing and were not seen for an hour; how many."""
        dropped = 0
        with self.talking():
            for key in [stream(index, lane) for index in self.indexes() for lane in LANES]:
                for one in self.redis.xinfo_consumers(key, GROUP) if self.redis.exists(key) else ():
                    if not one["pending"] and one["idle"] > _FORGOTTEN_AFTER:
                        dropped += 1
                        self.redis.xgroup_delconsumer(key, GROUP, one["name"])
        return dropped

    def _with_group(self, index: str, ask: Callable[[], list[T]]) -> list[T]:
        """Ask, and once more where somebody destroyed the group; of an index that was dropped there is nothing."""
        try:
            return ask()
        except LogUnavailable as error:
            if "NOGROUP" not in str(error):
                raise
        self._known.discard(index)
        with self.talking():
            if not self.redis.exists(*(stream(index, lane) for lane in LANES)):
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
