"""Reading answers: a search is whole or it is an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..engines import Response
from ..engines.gate import refused
from ..errors import EngineError

Answer = Mapping[str, Any]


def answered(response: Response) -> Answer:
    """The body of a `_search`. Raises EngineError where shards failed or time ran out."""
    return whole(response.body)


def whole(answer: Answer) -> Answer:
    """One answer, when it is complete; of `_msearch` it may be an error by itself."""
    if "error" in answer:
        raise refused(int(answer.get("status", 500)), dict(answer), "POST _msearch")
    shards = answer.get("_shards") or {}
    if shards.get("failed"):
        reasons = {str((one.get("reason") or {}).get("reason")) for one in shards.get("failures") or []}
        raise EngineError(
            f"{shards['failed']} of {shards['total']} shards failed: {'; '.join(sorted(reasons)) or 'no reason given'}",
            hint="hits would be missing; look at the engine's log, and ask again once its shards are well",
        )
    if answer.get("timed_out"):
        raise EngineError(
            "the engine ran out of time and found only part", hint="narrow the query, or set KNNEX_TIMEOUT"
        )
    return answer
