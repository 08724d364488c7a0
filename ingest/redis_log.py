"""The event log over Redis Streams: a stream and one consumer group for each index.

A read moves an entry to the group's pending list inside Redis, in one step, so that no death of a worker or cut of a
connection can lose it (https://redis.io/docs/latest/develop/data-types/streams/). Settled entries are deleted: what
the stream still holds is the backlog, and its first entry the low-water mark.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar
from urllib.parse import urlsplit

import orjson

from ..errors import InputError, LogUnavailable
from .events import Event, dump, load
from .log import Backlog, Buried, Delivered

T = TypeVar("T")
log = logging.getLogger(__name__)

GROUP = "workers"
_INDEXES = "knnex:indexes"
_WORKERS = "knnex:workers"


class RedisLog:
    """The log at a Redis URL (`redis://`, `rediss://` or `unix://`); connections are opened when they are needed."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._known: set[str] = set()
        self._cursors: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"RedisLog({self.address!r})"

    @property
    def address(self) -> str:
        """Where it is, for messages: the URL without credentials."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @cached_property
    def redis(self) -> Any:
        """The client of redis-py."""
        import redis
        from redis.backoff import ExponentialBackoff
        from redis.retry import Retry

        try:
            return redis.Redis.from_url(
                self.url,
                socket_timeout=10,
                socket_connect_timeout=5,
                socket_keepalive=True,
                health_check_interval=30,
                retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), 3),
            )
        except ValueError as error:
            raise LogUnavailable(
                f"{self.address!r} is no URL of a Redis: {error}", hint="write redis://HOST:6379/0 in KNNEX_REDIS_URL"
            ) from None

    def close(self) -> None:
        """Close the connections."""
        if "redis" in self.__dict__:
            self.redis.close()

    def check(self) -> tuple[str, ...]:
        """Refuse a Redis that forgets events: one without append-only file, or one that evicts keys."""
        from redis.exceptions import ResponseError

        with self._talking():
            self.redis.ping()
            try:
                found = {**self.redis.config_get("appendonly"), **self.redis.config_get("maxmemory-policy")}
            except ResponseError as error:
                warning = (
                    f"Redis at {self.address} does not let us read its settings ({error}); make sure that it has "
                    "`appendonly yes` and `maxmemory-policy noeviction`, or events can be lost"
                )
                log.warning(warning, extra={"action": "log_unchecked"})
                return (warning,)
        config = {_text(key): _text(value) for key, value in found.items()}
        if config.get("appendonly", "yes") != "yes":
            raise LogUnavailable(
                f"Redis at {self.address} keeps its data in memory only, and a restart would lose events",
                hint="set `appendonly yes`: redis-cli config set appendonly yes, and in redis.conf",
            )
        if config.get("maxmemory-policy", "noeviction") != "noeviction":
            raise LogUnavailable(
                f"Redis at {self.address} throws keys away when memory is short ({config['maxmemory-policy']})",
                hint="use a Redis of its own with `maxmemory-policy noeviction`",
            )
        return ()

    def indexes(self) -> tuple[str, ...]:
        """The indexes that ever had an event, sorted."""
        with self._talking():
            return tuple(sorted(_text(name) for name in self.redis.smembers(_INDEXES)))

    def append(self, events: Sequence[Event]) -> list[str]:
        """Append events, one transaction for each index; their positions in the order given."""
        places: dict[str, list[int]] = {}
        for place, event in enumerate(events):
            places.setdefault(event.index, []).append(place)
        positions = [""] * len(events)
        for index, mine in places.items():
            self._ensure(index)
            with self._talking(), self.redis.pipeline(transaction=True) as pipeline:
                for place in mine:
                    pipeline.xadd(_key(index, "events"), {"event": dump(events[place])})
                for place, position in zip(mine, pipeline.execute(), strict=True):
                    positions[place] = _text(position)
        return positions

    def take(self, index: str, consumer: str, count: int, lease: float) -> list[Delivered]:
        """Up to `count` events: those of silent workers first, then new ones."""
        entries = self._with_group(index, lambda: self._reclaim(index, consumer, count, lease))
        taken = [(position, fields, times) for position, fields, times in entries]
        if len(taken) < count:
            fresh = self._with_group(index, lambda: self._read(index, consumer, count - len(taken)))
            taken += [(position, fields, 1) for position, fields in fresh]
        delivered = []
        for position, fields, times in taken:
            try:
                delivered.append(Delivered(load(fields[b"event"], position), position, times))
            except (InputError, KeyError) as error:
                self.settle(index, [position], [Buried(position, None, f"unreadable event: {error}", times)])
        return delivered

    def _read(self, index: str, consumer: str, count: int) -> list[tuple[str, dict[bytes, bytes]]]:
        with self._talking():
            answer = self.redis.xreadgroup(GROUP, consumer, {_key(index, "events"): ">"}, count=count)
        streams = answer.values() if isinstance(answer, dict) else [entries for _, entries in answer or ()]
        return [(_text(position), fields) for entries in streams for position, fields in entries]

    def _reclaim(
        self, index: str, consumer: str, count: int, lease: float
    ) -> list[tuple[str, dict[bytes, bytes], int]]:
        key, idle = _key(index, "events"), int(lease * 1000)
        with self._talking():
            ripe = self.redis.xpending_range(key, GROUP, "-", "+", count, idle=idle)
            if not ripe:
                return []
            times = {_text(one["message_id"]): int(one["times_delivered"]) + 1 for one in ripe}
            claimed = self.redis.xclaim(key, GROUP, consumer, idle, list(times))
            found = [(_text(position), fields, times[_text(position)]) for position, fields in claimed if position]
            if len(found) < len(times):
                self._note_lost(index, set(times) - {position for position, _, _ in found})
        return found

    def _note_lost(self, index: str, positions: set[str]) -> None:
        """Positions pending without an entry: somebody trimmed the stream; another worker's claim is no loss."""
        key = _key(index, "events")
        for position in sorted(positions):
            if not self.redis.xrange(key, position, position):
                if self.redis.xack(key, GROUP, position):
                    log.error("Event %s of %s is gone from the log: it was trimmed by somebody", position, index)
                    self.redis.hincrby(_key(index, "counts"), "lost", 1)

    def heartbeat(self, index: str, consumer: str, positions: Sequence[str]) -> set[str]:
        """Renew the claim on those positions that are still this consumer's own."""
        owned = self._owned(index, consumer, positions)
        if owned:
            with self._talking():
                self.redis.xclaim(_key(index, "events"), GROUP, consumer, 0, list(owned), justid=True)
        return set(owned)

    def release(self, index: str, consumer: str, delivered: Sequence[Delivered], lease: float, delay: float) -> None:
        """Hand events back as if they had been silent long enough, `delay` seconds from now."""
        owned = self._owned(index, consumer, [one.position for one in delivered])
        idle = max(0, int((lease - delay) * 1000))
        with self._talking(), self.redis.pipeline(transaction=True) as pipeline:
            for one in delivered:
                if one.position in owned:
                    times = one.deliveries - 1
                    args = {"idle": idle, "retrycount": times, "justid": True}
                    pipeline.xclaim(_key(index, "events"), GROUP, consumer, 0, [one.position], **args)
            pipeline.execute()

    def _owned(self, index: str, consumer: str, positions: Sequence[str]) -> set[str]:
        if not positions:
            return set()
        wanted, key = set(positions), _key(index, "events")
        low, high = min(positions, key=_order), max(positions, key=_order)
        with self._talking():
            # A consumer works on one batch at a time, so that few others can lie between.
            mine = self.redis.xpending_range(key, GROUP, low, high, len(wanted) + 1000, consumer)
        return {_text(one["message_id"]) for one in mine} & wanted

    def settle(
        self, index: str, positions: Sequence[str], buried: Sequence[Buried] = (), counts: Mapping[str, int] | None = None
    ) -> None:
        """One transaction; doing it twice changes nothing but the counters."""
        key = _key(index, "events")
        with self._talking(), self.redis.pipeline(transaction=True) as pipeline:
            if positions:
                pipeline.xack(key, GROUP, *positions)
                pipeline.xdel(key, *positions)
                pipeline.hdel(_key(index, "suspects"), *positions)
            for one in buried:
                stamped = replace(one, buried_at=one.buried_at or time.time())
                pipeline.hset(_key(index, "buried"), one.position, _dump_buried(stamped))
                pipeline.zadd(_key(index, "burials"), {one.position: stamped.buried_at}, nx=True)
            for name, more in {**(counts or {}), **({"buried": len(buried)} if buried else {})}.items():
                if more:
                    pipeline.hincrby(_key(index, "counts"), name, more)
            pipeline.execute()

    def backlog(self, index: str) -> Backlog:
        """Counted from the stream itself: the group's own `lag` is absent or null on some servers."""
        key = _key(index, "events")

        def ask() -> Backlog:
            with self._talking(), self.redis.pipeline(transaction=True) as pipeline:
                pipeline.xlen(key).xpending(key, GROUP).xrange(key, count=1)
                length, pending, first = pipeline.execute()
            held = int(pending["pending"])
            low_water = _text(first[0][0]) if first else None
            return Backlog(max(0, length - held), min(held, length), low_water)

        return self._with_group(index, ask)

    def buried(self, index: str, after: str | None = None, limit: int = 100) -> list[Buried]:
        """Buried events in the order of their burial, from the one after the position `after`."""
        with self._talking():
            rank = self.redis.zrank(_key(index, "burials"), after) if after else None
            start = 0 if rank is None else int(rank) + 1
            positions = self.redis.zrange(_key(index, "burials"), start, start + limit - 1)
        found = self.find_buried(index, [_text(position) for position in positions])
        return list(found.values())

    def find_buried(self, index: str, positions: Sequence[str]) -> dict[str, Buried]:
        """Those of the positions that are buried."""
        if not positions:
            return {}
        with self._talking():
            values = self.redis.hmget(_key(index, "buried"), list(positions))
        return {at: _load_buried(at, value) for at, value in zip(positions, values, strict=True) if value}

    def retry_buried(self, index: str, positions: Sequence[str]) -> int:
        """Append buried events again, under the version they had; how many."""
        found = self.find_buried(index, positions)
        events = {at: one.event for at, one in found.items() if one.event}
        with self._talking(), self.redis.pipeline(transaction=True) as pipeline:
            for position, event in events.items():
                pipeline.xadd(_key(index, "events"), {"event": dump(replace(event, version=event.order))})
                self._unbury(pipeline, index, position)
            pipeline.execute()
        return len(events)

    def drop_buried(self, index: str, positions: Sequence[str]) -> int:
        """Forget buried events; how many."""
        found = self.find_buried(index, positions)
        with self._talking(), self.redis.pipeline(transaction=True) as pipeline:
            for position in found:
                self._unbury(pipeline, index, position)
            pipeline.execute()
        return len(found)

    def _unbury(self, pipeline: Any, index: str, position: str) -> None:
        pipeline.hdel(_key(index, "buried"), position)
        pipeline.zrem(_key(index, "burials"), position)
        pipeline.hincrby(_key(index, "counts"), "buried", -1)

    def counts(self, index: str) -> dict[str, int]:
        """The counters of an index."""
        with self._talking():
            return {_text(name): int(value) for name, value in self.redis.hgetall(_key(index, "counts")).items()}

    def blame(self, index: str, position: str) -> int:
        """Count one more attempt at an event alone."""
        with self._talking():
            return int(self.redis.hincrby(_key(index, "suspects"), position, 1))

    def pause(self, index: str, reason: str | None) -> None:
        """Record why nothing is done about an index, or that it goes on."""
        with self._talking():
            if reason is None:
                self.redis.delete(_key(index, "paused"))
            else:
                self.redis.set(_key(index, "paused"), reason)

    def paused(self, index: str) -> str | None:
        """Why nothing is done about an index."""
        with self._talking():
            reason = self.redis.get(_key(index, "paused"))
        return None if reason is None else _text(reason)

    def announce(self, worker: str, facts: Mapping[str, Any], ttl: float) -> None:
        """A key with an expiry for each worker, and a set of their names."""
        with self._talking(), self.redis.pipeline(transaction=False) as pipeline:
            pipeline.set(f"{_WORKERS}:{worker}", orjson.dumps(facts), px=max(1, int(ttl * 1000)))
            pipeline.sadd(_WORKERS, worker)
            pipeline.execute()

    def retire(self, worker: str) -> None:
        """A worker says that it is going."""
        with self._talking():
            self.redis.delete(f"{_WORKERS}:{worker}")
            self.redis.srem(_WORKERS, worker)

    def workers(self) -> dict[str, dict[str, Any]]:
        """The workers alive, with their facts; names of dead ones are dropped."""
        with self._talking():
            names = sorted(_text(name) for name in self.redis.smembers(_WORKERS))
            values = self.redis.mget([f"{_WORKERS}:{name}" for name in names]) if names else []
            dead = [name for name, value in zip(names, values, strict=True) if value is None]
            if dead:
                self.redis.srem(_WORKERS, *dead)
        return {name: orjson.loads(value) for name, value in zip(names, values, strict=True) if value is not None}

    def wait(self, timeout: float) -> bool:
        """Block until an event is appended to any index, `timeout` seconds at most; whether one was."""
        streams = {_key(index, "events"): "$" for index in self.indexes()}
        if not streams:
            return False
        with self._talking():
            return bool(self.redis.xread(streams, count=1, block=max(1, int(timeout * 1000))))

    def forget(self, index: str) -> None:
        """Drop all that the log holds of an index: for one that is gone."""
        names = ("events", "counts", "suspects", "buried", "burials", "paused")
        with self._talking():
            self.redis.delete(*(_key(index, name) for name in names))
            self.redis.srem(_INDEXES, index)
        self._known.discard(index)

    def _ensure(self, index: str) -> None:
        if index in self._known:
            return
        from redis.exceptions import ResponseError

        with self._talking():
            try:
                self.redis.xgroup_create(_key(index, "events"), GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise
            self.redis.sadd(_INDEXES, index)
        self._known.add(index)

    def _with_group(self, index: str, ask: Callable[[], T]) -> T:
        """Ask, and once more where the group is not there yet, or no more."""
        try:
            return ask()
        except LogUnavailable as error:
            if "NOGROUP" not in str(error):
                raise
        self._known.discard(index)
        self._ensure(index)
        return ask()

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """The gate through which errors of redis-py become ours."""
        from redis import exceptions

        try:
            yield
        except (exceptions.AuthenticationError, exceptions.NoPermissionError) as error:
            raise LogUnavailable(
                f"Redis at {self.address} refused the credentials: {error}",
                hint="put them into KNNEX_REDIS_URL: redis://USER:PASSWORD@HOST:6379/0",
            ) from None
        except (exceptions.ConnectionError, exceptions.TimeoutError, OSError) as error:
            raise LogUnavailable(
                f"no answer from Redis at {self.address}: {error}",
                hint="check KNNEX_REDIS_URL and that Redis runs; `knnex up` starts one here",
            ) from None
        except exceptions.OutOfMemoryError as error:
            raise LogUnavailable(f"Redis at {self.address} is full: {error}", hint="raise its maxmemory") from None
        except exceptions.RedisError as error:
            raise LogUnavailable(f"Redis at {self.address}: {error}") from None


def _key(index: str, name: str) -> str:
    # The braces put all keys of an index into one slot of a Redis Cluster, so that one transaction reaches them.
    return f"knnex:{{{index}}}:{name}"


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _order(position: str) -> tuple[int, int]:
    milliseconds, sequence = position.split("-")
    return int(milliseconds), int(sequence)


def _dump_buried(one: Buried) -> bytes:
    event = dump(one.event).decode() if one.event else None
    return orjson.dumps({"event": event, "reason": one.reason, "attempts": one.attempts, "at": one.buried_at})


def _load_buried(position: str, data: bytes) -> Buried:
    body = orjson.loads(data)
    event = load(body["event"].encode(), position) if body["event"] else None
    return Buried(position, event, body["reason"], body["attempts"], body["at"])
