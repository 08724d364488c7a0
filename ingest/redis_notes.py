"""What the log keeps beside the events: the buried, counters, pauses, and which workers live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from .events import dump, load
from .log import Buried
from .positions import Lane
from .redis_link import RedisLink, key_of, text_in

_WORKERS = "knnex:workers"
#: What there may be of an index beside its events.
NOTES = ("counts", "suspects", "buried", "burials", "pauses", "resting", "marks", "notes")


class RedisNotes(RedisLink):
    """Plain keys of Redis, in the slot of the index they belong to."""

    def buried(self, index: str, after: str | None = None, limit: int = 100) -> list[Buried]:
        """Buried events in the order of their burial, from the one after the position `after`."""
        with self.talking():
            rank = self.redis.zrank(key_of(index, "burials"), after) if after else None
            start = 0 if rank is None else int(rank) + 1
            positions = self.redis.zrange(key_of(index, "burials"), start, start + limit - 1)
        found = self.find_buried(index, [text_in(position) for position in positions])
        return list(found.values())

    def find_buried(self, index: str, positions: Sequence[str]) -> dict[str, Buried]:
        """Those of the positions that are buried."""
        if not positions:
            return {}
        with self.talking():
            values = self.redis.hmget(key_of(index, "buried"), list(positions))
        return {at: load_buried(at, value) for at, value in zip(positions, values, strict=True) if value}

    def burials(self, index: str) -> list[str]:
        """The positions of all that is buried, in the order of their burial."""
        with self.talking():
            return [text_in(position) for position in self.redis.zrange(key_of(index, "burials"), 0, -1)]

    def retry_buried(self, index: str, positions: Sequence[str]) -> int:
        """Append buried events again, under the version they had; how many."""
        found = self.find_buried(index, positions)
        events = {at: one.event for at, one in found.items() if one.event}
        with self.talking(), self.redis.pipeline(transaction=True) as pipeline:
            for position, event in events.items():
                lane = "updates" if event.op == "update" else "events"
                pipeline.xadd(key_of(index, lane), {"event": dump(replace(event, version=event.order))})
                self._unbury(pipeline, index, position)
            pipeline.execute()
        return len(events)

    def drop_buried(self, index: str, positions: Sequence[str]) -> int:
        """Forget buried events; how many."""
        found = self.find_buried(index, positions)
        with self.talking(), self.redis.pipeline(transaction=True) as pipeline:
            for position in found:
                self._unbury(pipeline, index, position)
            pipeline.execute()
        return len(found)

    def _unbury(self, pipeline: Any, index: str, position: str) -> None:
        pipeline.hdel(key_of(index, "buried"), position)
        pipeline.zrem(key_of(index, "burials"), position)

    def counts(self, index: str) -> dict[str, int]:
        """The counters of an index; the buried are counted as they lie there."""
        with self.talking(), self.redis.pipeline(transaction=False) as pipeline:
            counters, buried = pipeline.hgetall(key_of(index, "counts")).zcard(key_of(index, "burials")).execute()
        counts = {text_in(name): int(value) for name, value in counters.items()}
        return counts | ({"buried": int(buried)} if buried else {})

    def doubt(self, index: str, positions: Sequence[str]) -> None:
        """Note that these events are being tried together; attempts at one alone stay counted."""
        with self.talking(), self.redis.pipeline(transaction=False) as pipeline:
            for position in positions:
                pipeline.hsetnx(key_of(index, "suspects"), position, 0)
            pipeline.execute()

    def doubted(self, index: str, positions: Sequence[str]) -> set[str]:
        """Those that were being tried."""
        with self.talking():
            found = self.redis.hmget(key_of(index, "suspects"), list(positions)) if positions else []
        return {position for position, tries in zip(positions, found, strict=True) if tries is not None}

    def blame(self, index: str, position: str) -> int:
        """Count one more attempt at an event alone."""
        with self.talking():
            return int(self.redis.hincrby(key_of(index, "suspects"), position, 1))

    def acquit(self, index: str, positions: Sequence[str]) -> None:
        """Forget the attempts at these events."""
        with self.talking():
            self.redis.hdel(key_of(index, "suspects"), *positions)

    def pause(self, index: str, reason: str | None, lane: Lane | None = None) -> None:
        """Record why nothing is done about an index or one lane of it, or that it goes on."""
        with self.talking():
            if reason is None:
                self.redis.hdel(key_of(index, "pauses"), lane or "")
            else:
                self.redis.hset(key_of(index, "pauses"), lane or "", reason)

    def paused(self, index: str, lane: Lane | None = None) -> str | None:
        """Why nothing is done about an index, or about one lane of it."""
        with self.talking():
            reason = self.redis.hget(key_of(index, "pauses"), lane or "")
        return None if reason is None else text_in(reason)

    def rest(self, index: str, reason: str, seconds: float) -> bool:
        """Record for a while why an index has to wait; whether that is news."""
        with self.talking():
            before = self.redis.set(key_of(index, "resting"), reason, px=max(1, int(seconds * 1000)), get=True)
        return before is None or text_in(before) != reason

    def resting(self, index: str) -> str | None:
        """Why an index has to wait."""
        with self.talking():
            reason = self.redis.get(key_of(index, "resting"))
        return None if reason is None else text_in(reason)

    def marks(self, index: str) -> dict[str, int]:
        """How far each source was read that was not read to its end."""
        with self.talking():
            found = self.redis.hgetall(key_of(index, "marks"))
        return {text_in(source): int(count) for source, count in found.items()}

    def unmark(self, index: str, source: str) -> None:
        """Forget how far a source was read."""
        with self.talking():
            self.redis.hdel(key_of(index, "marks"), source)

    def remember(self, index: str, name: str, value: str | None) -> None:
        """Keep a small text about an index."""
        with self.talking():
            if value is None:
                self.redis.hdel(key_of(index, "notes"), name)
            else:
                self.redis.hset(key_of(index, "notes"), name, value)

    def recall(self, index: str, name: str) -> str | None:
        """What was kept under a name."""
        with self.talking():
            value = self.redis.hget(key_of(index, "notes"), name)
        return None if value is None else text_in(value)

    def hold(self, name: str, owner: str, seconds: float) -> bool:
        """A key with an expiry; whether it is the owner's now."""
        key, period = f"knnex:held:{name}", max(1, int(seconds * 1000))
        with self.talking():
            if self.redis.set(key, owner, nx=True, px=period):
                return True
            with self.redis.pipeline(transaction=True) as pipeline:
                pipeline.watch(key)
                if text_in(pipeline.get(key) or b"") != owner:
                    return False
                pipeline.multi()
                pipeline.pexpire(key, period)
                return self._unless_changed(pipeline)

    @staticmethod
    def _unless_changed(pipeline: Any) -> bool:
        from redis.exceptions import WatchError

        try:
            pipeline.execute()
        except WatchError:
            return False
        return True

    def announce(self, worker: str, facts: Mapping[str, Any], ttl: float) -> None:
        """A key with an expiry for each worker, and a set of their names."""
        with self.talking(), self.redis.pipeline(transaction=False) as pipeline:
            pipeline.set(f"{_WORKERS}:{worker}", orjson.dumps(facts), px=max(1, int(ttl * 1000)))
            pipeline.sadd(_WORKERS, worker)
            pipeline.execute()

    def retire(self, worker: str) -> None:
        """A worker says that it is going."""
        with self.talking():
            self.redis.delete(f"{_WORKERS}:{worker}")
            self.redis.srem(_WORKERS, worker)

    def workers(self) -> dict[str, dict[str, Any]]:
        """The workers alive, with their facts; names of dead ones are dropped."""
        with self.talking():
            names = sorted(text_in(name) for name in self.redis.smembers(_WORKERS))
            values = self.redis.mget([f"{_WORKERS}:{name}" for name in names]) if names else []
            dead = [name for name, value in zip(names, values, strict=True) if value is None]
            if dead:
                self.redis.srem(_WORKERS, *dead)
        return {name: orjson.loads(value) for name, value in zip(names, values, strict=True) if value is not None}


def dump_buried(one: Buried) -> bytes:
    """A buried event as its key keeps it."""
    event = dump(one.event).decode() if one.event else None
    return orjson.dumps({"event": event, "reason": one.reason, "attempts": one.attempts, "at": one.buried_at})


def load_buried(position: str, data: bytes) -> Buried:
    """The buried event of `dump_buried`."""
    body = orjson.loads(data)
    event = load(body["event"].encode(), position) if body["event"] else None
    return Buried(position, event, body["reason"], body["attempts"], body["at"])
