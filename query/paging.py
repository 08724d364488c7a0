"""All hits of a query, page after page, from one point in time: what is written meanwhile changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..engines import Flow, Request
from ..errors import QueryError
from ..mappings import ALIVE
from .answers import answered
from .check import MAX_WINDOW
from .hits import Hit, parse_hit

if TYPE_CHECKING:
    from .plan import Plan

#: How long the engine keeps the point in time between two pages.
KEEP = "5m"
#: Before, `_shard_doc` is not known, and nothing else orders documents for nothing.
SHARD_DOC = {"elasticsearch": (7, 12), "opensearch": (3, 3)}


@dataclass(frozen=True)
class Place:
    """Where a scan stands: the point in time, and the sort values of the last hit."""

    pit: str
    after: Sequence[Any] | None = None


def check(plan: Plan, size: int) -> None:
    """Raises QueryError for a query whose hits have no last page, and for a page of another size than engines take."""
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= MAX_WINDOW:
        raise QueryError(f"a page of {size!r:.40} hits", hint=f"give a whole number from 1 to {MAX_WINDOW:,}")
    if not plan.counted:
        raise QueryError(
            "scan() goes through all that match, and vectors rank every document",
            hint="scan by where() or one lexical(); for the nearest use limit(), 10,000 at most",
        )
    if not plan.paged or plan.query.start or plan.query.aggregations:
        raise QueryError(
            "scan() has no offset, no aggregations, and nothing after retrieval",
            hint="leave them out; a function of yours can look at each hit as it comes",
        )


def opened(plan: Plan) -> Flow[Place]:
    """A point in time of the index that is searched."""
    response = yield plan.dialect.open_pit(plan.stored.index, KEEP)
    return Place(plan.dialect.pit_of(response.body))


def page(plan: Plan, place: Place, size: int) -> Flow[tuple[list[Hit], Place | None]]:
    """The next hits, in the order of the query, else in the engine's own; and where to go on, None at the end."""
    (leg,) = plan.legs
    (body,) = replace(plan, query=plan.query.limit(size)).bodies
    # The point in time is the version's own, which the filter of the alias does not reach.
    alive = {"bool": {"must": [body["query"]], "filter": [ALIVE]}}
    body = body | {"query": alive, "pit": {"id": place.pit, "keep_alive": KEEP}, "track_total_hits": False}
    body["sort"] = [*_order(plan, body), _tie(plan)]
    if place.after is not None:
        body["search_after"] = list(place.after)
    answer = answered((yield Request("POST", "/_search", body=body)))
    raw = answer["hits"]["hits"]
    hits = [parse_hit(one, plan.stored.spec, leg.name, plan.hidden) for one in raw]
    return hits, Place(answer.get("pit_id") or place.pit, raw[-1]["sort"]) if len(raw) == size else None


def closed(plan: Plan, place: Place) -> Flow[None]:
    """Give the point in time back."""
    yield plan.dialect.close_pit(place.pit)


def _order(plan: Plan, body: dict[str, Any]) -> list[Any]:
    if "sort" in body:
        return list(body["sort"])
    return [{"_score": "desc"}] if plan.query.parts else []


def _tie(plan: Plan) -> dict[str, str]:
    since = SHARD_DOC[plan.dialect.product]
    plan.dialect.require(since, "scan()", "_shard_doc", "update it, or page by where() on a field that you sort by")
    return {"_shard_doc": "asc"}
