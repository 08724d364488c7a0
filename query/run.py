"""Running plans: lookups and examples first, then one request for all, then what the client does itself."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Literal

from ..engines import Flow, Request, Response
from ..errors import AccessDenied, EngineError, UnsupportedByEngine
from . import after, again, exact, examples, fusion, lookup, native
from .answers import Answer, Missing, asking, whole
from .compile import compiler_for
from .hits import Hit, Hits, parse_hit, without
from .nodes import Knn, Match
from .plan import Leg, Plan

_JOINS = ("has_parent", "has_child")
_FAMILY = "where_parent(), where_child(), by_parent() and by_child()"
Sides = Mapping[str, Sequence[lookup.Side]]


@dataclass
class _Found:
    """What a query found so far: its candidates, best first, and what the engine said beside them."""

    hits: Sequence[Hit]
    total: int
    relation: Literal["eq", "gte"]
    took: int
    missing: Missing = None
    aggregations: Mapping[str, Any] = field(default_factory=dict)
    profiles: list[Mapping[str, Any]] = field(default_factory=list)


def search(plan: Plan) -> Flow[Hits]:
    """The hits of a plan. Raises QueryError, UnsupportedByEngine, EngineError; shards that fail are an error."""
    found = yield from search_all([plan])
    return found[0]


def search_all(plans: Sequence[Plan]) -> Flow[list[Hits]]:
    """The hits of each plan on one index; all that can be is asked in one round trip."""
    started = time.monotonic()
    prepared = []
    for one in plans:
        prepared.append((yield from _prepared(one)))
    asked = [plan for plan, _ in prepared if not plan.hopeless]
    answers = (yield from _send(asked[0], _together(asked))) if asked else iter(())
    found = []
    for plan, sides in prepared:
        found.append((yield from _finished(plan, sides, _ranked(plan, answers), started)))
    return found


def _together(plans: Sequence[Plan]) -> Request:
    """All searches in one request; that of a single plan is made already."""
    if len(plans) == 1:
        return plans[0].requests[0]
    return asking(plans[0].alias, *(body for plan in plans for body in plan.bodies))


def prepare(plan: Plan) -> Flow[Plan]:
    """The plan with its lookups and examples answered, so that `requests` and `to_console()` are the last word."""
    ready, _ = yield from _prepared(plan)
    return ready


def _prepared(plan: Plan) -> Flow[tuple[Plan, Sides]]:
    sides: dict[str, list[lookup.Side]] = {}
    found = []
    for one, join in plan.lookups:
        side, keys = yield from lookup.keys(plan, one, join)
        sides.setdefault(one.join, []).append(side)
        found.append(keys)
    if plan.ready:
        return plan, sides
    sources = yield from examples.fetch(plan)
    ready = plan.completed(found, examples.combined(plan, sources))
    if not ready.hopeless:
        ready = replace(ready, pieces=(yield from exact.pieces(ready)))
    return ready, sides


def _send(plan: Plan, request: Request) -> Flow[Iterator[Answer]]:
    """The answer of each search, in their order."""
    try:
        response: Response = yield request
    except (AccessDenied, UnsupportedByEngine) as error:
        if declined := native.declined(plan, error):
            raise declined from error
        if isinstance(error, UnsupportedByEngine) and any(name in str(error) for name in _JOINS):
            raise plan.dialect.decline(
                _FAMILY,
                "this distribution lacks the join module",
                "declare a lookup join and use where_lookup(), or nested objects and where_nested()",
            ) from error
        raise
    return iter(response.body.get("responses", [response.body]))


def _ranked(plan: Plan, answers: Iterator[Answer]) -> _Found:
    """The candidates of a plan from the answers to its searches."""
    if plan.hopeless:
        return _Found((), 0, "eq", 0)
    missing: Missing = [] if plan.query.partial else None
    if plan.native:
        return _by_engine(plan, whole(next(answers), missing), missing)
    got: dict[str, list[Answer]] = {}
    for leg, _ in plan.searches:
        got.setdefault(leg.name, []).append(whole(next(answers), missing))
    each = [answer for leg in plan.legs for answer in got[leg.name]]
    found = _single(plan, got) if plan.alone else _fused(plan, got)
    found.missing = missing
    found.took = max(int(answer["took"]) for answer in each)
    found.profiles = [answer["profile"] for answer in each if "profile" in answer]
    if plan.counted:
        found.aggregations = each[0].get("aggregations") or {}
    return found


def _by_engine(plan: Plan, answer: Answer, missing: Missing) -> _Found:
    """What the engine fused: the score of each part is not to be had."""
    hits = [replace(parse_hit(raw, plan.stored.spec, ""), parts={}) for raw in answer["hits"]["hits"]]
    total = answer["hits"]["total"]
    profiles = [answer["profile"]] if "profile" in answer else []
    return _Found(hits, int(total["value"]), total["relation"], int(answer["took"]), missing, {}, profiles)


def _hits(plan: Plan, leg: Leg, answers: Sequence[Answer]) -> list[Hit]:
    """The hits of a leg; those of its pieces in one order."""
    hits = [parse_hit(raw, plan.stored.spec, leg.name) for answer in answers for raw in answer["hits"]["hits"]]
    return hits if len(answers) == 1 else sorted(hits, key=lambda hit: (-hit.score, hit.id))[: leg.size]


def _single(plan: Plan, got: Mapping[str, Sequence[Answer]]) -> _Found:
    leg = plan.legs[0]
    totals = [answer["hits"]["total"] for answer in got[leg.name]]
    count = sum(int(one["value"]) for one in totals)
    relation: Literal["eq", "gte"] = "gte" if any(one["relation"] == "gte" for one in totals) else "eq"
    if isinstance(leg.tree, Knn):
        # OpenSearch counts what every shard looked at; k is what was asked for.
        count, relation = min(count, leg.tree.k), "eq"
    return _Found(_hits(plan, leg, got[leg.name]), count, relation, 0)


def _fused(plan: Plan, got: Mapping[str, Sequence[Answer]]) -> _Found:
    found: dict[str, Hit] = {}
    rankings = []
    for leg in plan.legs:
        hits = _hits(plan, leg, got[leg.name])
        scale = compiler_for(plan.dialect).word_scale if isinstance(leg.by, Match) else 1.0
        rankings.append({hit.id: hit.score * scale for hit in hits})
        for hit in hits:
            found[hit.id] = _merged(found[hit.id], hit) if hit.id in found else hit
    weights = [leg.weight for leg in plan.legs]
    by_rank = plan.fusion == "rrf"
    order = fusion.rrf(rankings, weights) if by_rank else fusion.weighted(rankings, weights, plan.query.normaliser)
    full = any(len(ranking) >= leg.size for ranking, leg in zip(rankings, plan.legs, strict=True))
    hits = [replace(found[key], score=score) for key, score in order]
    return _Found(hits, len(order), "gte" if full else "eq", 0)


def _merged(one: Hit, other: Hit) -> Hit:
    """What two parts know of a document."""
    return replace(
        one,
        passages=one.passages or other.passages,
        highlights={**other.highlights, **one.highlights},
        parts={**one.parts, **other.parts},
        children=_children(one.children, other.children),
        parent=one.parent or other.parent,
    )


def _children(ones: Sequence[Hit], others: Sequence[Hit]) -> tuple[Hit, ...]:
    """The children that two parts found, each once."""
    found = {hit.id: hit for hit in ones}
    for hit in others:
        found[hit.id] = _merged(found[hit.id], hit) if hit.id in found else hit
    return tuple(found.values())


def _finished(plan: Plan, sides: Sides, found: _Found, started: float) -> Flow[Hits]:
    """The page: candidates filtered and counted again, ranked again, cut, joined, without what was only needed here."""
    hits, counted = yield from again.look(plan, found.hits, found.missing)
    done = yield from after.finish(_in_time(plan, started), hits)
    own = plan.query.reranked and plan.query.reranked.deadline
    if done.missing and plan.query.deadline and own is None and not plan.query.partial:
        raise EngineError(
            f"{plan.query.deadline:g} s were over before all was done: {'; '.join(done.missing)}",
            hint="give it more time, or take what there is: Query.within(SECONDS, partial=True)",
        )
    page: Sequence[Hit] = done.hits
    if not plan.paged:
        page = page[plan.query.start : plan.query.start + plan.query.size]
    for name, other in sides.items():
        page = yield from lookup.join(plan, name, other, page)
    return Hits(
        tuple(_without(hit, plan.hidden) for hit in page) if plan.hidden else tuple(page),
        found.total,
        found.relation,
        found.took,
        aggregations={**found.aggregations, **counted},
        missing=(*(found.missing or ()), *done.missing),
        profiles=tuple(found.profiles),
    )


def _in_time(plan: Plan, started: float) -> Plan:
    """The plan, whose reranking has what is left of the query's time."""
    query = plan.query
    if query.deadline is None or query.reranked is None:
        return plan
    left = max(0.0, query.deadline - (time.monotonic() - started))
    own = query.reranked.deadline
    reranked = replace(query.reranked, deadline=left if own is None else min(own, left))
    return replace(plan, query=replace(query, reranked=reranked))


def _without(hit: Hit, hidden: Sequence[str]) -> Hit:
    if not hidden:
        return hit
    source = reduce(without, hidden, hit.source)
    return replace(hit, source=source, group=tuple(_without(one, hidden) for one in hit.group))
