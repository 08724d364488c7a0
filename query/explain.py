"""A plan in words: what is sent, what is done on the client, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from . import after, again
from .compile import tells_width
from .nodes import ByChild, ByParent, Knn, Match
from .parts import Text

if TYPE_CHECKING:
    from .plan import Leg, Plan

_SCALES = {
    "min_max": "min-max normalised scores",
    "z_score": "scores in standard deviations above the worst",
    "l2": "scores divided by their length together",
    "none": "scores, those of BM25 on Elasticsearch's scale",
}


def steps(plan: Plan) -> list[str]:
    """A line for each step, in order."""
    if plan.hopeless:
        return ["1. nothing is sent: no document can fulfil the filter"]
    lines = [*_before(plan), *_searches(plan), *_after(plan)]
    return [f"{number}. {line}" for number, line in enumerate(lines, 1)]


def _before(plan: Plan) -> Iterator[str]:
    if plan.encoded:
        yield f"encode the query's texts for {', '.join(plan.encoded)}, each once (on the client)"
    for one, join in plan.lookups:
        yield (
            f"POST /{join.index or plan.alias}/_search: the keys ({join.key}) that where_lookup({one.join!r}) lets "
            f"through, in batches of 10,000; they become a filter on {join.field}, on every engine, join module or not"
        )
    if plan.query.liked or plan.query.disliked:
        if plan.examples:
            yield f"POST /{plan.alias}/_search: the stored vectors of the examples; nothing is encoded"
        texts = sum(isinstance(one, Text) for one in (*plan.query.liked, *plan.query.disliked))
        also = f", {texts} given as texts" if texts else ""
        less = f" less {plan.query.dislike:g} of the disliked mean" if plan.query.disliked else ""
        yield (
            f"combine {len(plan.query.liked)} liked and {len(plan.query.disliked)} disliked examples{also}: the mean"
            f"{less} (on the client); the examples are left out of the hits"
        )


def _searches(plan: Plan) -> Iterator[str]:
    verb = "_search" if plan.native or len(plan.searches) == 1 else "_msearch"
    yield f"POST /{plan.alias}/{verb} to {plan.dialect}: {'; '.join(_leg(plan, leg) for leg in plan.legs)}"


def _leg(plan: Plan, leg: Leg) -> str:
    within = " among the documents the filter lets through" if plan.filter is not None else ""
    if isinstance(leg.tree, Knn):
        if leg.tree.exact:
            return _exact(plan, leg, leg.tree, within)
        candidates = max(leg.tree.k, leg.tree.candidates)
        found = f"{leg.name}: the {leg.tree.k} nearest by kNN{within}, from {candidates} candidates of each shard"
        if plan.dialect.product == "opensearch" and candidates > leg.tree.k:
            told = "ef_search" if tells_width(plan.dialect, leg.tree) else "k"
            found += f" (asked for as {told}={candidates}: this engine has no num_candidates)"
        if leg.tree.oversample is not None:
            found += f", {leg.tree.oversample:g} times as many compared again by their full vectors"
        return found
    if isinstance(leg.tree, (ByChild, ByParent)):
        return _family(leg, leg.tree)
    if isinstance(leg.tree, Match):
        fields = ", ".join(f"{name}^{boost:g}" if boost != 1 else name for name, boost in leg.tree.fields)
        kind = "" if leg.tree.type == "best_fields" else f" ({leg.tree.type})"
        return f"{leg.name}: the {leg.size} best by BM25{kind} in {fields}{within}"
    return f"{leg.size} documents the filter lets through, unranked" if plan.filter is not None else "any documents"


def _exact(plan: Plan, leg: Leg, tree: Knn, within: str) -> str:
    how = "by the script of k-NN"
    if plan.dialect.product == "elasticsearch":
        how = "10,000 at a time, for which the engine leaves its graph aside"
        if pieces := plan.pieces.get(leg.name):
            how += f": {len(pieces)} searches by sequence number"
    return f"{leg.name}: the {tree.k} nearest{within}, every vector compared {how}"


def _family(leg: Leg, tree: ByChild | ByParent) -> str:
    child = isinstance(tree, ByChild)
    kin = f"children {tree.child!r}" if isinstance(tree, ByChild) else f"parent {tree.parent!r}"
    by = "BM25"
    if isinstance(tree.by, Knn):
        whose = "documents" if child else "children"
        by = f"the {tree.by.k} of these nearest by kNN in each shard, of {whose} the filter lets through"
    score = f", {tree.score} of their scores" if isinstance(tree, ByChild) else ""
    return f"{leg.name}: the {leg.size} best by their {kin} ({by}{score}); needs the engine's join module"


def _after(plan: Plan) -> Iterator[str]:
    if len(plan.legs) > 1:
        scale = _SCALES[plan.query.normaliser]
        how = {"rrf": "the sum of weight / (60 + rank)", "weighted": f"the weighted sum of {scale}"}[plan.fusion]
        weights = ", ".join(f"{leg.name} {leg.weight:g}" for leg in plan.legs)
        where = "in the engine" if plan.native else "on the client: the order is the same on every engine and licence"
        yield f"fuse the best {plan.window} of each by {how} ({weights}), {where}"
    if again.wanted(plan):
        asked = {"aggregations": bool(plan.query.aggregations), "post_filter": plan.post is not None}
        what = " and ".join(name for name, given in asked.items() if given)
        yield f"POST /{plan.alias}/_search: the candidates by id, for {what}, which engines collect differently"
    yield from after.steps(plan)
    for name in dict.fromkeys(one.join for one, _ in plan.lookups):
        yield f"fetch the documents the hits' foreign keys lead to, as hit.joined[{name!r}]"
