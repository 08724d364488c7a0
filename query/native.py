"""Fusion by the engine itself: OpenSearch's `hybrid` query, with its pipeline written into the request.

Its order is that of `fusion.py` where the window holds all that a part finds, but for documents that tie and for the
worst of each part, which min-max gives 0.001 instead of 0. With several shards each gives its own best `window`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .compile import Body, Page, compiler_for
from .fusion import RANK_CONSTANT

if TYPE_CHECKING:
    from .plan import Plan

_MOST_PARTS = 5
_SINCE = (3, 1)
_OURS = "leave native out: knnex fuses the parts itself"


def check(plan: Plan) -> None:
    """Raises UnsupportedByEngine where the engine cannot fuse these parts so."""
    what, dialect = "native fusion", plan.dialect
    if dialect.product != "opensearch":
        raise dialect.decline(what, "its retrievers need an Enterprise licence, and plain sums are no fusion", _OURS)
    dialect.require(_SINCE, what, "weights of reciprocal ranks", _OURS)
    if len(plan.legs) > _MOST_PARTS:
        raise dialect.decline(f"{what} of {len(plan.legs)} parts", f"it takes {_MOST_PARTS}", _OURS)
    if plan.fusion == "weighted" and plan.query.normaliser not in ("min_max", "l2"):
        raise dialect.decline(
            f"{what} by {plan.query.normaliser}", "it has no plain sum, and z-scores of its own", _OURS
        )


def body(plan: Plan, page: Page) -> Body:
    """One search that asks for all parts and fuses them."""
    compiler = compiler_for(plan.dialect)
    hybrid = {"queries": [compiler.scored(leg.tree) for leg in plan.legs], "pagination_depth": plan.window}
    made = {"query": {"hybrid": hybrid}} | compiler.page(page)
    return made | {"search_pipeline": {"phase_results_processors": [_processor(plan)]}}


def _processor(plan: Plan) -> Body:
    total = sum(leg.weight for leg in plan.legs)
    weights: dict[str, Any] = {"parameters": {"weights": [leg.weight / total for leg in plan.legs]}}
    if plan.fusion == "rrf":
        combination = {"technique": "rrf", "rank_constant": RANK_CONSTANT} | weights
        return {"score-ranker-processor": {"combination": combination}}
    normalisation = {"technique": plan.query.normaliser}
    combination = {"technique": "arithmetic_mean"} | weights
    return {"normalization-processor": {"normalization": normalisation, "combination": combination}}
