"""All hits of a query, page after page, from one point in time: what is written meanwhile changes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..engines import Flow, Request
from ..errors import QueryError
from ..mappings import ALIVE
from .answers import answered
from .compile import Body
from .hits import Hit, parse_hit
from .values import MAX_K, check_whole

if TYPE_CHECKING:
    from .plan import Plan

#: How long the engine keeps the point in time between two pages.
KEEP = "5m"
#: Before, `_shard_doc` is not known, and nothing else orders documents for nothing.
SHARD_DOC = {"elasticsearch": (7, 12), "opensearch": (3, 3)}


def check(plan: Plan, size: int) -> None:
    """Raises QueryError for a query whose hits have no last page, and for a page of another size than engines take."""
    check_whole(size, "page", 1, MAX_K)
    if not plan.counted:
        raise QueryError(
            "scan() goes through all that match, and "
            + ("several parts are fused from the best of each" if not plan.alone else "vectors rank every document"),
            hint="scan by where() or one lexical(); for the nearest use limit(), 10,000 at most",
        )
    if not plan.paged or plan.query.start or plan.query.aggregations:
        raise QueryError(
            "scan() has no offset, no aggregations, and nothing after retrieval",
            hint="leave them out; a function of yours can look at each hit as it comes",
        )


class Scan:
    """Going through all hits: `opened()`, `page()` until it is `over`, and `closed()` whatever happened."""

    def __init__(self, plan: Plan, size: int) -> None:
        check(plan, size)
        self.over = False
        self._plan, self._size = plan, size
        self._pit = ""
        self._after: list[Any] | None = None

    def opened(self) -> Flow[None]:
        """Take a point in time of the index that is searched."""
        response = yield self._plan.dialect.open_pit(self._plan.stored.index, KEEP)
        self._pit = self._plan.dialect.pit_of(response.body)

    def page(self) -> Flow[list[Hit]]:
        """The next hits, in the order of the query, else in the engine's own."""
        plan, (leg,) = self._plan, self._plan.legs
        answer = answered((yield Request("POST", "/_search", body=self._body())))
        raw = answer["hits"]["hits"]
        self._pit = answer.get("pit_id") or self._pit
        self.over = len(raw) < self._size
        self._after = None if self.over else list(raw[-1]["sort"])
        return [parse_hit(one, plan.stored.spec, leg.name, plan.hidden) for one in raw]

    def _body(self) -> Body:
        plan = self._plan
        (body,) = replace(plan, query=plan.query.limit(self._size)).bodies
        # The point in time is the version's own, which the filter of the alias does not reach.
        alive = {"bool": {"must": [body["query"]], "filter": [ALIVE]}}
        body = body | {"query": alive, "pit": {"id": self._pit, "keep_alive": KEEP}, "track_total_hits": False}
        body["sort"] = [*_order(plan, body), _tie(plan)]
        return body if self._after is None else body | {"search_after": self._after}

    def closed(self) -> Flow[None]:
        """Give the point in time back."""
        yield self._plan.dialect.close_pit(self._pit)


def _order(plan: Plan, body: Body) -> list[Any]:
    if "sort" in body:
        return list(body["sort"])
    return [{"_score": "desc"}] if plan.query.parts else []


def _tie(plan: Plan) -> dict[str, str]:
    since = SHARD_DOC[plan.dialect.product]
    plan.dialect.require(since, "scan()", "_shard_doc", "update it, or page by where() on a field that you sort by")
    return {"_shard_doc": "asc"}
