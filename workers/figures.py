"""How a worker fares: documents per second, where its time goes, and how long events waited to be written."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..ingest import BatchReport, Lane
from ..ingest.positions import split

#: Seconds over which rates are taken, and events of a lane over which freshness is.
WINDOW, KEPT = 60.0, 1_000
# What a worker tells of itself must stay small: of so many indexes, those written to last.
_TOLD = 10
_ADDED_UP = ("documents", "settled", "encode", "write", "encoded", "cached", "retries", "buried")


@dataclass(frozen=True, slots=True)
class _Batch:
    """One batch; `began` and the times are in seconds, `settled` counts events of each lane, the rest are counts."""

    began: float
    ended: float
    settled: int = 0
    documents: int = 0
    encode: float = 0.0
    write: float = 0.0
    encoded: int = 0
    cached: int = 0
    retries: int = 0
    buried: int = 0


@dataclass
class _Index:
    batches: deque[_Batch] = field(default_factory=deque)
    ages: dict[Lane, deque[float]] = field(default_factory=dict)
    touched: float = 0.0


class Figures:
    """The figures of one worker, over the last minute; may be fed and read by several threads.

    `record` is called once for each batch that was settled, `retried` for events that were handed back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._indexes: dict[str, _Index] = {}
        self._lock = threading.Lock()

    def record(
        self,
        index: str,
        positions: Iterable[str],
        done: BatchReport,
        *,
        encode_seconds: float,
        write_seconds: float,
        now: int,
    ) -> None:
        """A batch is settled: the `positions` of its events that are, and the log's clock `now` in milliseconds."""
        places = [split(position) for position in positions]
        ended = self._clock()
        batch = _Batch(
            began=ended - encode_seconds - write_seconds,
            ended=ended,
            settled=len(places),
            documents=done.written + done.deleted,
            encode=encode_seconds,
            write=write_seconds,
            encoded=done.encoded,
            cached=done.cached,
            buried=len(done.buried),
        )
        with self._lock:
            kept = self._add(index, batch)
            for milliseconds, _, lane in places:
                ages = kept.ages.setdefault(lane, deque(maxlen=KEPT))
                ages.append(max(0.0, (now - milliseconds) / 1000))

    def retried(self, index: str, events: int) -> None:
        """So many events could not be written for now, and were handed back."""
        now = self._clock()
        with self._lock:
            self._add(index, _Batch(now, now, retries=events))

    def _add(self, index: str, batch: _Batch) -> _Index:
        kept = self._indexes.setdefault(index, _Index())
        kept.batches.append(batch)
        kept.touched = batch.ended
        self._drop_old(kept)
        return kept

    def _drop_old(self, kept: _Index) -> None:
        while kept.batches and kept.batches[0].ended < self._clock() - WINDOW:
            kept.batches.popleft()

    def facts(self) -> dict[str, dict[str, Any]]:
        """For each index: documents and settled events per second; in the last minute the seconds spent encoding and
        writing, texts encoded and found in the cache, retries and buried; and the freshness by lane, as (p50, p95)
        seconds from accepted to written.
        """
        with self._lock:
            last = sorted(self._indexes, key=lambda name: self._indexes[name].touched)[-_TOLD:]
            return {name: self._facts(self._indexes[name]) for name in sorted(last)}

    def _facts(self, kept: _Index) -> dict[str, Any]:
        self._drop_old(kept)
        sums = {name: sum(getattr(batch, name) for batch in kept.batches) for name in _ADDED_UP}
        # A worker that began to work ten seconds ago has a rate over ten seconds.
        span = min(WINDOW, max(1.0, self._clock() - min((one.began for one in kept.batches), default=0.0)))
        rates = {name: round(sums.pop(name) / span, 1) for name in ("documents", "settled")}
        times = {name: round(sums.pop(name), 3) for name in ("encode", "write")}
        fresh = {lane: [round(one, 3) for one in quantiles(ages)] for lane, ages in kept.ages.items()}
        return {**rates, **times, **sums, "fresh": fresh}


def quantiles(values: Iterable[float]) -> tuple[float, float]:
    """The median and the 95th percentile, each a value that was there (nearest rank)."""
    ranked = sorted(values)
    return ranked[(len(ranked) - 1) // 2], ranked[max(0, -(-len(ranked) * 95 // 100) - 1)]


def of_workers(workers: Mapping[str, Mapping[str, Any]], index: str) -> dict[str, Any]:
    """The figures of an index over all workers: sums, and the freshness of the slowest; empty where none has any."""
    told = [found for facts in workers.values() if (found := (facts.get("figures") or {}).get(index))]
    if not told:
        return {}
    sums = {name: sum(one.get(name, 0) for one in told) for name in _ADDED_UP}
    fresh: dict[str, tuple[float, float]] = {}
    for one in told:
        for lane, (median, late) in one.get("fresh", {}).items():
            known = fresh.get(lane, (0.0, 0.0))
            fresh[lane] = (max(known[0], median), max(known[1], late))
    return {**sums, "fresh": fresh}


def worker_rate(facts: Mapping[str, Any]) -> float:
    """The documents that a worker wrote each second of the last minute, by what it tells of itself."""
    figures = facts.get("figures")
    # Processes of pool prefork tell their main process their rate alone.
    return sum(one.get("documents", 0.0) for one in figures.values()) if figures else float(facts.get("rate") or 0.0)
