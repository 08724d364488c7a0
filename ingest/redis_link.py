"""The connection to Redis: opened when needed, checked for durability, its errors turned into ours."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from ..errors import LogUnavailable, LogUnreachable
from .positions import Lane

log = logging.getLogger(__name__)


class RedisLink:
    """A Redis by its URL (`redis://`, `rediss://` or `unix://`)."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r})"

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
            _check(self.url)
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

        with self.talking():
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
        config = {text_in(key): text_in(value) for key, value in found.items()}
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

    @contextmanager
    def talking(self) -> Iterator[None]:
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
            raise LogUnreachable(
                f"no answer from Redis at {self.address}: {error}",
                hint="check KNNEX_REDIS_URL and that Redis runs; `knnex up` starts one here",
            ) from None
        except exceptions.OutOfMemoryError as error:
            raise LogUnavailable(f"Redis at {self.address} is full: {error}", hint="raise its maxmemory") from None
        except exceptions.RedisError as error:
            if "-OOM " in str(error):  # Redis 6 says so of a script
                raise LogUnavailable(f"Redis at {self.address} is full: {error}", hint="raise its maxmemory") from None
            raise LogUnavailable(f"Redis at {self.address}: {error}") from None


def _check(url: str) -> None:
    """redis-py takes database 0 where it cannot read the number: better to say so."""
    parts = urlsplit(url)
    database = parts.path.strip("/")
    if parts.scheme in ("redis", "rediss") and database and not database.isdigit():
        raise ValueError(f"{database!r} is no number of a database")


def key_of(index: str, name: str) -> str:
    """The key of one of an index's structures."""
    # The braces put all keys of an index into one slot of a Redis Cluster, so that one transaction reaches them.
    return f"knnex:{{{index}}}:{name}"


def stream(index: str, lane: Lane) -> str:
    """The key of the stream of a lane."""
    return key_of(index, "events" if lane == "live" else lane)


def text_in(value: bytes | str) -> str:
    """What Redis answered, as text."""
    return value.decode() if isinstance(value, bytes) else value
