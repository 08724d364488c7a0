"""What the log remembers of a change feed: how far each shard was read, how far behind that is, what was at hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import orjson

from .feed import Head
from .log import EventLog

# The names under which the log keeps them.
_CURSOR, _LAG, _TRYING = "feed", "feed_lag", "feed_trying"


@dataclass(frozen=True)
class FeedReport:
    """What became of the changes that were looked at, in documents; `behind` counts changes not looked at yet."""

    seen: int = 0
    enriched: int = 0
    unchanged: int = 0
    conflicts: int = 0
    buried: int = 0
    behind: int = 0
    encoded: int = 0
    cached: int = 0

    def __add__(self, other: FeedReport) -> FeedReport:
        """Both together; the other is the later one."""
        sums = {one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)}
        return FeedReport(**sums | {"behind": other.behind})


@dataclass(frozen=True)
class FeedState:
    """How far a feed is behind of where the shards stood `at` a time: changes not looked at, in all and by shard.

    All changes made before `caught_up` were looked at. Times are the log's, in milliseconds.
    """

    behind: int
    at: int
    caught_up: int | None = None
    shards: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Cursor:
    """Up to which change each shard of a concrete index was read, and in which of its histories."""

    index: str
    shards: Mapping[int, tuple[str, int]] = field(default_factory=dict)

    def after(self, shard: int, head: Head) -> int:
        """The last change that needs no look; -1 where the shard was never read, or has another history since."""
        history, done = self.shards.get(shard, ("", -1))
        return done if history == head.history else -1

    def moved(self, shard: int, head: Head, done: int) -> Cursor:
        """The cursor with this shard read up to `done`."""
        return Cursor(self.index, {**self.shards, shard: (head.history, done)})

    def behind(self, heads: Mapping[int, Head]) -> dict[int, int]:
        """Changes not looked at, by shard. A checkpoint is behind for a moment when its shard was just recovered."""
        return {shard: max(0, head.checkpoint - self.after(shard, head)) for shard, head in heads.items()}


def load_cursor(log: EventLog, alias: str, index: str) -> Cursor:
    """Where the feed of `index` is to go on; at the start, where that behind the alias was another one."""
    kept = _loaded(log.recall(alias, _CURSOR))
    try:
        if kept["index"] == index:
            return Cursor(index, {int(shard): (str(one[0]), int(one[1])) for shard, one in kept["shards"].items()})
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        pass  # nothing kept, or by another version of knnex: to look at a document once more does no harm
    return Cursor(index)


def keep_cursor(log: EventLog, alias: str, cursor: Cursor) -> None:
    """Remember how far the shards were read."""
    shards = {str(shard): list(one) for shard, one in cursor.shards.items()}
    log.remember(alias, _CURSOR, orjson.dumps({"index": cursor.index, "shards": shards}).decode())


def keep_lag(log: EventLog, alias: str, behind: Mapping[int, int], at: int) -> None:
    """Remember how far behind the feed is of where the shards stood at a time (the log's), and since when it is."""
    total = sum(behind.values())
    before = feed_state(log, alias)
    caught_up = at if not total else before and before.caught_up
    shards = {str(shard): count for shard, count in behind.items() if count}
    body = {"behind": total, "at": at, "caught_up": caught_up, "shards": shards}
    log.remember(alias, _LAG, orjson.dumps(body).decode())


def feed_state(log: EventLog, alias: str) -> FeedState | None:
    """How far behind the feed of an index is; None where it was never followed. Raises LogUnavailable."""
    kept = _loaded(log.recall(alias, _LAG))
    if "behind" not in kept or "at" not in kept:
        return None
    return FeedState(kept["behind"], kept["at"], kept.get("caught_up"), kept.get("shards", {}))


def keep_trying(log: EventLog, alias: str, positions: Sequence[str]) -> None:
    """Remember which documents are with the model now, in case it takes this process with it."""
    log.remember(alias, _TRYING, orjson.dumps(list(positions)).decode() if positions else None)


def tried(log: EventLog, alias: str) -> frozenset[str]:
    """The documents on which a follower died: they were with the model, and nobody took them back."""
    kept = log.recall(alias, _TRYING)
    found: Iterable[Any] = orjson.loads(kept) if kept else ()
    return frozenset(map(str, found))


def forget_feed(log: EventLog, alias: str) -> None:
    """Forget how far an index was read: the next follower looks at everything."""
    for name in (_CURSOR, _LAG, _TRYING):
        log.remember(alias, name, None)


def _loaded(kept: str | None) -> dict[str, Any]:
    try:
        found = orjson.loads(kept) if kept else {}
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
