"""Exact search on Elasticsearch without scripts: a set as small as its search is wide is compared one by one.

Lucene leaves its graph aside where the filter lets through no more than it would look at, which here is at most 10,000
vectors (`AbstractKnnVectorQuery`). A larger set is cut into pieces of that size by sequence number, all searched in one
round trip. Where vectors are quantized, ten times k are compared again by the full ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..engines import Flow, Request
from .answers import answered, asking
from .compile import Page, compiler_for
from .nodes import Everything, Filter, Knn, Range
from .parts import Semantic
from .values import MAX_K

if TYPE_CHECKING:
    from .plan import Plan

#: With more, the index should be `flat`: a search would read gigabytes.
MAX_PIECES = 200
_BUCKETS = 10_000
_NUMBER = "_seq_no"

Pieces = Mapping[str, tuple[Filter, ...]]


def asked(plan: Plan) -> bool:
    """Whether a part asks for it of an engine that needs pieces: OpenSearch has a script for it."""
    exact = any(isinstance(part, Semantic) and part.exact for part in plan.query.parts)
    return exact and plan.dialect.product == "elasticsearch"


def trees(plan: Plan) -> dict[str, Knn]:
    """The searches that may have to be cut into pieces, by the leg's name."""
    if not asked(plan):
        return {}
    return {leg.name: leg.tree for leg in plan.legs if isinstance(leg.tree, Knn) and leg.tree.exact}


def counting(plan: Plan, tree: Knn) -> Request:
    """How many vectors there are, and the last sequence number."""
    return _asked(plan, tree, {"last": {"max": {"field": _NUMBER}}, **_chunks(tree)})


def pieces(plan: Plan) -> Flow[Pieces]:
    """Of each exact search the filters that cut it up, none where it is small. Raises UnsupportedByEngine."""
    found: dict[str, tuple[Filter, ...]] = {}
    for name, tree in trees(plan).items():
        found[name] = yield from _pieces(plan, tree)
    return found


def _pieces(plan: Plan, tree: Knn) -> Flow[tuple[Filter, ...]]:
    answer = answered((yield counting(plan, tree)))
    last = answer["aggregations"]["last"]["value"]
    if last is None or _vectors(tree, answer["aggregations"], answer["hits"]["total"]["value"]) <= MAX_K:
        return ()
    width = max(1, int(last) // _BUCKETS + 1)
    histogram = {"field": _NUMBER, "interval": width, "min_doc_count": 1}
    each = {"each": {"histogram": histogram} | ({"aggs": inner} if (inner := _chunks(tree)) else {})}
    buckets = answered((yield _asked(plan, tree, each)))["aggregations"]["each"]["buckets"]
    bounds = _bounds([(int(one["key"]), _vectors(tree, one, one["doc_count"])) for one in buckets])
    if bounds is None or len(bounds) > MAX_PIECES:
        raise plan.dialect.decline(
            f"an exact search of so many vectors of {tree.field}",
            f"without scripts it compares {MAX_K:,} at a time, {MAX_PIECES} times at most",
            "narrow it by where(), leave exact out, or declare index: flat, which is always exact",
        )
    return tuple(Range(_NUMBER, gte=low, lt=high) for low, high in bounds)


def _bounds(buckets: Sequence[tuple[int, int]]) -> list[tuple[int | None, int | None]] | None:
    """Ranges of sequence numbers with no more vectors than are compared at once; None where one bucket has more."""
    starts: list[int] = []
    held = MAX_K + 1
    for start, count in buckets:
        if count > MAX_K:
            return None
        if held + count > MAX_K:
            starts.append(start)
            held = 0
        held += count
    return list(zip([None, *starts[1:]], [*starts[1:], None], strict=True))


def _asked(plan: Plan, tree: Knn, aggregations: Mapping[str, Any]) -> Request:
    body = compiler_for(plan.dialect).search(Everything(tree.filter), Page(0, source=False, aggregations=aggregations))
    return asking(plan.alias, body | {"track_total_hits": True})


def _chunks(tree: Knn) -> dict[str, Any]:
    return {} if tree.path is None else {"chunks": {"nested": {"path": tree.path}}}


def _vectors(tree: Knn, found: Mapping[str, Any], documents: int) -> int:
    return documents if tree.path is None else int(found["chunks"]["doc_count"])
