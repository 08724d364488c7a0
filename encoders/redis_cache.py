"""Vectors kept in a Redis, for workers on many machines; not the Redis of the event log."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

from ..errors import SettingsError
from .base import Vectors
from .caching import Width, pack, unpack

log = logging.getLogger("knnex.encoders")

T = TypeVar("T")

_PREFIX = b"knnex:vector:"
# What an event log keeps in its database, whatever else it holds.
_LOG = "knnex:indexes"
_KEYS_PER_CALL = 500
_SECONDS_KEPT = 30 * 24 * 3600
_OWN = "start one of its own for it: redis-server --save '' --maxmemory 4gb --maxmemory-policy allkeys-lru"


class RedisVectorCache:
    """The cache of `VectorCache` in a Redis of its own, which bounds it by `maxmemory` and drops what is not used.

    Each vector goes after 30 days, too. Raises SettingsError for a Redis that holds an event log, has no bound or does
    not drop keys: a cache would fill it, and whoever else uses it would be refused. One that does not answer is not
    used for the time being.
    """

    def __init__(self, url: str, *, dtype: Width = "float32") -> None:
        self.url, self.dtype = url, dtype
        self.hits = 0
        self.misses = 0
        self._lock = threading.Lock()
        self._refused: SettingsError | None = None
        self._checked = self._silent = False
        self._run(lambda redis: redis.ping())
        if self._refused:
            raise self._refused

    def __repr__(self) -> str:
        return f"RedisVectorCache({self.address!r}, hits={self.hits}, misses={self.misses})"

    def __reduce__(self) -> tuple[object, ...]:
        return partial(RedisVectorCache, dtype=self.dtype), (self.url,)

    def __enter__(self) -> RedisVectorCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._run(lambda redis: int(redis.dbsize())) or 0

    @property
    def address(self) -> str:
        """Where it is, for messages: the URL without credentials."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Vectors]:
        """The vectors there are among these keys, each `(dims,) float32` and read-only; none while it is silent."""
        stored = self._run(partial(_read, keys=keys)) or {}
        found = {key: vector for key, data in stored.items() if (vector := unpack(key, data)) is not None}
        if broken := stored.keys() - found.keys():
            log.warning("Dropped %d vectors with a wrong checksum from the vector cache", len(broken))
            self._run(lambda redis: redis.delete(*(_PREFIX + key for key in broken)))
        with self._lock:
            self.hits += len(found)
            self.misses += len(keys) - len(found)
        return found

    def put_many(self, vectors: Mapping[bytes, Vectors]) -> None:
        """Keep these vectors, each `(dims,) float32`; what cannot be kept is logged, not raised."""
        rows = [(_PREFIX + key, pack(key, vector, self.dtype)) for key, vector in vectors.items()]
        if rows:
            self._run(partial(_write, rows=rows))

    def close(self) -> None:
        """Close the connections; the next use opens them again."""
        if "_redis" in self.__dict__:
            self._redis.close()

    @cached_property
    def _redis(self) -> Any:
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
                # Encoding again takes less than waiting long.
                retry=Retry(ExponentialBackoff(cap=0.2, base=0.05), 1),
            )
        except ValueError as error:
            raise SettingsError(
                f"{self.address!r} is no URL of a Redis: {error}", hint="write redis://HOST:6379/0 in KNNEX_CACHE_URL"
            ) from None

    def _run(self, action: Callable[[Any], T]) -> T | None:
        """What the action gives, or None where this Redis cannot be used now, or must not be."""
        from redis.exceptions import RedisError

        client = self._redis
        try:
            if not self._checked:
                self._refused, self._checked = _fault(client, self.address), True
                if self._refused:
                    log.error("The vector cache is not used: %s", self._refused)
            if self._refused:
                return None
            result = action(client)
        except (RedisError, OSError) as error:
            if not self._silent:
                log.warning("The vector cache %s is not used for now: %s", self.address, error)
            self._silent = True
            return None
        self._silent = False
        return result


def _fault(client: Any, address: str) -> SettingsError | None:
    """Why vectors must not be kept there."""
    from redis.exceptions import ResponseError

    if client.exists(_LOG):
        return SettingsError(f"Redis at {address} holds an event log, which a cache of vectors would fill", hint=_OWN)
    try:
        found = {**client.config_get("maxmemory"), **client.config_get("maxmemory-policy")}
    except ResponseError as error:  # such as that of a provider
        log.warning(
            "Redis at %s does not let us read its settings (%s); make sure that it drops keys when it is full",
            address,
            error,
        )
        return None
    config = {_text(key): _text(value) for key, value in found.items()}
    policy, bound = config.get("maxmemory-policy", ""), int(config.get("maxmemory", "0"))
    if policy == "noeviction":
        return SettingsError(
            f"Redis at {address} never drops a key (maxmemory-policy noeviction): vectors would fill it",
            hint=_OWN,
        )
    if not bound:
        return SettingsError(f"Redis at {address} has no bound (maxmemory 0): vectors would fill it", hint=_OWN)
    return None


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _read(client: Any, keys: Sequence[bytes]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for start in range(0, len(keys), _KEYS_PER_CALL):
        some = keys[start : start + _KEYS_PER_CALL]
        values = client.mget([_PREFIX + key for key in some])
        found |= {key: value for key, value in zip(some, values, strict=True) if value is not None}
    return found


def _write(client: Any, rows: Sequence[tuple[bytes, bytes]]) -> None:
    for start in range(0, len(rows), _KEYS_PER_CALL):
        with client.pipeline(transaction=False) as pipeline:
            for key, value in rows[start : start + _KEYS_PER_CALL]:
                pipeline.set(key, value, ex=_SECONDS_KEPT)
            pipeline.execute()
