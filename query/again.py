"""Looking again at what was ranked: facets of candidates, and the post filter beside them.

An engine aggregates what its search collected, which for vectors differs between engines (k of the index, or of each
shard) and is unknown for several searches fused here. So the candidates are asked for once more, by their ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..engines import Flow, Request
from .answers import Missing, answered, asking
from .compile import Page, compiler_for
from .hits import Hit
from .nodes import Everything, Ids, Nothing

if TYPE_CHECKING:
    from .plan import Plan


def wanted(plan: Plan) -> bool:
    """Whether the engine has to be asked again about the candidates."""
    return not plan.counted and (bool(plan.query.aggregations) or plan.post is not None)


def by_ids(
    plan: Plan,
    ids: Sequence[str],
    source: Mapping[str, Any] | bool = False,
    *,
    size: int | None = None,
    values: Sequence[Any] = (),
    **beside: Any,
) -> Request:
    """The search for documents by id, unranked; `values` are doc values, `beside` is what else a Page asks of them."""
    size = len(ids) if size is None else size
    page = Page(size, source=source, count=False, timeout=plan.query.deadline, **beside)
    body = compiler_for(plan.dialect).search(Everything(Ids(tuple(ids)) if ids else Nothing()), page)
    return asking(plan.alias, body | ({"docvalue_fields": values} if values else {}))


def look(plan: Plan, hits: Sequence[Hit], missing: Missing) -> Flow[tuple[Sequence[Hit], Mapping[str, Any]]]:
    """The hits that the post filter leaves, and the aggregations of all."""
    if not wanted(plan):
        return hits, {}
    size = len(hits) if plan.post is not None else 0
    asked = plan.query.aggregations
    request = by_ids(plan, [hit.id for hit in hits], size=size, post=plan.post, aggregations=asked)
    answer = answered((yield request), missing)
    left = {one["_id"] for one in answer["hits"]["hits"]}
    kept = hits if plan.post is None else [hit for hit in hits if hit.id in left]
    return kept, answer.get("aggregations") or {}
