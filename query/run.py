"""Running a plan: lookups and examples first, then one request, then what the client does itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..engines import Flow, Request, Response
from ..errors import UnsupportedByEngine
from . import examples, lookup
from .answers import Answer, answered, whole
from .fusion import FUSIONS
from .hits import Hit, Hits, parse_hit
from .nodes import Knn
from .plan import Plan

_JOINS = ("has_parent", "has_child")


def search(plan: Plan) -> Flow[Hits]:
    """The hits of a plan. Raises QueryError, UnsupportedByEngine, EngineError; shards that fail are an error."""
    ready, sides = yield from _prepared(plan)
    response = yield from _send(ready, ready.requests[0])
    if len(ready.legs) == 1:
        found = _single(ready, answered(response))
    else:
        found = _fused(ready, [whole(answer) for answer in response.body["responses"]], int(response.body["took"]))
    hits: Sequence[Hit] = found.hits
    for name, other in sides.items():
        hits = yield from lookup.join(ready, name, other, hits)
    return replace(found, hits=tuple(_without(hit, ready.hidden) for hit in hits))


def prepare(plan: Plan) -> Flow[Plan]:
    """The plan with its lookups and examples answered, so that `requests` and `to_console()` are the last word."""
    ready, _ = yield from _prepared(plan)
    return ready


def _prepared(plan: Plan) -> Flow[tuple[Plan, dict[str, list[lookup.Side]]]]:
    sides: dict[str, list[lookup.Side]] = {}
    found = []
    for one, join in plan.lookups:
        side, keys = yield from lookup.keys(plan, one, join)
        sides.setdefault(one.join, []).append(side)
        found.append(keys)
    if plan.ready:
        return plan, sides
    sources = yield from examples.fetch(plan)
    return plan.completed(found, examples.combined(plan, sources)), sides


def _send(plan: Plan, request: Request) -> Flow[Response]:
    try:
        response = yield request
        for answer in response.body.get("responses", ()):
            whole(answer)
    except UnsupportedByEngine as error:
        if any(name in str(error) for name in _JOINS):
            raise plan.dialect.decline(
                "where_parent() and where_child()",
                "this distribution lacks the join module",
                "declare a lookup join and use where_lookup(), or nested objects and where_nested()",
            ) from error
        raise
    return response


def _single(plan: Plan, answer: Answer) -> Hits:
    leg = plan.legs[0]
    hits = tuple(parse_hit(raw, plan.stored.spec, leg.name) for raw in answer["hits"]["hits"])
    total: Mapping[str, Any] = answer["hits"]["total"]
    count, relation = int(total["value"]), total["relation"]
    if isinstance(leg.tree, Knn):
        # OpenSearch counts what every shard looked at; k is what was asked for.
        count, relation = min(count, leg.tree.k), "eq"
    return Hits(hits, count, relation, int(answer["took"]))


def _fused(plan: Plan, answers: Sequence[Answer], took: int) -> Hits:
    found: dict[str, Hit] = {}
    rankings = []
    for leg, answer in zip(plan.legs, answers, strict=True):
        hits = [parse_hit(raw, plan.stored.spec, leg.name) for raw in answer["hits"]["hits"]]
        rankings.append({hit.id: hit.score for hit in hits})
        for hit in hits:
            found[hit.id] = _merged(found[hit.id], hit) if hit.id in found else hit
    order = FUSIONS[plan.fusion](rankings, [leg.weight for leg in plan.legs])
    first, last = plan.query.start, plan.query.start + plan.query.size
    full = any(len(ranking) >= leg.size for ranking, leg in zip(rankings, plan.legs, strict=True))
    hits = [replace(found[key], score=score) for key, score in order[first:last]]
    return Hits(tuple(hits), len(order), "gte" if full else "eq", took)


def _merged(one: Hit, other: Hit) -> Hit:
    """What two parts know of a document."""
    return replace(
        one,
        passages=one.passages or other.passages,
        highlights={**other.highlights, **one.highlights},
        parts={**one.parts, **other.parts},
    )


def _without(hit: Hit, hidden: Sequence[str]) -> Hit:
    if not hidden:
        return hit
    return replace(hit, source={key: value for key, value in hit.source.items() if key not in hidden})
