"""Asking, and reading answers: a search is whole or it is an error, unless what is missing may be told instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..engines import Request, Response, path_of
from ..engines.gate import part
from ..errors import EngineError

Answer = Mapping[str, Any]
#: Where what is missing is written down; None where nothing may be missing.
Missing = list[str] | None


def asking(alias: str, *bodies: Mapping[str, Any]) -> Request:
    """One search, or several in one round trip."""
    if len(bodies) == 1:
        return Request("POST", path_of(alias, "_search"), body=bodies[0])
    return Request("POST", path_of(alias, "_msearch"), body=tuple(line for body in bodies for line in ({}, body)))


def answered(response: Response, missing: Missing = None) -> Answer:
    """The body of a `_search`. Raises EngineError where shards failed or time ran out and nothing may be missing."""
    return whole(response.body, missing)


def whole(answer: Answer, missing: Missing = None) -> Answer:
    """One answer, when it is complete; of `_msearch` it may be an error by itself."""
    for lack, hint in _lacking(part(answer)):
        if missing is None:
            raise EngineError(lack, hint=hint)
        missing.append(lack)
    return answer


def _lacking(answer: Answer) -> Iterator[tuple[str, str]]:
    shards = answer.get("_shards") or {}
    if shards.get("failed"):
        reasons = {str((one.get("reason") or {}).get("reason")) for one in shards.get("failures") or []}
        yield (
            f"{shards['failed']} of {shards['total']} shards failed: {'; '.join(sorted(reasons)) or 'no reason given'}",
            "hits would be missing; look at the engine's log, and ask again once its shards are well, or "
            "take what there is: Query.allow_partial()",
        )
    if answer.get("timed_out"):
        yield (
            "the engine ran out of time and found only part",
            "narrow the query, give it more time, or take what there is: Query.within(SECONDS, partial=True)",
        )
