"""`POST /indexes/{index}/events`: changes of documents, appended to the log before they are acknowledged."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import anyio.to_thread
import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from .. import telemetry
from ..ingest import Event, Lane, Refused, accept
from ..ingest.envelopes import Change, Notice, changes
from ..ingest.events import MAX_DOCUMENT_BYTES
from ..ingest.traced import append_traced
from ..mappings import Spec
from .answers import Declined, answer
from .backend import Backend
from .body import Budget, is_lines, read_body, read_values

log = logging.getLogger(__name__)

#: Events of one request: what the log appends at once.
MAX_EVENTS = 10_000
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass
class _Batch:
    """What the body of a request asks for, in its order."""

    accepted: list[tuple[Lane, Event]] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    ignored: int = 0
    too_large: int = 0


class Events:
    """The endpoint. Parsing is work of this process and is done by few threads, appending is waiting."""

    def __init__(self, backend: Backend, budget: Budget) -> None:
        self._backend, self._budget = backend, budget
        self._asking, self._parsing, self._appending = (anyio.CapacityLimiter(size) for size in (32, 2, 32))

    async def post(self, request: Request) -> Response:
        """Take events: 202 when they are in the log, 422 when none of them may go there."""
        index: str = request.path_params["index"]
        lines = is_lines(request)
        spec = await anyio.to_thread.run_sync(self._backend.spec, index, limiter=self._asking)
        await anyio.to_thread.run_sync(self._backend.check_room, index, limiter=self._asking)
        try:
            data = await read_body(request, self._budget)
        except ClientDisconnect:
            return Response(status_code=400)  # which nobody hears
        try:
            trace = request.headers.get("traceparent", "")
            batch = await anyio.to_thread.run_sync(read_batch, data, lines, spec, trace, limiter=self._parsing)
            positions = await anyio.to_thread.run_sync(self._append, index, batch, trace, limiter=self._appending)
        finally:
            self._budget.give_back(len(data))
        return _told(index, batch, positions)

    def _append(self, index: str, batch: _Batch, trace: str) -> list[str]:
        """Append in the order of the request; the positions. Raises LogUnavailable, after which all is sent again."""
        positions = [""] * len(batch.accepted)
        with telemetry.continued(trace):
            for lane, places in _parts(batch.accepted):
                events = [batch.accepted[place][1] for place in places]
                for place, position in zip(places, append_traced(self._backend.log, events, lane), strict=True):
                    positions[place] = position
        self._backend.count_in(index, len(positions))
        return positions


def _parts(accepted: list[tuple[Lane, Event]]) -> Iterator[tuple[Lane, list[int]]]:
    """What can be appended at once: events of one lane, before those of the same document in another lane."""
    parts: dict[Lane, list[int]] = {}
    lanes: dict[str, Lane] = {}
    for place, (lane, event) in enumerate(accepted):
        if lanes.setdefault(event.id, lane) != lane:
            yield from parts.items()
            parts, lanes = {}, {event.id: lane}
        parts.setdefault(lane, []).append(place)
    yield from parts.items()


def read_batch(data: bytes, lines: bool, spec: Spec, trace: str = "") -> _Batch:
    """The events of a body, each accepted or refused. Raises Declined (400, 413)."""
    batch = _Batch()
    traced = trace if _TRACEPARENT.fullmatch(trace) else None
    count = 0
    for value in read_values(data, lines):
        found = (value,) if isinstance(value, Refused) else changes(value[1], spec, value[0])
        for one in found:
            count += 1
            if count > MAX_EVENTS:
                raise Declined(
                    413, f"there are more than {MAX_EVENTS:,} events in the body", "send them in several requests"
                )
            _sort_in(batch, one, spec, traced, len(data))
    return batch


def _sort_in(batch: _Batch, one: Change | Notice | Refused, spec: Spec, trace: str | None, size: int) -> None:
    if isinstance(one, Change):
        event = accept(spec, one.document, one.origin, op=one.op)
        if isinstance(event, Event):
            batch.accepted.append((one.lane, replace(event, trace=trace) if trace else event))
            return
        if size > MAX_DOCUMENT_BYTES and _size(one.document) > MAX_DOCUMENT_BYTES:
            batch.too_large += 1
        one = event
    if isinstance(one, Refused):
        batch.refused.append(one)
    else:
        batch.ignored += 1


def _size(document: Any) -> int:
    try:
        return len(orjson.dumps(document))
    except TypeError:
        return 0


def _told(index: str, batch: _Batch, positions: list[str]) -> Response:
    refused = [
        {"place": one.origin.number if one.origin else 0, "id": one.id, "reason": one.reason} for one in batch.refused
    ]
    if refused:  # many producers do not look at what they are answered
        log.warning(
            "Refused %d of %d events for %s, the first: %s",
            len(refused),
            len(refused) + len(positions) + batch.ignored,
            index,
            batch.refused[0],
            extra={"action": "events_refused", "index": index, "refused": len(refused)},
        )
    body: dict[str, Any] = {"accepted": len(positions), "positions": positions, "refused": refused}
    if batch.ignored:
        body["ignored"] = batch.ignored
    if not refused or positions or batch.ignored:
        return answer(body, 202)
    hint = "the reasons are under `refused`; sent again as they are, they are refused again"
    body = {"error": f"none of {len(refused):,} events was taken: {refused[0]['reason']}", "hint": hint, **body}
    return answer(body, 413 if batch.too_large == len(refused) else 422)
