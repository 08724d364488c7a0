"""Writing documents with `_bulk` under external versions, so that any replay converges to the newest.

An item is written, stale (the index holds the same version or a newer one), or buried with its reason; one that meets
a busy engine is tried again, alone with its kind. One bad item can fail a whole request (an id too long, a negative
version): such a request is halved until the culprit stands alone.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from ..engines import Engine, Flow, Request, Response, encode, path_of
from ..engines.wire import portions
from ..errors import (
    AccessDenied,
    EngineBusy,
    EngineUnreachable,
    IndexMissing,
    InputError,
    RequestRejected,
    RequestTooLarge,
)
from .patience import Patience

Status = Literal["written", "stale", "buried", "busy", "blocked", "failed"]

MAX_BODY_BYTES = 5_000_000
MAX_BODY_ITEMS = 500
# From this many items on, two requests at a time: an engine with two cores then uses both.
_WORTH_TWO_WRITERS = 128

_PARAMS = {
    # Without it a bulk to an index that is gone would create one, with a guessed mapping.
    "require_alias": "true",
    "filter_path": "errors,items.*.status,items.*.error.type,items.*.error.reason,items.*.error.caused_by.reason",
}
_BUSY = frozenset({429, 502, 503, 504})
# How the gate tells a request that was answered with status 500.
_STUMBLED = re.compile(r": 500 ")
# Seconds after which a block on one index is left to pass while others are served: a cut-over is shorter.
_BLOCK_PATIENCE = 1.5


@dataclass(frozen=True, slots=True)
class Item:
    """A document as it is to be stored."""

    id: str
    version: int
    body: Mapping[str, Any]
    routing: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an item: `busy` and `blocked` may be tried again, `failed` was, to no avail."""

    id: str
    status: Status
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """An item as bytes: the action and the document, each a line of the body."""

    id: str
    action: bytes
    source: bytes

    def __len__(self) -> int:
        return len(self.action) + len(self.source) + 2


def write(
    engine: Engine,
    alias: str,
    items: Sequence[Item],
    *,
    patience: Patience | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> list[Outcome]:
    """Write items of distinct ids; an outcome for each, in their order: written, stale, buried or failed.

    A `sleep` that gives a true answer was cut short, and nothing is tried again. Raises IndexMissing where there is no
    such alias, AccessDenied.
    """
    lines, outcomes = _lines(items)
    slept = 0.0
    for delay in (*(patience or Patience()).delays(), None):
        found = _round(engine, alias, list(lines.values())) if lines else []
        outcomes |= {outcome.id: outcome for outcome in found}
        again = ("busy",) if slept > _BLOCK_PATIENCE else ("busy", "blocked")
        lines = {outcome.id: lines[outcome.id] for outcome in found if outcome.status in again}
        if not lines or (delay is not None and sleep(delay)):
            break
        slept += delay or 0.0
    else:
        outcomes |= {id_: stumbled(outcomes[id_]) for id_ in lines}
    return [_given_up(outcomes[item.id]) for item in items]


def _lines(items: Sequence[Item]) -> tuple[dict[str, Line], dict[str, Outcome]]:
    lines: dict[str, Line] = {}
    outcomes: dict[str, Outcome] = {}
    for item in items:
        action: dict[str, Any] = {"_id": item.id, "version": item.version, "version_type": "external"}
        if item.routing is not None:
            action["routing"] = item.routing
        try:
            lines[item.id] = Line(item.id, encode({"index": action}), encode(item.body))
        except InputError as error:
            outcomes[item.id] = Outcome(item.id, "buried", str(error))
    return lines, outcomes


def stumbled(outcome: Outcome) -> Outcome:
    """What to make of the last answer: one that says 500 each time stumbles over the document, and is not just busy."""
    return Outcome(outcome.id, "buried", outcome.reason) if outcome.reason.startswith("500 ") else outcome


def _given_up(outcome: Outcome) -> Outcome:
    return Outcome(outcome.id, "failed", outcome.reason) if outcome.status in ("busy", "blocked") else outcome


def _round(engine: Engine, alias: str, lines: Sequence[Line]) -> list[Outcome]:
    parts = list(cut(lines))
    if len(parts) == 1:
        return engine.run(attempt(alias, parts[0]))
    with ThreadPoolExecutor(2) as writers:
        return [
            outcome for found in writers.map(lambda part: engine.run(attempt(alias, part)), parts) for outcome in found
        ]


def cut(lines: Sequence[Line]) -> Iterator[Sequence[Line]]:
    """Bodies of at most 5 MB and 500 items; at least two where two writers pay."""
    most = MAX_BODY_ITEMS
    if _WORTH_TWO_WRITERS <= len(lines) < 2 * MAX_BODY_ITEMS:
        most = -(-len(lines) // 2)
    return portions(lines, most, MAX_BODY_BYTES)


def attempt(alias: str, lines: Sequence[Line]) -> Flow[list[Outcome]]:
    """Send one body once, in halves where the engine refuses it as a whole; an outcome for each item."""
    body = tuple(part for line in lines for part in (line.action, line.source))
    try:
        response = yield Request("POST", path_of(alias, "_bulk"), _PARAMS, body)
    except (EngineBusy, EngineUnreachable) as error:
        return [Outcome(line.id, "busy", str(error)) for line in lines]
    except (RequestTooLarge, RequestRejected) as error:
        if len(lines) == 1:
            return [_refused(lines[0], error)]
        middle = len(lines) // 2
        first = yield from attempt(alias, lines[:middle])
        return first + (yield from attempt(alias, lines[middle:]))
    return _outcomes(alias, lines, response)


def _refused(line: Line, error: Exception) -> Outcome:
    """An engine that stumbles may be about to end, and its next life may take the document."""
    fell = _STUMBLED.search(str(error))
    return Outcome(line.id, "busy", f"500 {error}") if fell else Outcome(line.id, "buried", str(error))


def _outcomes(alias: str, lines: Sequence[Line], response: Response) -> list[Outcome]:
    answers = response.body.get("items", []) if isinstance(response.body, dict) else []
    if len(answers) != len(lines):
        reason = f"the engine answered for {len(answers)} of {len(lines)} items"
        return [Outcome(line.id, "busy", reason) for line in lines]
    # Each answer has one key, the operation.
    return [_outcome(alias, line, *answer.values()) for line, answer in zip(lines, answers, strict=True)]


def _outcome(alias: str, line: Line, answer: Mapping[str, Any]) -> Outcome:
    status, error = int(answer["status"]), answer.get("error") or {}
    kind, reason = str(error.get("type", "")), str(error.get("reason", ""))
    nested = (error.get("caused_by") or {}).get("reason")
    detail = f"{kind}: {reason}" + (f" ({nested})" if nested and nested not in reason else "")
    if status < 300:
        return Outcome(line.id, "written")
    if kind == "version_conflict_engine_exception":
        return Outcome(line.id, "stale", detail)
    if kind == "document_missing_exception":  # an update of one that was there
        return Outcome(line.id, "stale", "deleted meanwhile")
    if status == 404:
        raise IndexMissing(f"there is no index {alias!r}: {detail}", hint="create it with `knnex create SPEC`")
    if status == 403 and kind != "cluster_block_exception":
        raise AccessDenied(f"writing to {alias!r}: {detail}", hint="use credentials that may write to it")
    if kind in ("cluster_block_exception", "index_closed_exception"):
        return Outcome(line.id, "blocked", f"{status} {detail}")
    if status in _BUSY or status == 500:
        return Outcome(line.id, "busy", f"{status} {detail}")
    return Outcome(line.id, "buried", detail)
