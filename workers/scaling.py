"""How many workers it would take: for a person, for an autoscaler, for a gauge."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..ingest import EventLog

#: Seconds within which a backlog ought to be worked off, and the most workers that are ever asked for.
TARGET, MOST = 60.0, 64


@dataclass(frozen=True)
class Scale:
    """What runs and what is wanted; `rate` is in documents per second of one worker while it works, 0 if unknown."""

    workers: int
    wanted: int
    backlog: int
    rate: float
    target_seconds: float


def wanted_workers(backlog: int, rate: float, target_seconds: float, most: int = MOST) -> int:
    """How many workers drain `backlog` documents in `target_seconds`, each making `rate` documents per second.

    None where nothing waits, one where no rate is known yet, never more than `most`.
    """
    if backlog <= 0:
        return 0
    if rate <= 0 or target_seconds <= 0:
        return 1 if target_seconds > 0 else most
    return max(1, min(most, math.ceil(backlog / (rate * target_seconds))))


def rate_of(workers: Mapping[str, Mapping[str, Any]]) -> float:
    """The mean rate of those workers that told one, in documents per second of one worker."""
    told = [float(rate) for facts in workers.values() if (rate := facts.get("rate"))]
    return sum(told) / len(told) if told else 0.0


def scale(log: EventLog, target_seconds: float = TARGET, most: int = MOST) -> Scale:
    """What the log asks for now; indexes that are paused ask for nothing. Raises LogUnavailable."""
    workers = log.workers()
    backlog = sum(log.backlog(index).total for index in log.indexes() if not log.paused(index))
    rate = rate_of(workers)
    wanted = wanted_workers(backlog, rate, target_seconds, most)
    return Scale(len(workers), wanted, backlog, round(rate, 1), target_seconds)
