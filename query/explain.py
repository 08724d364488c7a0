"""A plan in words: what is sent, what is done on the client, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .nodes import Knn, Match
from .query import Text

if TYPE_CHECKING:
    from .plan import Leg, Plan


def steps(plan: Plan) -> list[str]:
    """A line for each step, in order."""
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
    verb = "_search" if len(plan.legs) == 1 else "_msearch"
    yield f"POST /{plan.alias}/{verb} to {plan.dialect}: {'; '.join(_leg(plan, leg) for leg in plan.legs)}"


def _leg(plan: Plan, leg: Leg) -> str:
    within = " among the documents the filter lets through" if plan.filter is not None else ""
    if isinstance(leg.tree, Knn):
        candidates = max(leg.tree.k, leg.tree.candidates)
        found = f"{leg.name}: the {leg.tree.k} nearest by kNN{within}, from {candidates} candidates of each shard"
        if plan.dialect.product == "opensearch" and candidates > leg.tree.k:
            found += f" (asked for as k={candidates}: this engine has no num_candidates)"
        return found
    if isinstance(leg.tree, Match):
        fields = ", ".join(f"{name}^{boost:g}" if boost != 1 else name for name, boost in leg.tree.fields)
        return f"{leg.name}: the {leg.size} best by BM25 in {fields}{within}"
    return f"{leg.size} documents the filter lets through, unranked" if plan.filter is not None else "any documents"


def _after(plan: Plan) -> Iterator[str]:
    if len(plan.legs) > 1:
        how = {
            "rrf": "the sum of weight / (60 + rank)",
            "weighted": "the weighted sum of min-max normalised scores",
        }[plan.fusion]
        weights = ", ".join(f"{leg.name} {leg.weight:g}" for leg in plan.legs)
        yield (
            f"fuse the best {plan.window} of each by {how} ({weights}), on the client: the engines' own fusion needs a "
            "licence or a plugin, and its order differs between them"
        )
    for name in dict.fromkeys(one.join for one, _ in plan.lookups):
        yield f"fetch the documents the hits' foreign keys lead to, as hit.joined[{name!r}]"
