"""Appending events under a span of their producer, whose trace they carry to the worker that writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .. import telemetry
from .events import Event
from .log import EventLog, Mark
from .positions import Lane


def append_traced(log: EventLog, events: Sequence[Event], lane: Lane = "live", mark: Mark | None = None) -> list[str]:
    """`log.append` as the span `knnex.accept`; events that have a trace already keep it. Raises LogUnavailable."""
    index = events[0].index if events else ""
    with telemetry.span("knnex.accept", kind="producer", index=index, lane=lane, documents=len(events)):
        trace = telemetry.traceparent()
        if trace:
            events = [event if event.trace else replace(event, trace=trace) for event in events]
        return log.append(events, lane, mark)
