"""A look at the log and its workers: what waits, for how long already, how fast it goes, and when it is done."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from ..ingest import LANES, Backlog, EventLog, Lane
from ..ingest.positions import split
from .figures import of_workers

#: Under this name the log remembers how far the change feed of an index is behind: {"behind": 3, "at": 1795261064.9}.
FEED_LAG = "feed_lag"
# Seconds over which somebody who keeps looking takes the rate, and the least for which one is told.
_RATE_OVER, _RATE_FROM = 15.0, 1.0
_OUTCOMES = ("written", "stale", "deleted")


@dataclass(frozen=True)
class LaneView:
    """A lane of an index: events that wait, those in a worker's hands, and the age in seconds of the oldest.

    `fresh` are the median and the 95th percentile of the seconds from accepted to written; `eta` the seconds until
    nothing waits any more at the present rate, None where nothing moves.
    """

    lane: Lane
    waiting: int
    in_hand: int
    lag: float
    paused: str | None = None
    fresh: tuple[float, float] | None = None
    eta: float | None = None


@dataclass(frozen=True)
class Feed:
    """How many documents the change feed is behind, and the seconds since it said so."""

    behind: int
    age: float


@dataclass(frozen=True)
class IndexView:
    """An index in the log; shares are between 0 and 1, None where nothing was to be shared in the last minute."""

    name: str
    lanes: tuple[LaneView, ...]
    documents_per_second: float
    encode_share: float | None = None
    cache_share: float | None = None
    retries: int = 0
    buried: int = 0
    lost: int = 0
    paused: str | None = None
    resting: str | None = None
    feed: Feed | None = None
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def waiting(self) -> int:
        """Events accepted and not yet settled."""
        return sum(lane.waiting + lane.in_hand for lane in self.lanes)


@dataclass(frozen=True)
class View:
    """All that can be seen of a log at one moment; `at` is its clock, in milliseconds."""

    address: str
    at: int
    indexes: tuple[IndexView, ...]
    workers: Mapping[str, Mapping[str, Any]]


class Watcher:
    """Looks at a log, once or again and again; the rates are then what changed in between."""

    def __init__(self, log: EventLog, only: str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._only, self._clock = log, only, clock
        self._seen: dict[str, deque[tuple[float, int, int]]] = {}

    def look(self) -> View:
        """What the log holds now. Raises LogUnavailable."""
        workers, now = self._log.workers(), self._log.now()
        names = [name for name in self._log.indexes() if self._only in (None, name)]
        indexes = tuple(self._index(name, workers, now) for name in names)
        return View(self._log.address, now, indexes, workers)

    def _index(self, name: str, workers: Mapping[str, Mapping[str, Any]], now: int) -> IndexView:
        counts, figures = self._log.counts(name), of_workers(workers, name)
        backlog = self._log.backlog(name)
        lanes = tuple(self._lane(name, lane, backlog.of(lane), figures, now) for lane in LANES)
        paused = self._log.paused(name)
        documents, settled = self._rates(name, counts, figures)
        return IndexView(
            name,
            lanes if paused else _with_eta(lanes, settled),
            documents,
            encode_share=_share(figures.get("encode", 0.0), figures.get("write", 0.0)),
            cache_share=_share(figures.get("cached", 0), figures.get("encoded", 0)),
            retries=figures.get("retries", 0),
            buried=counts.get("buried", 0),
            lost=counts.get("lost", 0),
            paused=paused,
            resting=self._log.resting(name),
            feed=feed_lag(self._log, name),
            counts=counts,
        )

    def _lane(self, name: str, lane: Lane, backlog: Backlog, figures: Mapping[str, Any], now: int) -> LaneView:
        lag = max(0.0, (now - split(backlog.low_water)[0]) / 1000) if backlog.low_water else 0.0
        fresh = figures.get("fresh", {}).get(lane)
        return LaneView(lane, backlog.undelivered, backlog.pending, lag, self._log.paused(name, lane), fresh)

    def _rates(self, name: str, counts: Mapping[str, int], figures: Mapping[str, Any]) -> tuple[float, float]:
        """Documents and events per second: between the looks of this watcher, else as the workers say."""
        written = counts.get("written", 0) + counts.get("deleted", 0)
        settled = sum(counts.get(outcome, 0) for outcome in _OUTCOMES) + counts.get("buried", 0)
        seen = self._seen.setdefault(name, deque())
        now = self._clock()
        seen.append((now, written, settled))
        while seen[0][0] < now - _RATE_OVER:
            seen.popleft()
        since, first_written, first_settled = seen[0]
        if now - since < _RATE_FROM:
            return figures.get("documents", 0.0), figures.get("settled", 0.0)
        over = now - since
        return max(0.0, (written - first_written) / over), max(0.0, (settled - first_settled) / over)


def feed_lag(log: EventLog, index: str) -> Feed | None:
    """How far the change feed of an index is behind, where one is followed. Raises LogUnavailable."""
    told = log.recall(index, FEED_LAG)
    if told is None:
        return None
    try:
        body = orjson.loads(told)
        return Feed(int(body["behind"]), max(0.0, time.time() - float(body["at"])))
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None


def _share(one: float, other: float) -> float | None:
    return one / (one + other) if one + other else None


def _with_eta(lanes: tuple[LaneView, ...], rate: float) -> tuple[LaneView, ...]:
    """Live events go first, then the backfill; updates wait for all that came before them."""
    before, told = 0, []
    for lane in lanes:
        before += 0 if lane.paused else lane.waiting + lane.in_hand
        moves = rate > 0 and not lane.paused
        told.append(replace(lane, eta=before / rate if moves and lane.waiting + lane.in_hand else None))
    return tuple(told)
